//! `knarr kube-controller-manager`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::Client;
use client::metrics::Sources;
use controllers::Signer;
use pki::{Authority, PrivateKey, TokenAuthority};
use tokio_util::sync::CancellationToken;

use super::access::{Access, reach};
use super::endpoint::Endpoint;
use super::flags::{Flag, Values, harmless, harmless_switch, only, only_switch, switch, used};
use crate::signer::ClusterSigner;

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("kubeconfig", "Where the API server is, and who the controllers are there."),
    switch("use-service-account-credentials", "Each controller acts as a service account of its own."),
    used("controllers", "Controllers to run: * for the usual ones, name for one more, -name for one less."),
    switch("allocate-node-cidrs", "Give every node a range of pod addresses."),
    used("cluster-cidr", "Range that nodes get theirs from."),
    used("node-cidr-mask-size", "Length of a node's range."),
    used("node-cidr-mask-size-ipv4", "Length of a node's IPv4 range."),
    used("node-cidr-mask-size-ipv6", "Length of a node's IPv6 range."),
    used("node-monitor-grace-period", "Time without a heartbeat after which a node is unknown."),
    used("root-ca-file", "Authority that is published to every namespace."),
    used("cluster-signing-cert-file", "Authority that signs certificate requests."),
    used("cluster-signing-key-file", "Key of that authority."),
    used("cluster-signing-duration", "Longest life of what it signs."),
    used("service-account-private-key-file", "Key that tokens in Secrets are signed with; they stay empty where absent."),
    harmless("service-cluster-ip-range"),
    harmless("cluster-name"),
    harmless("node-monitor-period"),
    harmless("min-resync-period"),
    harmless("controller-start-interval"),
    harmless("flex-volume-plugin-dir"),
    only_switch("configure-cloud-routes", &["false"]),
    only("cloud-provider", &["", "external"]),
    only("master", &[""]),
    only_switch("enable-dynamic-provisioning", &["true"]),
    only_switch("enable-garbage-collector", &["true"]),
    only("terminated-pod-gc-threshold", &["12500"]),
    only("cidr-allocator-type", &["RangeAllocator"]),
    harmless_switch("enable-leader-migration"),
    harmless("concurrent-deployment-syncs"),
    harmless("concurrent-endpoint-syncs"),
    harmless("concurrent-service-endpoint-syncs"),
    harmless("concurrent-gc-syncs"),
    harmless("concurrent-job-syncs"),
    harmless("concurrent-cron-job-syncs"),
    harmless("concurrent-namespace-syncs"),
    harmless("concurrent-replicaset-syncs"),
    harmless("concurrent-rc-syncs"),
    harmless("concurrent-daemonset-syncs"),
    harmless("concurrent-statefulset-syncs"),
    harmless("concurrent-resource-quota-syncs"),
    harmless("concurrent-serviceaccount-token-syncs"),
    harmless("concurrent-ttl-after-finished-syncs"),
];

/// Off unless they are named, as in the real one.
const OFF: [&str; 2] = ["bootstrap-signer-controller", "token-cleaner-controller"];

