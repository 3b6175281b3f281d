//! `knarr kube-apiserver`: the API server alone, over etcd or the embedded store.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;
use pki::{Authority, ClusterPki, HotCert, PrivateKey, PublicKey, San, ServerTrust};
use server::{CertificateFiles, Server};
use store::embedded::{Embedded, Options};
use store::etcd::Etcd;
use store::{Cipher, Plain, Store};
use tokio_util::sync::CancellationToken;

use super::endpoint::{pair, self_signed};
use super::flags::{Flag, Values, harmless, harmless_switch, only, only_switch, switch, used};
use crate::listen::listen;
use crate::security_flags::SecurityFlags;

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("etcd-servers", "Members of etcd; the embedded store where absent."),
    used("etcd-cafile", "Authority of etcd."),
    used("etcd-certfile", "Certificate that etcd is shown."),
    used("etcd-keyfile", "Key of that certificate."),
    only("etcd-prefix", &["/registry"]),
    only("storage-backend", &["etcd3"]),
    only("storage-media-type", &["application/vnd.kubernetes.protobuf"]),
    used("data-dir", "Folder of the embedded store (a flag of ours)."),
    used("bind-address", "Address that is listened at."),
    used("secure-port", "Port that is listened at."),
    used("advertise-address", "Address that others reach the server at."),
    used("tls-cert-file", "Certificate that is served with; one is made where absent."),
    used("tls-private-key-file", "Key of that certificate."),
    used("client-ca-file", "Authority of certificates that callers show."),
    used("service-account-key-file", "Keys that tokens of service accounts are verified with."),
    used("service-account-signing-key-file", "Key that they are signed with."),
    used("service-account-issuer", "Issuers of such tokens, the first of new ones."),
    used("api-audiences", "Audiences that tokens may name; the issuers where absent."),
    only_switch("service-account-extend-token-expiration", &["true"]),
    only_switch("service-account-lookup", &["true"]),
    used("service-cluster-ip-range", "Ranges of service addresses."),
    used("service-node-port-range", "Range of node ports."),
    used("enable-admission-plugins", "Plugins; those that are always on here."),
    only("disable-admission-plugins", &[""]),
    used("requestheader-client-ca-file", "Authority of front proxies."),
    only("requestheader-allowed-names", &["front-proxy-client"]),
    only("requestheader-username-headers", &["X-Remote-User"]),
    only("requestheader-group-headers", &["X-Remote-Group"]),
    only("requestheader-uid-headers", &["", "X-Remote-Uid"]),
    only("requestheader-extra-headers-prefix", &["X-Remote-Extra-"]),
    used("proxy-client-cert-file", "Certificate that aggregated API servers are called with."),
    used("proxy-client-key-file", "Key of that certificate."),
    used("kubelet-client-certificate", "Certificate that kubelets are called with."),
    used("kubelet-client-key", "Key of that certificate."),
    used("kubelet-certificate-authority", "Authority of kubelets; they prove nothing where absent."),
    only("kubelet-preferred-address-types", &["InternalIP,ExternalIP,Hostname"]),
    harmless("kubelet-timeout"),
    only_switch("allow-privileged", &["true"]),
    only_switch("enable-bootstrap-token-auth", &["true"]),
    harmless_switch("enable-aggregator-routing"),
    only_switch("enable-priority-and-fairness", &["true"]),
    used("event-ttl", "How long events are kept."),
    used("max-requests-inflight", "Requests that only read at once; added to those that write."),
    used("max-mutating-requests-inflight", "Requests that write at once."),
    used("request-timeout", "How long a request may take."),
    harmless("min-request-timeout"),
    used("shutdown-delay-duration", "How long the server goes on serving, not ready any more, when it is told to stop."),
    harmless("endpoint-reconciler-type"),
    harmless("apiserver-count"),
    harmless("default-watch-cache-size"),
    harmless("watch-cache-sizes"),
    harmless_switch("watch-cache"),
    harmless("etcd-compaction-interval"),
    harmless("etcd-healthcheck-timeout"),
    harmless("cert-dir"),
    only("runtime-config", &[""]),
    switch("anonymous-auth", "Serve callers without credentials."),
    used("audit-policy-file", "What is audited."),
    used("audit-log-path", "Where to."),
    only("audit-log-format", &["json"]),
    used("audit-log-maxage", "Days that rotated audit logs are kept."),
    used("audit-log-maxbackup", "Rotated audit logs that are kept."),
    used("audit-log-maxsize", "Megabytes at which the audit log is rotated."),
    used("audit-webhook-config-file", "Kubeconfig of a webhook that takes audit events."),
    used("audit-webhook-batch-max-size", "Most events of one call of it."),
    used("audit-webhook-batch-max-wait", "Longest that an event waits for others."),
    used("encryption-provider-config", "What is encrypted in the store."),
    switch("encryption-provider-config-automatic-reload", "The file is always read again."),
    used("authentication-config", "Issuers of tokens and anonymous calls."),
    used("token-auth-file", "File of static tokens."),
    used("authentication-token-webhook-config-file", "Kubeconfig of a webhook that knows tokens."),
    used("authentication-token-webhook-version", "Version of its reviews."),
    used("authentication-token-webhook-cache-ttl", "How long its answers count."),
    used("oidc-issuer-url", "Address of an OpenID issuer."),
    used("oidc-client-id", "Audience of its tokens."),
    used("oidc-ca-file", "Certificates that it is trusted by."),
    used("oidc-username-claim", "Claim that names the user."),
    used("oidc-username-prefix", "What is put before that name."),
    used("oidc-groups-claim", "Claim that lists the groups."),
    used("oidc-groups-prefix", "What is put before each group."),
    used("oidc-required-claim", "Claim that must have a value."),
    used("oidc-signing-algs", "Algorithms of its signatures."),
    used("authorization-config", "Who is asked what callers may."),
    used("authorization-mode", "Who is asked, in order."),
    used("authorization-webhook-config-file", "Kubeconfig of an authorizing webhook."),
    used("authorization-webhook-version", "Version of its reviews."),
    used("authorization-webhook-cache-authorized-ttl", "How long its yes counts."),
    used("authorization-webhook-cache-unauthorized-ttl", "How long anything else counts."),
];

