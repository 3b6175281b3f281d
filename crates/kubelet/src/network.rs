//! Addresses and interfaces of pods, and the host ports that lead to them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::PodSpec;
use net::dataplane::Protocol;
use net::{HostJournal, HostPort, Ipam, NetnsRef, PodAttachment, PodNetwork, PodNetworkConfig, PodRules, PodRulesConfig, TableWatch};
use parking_lot::Mutex;
use runtime::Sandbox;
use tokio::sync::watch;

/// The pod network of this node. Ready once the node has a pod range.
pub struct Network {
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

impl Network {
    /// Prepares the host. `cluster` are the ranges that pods reach with their own address.
    ///
    /// # Errors
    /// The host could not be prepared.
    pub fn open(mtu: u32, cluster: Vec<IpNet>, journal: Arc<HostJournal>) -> Result<Network> {
        let links = PodNetwork::open(PodNetworkConfig { mtu }, &journal).context("open pod network")?;
        Ok(Network { links, journal, cluster, ready: watch::Sender::new(false), state: Mutex::default() })
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
        for existing in self.links.existing().context("read existing pod links")? {
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
        state.rules = Some(PodRules::open(config, &state.ports(), &self.journal).context("set pod rules")?);
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
    pub async fn attach(&self, uid: &str, sandbox: &Sandbox, spec: &PodSpec) -> Result<Vec<String>> {
        let mut ready = self.ready.subscribe();
        let wait = ready.wait_for(|ready| *ready);
        if tokio::time::timeout(std::time::Duration::from_secs(10), wait).await.is_err() {
            bail!("the node has no pod address range yet (spec.podCIDR of the Node is empty)");
        }
        let address = {
            let mut state = self.state.lock();
            state.ipam.as_mut().context("no pod address range")?.allocate()?
        };
        let attachment = PodAttachment { uid: uid.to_owned(), addresses: vec![address] };
        let netns = sandbox.netns_path();
        if let Err(error) = self.links.attach(NetnsRef::Path(&netns), &attachment) {
            self.release(address);
            return Err(error).context("attach");
        }
        let mut state = self.state.lock();
        state.addresses.insert(uid.to_owned(), vec![address]);
        let ports = host_ports(spec, address);
        if !ports.is_empty() {
            state.host_ports.insert(uid.to_owned(), ports);
            state.apply()?;
        }
        Ok(vec![address.to_string()])
    }

    /// Makes the pods' rules anew whenever somebody removes them. Ends only with what went wrong.
    pub async fn keep_rules(&self) -> anyhow::Error {
        let mut watch = match TableWatch::open(PodRules::TABLE) {
            Ok(watch) => watch,
            Err(error) => return anyhow::Error::new(error).context("watch the pods' table"),
        };
        // What happened before the watch began is mended as well.
        self.state.lock().missing = true;
        loop {
            if let Err(error) = self.mend() {
                return error;
            }
            if let Err(error) = watch.lost().await {
                return anyhow::Error::new(error).context("watch the pods' table");
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
            rules.restore(&ports).context("make the pods' table anew")?;
        }
        state.missing = false;
        Ok(())
    }

    fn release(&self, address: IpAddr) {
        if let Some(ipam) = &mut self.state.lock().ipam {
            ipam.release(address);
        }
    }

    /// Notes the host ports of a pod that was taken over.
    pub fn adopt(&self, uid: &str, spec: &PodSpec) {
        let mut state = self.state.lock();
        let Some(address) = state.addresses.get(uid).and_then(|addresses| addresses.first()).copied() else {
            return;
        };
        let ports = host_ports(spec, address);
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
            rules.set_host_ports(&ports).context("set host ports")?;
        }
        Ok(())
    }
}

fn host_ports(spec: &PodSpec, address: IpAddr) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok()),
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                pod_ip: address,
                pod_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}
