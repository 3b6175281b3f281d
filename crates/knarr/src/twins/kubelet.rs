//! `knarr kubelet`: the node alone, told by flags and a KubeletConfiguration. It brings its own runtime and pod network,
//! so that it stands for the kubelet together with containerd and the network plugin; with a container runtime endpoint it
//! stands for the kubelet alone.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use clap::Parser;
use client::metrics::Sources;
use client::{Client, HttpTransport};
use ipnet::IpNet;
use pki::{AuthInfo, HotCert, Kubeconfig, San};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::access::{Access, reach};
use super::component_config::Fields;
use super::endpoint::{Plain, followed, self_signed};
use super::flags::{Flag, Values, harmless, harmless_switch, only, only_switch, switch, used};
use crate::flags::NodeFlags;
use crate::kubelet_file::{self, Settings};
use crate::node::agent::follow_uplink;
use crate::node::credentials::{Wanted, follow_address};
use crate::node::{self, Cluster, Machine};
use crate::supervise::Supervisor;

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("config", "KubeletConfiguration."),
    used("kubeconfig", "Where the API server is, and who the node is there."),
    used("bootstrap-kubeconfig", "Who asks for the node's certificate where there is no kubeconfig yet; that one is written then."),
    used("hostname-override", "Name of the node."),
    used("node-ip", "Addresses of the node."),
    used("root-dir", "Folder of pods and volumes."),
    used("cert-dir", "Folder of the node's certificates; pki in the root where absent."),
    used("node-labels", "Labels given at registration."),
    used("data-dir", "Folder of images (a flag of ours)."),
    used("run-dir", "Folder for sockets and the state of running containers (a flag of ours)."),
    used("cluster-ranges", "Ranges of pods and services, which pods reach with their own address (a flag of ours)."),
    used("registries", "Mirrors and credentials of registries, in the form of k3s (a flag of ours)."),
    used("container-runtime-endpoint", "Socket of another container runtime; its own where absent."),
    used("image-credential-provider-config", "Programs that know credentials for images, and for which they are asked."),
    used("image-credential-provider-bin-dir", "Folder of these programs."),
    switch("fail-swap-on", "Whether the node may not run where there is swap."),
    used("cpu-manager-policy", "How processors are given: none or static."),
    used("cpu-manager-policy-options", "Options of the static policy."),
    used("reserved-cpus", "Processors that are kept for the system."),
    used("kube-reserved", "What is kept for Kubernetes itself."),
    used("system-reserved", "What is kept for the rest of the system."),
    used("memory-manager-policy", "How memory is given: None or Static."),
    used("reserved-memory", "Memory that is kept on each NUMA node."),
    used("topology-manager-policy", "How near to each other a pod's resources have to be."),
    used("topology-manager-scope", "For what NUMA nodes are picked together: container or pod."),
    used("topology-manager-policy-options", "Options of that policy."),
    only("cloud-provider", &["", "external"]),
    only_switch("register-node", &["true"]),
    harmless("pod-infra-container-image"),
    harmless("runtime-cgroups"),
    harmless("config-dir"),
    harmless("node-status-max-images"),
    harmless_switch("exit-on-lock-contention"),
];

#[derive(Parser)]
#[command(args_override_self = true)]
struct Node {
    #[command(flatten)]
    flags: NodeFlags,
}