/// Beginnings of the names of the flags that [`SecurityFlags`] reads.
const SECURITY: [&str; 7] = ["audit-", "encryption-", "authentication-", "authorization-", "oidc-", "token-auth-", "anonymous-"];

/// Plugins that are on, whether they are named or not.
const PLUGINS: [&str; 24] = [
    "NamespaceLifecycle",
    "LimitRanger",
    "ServiceAccount",
    "NodeRestriction",
    "TaintNodesByCondition",
    "PodSecurity",
    "Priority",
    "DefaultTolerationSeconds",
    "DefaultStorageClass",
    "StorageObjectInUseProtection",
    "PersistentVolumeClaimResize",
    "RuntimeClass",
    "CertificateApproval",
    "CertificateSigning",
    "ClusterTrustBundleAttest",
    "CertificateSubjectRestriction",
    "DefaultIngressClass",
    "PodTopologyLabels",
    "NodeDeclaredFeatureValidator",
    "MutatingAdmissionPolicy",
    "MutatingAdmissionWebhook",
    "ValidatingAdmissionPolicy",
    "ValidatingAdmissionWebhook",
    "ResourceQuota",
];

#[derive(Parser)]
struct Security {
    #[command(flatten)]
    flags: SecurityFlags,
}

/// Runs until it is told to stop or fails.
///
/// # Errors
/// Files that cannot be used, a port that is taken, a store that cannot be reached.
pub async fn run(values: &Values, stop: CancellationToken) -> Result<()> {
    let delay = values.duration("shutdown-delay-duration", Duration::ZERO)?;
    if let Some(plugin) = values.list("enable-admission-plugins").into_iter().find(|plugin| !PLUGINS.contains(&plugin.as_str())) {
        bail!("enable-admission-plugins plugin {plugin:?} is unknown here");
    }
    let words = values.arguments(|name| SECURITY.iter().any(|start| name.starts_with(start)));
    let security = Security::try_parse_from(std::iter::once("kube-apiserver".to_owned()).chain(words))?.flags;
    let settings = security.settings()?;
    let address = SocketAddr::new(values.parsed("bind-address", IpAddr::from([0, 0, 0, 0]))?, values.parsed("secure-port", 6443)?);
    let listener = listen(address).await.with_context(|| format!("failed to listen on {address}"))?;
    let advertise = match values.text("advertise-address") {
        Some(_) => values.parsed("advertise-address", address.ip())?,
        None if !address.ip().is_unspecified() => address.ip(),
        None => {
            let found = net::addresses()?.map(|found| found.addresses).unwrap_or_default();
            found.first().map(ipnet::IpNet::addr).context("no address to advertise was found; give one with --advertise-address")?
        }
    };
    let keys = Keys::read(values)?;
    let serving = match (values.text("tls-cert-file"), values.text("tls-private-key-file")) {
        (Some(cert), Some(key)) => pair(cert, key)?,
        _ => self_signed("kube-apiserver", &[San::Dns("kubernetes.default.svc".into()), San::Dns("localhost".into()), San::Ip(advertise)])?,
    };
    // Whoever asks for a certificate that was not given is shown one that nobody trusts.
    let shown = |cert: &str, key: &str| -> Result<Arc<HotCert>> {
        match (values.text(cert), values.text(key)) {
            (Some(cert), Some(key)) => pair(cert, key),
            _ => self_signed("kube-apiserver", &[]),
        }
    };
    let cipher: Arc<dyn Cipher> = settings.encryption.clone().map_or(Arc::new(Plain) as Arc<dyn Cipher>, |encryption| encryption);
    let deps = server::Deps {
        store: open_store(values, cipher).await?,
        pki: Arc::new(keys.pki),
        serving,
        kubelet_client: shown("kubelet-client-certificate", "kubelet-client-key")?,
        front_proxy: shown("proxy-client-cert-file", "proxy-client-key-file")?,
    };
    let ranges = values.list("service-cluster-ip-range");
    let ranges = if ranges.is_empty() { vec!["10.0.0.0/24".to_owned()] } else { ranges };
    let reads: usize = values.parsed("max-requests-inflight", 400)?;
    let issuers = values.list("service-account-issuer");
    let config = server::Config {
        listen: address,
        advertise,
        advertise_port: address.port(),
        service_cidrs: ranges
            .iter()
            .map(|range| range.parse().with_context(|| format!("--service-cluster-ip-range {range:?}")))
            .collect::<Result<_>>()?,
        node_ports: node_ports(values.text("service-node-port-range").unwrap_or("30000-32767"))?,
        issuers: if issuers.is_empty() { bail!("required flag(s) \"service-account-issuer\" not set") } else { issuers },
        audiences: values.list("api-audiences"),
        old_token_keys: keys.verifying,
        anonymous: security.anonymous_auth,
        token_file: security.token_auth_file.clone(),
        max_in_flight: reads + values.parsed::<usize>("max-mutating-requests-inflight", 200)?,
        request_timeout: values.duration("request-timeout", Duration::from_secs(60))?,
        drain_timeout: values.duration("request-timeout", Duration::from_secs(60))?,
        event_ttl: values.duration("event-ttl", Duration::from_secs(3600))?,
        sans: Vec::new(),
        cluster_domain: "cluster.local".to_owned(),
        security: settings,
    };
    let server = Server::new(config, deps).await.context("start the API server")?;
    server.follow_certificates(&certificate_files(values));
    crate::process::show(&server.metric_sources(), "kube-apiserver", None);
    tracing::info!(version = api::VERSION, %address, "knarr kube-apiserver is running");
    let _ending = Ending(server.clone());
    let serving = server.serve(listener);
    tokio::pin!(serving);
    tokio::select! {
        ended = &mut serving => return ended,
        () = async {
            stop.cancelled().await;
            server.shut_down(delay).await;
        } => {}
    }
    serving.await
}

