//! The pods' own nftables table: host ports, and masquerading of what leaves the cluster.
//!
//! It is apart from the service dataplane because it belongs to the kubelet's side: it must stand
//! also where another proxy serves the services.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::dataplane::{Applied, ApplyError, Protocol};
use crate::journal::HostJournal;

/// A port of the host that leads to a pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// The host address; none or unspecified for all of them.
    pub host_ip: Option<IpAddr>,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the host.
    pub host_port: u16,
    /// The pod's address.
    pub pod_ip: IpAddr,
    /// The port in the pod.
    pub pod_port: u16,
}

/// What the rules must know about the node and the cluster.
#[derive(Debug, Clone, Default)]
pub struct PodRulesConfig {
    /// The table's name; `knarr-pods` unless two nodes share a name space.
    pub table: Option<String>,
    /// The addresses of this node's pods; traffic of theirs that leaves the cluster is masqueraded.
    pub pod_cidrs: Vec<IpNet>,
    /// Destinations that pods reach with their own address: the cluster's pods and services.
    pub non_masquerade_cidrs: Vec<IpNet>,
}

/// The table.
#[derive(Debug)]
pub struct PodRules {}

impl PodRules {
    /// Replaces whatever table of ours there is by a fresh one, in one transaction.
    pub fn open(
        config: PodRulesConfig,
        host_ports: &[HostPort],
        journal: &HostJournal,
    ) -> Result<Self, ApplyError> {
        let _ = (config, host_ports, journal);
        Err(ApplyError::Journal(std::io::ErrorKind::Unsupported.into()))
    }
    /// Makes the host ports those given, in one transaction. Where two want the same port, the
    /// first in the list has it.
    pub fn set_host_ports(&mut self, host_ports: &[HostPort]) -> Result<Applied, ApplyError> {
        let _ = host_ports;
        Ok(Applied::default())
    }
    /// Removes the table.
    pub fn remove(self) -> Result<(), ApplyError> {
        Ok(())
    }
}