/// Runs until it fails.
///
/// # Errors
/// Files that cannot be used, missing rights or a data directory in use.
pub async fn run(values: &Values, levels: crate::logging::Levels) -> Result<()> {
    let mut fields = match values.text("config") {
        Some(file) => kubelet_file::read(Path::new(file))?,
        None => Fields::default(),
    };
    let written = fields.left().clone();
    kubelet_file::demand(&mut fields)?;
    let root = PathBuf::from(values.text("root-dir").unwrap_or("/var/lib/kubelet"));
    let certs = values.text("cert-dir").map_or_else(|| root.join("pki"), PathBuf::from);
    let flags = node_flags(values, &mut fields, &root)?;
    let client_ca = match fields.text("/authentication/x509/clientCAFile") {
        Some(file) => std::fs::read_to_string(&file).with_context(|| format!("clientCAFile {file}"))?,
        // One that has signed nothing: tokens are the only way in.
        None => pki::Authority::create("nobody", std::time::Duration::from_secs(365 * 24 * 3600))?.cert_pem().to_owned(),
    };
    let serving_files = (fields.text("/tlsCertFile"), fields.text("/tlsPrivateKeyFile"));
    let bootstrap_serving = fields.text("/serverTLSBootstrap").is_some_and(|asked| asked == "true");
    let healthz = match fields.text("/healthzPort").as_deref() {
        Some("0") => String::new(),
        port => format!("{}:{}", fields.text("/healthzBindAddress").unwrap_or_else(|| "127.0.0.1".into()), port.unwrap_or("10248")),
    };
    let dns: Vec<IpAddr> =
        kubelet_file::texts(fields.take("/clusterDNS")).iter().map(|ip| ip.parse().context("clusterDNS")).collect::<Result<_>>()?;
    let domain = fields.text("/clusterDomain").unwrap_or_default();
    let mut settings = Settings::read(&mut fields)?;
    // The real kubelet refuses a machine that has swap unless it is told otherwise.
    settings.fail_swap_on = values.text("fail-swap-on").map(|text| text != "false").or(settings.fail_swap_on).or(Some(true));
    settings.written = written;
    fields.finish(kubelet_file::HARMLESS)?;

    let name = node::node_name(&flags)?;
    std::fs::create_dir_all(&certs).with_context(|| format!("make {}", certs.display()))?;
    let access = access(values, &name, &certs).await?;
    let transport = Arc::new(access.transport()?);
    let client = Client::new(transport.clone());
    let metrics = Sources::default();
    if let Some(plain) = Plain::open(&healthz, metrics.checks_alone()).await? {
        tokio::spawn(plain.serve());
    }
    reach(&client).await;
    let machine = Machine::open(&flags).await?;
    crate::process::show(&metrics, "kubelet", Some(machine.runtime.cgroup_root()));
    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop);
    let follows = flags.node_ip.is_empty();
    if follows {
        follow_uplink(transport.clone(), &supervisor);
    }
    keep_certificate(&name, &certs, &access, &client, transport, &supervisor);
    let serving = match serving_files {
        (Some(cert), Some(key)) => followed(&cert, &key)?,
        _ if bootstrap_serving => serving_by_request(&machine, &certs, &client, follows, &supervisor),
        _ => {
            let cert = self_signed(&format!("{name}@kubelet"), &sans(&name, &machine.ips))?;
            if follows {
                sign_again(&name, cert.clone(), &supervisor);
            }
            cert
        }
    };
    let ranges: Vec<IpNet> = values
        .list("cluster-ranges")
        .iter()
        .map(|range| range.parse().with_context(|| format!("--cluster-ranges {range:?}")))
        .collect::<Result<_>>()?;
    let cluster = Cluster {
        pods: "0.0.0.0/32".parse().expect("a range"),
        services: "0.0.0.0/32".parse().expect("a range"),
        dns: dns.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])),
        domain,
        overlay_port: 8472,
    };
    let mut config = node::kubelet_config(&flags, &cluster, &machine)?;
    config.credential_providers = credential_providers(values)?;
    settings.apply(&mut config);
    config.cluster_ranges = ranges;
    config.cluster_dns = dns;
    let mut serving = pki::server_config(&serving, true, &["http/1.1"])?;
    serving.max_early_data_size = 0;
    let deps = kubelet::Deps {
        client: client.clone(),
        runtime: machine.runtime.clone(),
        images: machine.images.clone(),
        journal: machine.journal.clone(),
        serving: Arc::new(serving),
        client_ca,
        metrics,
    };
    let ready = watch::Sender::new(false);
    supervisor.run("kubelet", move || Box::pin(kubelet::run(config.clone(), deps.clone(), ready.clone())));
    if machine.runtime.other().is_some() {
        tracing::info!("the pods' network is the container runtime's");
    } else if may_see_nodes(&client).await {
        node::start_overlay(&cluster, &machine, &client, &supervisor);
    } else {
        tracing::warn!("the node may not list nodes, so that pods of other nodes are not reached; bind it to a role that may");
    }
    let state = crate::admin::State {
        levels,
        supervisor: supervisor.clone(),
        images: machine.images.store(),
        ready: None,
        client: Some(client),
        files: Arc::default(),
        node: Some(name.clone()),
    };
    let socket = flags.run_dir.join("knarr.sock");
    supervisor.run("admin", move || Box::pin(crate::admin::run(socket.clone(), state.clone())));
    tracing::info!(version = api::VERSION, node = name, server = access.server(), "knarr kubelet is running");
    std::future::pending().await
}

/// Programs that know credentials for images.
fn credential_providers(values: &Values) -> Result<Vec<kubelet::credentials::Provider>> {
    let (Some(file), Some(programs)) = (values.text("image-credential-provider-config"), values.text("image-credential-provider-bin-dir"))
    else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("read credential provider config {file}"))?;
    let config = codec::yaml::parse(text.as_bytes()).map_err(|error| anyhow::anyhow!("failed to decode {file}: {error}"))?;
    kubelet::credentials::parse(&config, Path::new(programs)).with_context(|| format!("credential provider config {file}"))
}

