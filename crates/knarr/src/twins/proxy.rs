//! `knarr kube-proxy`: services as nftables rules, told by flags or a KubeProxyConfiguration.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client::metrics::Sources;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use net::HostJournal;
use serde_json::Value;
use tokio::sync::watch;

use super::access::{Access, reach};
use super::component_config::{Fields, read};
use super::endpoint::Plain;
use super::flags::{Flag, Values, harmless, harmless_switch, only, only_switch, used};

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("config", "KubeProxyConfiguration; flags that it knows are taken from it alone."),
    used("kubeconfig", "Where the API server is, and who the proxy is there."),
    used("hostname-override", "Name of the node."),
    used("cluster-cidr", "Ranges of pods; what comes from elsewhere is masqueraded."),
    used("healthz-bind-address", "Where /healthz is answered."),
    used("metrics-bind-address", "Where /metrics is answered."),
    used("bind-address", "Address of the node where its object says none."),
    used("state-dir", "Folder in which changes to the host are noted (a flag of ours)."),
    only("proxy-mode", &["", "nftables", "iptables"]),
    only("detect-local-mode", &["", "ClusterCIDR"]),
    only_switch("masquerade-all", &["false"]),
    only("master", &[""]),
    only("nodeport-addresses", &[""]),
    only_switch("cleanup", &["false"]),
    harmless("conntrack-max-per-core"),
    harmless("conntrack-min"),
    harmless("conntrack-tcp-timeout-established"),
    harmless("conntrack-tcp-timeout-close-wait"),
    harmless("conntrack-udp-timeout"),
    harmless("conntrack-udp-timeout-stream"),
    harmless("iptables-sync-period"),
    harmless("iptables-min-sync-period"),
    harmless("iptables-masquerade-bit"),
    harmless("oom-score-adj"),
    harmless("config-sync-period"),
    harmless_switch("iptables-localhost-nodeports"),
    harmless_switch("bind-address-hard-fail"),
];

/// Fields of the configuration that nothing here depends on.
const HARMLESS: &[&str] = &[
    "/conntrack",
    "/iptables",
    "/ipvs",
    "/nftables",
    "/winkernel",
    "/logging",
    "/featureGates",
    "/configSyncPeriod",
    "/oomScoreAdj",
    "/enableProfiling",
    "/clientConnection/qps",
    "/clientConnection/burst",
    "/clientConnection/contentType",
    "/clientConnection/acceptContentTypes",
    "/bindAddressHardFail",
    "/portRange",
    "/detectLocal",
];

/// Runs until it fails.
///
/// # Errors
/// Files that cannot be used, a port that is taken, a kernel that refuses the table.
pub async fn run(values: &Values) -> Result<()> {
    let mut fields = match values.text("config") {
        Some(file) => read(Path::new(file), "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration")?,
        None => Fields::default(),
    };
    let mut text = |field: &str, flag: &str| fields.text(field).or_else(|| values.text(flag).map(str::to_owned));
    let kubeconfig = text("/clientConnection/kubeconfig", "kubeconfig").context("required flag(s) \"kubeconfig\" not set")?;
    let node_name = text("/hostnameOverride", "hostname-override")
        .unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().to_lowercase());
    let cluster = text("/clusterCIDR", "cluster-cidr");
    let healthz = text("/healthzBindAddress", "healthz-bind-address").unwrap_or_else(|| "0.0.0.0:10256".into());
    let metrics_at = text("/metricsBindAddress", "metrics-bind-address").unwrap_or_else(|| "127.0.0.1:10249".into());
    let bind = text("/bindAddress", "bind-address");
    let mode = text("/mode", "proxy-mode").unwrap_or_default();
    if !["", "nftables", "iptables"].contains(&mode.as_str()) {
        bail!("mode {mode:?} is not there: services are served by nftables");
    }
    if mode != "nftables" {
        tracing::warn!(mode, "services are served by nftables whatever the mode");
    }
    if text("/detectLocalMode", "detect-local-mode").is_some_and(|mode| mode != "ClusterCIDR") {
        bail!("detectLocalMode can only be ClusterCIDR here");
    }
    if text("/masqueradeAll", "masquerade-all").is_some_and(|all| all != "false")
        || fields.take("/nodePortAddresses").is_some_and(|one| one != Value::Null)
    {
        bail!("masqueradeAll and nodePortAddresses are not supported");
    }
    fields.finish(HARMLESS)?;
    let client = Access::open(Path::new(&kubeconfig))?.client()?;
    let metrics = Sources::default();
    crate::process::show(&metrics, "kube-proxy", None);
    if let Some(plain) = Plain::open(&metrics_at, metrics).await? {
        tokio::spawn(plain.serve());
    }
    reach(&client).await;
    let given: Option<IpAddr> = bind.and_then(|text| text.parse().ok()).filter(|ip: &IpAddr| !ip.is_unspecified() && !ip.is_loopback());
    let node_ips = match given {
        Some(ip) => vec![ip],
        None => match client.find::<Node>("", &node_name).await?.map(|node| proxy::overlay::internal_ips(&node)) {
            Some(ips) if !ips.is_empty() => ips,
            _ => net::addresses()?.map(|found| found.addresses.iter().map(IpNet::addr).collect()).unwrap_or_default(),
        },
    };
    let ranges = client.call(http::Method::GET, "/apis/networking.k8s.io/v1/servicecidrs", &Value::Null).await.unwrap_or_default();
    let ranges = ranges["items"].as_array().into_iter().flatten().flat_map(|range| range["spec"]["cidrs"].as_array().into_iter().flatten());
    let service_cidrs = ranges.filter_map(|range| range.as_str()?.parse().ok()).collect();
    let cidrs = cluster.iter().flat_map(|text| text.split(',')).filter(|text| !text.is_empty());
    let cluster_cidrs = cidrs.map(|text| text.parse().with_context(|| format!("cluster CIDR {text:?}"))).collect::<Result<_>>()?;
    let state = PathBuf::from(values.text("state-dir").unwrap_or("/var/lib/kube-proxy"));
    std::fs::create_dir_all(&state).with_context(|| format!("make {}", state.display()))?;
    let journal = Arc::new(HostJournal::open(state.join("host.journal"))?);
    let healthz: Option<SocketAddr> = healthz.parse().ok();
    let config = proxy::Config { node_name, node_ips, cluster_cidrs, service_cidrs, own_addresses: Vec::new(), mtu: None, healthz };
    proxy::run(config, proxy::Deps { client, journal }, watch::Sender::new(false)).await
}
