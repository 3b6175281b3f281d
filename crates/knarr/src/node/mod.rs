//! The parts of a node: kubelet, proxy and DNS, the same for a server and an agent; only the clients differ.

pub mod agent;
#[cfg(test)]
mod agent_test;
pub mod credentials;
pub mod cri;
pub mod facts;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::cri::client::Remote;
use ::cri::engine::{Engine, Images};
use anyhow::{Context, Result, bail};
use api::Quantity;
use cgroup::{Group, Layout};
use client::Client;
use image::{ImageConfig, ImageStore, Registries};
use ipnet::IpNet;
use net::{Change, HostJournal, LoopbackAddress};
use pki::HotCert;
use runtime::{Runtime, RuntimeConfig};
use tokio::sync::watch;

use crate::flags::NodeFlags;
use crate::holder::{self, Held};
use crate::kubelet_file::Settings;
use crate::supervise::Supervisor;

/// Port of the node's own address at which the cluster DNS answers foreign proxies.
pub const DNS_NODE_PORT: u16 = 10053;

/// Port at which the proxy says that it is well.
const PROXY_HEALTH_PORT: u16 = 10256;

/// What every node of a cluster must know.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// Range of pod addresses.
    pub pods: IpNet,
    /// Range of service addresses.
    pub services: IpNet,
    /// Address of the cluster DNS.
    pub dns: IpAddr,
    /// Domain of the cluster.
    pub domain: String,
    /// UDP port of the overlay.
    pub overlay_port: u16,
}

/// The machine's side of a node, opened before anything runs.
pub struct Machine {
    /// Name of the node.
    pub name: String,
    /// Its addresses, the primary one first.
    pub ips: Vec<IpAddr>,
    /// Changes to the host.
    pub journal: Arc<HostJournal>,
    /// Containers.
    pub runtime: Engine,
    /// Images.
    pub images: Images,
}

/// Clients and certificate of a node's parts.
pub struct Access {
    /// Acts as `system:node:<name>`.
    pub node: Client,
    /// Acts as `system:kube-proxy` (an agent's as its node).
    pub proxy: Client,
    /// Serving certificate of the kubelet.
    pub serving: Arc<HotCert>,
    /// PEM of the authority of clients.
    pub client_ca: String,
    /// Who of this process has numbers to show.
    pub metrics: client::metrics::Sources,
}

/// How far the parts are.
pub struct Ready {
    /// The kubelet is registered and follows its pods.
    pub kubelet: watch::Receiver<bool>,
    /// The DNS answers.
    pub dns: watch::Receiver<bool>,
}

impl Machine {
    /// Opens the node's data.
    ///
    /// # Errors
    /// Missing rights, data in use, or a machine without address.
    pub async fn open(flags: &NodeFlags) -> Result<Machine> {
        if !rustix::process::geteuid().is_root() {
            bail!("a node needs root: it makes name spaces, control groups and network interfaces");
        }
        std::fs::create_dir_all(&flags.data_dir).with_context(|| format!("make data directory {}", flags.data_dir.display()))?;
        let journal = Arc::new(HostJournal::open(flags.data_dir.join("host.journal"))?);
        for dir in [&flags.run_dir, &flags.kubelet_root] {
            journal.record(Change::MountsBelow { dir: dir.clone() }).context("write the host journal")?;
        }
        // What was there before us stays: only folders that we make are ours to remove.
        for path in [flags.run_dir.clone(), flags.kubelet_root.clone(), flags.pod_logs.clone(), containers_dir(&flags.pod_logs)] {
            let vacant = std::fs::read_dir(&path).map_or(true, |mut entries| entries.next().is_none());
            if vacant {
                journal.record(Change::DirTree { path }).context("write the host journal")?;
            }
        }
        let (runtime, images) = match flags.container_runtime_endpoint.as_deref().filter(|address| !address.is_empty()) {
            None => own_runtime(flags)?,
            Some(address) => foreign_runtime(flags, address).await?,
        };
        for dir in runtime.cgroup_root().dirs() {
            journal.record(Change::CgroupTree { path: dir }).context("write the host journal")?;
        }
        Ok(Machine { name: node_name(flags)?, ips: node_ips(flags)?, journal, runtime, images })
    }
}

fn own_runtime(flags: &NodeFlags) -> Result<(Engine, Images)> {
    let mut config = ImageConfig::new(&flags.data_dir);
    config.registries = Registries::load(&flags.private_registry)?;
    let images = ImageStore::open(config)?;
    let runtime =
        Runtime::open(RuntimeConfig { run_dir: flags.run_dir.join("pods"), cgroup_root: flags.cgroup_root.clone(), self_exe: None })?;
    Ok((runtime.into(), images.into()))
}

