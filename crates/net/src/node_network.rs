//! The pods of one node: their addresses and interfaces, and the host ports that lead to them. Callers name pods as they
//! like (a UID, a sandbox), and say which host ports a pod has once its address is known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    AllocateError, ApplyError, HostJournal, HostPort, Ipam, NetlinkError, NetnsRef, PodAttachment, PodNetwork, PodNetworkConfig,
    PodNetworkError, PodRules, PodRulesConfig, TableWatch,
};

/// Why the pods' network of a node did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NodeNetworkError {
    /// The host could not be prepared.
    #[error("open pod network")]
    Open(#[source] PodNetworkError),
    /// What earlier runs left could not be read.
    #[error("read existing pod links")]
    Existing(#[source] PodNetworkError),
    /// There is no range of addresses yet.
    #[error("the node has no pod address range yet (spec.podCIDR of the Node is empty)")]
    NoRange,
    /// No address is left.
    #[error(transparent)]
    Address(#[from] AllocateError),
    /// The pod got no interface.
    #[error("attach")]
    Attach(#[source] PodNetworkError),
    /// The rules of the pods could not be set.
    #[error("set pod rules")]
    Rules(#[from] ApplyError),
    /// Nobody tells any more when the rules are removed.
    #[error("watch the pods' table")]
    Watch(#[source] NetlinkError),
}

type Result<T> = std::result::Result<T, NodeNetworkError>;

/// The pod network of this node. Ready once the node has a pod range.
pub struct NodeNetwork {
    links: PodNetwork,
    journal: Arc<HostJournal>,
    cluster: Vec<IpNet>,
    ready: watch::Sender<bool>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    ipam: Option<Ipam>,
    rules: Option<PodRules>,
    /// Addresses by pod UID.
    addresses: BTreeMap<String, Vec<IpAddr>>,
    /// Host ports by pod UID.
    host_ports: BTreeMap<String, Vec<HostPort>>,
    /// The table was removed and is not made anew yet.
    missing: bool,
}

impl NodeNetwork {
    /// Prepares the host. `cluster` are the ranges that pods reach with their own address.
    ///
    /// # Errors
    /// The host could not be prepared.
    pub fn open(mtu: u32, cluster: Vec<IpNet>, journal: Arc<HostJournal>) -> Result<NodeNetwork> {
        let links = PodNetwork::open(PodNetworkConfig { mtu }, &journal).map_err(NodeNetworkError::Open)?;
        Ok(NodeNetwork { links, journal, cluster, ready: watch::Sender::new(false), state: Mutex::default() })
    }

    /// The node has its range: addresses of running pods are claimed, then new ones can be given out.
    ///
    /// # Errors
    /// The host could not be read or its rules not be set.
    pub fn set_range(&self, range: IpNet) -> Result<()> {
        let mut state = self.state.lock();
        if state.ipam.as_ref().is_some_and(|ipam| ipam.cidr() == range) {
            return Ok(());
        }
        let mut ipam = Ipam::new(range);
        for existing in self.links.existing().map_err(NodeNetworkError::Existing)? {
            for address in &existing.addresses {
                if let Err(error) = ipam.claim(*address) {
                    tracing::debug!(%address, %error, "address of an existing pod");
                }
            }
            if let Some(uid) = existing.uid {
                state.addresses.insert(uid, existing.addresses);
            }
        }
        let mut outside = self.cluster.clone();
        outside.push(range);
        let config = PodRulesConfig { table: None, pod_cidrs: vec![range], non_masquerade_cidrs: outside };
        state.rules = Some(PodRules::open(config, &state.ports(), &self.journal)?);
        state.ipam = Some(ipam);
        drop(state);
        self.ready.send_replace(true);
        Ok(())
    }

    /// Whether pods can get addresses.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Addresses that a pod has.
    pub fn addresses(&self, uid: &str) -> Vec<String> {
        self.state.lock().addresses.get(uid).into_iter().flatten().map(IpAddr::to_string).collect()
    }

    /// Gives a pod an address, an interface and its host ports.
    ///
    /// # Errors
    /// There is no range yet or no address left, or the kernel refused.
    pub async fn attach(&self, uid: &str, netns: &Path, host_ports: impl FnOnce(IpAddr) -> Vec<HostPort>) -> Result<Vec<String>> {
        let address = self.reserve(uid).await?;
        self.wire(uid, netns, address, host_ports(address))?;
        Ok(vec![address.to_string()])
    }

    /// Takes an address for a pod. It stays the pod's until [`Self::detach`], or until another one is taken for it: a pod whose
    /// earlier interface went with its name space has an address that nobody uses any more.
    ///
    /// # Errors
    /// There is no range yet or no address left.
    pub async fn reserve(&self, uid: &str) -> Result<IpAddr> {
        let mut ready = self.ready.subscribe();
        let wait = ready.wait_for(|ready| *ready);
        if tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.is_err() {
            return Err(NodeNetworkError::NoRange);
        }
        let mut state = self.state.lock();
        let State { ipam, addresses, .. } = &mut *state;
        let ipam = ipam.as_mut().ok_or(NodeNetworkError::NoRange)?;
        let address = ipam.allocate()?;
        for earlier in addresses.insert(uid.to_owned(), vec![address]).into_iter().flatten() {
            ipam.release(earlier);
        }
        Ok(address)
    }

    /// Gives a pod the interface and the host ports of its reserved address, or takes the address back.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn wire(&self, uid: &str, netns: &Path, address: IpAddr, host_ports: Vec<HostPort>) -> Result<()> {
        let wired = self.wire_reserved(uid, netns, address, host_ports);
        if wired.is_err() {
            self.detach(uid);
        }
        wired
    }

    fn wire_reserved(&self, uid: &str, netns: &Path, address: IpAddr, host_ports: Vec<HostPort>) -> Result<()> {
        let attachment = PodAttachment { uid: uid.to_owned(), addresses: vec![address] };
        self.links.attach(NetnsRef::Path(netns), &attachment).map_err(NodeNetworkError::Attach)?;
        if host_ports.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        state.host_ports.insert(uid.to_owned(), host_ports);
        state.apply()
    }

    /// Whether a pod's interface is complete: the route to it is made last.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn is_wired(&self, uid: &str) -> Result<bool> {
        let existing = self.links.existing().map_err(NodeNetworkError::Existing)?;
        Ok(existing.iter().any(|link| link.uid.as_deref() == Some(uid) && !link.addresses.is_empty()))
    }

    /// Makes the pods' rules anew whenever somebody removes them. Ends only with what went wrong.
    pub async fn keep_rules(&self) -> NodeNetworkError {
        let mut watch = match TableWatch::open(PodRules::TABLE) {
            Ok(watch) => watch,
            Err(error) => return NodeNetworkError::Watch(error),
        };
        // What happened before the watch began is mended as well.
        self.state.lock().missing = true;
        loop {
            if let Err(error) = self.mend() {
                return error;
            }
            if let Err(error) = watch.lost().await {
                return NodeNetworkError::Watch(error);
            }
            tracing::warn!("somebody removed the pods' table, making it anew");
            self.state.lock().missing = true;
        }
    }

    fn mend(&self) -> Result<()> {
        let mut state = self.state.lock();
        if !state.missing {
            return Ok(());
        }
        let ports = state.ports();
        if let Some(rules) = &mut state.rules {
            rules.restore(&ports)?;
        }
        state.missing = false;
        Ok(())
    }

    /// Notes the host ports of a pod that was taken over.
    pub fn adopt(&self, uid: &str, host_ports: impl FnOnce(IpAddr) -> Vec<HostPort>) {
        let mut state = self.state.lock();
        let Some(address) = state.addresses.get(uid).and_then(|addresses| addresses.first()).copied() else {
            return;
        };
        let ports = host_ports(address);
        if !ports.is_empty() && state.host_ports.insert(uid.to_owned(), ports.clone()).as_ref() != Some(&ports) {
            if let Err(error) = state.apply() {
                tracing::warn!(%error, "host ports were not set");
            }
        }
    }

    /// Takes everything back from a pod. Idempotent.
    pub fn detach(&self, uid: &str) {
        if let Err(error) = self.links.detach(uid) {
            tracing::warn!(uid, %error, "interface stays");
        }
        let mut state = self.state.lock();
        for address in state.addresses.remove(uid).into_iter().flatten() {
            if let Some(ipam) = &mut state.ipam {
                ipam.release(address);
            }
        }
        if state.host_ports.remove(uid).is_some() {
            if let Err(error) = state.apply() {
                tracing::warn!(%error, "host ports were not cleared");
            }
        }
    }
}

impl State {
    fn ports(&self) -> Vec<HostPort> {
        self.host_ports.values().flatten().cloned().collect()
    }

    fn apply(&mut self) -> Result<()> {
        let ports = self.ports();
        if let Some(rules) = &mut self.rules {
            rules.set_host_ports(&ports)?;
        }
        Ok(())
    }
}
