//! Services to nftables: cluster addresses, node ports, affinity; and the overlay between nodes.
//!
//! [`run`] is the component that stands for kube-proxy: it watches services and endpoint slices and
//! makes the node's service dataplane agree. [`overlay::run`] is apart from it, because pods of
//! different nodes must reach each other also where another proxy serves the services.
//!
//! This crate decides nothing about packets; that is the `net` crate, which knows no object.

mod health;
pub mod overlay;
mod services;
mod tracker;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cache::{Cache, Caches, decode};
use client::{Client, Selection};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use net::{Applied, Dataplane, DataplaneConfig, HostJournal, ServicePort, TableWatch};
use tokio::sync::watch;

use crate::health::{Health, HealthPorts, Healthz};
use crate::tracker::{ServiceKey, Tracker};

/// Services and slices that are not for us: those of other proxies, and headless ones.
const OURS: &str = "!service.kubernetes.io/headless,!service.kubernetes.io/service-proxy-name";
/// How long to wait before a change that the kernel refused is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Configuration of the proxy.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node, by which local endpoints are known.
    pub node_name: String,
    /// Addresses of the node to begin with; later those of its Node object count.
    pub node_ips: Vec<IpAddr>,
    /// Ranges of pods in the whole cluster. What comes from elsewhere is masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// Ranges of services; addresses in them without a service are refused.
    pub service_cidrs: Vec<IpNet>,
    /// Service addresses that the node answers itself, usually that of the cluster DNS.
    pub own_addresses: Vec<IpAddr>,
    /// The largest packet for the host's own connections to services.
    pub mtu: Option<u32>,
    /// Where to answer `/healthz`, usually port 10256; nowhere if none.
    pub healthz: Option<SocketAddr>,
}

/// What the proxy works with.
pub struct Deps {
    /// Lists and watches as `system:kube-proxy`.
    pub client: Client,
    /// Where changes to the host are noted.
    pub journal: Arc<HostJournal>,
}