/// Containers, images and the pods' network are the other runtime's; the groups of pods stay the kubelet's.
async fn foreign_runtime(flags: &NodeFlags, address: &str) -> Result<(Engine, Images)> {
    let remote = Remote::connect(cri::socket_path(address)?).await.with_context(|| format!("use the container runtime at {address}"))?;
    let group = Group::new(Arc::new(Layout::detect()?), &flags.cgroup_root)?;
    group.create_top().context("make the control group of the node")?;
    Ok((Engine::Other(remote.clone(), group), Images::Other(remote)))
}

/// Name of the node: as given, or the host's in lower case.
///
/// # Errors
/// The name is no DNS name.
pub fn node_name(flags: &NodeFlags) -> Result<String> {
    let name = match &flags.node_name {
        Some(name) => name.clone(),
        None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
    };
    if !api::names::is_dns_subdomain(&name) {
        bail!("node name {name:?} is no DNS name (lower-case letters, digits, dashes and dots); give one with --node-name");
    }
    Ok(name)
}

/// Addresses of the node: as given, or those of the default route's interface.
///
/// # Errors
/// There is none.
pub fn node_ips(flags: &NodeFlags) -> Result<Vec<IpAddr>> {
    if !flags.node_ip.is_empty() {
        return Ok(flags.node_ip.clone());
    }
    match net::addresses()?.as_ref().and_then(primary) {
        Some(ip) => Ok(vec![ip]),
        None => bail!("no network interface with an address was found; give one with --node-ip"),
    }
}

/// The address that stands for the machine: the first of version 4, else the first.
pub fn primary(found: &net::NodeAddresses) -> Option<IpAddr> {
    let mut all = found.addresses.iter().map(IpNet::addr);
    all.clone().find(IpAddr::is_ipv4).or_else(|| all.next())
}

fn containers_dir(pod_logs: &Path) -> PathBuf {
    pod_logs.parent().unwrap_or(Path::new("/var/log")).join("containers")
}

/// Starts the parts under a supervisor.
///
/// # Errors
/// A quantity that is none, or a certificate that cannot serve.
pub fn start(
    flags: &NodeFlags,
    cluster: &Cluster,
    machine: &Machine,
    access: Access,
    disabled: impl Fn(&str) -> bool,
    supervisor: &Supervisor,
) -> Result<Ready> {
    let (kubelet_ready, kubelet) = watch::channel(false);
    let (dns_ready, dns) = watch::channel(disabled("dns"));
    let config = kubelet_config(flags, cluster, machine)?;
    let mut serving = pki::server_config(&access.serving, true, &["http/1.1"])?;
    serving.max_early_data_size = 0;
    let deps = kubelet::Deps {
        client: access.node.clone(),
        runtime: machine.runtime.clone(),
        images: machine.images.clone(),
        journal: machine.journal.clone(),
        serving: Arc::new(serving),
        client_ca: access.client_ca.clone(),
        metrics: access.metrics.clone(),
    };
    supervisor.run("kubelet", move || Box::pin(kubelet::run(config.clone(), deps.clone(), kubelet_ready.clone())));
    if !disabled("dns") {
        start_dns(flags, cluster, machine, &access.node, dns_ready, supervisor)?;
    } else {
        // One of an earlier run would keep the address.
        holder::end(&flags.run_dir)?;
    }
    if machine.runtime.other().is_none() {
        start_overlay(cluster, machine, &access.node, supervisor);
    }
    if !disabled("proxy") {
        start_proxy(cluster, machine, &access.proxy, supervisor);
    }
    Ok(Ready { kubelet, dns })
}