/// Names that old command lines have for controllers.
const OLD: [(&str, &str); 29] = [
    ("serviceaccount-token", "serviceaccount-token-controller"),
    ("bootstrapsigner", "bootstrap-signer-controller"),
    ("tokencleaner", "token-cleaner-controller"),
    ("deployment", "deployment-controller"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replicationcontroller-controller"),
    ("daemonset", "daemonset-controller"),
    ("statefulset", "statefulset-controller"),
    ("job", "job-controller"),
    ("cronjob", "cronjob-controller"),
    ("endpoint", "endpoints-controller"),
    ("endpointslice", "endpointslice-controller"),
    ("endpointslicemirroring", "endpointslice-mirroring-controller"),
    ("namespace", "namespace-controller"),
    ("nodeipam", "node-ipam-controller"),
    ("nodelifecycle", "node-lifecycle-controller"),
    ("podgc", "pod-garbage-collector-controller"),
    ("garbagecollector", "garbage-collector-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("serviceaccount", "serviceaccount-controller"),
    ("horizontalpodautoscaling", "horizontal-pod-autoscaler-controller"),
    ("disruption", "disruption-controller"),
    ("ttl", "ttl-controller"),
    ("ttl-after-finished", "ttl-after-finished-controller"),
    ("root-ca-cert-publisher", "root-ca-certificate-publisher-controller"),
    ("csrsigning", "certificatesigningrequest-signing-controller"),
    ("csrapproving", "certificatesigningrequest-approving-controller"),
    ("csrcleaner", "certificatesigningrequest-cleaner-controller"),
    ("clusterrole-aggregation", "clusterrole-aggregation-controller"),
];

/// Runs until it fails or is told to stop.
///
/// # Errors
/// Files that cannot be used, a port that is taken, a lost lease.
pub async fn run(values: &Values, stop: CancellationToken) -> Result<()> {
    let access = Access::open(Path::new(values.needed("kubeconfig")?))?;
    let client = access.client()?;
    let metrics = Sources::default();
    crate::process::show(&metrics, "kube-controller-manager", None);
    let config = config(values)?;
    if let Some(endpoint) = Endpoint::open(values, 10257, "kube-controller-manager", &client, metrics.clone()).await? {
        tokio::spawn(endpoint.serve());
    }
    if stop.run_until_cancelled(reach(&client)).await.is_none() {
        return Ok(());
    }
    // Everything that fails is found here: a controller's client is then made without a way to fail.
    access.account(&client, "default")?;
    let (base, own_accounts) = (client.clone(), values.is("use-service-account-credentials", false));
    let client_as: Arc<dyn Fn(&str) -> Client + Send + Sync> = Arc::new(move |name: &str| match own_accounts {
        true => access.account(&base, name).expect("the address and the authorities were good before"),
        false => base.clone(),
    });
    let work = controllers::run(config, controllers::Deps { client: client.clone(), client_as, metrics });
    super::while_leading(values, "kube-controller-manager", &client, &stop, work).await
}

fn config(values: &Values) -> Result<controllers::Config> {
    let cluster_cidr = match (values.is("allocate-node-cidrs", false), values.text("cluster-cidr")) {
        (false, _) => None,
        (true, None) => bail!("--cluster-cidr must be given for --allocate-node-cidrs"),
        (true, Some(text)) => Some(
            text.parse::<ipnet::IpNet>()
                .with_context(|| format!("--cluster-cidr {text:?} is not one range (two of a dual stack are not supported)"))?,
        ),
    };
    let (family, usual) = match cluster_cidr {
        Some(range) if range.addr().is_ipv6() => ("node-cidr-mask-size-ipv6", 64),
        _ => ("node-cidr-mask-size-ipv4", 24),
    };
    let mask = values.parsed(family, values.parsed("node-cidr-mask-size", usual)?)?;
    if let Some(range) = cluster_cidr.filter(|range| mask < range.prefix_len() || mask > range.max_prefix_len()) {
        bail!("--node-cidr-mask-size {mask} does not fit into --cluster-cidr {range}");
    }
    let file =
        |flag: &str| values.text(flag).map(|file| std::fs::read_to_string(file).with_context(|| format!("--{flag} {file}"))).transpose();
    let root_ca = file("root-ca-file")?;
    let longest = values.duration("cluster-signing-duration", Duration::from_secs(365 * 24 * 3600))?;
    let signer = match (file("cluster-signing-cert-file")?, file("cluster-signing-key-file")?) {
        (Some(cert), Some(key)) => {
            let authority = Authority::from_pem(&cert, &key).context("--cluster-signing-cert-file and --cluster-signing-key-file")?;
            Some(Arc::new(ClusterSigner::single(authority, longest)) as Arc<dyn Signer>)
        }
        (None, None) => None,
        _ => bail!("--cluster-signing-cert-file and --cluster-signing-key-file must be used together"),
    };
    let tokens = match file("service-account-private-key-file")? {
        Some(key) => {
            let key = PrivateKey::from_pem(&key).context("--service-account-private-key-file")?;
            // Tokens of Secrets have an issuer of their own; this one is of tokens that are not made here.
            Some(Arc::new(TokenAuthority::new(key, &[], &["kubernetes/serviceaccount".to_owned()])?))
        }
        None => None,
    };
    let mut disabled = disabled(&values.list("controllers"), &controllers::names())?;
    if root_ca.is_none() {
        disabled.push("root-ca-certificate-publisher-controller".to_owned());
    }
    Ok(controllers::Config {
        cluster_cidr,
        node_cidr_mask: mask,
        disabled,
        root_ca: root_ca.unwrap_or_default(),
        tokens,
        signer,
        node_monitor_grace: values.duration("node-monitor-grace-period", Duration::from_secs(50))?,
        local_path_dir: None,
    })
}

/// Which of the controllers do not run.
fn disabled(chosen: &[String], all: &[&'static str]) -> Result<Vec<String>> {
    let chosen: Vec<&str> = match chosen.is_empty() {
        true => vec!["*"],
        false => chosen.iter().map(String::as_str).collect(),
    };
    let known = |name: &str| {
        OLD.iter().find(|(old, _)| *old == name).map(|(_, new)| *new).or_else(|| all.iter().copied().find(|known| *known == name))
    };
    let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
    for name in chosen.iter().filter(|name| **name != "*") {
        match name.strip_prefix('-') {
            // What is not there does not run either.
            Some(name) => unwanted.extend(known(name)),
            None => match known(name) {
                Some(name) => wanted.push(name),
                None => bail!("{name:?} is not in the list of known controllers"),
            },
        }
    }
    let usual = chosen.contains(&"*");
    let runs = |name: &str| !unwanted.contains(&name) && (wanted.contains(&name) || (usual && !OFF.contains(&name)));
    // The provisioner of local folders is none of the real one's.
    Ok(all.iter().filter(|name| **name == "local-path-provisioner" || !runs(name)).map(|name| (*name).to_owned()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_chosen_as_in_the_real_one() {
        let all = [
            "deployment-controller",
            "job-controller",
            "bootstrap-signer-controller",
            "token-cleaner-controller",
            "local-path-provisioner",
        ];
        let cases: [(&str, &[&str]); 5] = [
            ("", &["bootstrap-signer-controller", "token-cleaner-controller", "local-path-provisioner"]),
            ("*,bootstrapsigner,tokencleaner", &["local-path-provisioner"]),
            ("*,-job", &["job-controller", "bootstrap-signer-controller", "token-cleaner-controller", "local-path-provisioner"]),
            (
                "deployment-controller",
                &["job-controller", "bootstrap-signer-controller", "token-cleaner-controller", "local-path-provisioner"],
            ),
            ("*,bootstrap-signer-controller,-job-controller", &["job-controller", "token-cleaner-controller", "local-path-provisioner"]),
        ];
        for (chosen, expected) in cases {
            let chosen: Vec<String> = chosen.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
            assert_eq!(disabled(&chosen, &all).unwrap(), expected, "{chosen:?}");
        }
        assert!(disabled(&["nothing".to_owned()], &all).is_err());
    }
}