/// The files that are renewed by whoever gave them.
fn certificate_files(values: &Values) -> CertificateFiles {
    let file = |flag: &str| values.text(flag).map(PathBuf::from);
    let pair = |certificate: &str, key: &str| file(certificate).zip(file(key));
    CertificateFiles {
        serving: pair("tls-cert-file", "tls-private-key-file"),
        kubelet_client: pair("kubelet-client-certificate", "kubelet-client-key"),
        front_proxy: pair("proxy-client-cert-file", "proxy-client-key-file"),
        client_authorities: file("client-ca-file"),
        proxy_authorities: file("requestheader-client-ca-file"),
    }
}

/// Tells everyone to finish when the server ends by itself.
struct Ending(Arc<Server>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.stop();
    }
}

fn node_ports(text: &str) -> Result<(u16, u16)> {
    let range = text.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    range.filter(|(first, last)| first <= last).with_context(|| format!("--service-node-port-range {text:?} is no range of ports"))
}

/// What callers and tokens are verified with.
struct Keys {
    pki: ClusterPki,
    verifying: Vec<PublicKey>,
}

impl Keys {
    fn read(values: &Values) -> Result<Keys> {
        let read = |flag: &str| -> Result<Option<String>> {
            values.text(flag).map(|file| std::fs::read_to_string(file).with_context(|| format!("--{flag} {file}"))).transpose()
        };
        let authority = |flag: &str| -> Result<Authority> {
            Ok(match read(flag)? {
                Some(pem) => Authority::without_key(&pem).with_context(|| format!("--{flag}"))?,
                // One that has signed nothing, so that nobody is let in by it.
                None => Authority::create("nobody", Duration::from_secs(365 * 24 * 3600))?,
            })
        };
        values.needed("service-account-signing-key-file")?;
        let signing = PrivateKey::from_pem(&read("service-account-signing-key-file")?.unwrap_or_default())
            .context("--service-account-signing-key-file")?;
        let mut verifying = Vec::new();
        for file in values.list("service-account-key-file") {
            let pem = std::fs::read_to_string(&file).with_context(|| format!("--service-account-key-file {file}"))?;
            let key = PublicKey::from_pem(&pem).or_else(|_| PrivateKey::from_pem(&pem).map(|key| key.public()));
            verifying.push(key.with_context(|| format!("--service-account-key-file {file}"))?);
        }
        verifying.retain(|key| key.key_id() != signing.public().key_id());
        let client_ca = authority("client-ca-file")?;
        let mut pki = ClusterPki::from_parts(client_ca.clone(), client_ca, authority("requestheader-client-ca-file")?, signing);
        pki.kubelets = match read("kubelet-certificate-authority")? {
            Some(pem) => ServerTrust::Authorities(vec![pem]),
            None => ServerTrust::Anybody,
        };
        Ok(Keys { pki, verifying })
    }
}

async fn open_store(values: &Values, cipher: Arc<dyn Cipher>) -> Result<Arc<dyn Store>> {
    let members = values.list("etcd-servers");
    if members.is_empty() {
        let Some(dir) = values.text("data-dir") else { bail!("either --etcd-servers or --data-dir (the embedded store) must be given") };
        std::fs::create_dir_all(dir).with_context(|| format!("make data directory {dir}"))?;
        let mut options = Options::new(Path::new(dir).join("db"), client::header::stamp(), api::VERSION);
        options.cipher = cipher;
        return Ok(Arc::new(Embedded::open(options)?));
    }
    let pair = (values.text("etcd-certfile").map(Path::new), values.text("etcd-keyfile").map(Path::new));
    let options = crate::datastore::options(members, values.text("etcd-cafile").map(Path::new), pair, cipher)?;
    Ok(Arc::new(Etcd::open(options).await.context("open etcd")?))
}