/// What the kubelet is told.
///
/// # Errors
/// A quantity that is none, or a file that cannot be used.
pub fn kubelet_config(flags: &NodeFlags, cluster: &Cluster, machine: &Machine) -> Result<kubelet::Config> {
    let quantity = |text: &Option<String>| -> Result<Option<Quantity>> {
        text.as_deref().map(|text| Quantity::parse(text).with_context(|| format!("{text:?} is no quantity"))).transpose()
    };
    let mtu = net::addresses()?.map_or(1500, |found| found.mtu);
    let mut config = kubelet::Config {
        node_name: machine.name.clone(),
        node_ips: machine.ips.clone(),
        follow_addresses: flags.node_ip.is_empty(),
        root_dir: flags.kubelet_root.clone(),
        log_dir: flags.pod_logs.clone(),
        container_log_dir: containers_dir(&flags.pod_logs),
        listen: SocketAddr::new(machine.ips[0], flags.kubelet_port),
        cluster_dns: vec![cluster.dns],
        cluster_domain: cluster.domain.clone(),
        resolv_conf: flags.resolv_conf.clone(),
        max_pods: flags.max_pods,
        pod_pids_limit: None,
        user_ids_per_pod: 65536,
        cpu_milli: quantity(&flags.node_cpu)?.map(Quantity::milli),
        memory_bytes: quantity(&flags.node_memory)?.map(Quantity::value),
        labels: flags
            .node_label
            .iter()
            .filter_map(|label| label.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect(),
        taints: flags.node_taint.clone(),
        pod_manifests: flags.pod_manifests.clone(),
        log_max_size: 10 << 20,
        log_max_files: 5,
        cluster_ranges: vec![cluster.pods, cluster.services],
        pod_mtu: mtu.saturating_sub(50),
        eviction_hard: kubelet::eviction::parse(&flags.eviction_hard).context("--eviction-hard")?,
        eviction: kubelet::eviction::Policy::default(),
        shutdown: kubelet::shutdown::Config::new(Vec::new()),
        swap: kubelet::swap::Config { behavior: kubelet::swap::Behavior::NoSwap, fail_on: false },
        credential_providers: Vec::new(),
        image_access: kubelet::image_access::Policy::default(),
        image_gc: kubelet::ImageGc {
            high_percent: flags.image_gc_high_threshold,
            low_percent: flags.image_gc_low_threshold,
            min_age: std::time::Duration::from_secs(120),
        },
        placement: flags.placement.options()?,
        version: api::VERSION.to_owned(),
        written: serde_json::Value::Null,
    };
    Settings::of(flags.kubelet_config.as_deref())?.apply(&mut config);
    Ok(config)
}

fn start_dns(
    flags: &NodeFlags,
    cluster: &Cluster,
    machine: &Machine,
    client: &Client,
    ready: watch::Sender<bool>,
    supervisor: &Supervisor,
) -> Result<()> {
    // Every node answers at the cluster's DNS address itself: it is an address of its own.
    let address = LoopbackAddress::ensure(cluster.dns, &machine.journal).context("take the address of the cluster DNS")?;
    std::mem::forget(address);
    let upstream = dns::Upstream::ResolvConf(flags.resolv_conf.clone());
    let mut listen = vec![SocketAddr::new(cluster.dns, 53)];
    listen.push(SocketAddr::new(machine.ips[0], DNS_NODE_PORT));
    let (domain, own, client) = (cluster.domain.clone(), vec![cluster.dns], client.clone());
    let held = Held::new(&flags.run_dir, machine.runtime.cgroup_root(), listen)?;
    let keeping = held.clone();
    supervisor.run("socket holder", move || Box::pin(keeping.clone().keep()));
    supervisor.run("dns", move || {
        let (domain, own_addresses, upstream) = (domain.clone(), own.clone(), upstream.clone());
        let deps = dns::Deps { client: client.clone(), ready: ready.clone(), stats: Arc::default() };
        let held = held.clone();
        Box::pin(async move {
            let sockets = tokio::task::spawn_blocking(move || held.sockets()).await?.context("cannot listen for DNS queries")?;
            let config = dns::Config { domain, listen: Vec::new(), sockets, own_addresses, upstream, ttl: 5, remembered: 4096 };
            dns::run(config, deps).await
        })
    });
    Ok(())
}

/// Pods of different nodes reach each other through the overlay, whoever serves the services.
pub fn start_overlay(cluster: &Cluster, machine: &Machine, client: &Client, supervisor: &Supervisor) {
    let overlay = net::OverlayConfig { port: cluster.overlay_port, ..net::OverlayConfig::STANDARD };
    let config = proxy::overlay::Config { node_name: machine.name.clone(), overlay };
    let (client, journal) = (client.clone(), machine.journal.clone());
    supervisor.run("overlay", move || {
        let deps = proxy::overlay::Deps { client: client.clone(), journal: journal.clone() };
        Box::pin(proxy::overlay::run(config.clone(), deps))
    });
}

fn start_proxy(cluster: &Cluster, machine: &Machine, client: &Client, supervisor: &Supervisor) {
    let config = proxy::Config {
        node_name: machine.name.clone(),
        node_ips: machine.ips.clone(),
        cluster_cidrs: vec![cluster.pods],
        service_cidrs: vec![cluster.services],
        own_addresses: vec![cluster.dns],
        mtu: None,
        healthz: Some(SocketAddr::new(machine.ips[0], PROXY_HEALTH_PORT)),
    };
    let (client, journal) = (client.clone(), machine.journal.clone());
    supervisor.run("proxy", move || {
        let deps = proxy::Deps { client: client.clone(), journal: journal.clone() };
        Box::pin(proxy::run(config.clone(), deps, watch::Sender::new(false)))
    });
}