/// Serves services until the future is dropped. `ready` becomes true when all that were there at
/// the start are served.
///
/// # Errors
/// The table cannot be made at the start. Later refusals of the kernel are logged and tried again.
pub async fn run(config: Config, deps: Deps, ready: watch::Sender<bool>) -> Result<()> {
    let caches = Caches::new(deps.client);
    let services = caches.get(Selection::of::<Service>().with_labels(OURS));
    let slices = caches.get(Selection::of::<EndpointSlice>().with_labels(OURS));
    let nodes = caches.get(Selection::of::<Node>().with_fields(format!("metadata.name={}", config.node_name)));
    let tracker = Arc::new(Tracker::default());
    tracker.follow(&services, &slices);
    let mut addresses = follow_addresses(&nodes, config.node_ips.clone());
    services.synced().await;
    slices.synced().await;

    let source = Source { services, slices, tracker: tracker.clone(), node_name: config.node_name.clone() };
    let first = addresses.borrow_and_update().clone();
    let mut proxy = Proxy::open(&config, source, &first, deps.journal).await?;
    let healthz = match config.healthz {
        Some(address) => Some(Healthz::open(address).await.context("listen for /healthz")?),
        None => None,
    };
    let mut table = TableWatch::open(Dataplane::TABLE).context("watch the service table")?;
    ready.send_replace(true);
    loop {
        let retry = async {
            match proxy.failed {
                true => tokio::time::sleep(RETRY).await,
                false => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tracker.changed() => proxy.follow(),
            () = retry => proxy.restore(),
            lost = table.lost() => {
                lost.context("watch the service table")?;
                tracing::warn!("somebody removed the service table, making it anew");
                proxy.restore();
            }
            changed = addresses.changed() => {
                changed.context("the node's addresses are followed as long as the proxy runs")?;
                let now = addresses.borrow_and_update().clone();
                proxy.set_node_ips(now);
            }
        }
        if let Some(healthz) = &healthz {
            healthz.synced(!proxy.failed);
        }
    }
}

/// What the API says.
struct Source {
    services: Arc<Cache>,
    slices: Arc<Cache>,
    tracker: Arc<Tracker>,
    node_name: String,
}

/// What is to be served for one service.
struct Desired {
    ports: Vec<ServicePort>,
    health: Option<(u16, Health)>,
}

impl Source {
    fn desired(&self, key: &ServiceKey) -> Desired {
        let nothing = Desired { ports: Vec::new(), health: None };
        let entry = self.services.get(&key.namespace, &key.name);
        let Some(service) = entry.and_then(|entry| decode::<Service>(&entry)) else {
            return nothing;
        };
        let names = self.tracker.slices_of(key);
        let slices: Vec<EndpointSlice> = names.iter().filter_map(|name| decode(&*self.slices.get(&key.namespace, name)?)).collect();
        let ports = services::ports(&service, &slices, &self.node_name);
        let health = services::health_port(&service).map(|port| {
            let local = services::local_endpoints(&slices, &self.node_name);
            (port, Health { namespace: key.namespace.clone(), name: key.name.clone(), local })
        });
        Desired { ports, health }
    }
}

/// The dataplane with what it was last given.
struct Proxy {
    source: Source,
    dataplane: Dataplane,
    /// Keys of the ports of each service.
    ports: BTreeMap<ServiceKey, BTreeSet<String>>,
    health: HealthPorts,
    failed: bool,
}

impl Proxy {
    async fn open(config: &Config, source: Source, node_ips: &[IpAddr], journal: Arc<HostJournal>) -> Result<Self> {
        let mut all = BTreeMap::new();
        let mut ports = BTreeMap::new();
        let mut health = HealthPorts::default();
        for key in source.tracker.take() {
            let desired = source.desired(&key);
            health.set(&key, desired.health);
            if !desired.ports.is_empty() {
                ports.insert(key, desired.ports.iter().map(|port| port.key.clone()).collect());
            }
            all.extend(desired.ports.into_iter().map(|port| (port.key.clone(), port)));
        }
        let config = DataplaneConfig {
            table: None,
            cluster_cidrs: config.cluster_cidrs.clone(),
            service_cidrs: config.service_cidrs.clone(),
            own_addresses: config.own_addresses.clone(),
            node_ips: node_ips.to_vec(),
            mtu: config.mtu,
        };
        // Tens of thousands of services take a while.
        let opened = tokio::task::spawn_blocking(move || Dataplane::open(config, &all, &journal)).await?;
        let dataplane = opened.context("make the service table")?;
        Ok(Self { source, dataplane, ports, health, failed: false })
    }

    /// Takes all changes that have come up to now to the kernel, in one transaction.
    fn follow(&mut self) {
        let mut changes = Vec::new();
        for key in self.source.tracker.take() {
            let desired = self.source.desired(&key);
            let now: BTreeSet<String> = desired.ports.iter().map(|port| port.key.clone()).collect();
            let before = match now.is_empty() {
                true => self.ports.remove(&key),
                false => self.ports.insert(key.clone(), now.clone()),
            };
            changes.extend(before.unwrap_or_default().difference(&now).map(|gone| (gone.clone(), None)));
            changes.extend(desired.ports.into_iter().map(|port| (port.key.clone(), Some(port))));
            self.health.set(&key, desired.health);
        }
        let start = std::time::Instant::now();
        let result = self.dataplane.apply_changes(changes);
        match &result {
            Ok(applied) if *applied != Applied::default() => {
                tracing::debug!(?applied, took = ?start.elapsed(), "services changed");
            }
            _ => {}
        }
        self.note(result);
    }

    fn restore(&mut self) {
        // A refused change is not in the dataplane: every service is looked at again.
        self.source.tracker.all_again();
        let result = self.dataplane.restore();
        self.note(result);
    }

    fn set_node_ips(&mut self, node_ips: Vec<IpAddr>) {
        let result = self.dataplane.set_node_ips(node_ips);
        self.note(result.map(|()| Applied::default()));
    }

    fn note(&mut self, result: Result<Applied, net::ApplyError>) {
        self.failed = result.is_err();
        if let Err(error) = result {
            tracing::error!(error = %format!("{:#}", anyhow::Error::from(error)), "services may be out of date, trying again");
        }
    }
}

/// The node's internal addresses, as long as its object has any.
fn follow_addresses(nodes: &Arc<Cache>, first: Vec<IpAddr>) -> watch::Receiver<Vec<IpAddr>> {
    let (sender, receiver) = watch::channel(first);
    nodes.subscribe(Box::new(move |_, new| {
        let addresses = new.and_then(|entry| decode::<Node>(entry)).map(|node| overlay::internal_ips(&node));
        if let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) {
            sender.send_if_modified(|now| {
                let changed = *now != addresses;
                *now = addresses;
                changed
            });
        }
    }));
    receiver
}