/// The flags of an agent that say the same.
fn node_flags(values: &Values, fields: &mut Fields, root: &Path) -> Result<NodeFlags> {
    let mut words = vec!["kubelet".to_owned(), format!("--kubelet-root={}", root.display())];
    let mut add = |flag: &str, value: Option<String>| words.extend(value.map(|value| format!("--{flag}={value}")));
    let given = |flag: &str| values.text(flag).map(str::to_owned);
    add("data-dir", given("data-dir"));
    add("run-dir", given("run-dir"));
    add("private-registry", given("registries"));
    add("node-name", given("hostname-override"));
    add("node-ip", given("node-ip"));
    values.list("node-labels").into_iter().for_each(|label| add("node-label", Some(label)));
    let mut configured = kubelet_file::flags(fields)?;
    if !configured.iter().any(|(flag, _)| *flag == "eviction-hard") {
        // The real kubelet's own values, not those of an agent.
        configured.push(("eviction-hard", kubelet::eviction::DEFAULT_HARD.to_owned()));
    }
    configured.into_iter().for_each(|(flag, value)| add(flag, Some(value)));
    // Of what is said twice the last counts.
    let placement = kubelet_file::PLACEMENT.iter().map(|(flag, _)| *flag);
    placement.chain(["container-runtime-endpoint"]).for_each(|flag| add(flag, given(flag)));
    let flags = Node::try_parse_from(words)?.flags;
    flags.check()?;
    Ok(flags)
}

/// The node's own access; at the first start it is asked for with that of the bootstrap kubeconfig.
async fn access(values: &Values, name: &str, certs: &Path) -> Result<Access> {
    let kubeconfig = PathBuf::from(values.needed("kubeconfig")?);
    let Some(bootstrap) = values.text("bootstrap-kubeconfig").filter(|_| !kubeconfig.exists()) else {
        return Access::open(&kubeconfig);
    };
    let bootstrap = Access::open(Path::new(bootstrap))?;
    let wanted = Wanted::client(name, certs);
    let client = bootstrap.client()?;
    reach(&client).await;
    let cert = wanted.obtain(&client).await.context("get the node's certificate")?;
    let authorities = bootstrap.authorities().context("the bootstrap kubeconfig names no certificate authority")?;
    let file = wanted.file.to_string_lossy().into_owned();
    let auth = AuthInfo { client_certificate: Some(file.clone()), client_key: Some(file), ..AuthInfo::default() };
    Kubeconfig::single("default-cluster", bootstrap.server(), authorities, "default-auth", auth).write(&kubeconfig)?;
    Ok(bootstrap.with_cert(cert))
}

/// A certificate that was asked for is renewed; one from elsewhere is left to whoever made it.
fn keep_certificate(name: &str, certs: &Path, access: &Access, client: &Client, transport: Arc<HttpTransport>, supervisor: &Supervisor) {
    let wanted = Wanted::client(name, certs);
    let Some(cert) = access.cert().filter(|cert| wanted.load().is_some_and(|stored| stored.cert_pem == cert.current().cert_pem)).cloned()
    else {
        return;
    };
    keep_renewed("certificate client", wanted, cert, client, supervisor, move || transport.reconnect());
}

fn keep_renewed(
    name: &str,
    wanted: Wanted,
    cert: Arc<HotCert>,
    client: &Client,
    supervisor: &Supervisor,
    replaced: impl Fn() + Clone + Send + Sync + 'static,
) {
    let client = client.clone();
    supervisor.run(name, move || Box::pin(wanted.clone().keep_renewed(cert.clone(), client.clone(), replaced.clone())));
}

/// A certificate that somebody has to approve first; until then one that nobody knows.
fn serving_by_request(machine: &Machine, certs: &Path, client: &Client, follows: bool, supervisor: &Supervisor) -> Arc<HotCert> {
    let wanted = Wanted::serving(&machine.name, &machine.ips, certs);
    let cert = self_signed(&format!("{}@kubelet", machine.name), &sans(&machine.name, &machine.ips)).expect("names of a node are names");
    let (held, client, name, dir) = (cert.clone(), client.clone(), machine.name.clone(), certs.to_owned());
    supervisor.run("certificate serving", move || {
        let (wanted, held, client) = (wanted.clone(), held.clone(), client.clone());
        if follows {
            return Box::pin(follow_address(name.clone(), dir.clone(), held, client, wanted));
        }
        Box::pin(async move {
            let issued = match wanted.load() {
                Some(issued) => issued,
                None => wanted.request(&client).await?,
            };
            held.replace(issued)?;
            wanted.keep_renewed(held, client, || ()).await
        })
    });
    cert
}

/// A certificate that nobody knows, but under the node's present address.
fn sign_again(name: &str, cert: Arc<HotCert>, supervisor: &Supervisor) {
    let name = name.to_owned();
    supervisor.run("certificate serving", move || {
        let (name, cert) = (name.clone(), cert.clone());
        Box::pin(async move {
            let (mut addresses, _) = net::AddressWatch::open()?;
            loop {
                if let Some(ip) = addresses.changed().await?.as_ref().and_then(node::primary) {
                    let signed = self_signed(&format!("{name}@kubelet"), &sans(&name, &[ip]))?.current();
                    cert.replace((*signed).clone())?;
                }
            }
        })
    });
}

fn sans(name: &str, ips: &[IpAddr]) -> Vec<San> {
    ips.iter().copied().map(San::Ip).chain([San::Dns(name.to_owned())]).collect()
}

async fn may_see_nodes(client: &Client) -> bool {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "nodes", "version": "v1"}},
    });
    let answer = client.call(http::Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    answer.is_ok_and(|answer| answer["status"]["allowed"] == true)
}
