//! The overlay between nodes: publishes this node's tunnel end and follows those of the others.
//!
//! A node says by an annotation that it takes part. The device is made when the first other node
//! does, so that a lone node needs none.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cache::{Caches, decode};
use client::{Client, PatchKind, ResourceId, Selection};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use net::overlay::{format_mac, parse_mac, vtep_mac};
use net::{HostJournal, Overlay, OverlayConfig, Peer};
use parking_lot::Mutex;
use serde_json::json;
use store::Entry;
use tokio::sync::Notify;

/// The annotation with the MAC of a node's tunnel end.
pub const ANNOTATION: &str = "knarr.io/vtep-mac";
/// How long to wait before a refused change is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Configuration of the overlay.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// What all nodes of the cluster share.
    pub overlay: OverlayConfig,
}

/// What the overlay works with.
pub struct Deps {
    /// Watches nodes and annotates its own as `system:node:<name>`.
    pub client: Client,
    /// Where changes to the host are noted.
    pub journal: Arc<HostJournal>,
}

/// What matters of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct NodeInfo {
    ip: Option<IpAddr>,
    pod_cidrs: Vec<IpNet>,
    mac: Option<[u8; 6]>,
}

/// Nodes by name, and whether they changed.
#[derive(Default)]
struct Nodes {
    by_name: Mutex<BTreeMap<Box<str>, NodeInfo>>,
    changed: Notify,
}

/// Keeps the overlay until the future is dropped. Refusals are logged and tried again.
///
/// # Errors
/// None yet.
pub async fn run(config: Config, deps: Deps) -> Result<()> {
    let caches = Caches::new(deps.client.clone());
    let cache = caches.get(Selection::of::<Node>());
    let nodes = Arc::new(Nodes::default());
    let told = nodes.clone();
    cache.subscribe(Box::new(move |old, new| told.note(old, new)));
    cache.synced().await;
    let mut own = Own { config, deps, device: None };
    loop {
        let followed = own.follow(&nodes).await;
        let failed = followed.is_err();
        if let Err(error) = followed {
            tracing::warn!(error = %format!("{error:#}"), "pods of other nodes may be out of reach, trying again");
        }
        tokio::select! {
            () = nodes.changed.notified() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
    }
}

impl Nodes {
    fn note(&self, old: Option<&Arc<Entry>>, new: Option<&Arc<Entry>>) {
        let Some(entry) = new.or(old) else { return };
        let name = entry.header.name.clone();
        let info = new.and_then(|entry| decode::<Node>(entry)).map(|node| NodeInfo::of(&node));
        let mut by_name = self.by_name.lock();
        let before = match info.clone() {
            Some(info) => by_name.insert(name, info),
            None => by_name.remove(&name),
        };
        if before != info {
            self.changed.notify_one();
        }
    }
}

impl NodeInfo {
    fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let several = spec.and_then(|spec| spec.pod_cidrs.clone()).unwrap_or_default();
        let one = spec.and_then(|spec| spec.pod_cidr.clone()).filter(|_| several.is_empty());
        let cidrs = several.iter().chain(one.iter()).filter_map(|cidr| cidr.parse().ok());
        let annotations = node.metadata.annotations.as_ref();
        Self {
            ip: internal_ips(node).first().copied(),
            pod_cidrs: cidrs.collect(),
            mac: annotations.and_then(|all| all.get(ANNOTATION)).and_then(|text| parse_mac(text)),
        }
    }

    fn peers(&self) -> Vec<Peer> {
        let (Some(node_ip), Some(vtep_mac)) = (self.ip, self.mac) else {
            return Vec::new();
        };
        self.pod_cidrs.iter().map(|cidr| Peer { node_ip, pod_cidr: *cidr, vtep_mac }).collect()
    }
}

/// This node's side.
struct Own {
    config: Config,
    deps: Deps,
    /// The device and what it was made for.
    device: Option<(Overlay, IpAddr, Vec<IpNet>)>,
}

impl Own {
    async fn follow(&mut self, nodes: &Nodes) -> Result<()> {
        let mut others = nodes.by_name.lock().clone();
        let Some(NodeInfo { ip: Some(ip), pod_cidrs, mac }) = others.remove(self.config.node_name.as_str()) else {
            return Ok(());
        };
        if pod_cidrs.is_empty() {
            return Ok(());
        }
        if mac != Some(vtep_mac(ip)) {
            self.publish(ip).await?;
        }
        let peers: Vec<Peer> = others.values().flat_map(NodeInfo::peers).collect();
        if peers.is_empty() && self.device.is_none() {
            return Ok(());
        }
        let fits = self.device.as_ref().is_some_and(|(_, of, cidrs)| *of == ip && *cidrs == pod_cidrs);
        if !fits {
            self.device = None;
            let made = Overlay::ensure(self.config.overlay.clone(), ip, &pod_cidrs, &self.deps.journal);
            self.device = Some((made.context("make the overlay device")?, ip, pod_cidrs));
        }
        if let Some((overlay, ..)) = &mut self.device
            && let Err(error) = overlay.set_peers(&peers)
        {
            // Somebody may have removed the device: the next try makes it anew.
            self.device = None;
            return Err(error).context("follow the other nodes");
        }
        Ok(())
    }

    async fn publish(&self, ip: IpAddr) -> Result<()> {
        let patch = json!({"metadata": {"annotations": {ANNOTATION: format_mac(vtep_mac(ip))}}});
        let resource = ResourceId::of::<Node>();
        let patched = self.deps.client.patch(&resource, "", &self.config.node_name, "", &PatchKind::Merge, &patch).await;
        patched.map(drop).map_err(|status| anyhow::anyhow!("{status}")).context("publish this node's tunnel end")
    }
}

/// The internal addresses of a node, the primary one first.
pub fn internal_ips(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses.filter(|address| address.type_ == "InternalIP").filter_map(|address| address.address.parse().ok()).collect()
}
