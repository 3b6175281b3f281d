//! The service dataplane: one nftables table of our own, changed one atomic transaction at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::journal::HostJournal;
use crate::netlink::NetlinkError;

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// Where a service sends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// Its address.
    pub ip: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it runs on this node.
    pub local: bool,
}

/// One port of one service, as this node is to serve it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name:port`, unique.
    pub key: String,
    /// The protocol.
    pub protocol: Protocol,
    /// The port on the service's addresses.
    pub port: u16,
    /// Cluster addresses.
    pub cluster_ips: Vec<IpAddr>,
    /// External addresses (`spec.externalIPs`).
    pub external_ips: Vec<IpAddr>,
    /// Load balancer addresses of the status.
    pub load_balancer_ips: Vec<IpAddr>,
    /// The port on every address of the node.
    pub node_port: Option<u16>,
    /// How long a client stays with its endpoint after its last connection; none for no affinity.
    pub affinity: Option<Duration>,
    /// Cluster addresses use local endpoints only.
    pub internal_local: bool,
    /// External addresses and node ports use local endpoints only and keep the client's address.
    pub external_local: bool,
    /// Who may use the load balancer addresses; empty for everybody.
    pub source_ranges: Vec<IpNet>,
    /// The usable endpoints.
    pub endpoints: Vec<Endpoint>,
}

/// What the dataplane must know about the node and the cluster.
#[derive(Debug, Clone, Default)]
pub struct DataplaneConfig {
    /// The table's name; `knarr` unless two dataplanes share a name space.
    pub table: Option<String>,
    /// The addresses of all pods. Connections to cluster addresses from elsewhere are masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// The addresses of services. Unused ones are refused instead of sent out.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses that the node answers itself (cluster DNS): services on them are left alone.
    pub own_addresses: Vec<IpAddr>,
    /// The source address for connections of the host itself to services; adds a route for
    /// `service_cidrs`, so that they work without a default route.
    pub node_ips: Vec<IpAddr>,
}

/// What a transaction did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Services that differed.
    pub services: usize,
    /// Set and map elements added or removed.
    pub elements: usize,
    /// Connection tracking entries of UDP flows that were removed because they led nowhere.
    pub flows: usize,
}

/// Why a change was not applied; the kernel then still has all of the former state.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel refused the transaction.
    #[error("cannot change the service dataplane")]
    Kernel(#[from] NetlinkError),
    /// The table could not be journalled.
    #[error("cannot journal the service dataplane")]
    Journal(#[source] std::io::Error),
}

/// The table and what stands in it.
#[derive(Debug)]
pub struct Dataplane {}

impl Dataplane {
    /// Replaces whatever table of ours there is by a fresh one, in one transaction that already
    /// holds the given services, so that a restart leaves no gap.
    pub fn open(
        config: DataplaneConfig,
        services: &BTreeMap<String, ServicePort>,
        journal: &HostJournal,
    ) -> Result<Self, ApplyError> {
        let _ = (config, services, journal);
        Err(ApplyError::Journal(std::io::ErrorKind::Unsupported.into()))
    }
    /// Makes the services those given, in one transaction.
    pub fn apply(
        &mut self,
        desired: &BTreeMap<String, ServicePort>,
    ) -> Result<Applied, ApplyError> {
        let _ = desired;
        Ok(Applied::default())
    }
    /// Changes only the services named; none removes one.
    pub fn apply_changes(
        &mut self,
        changes: Vec<(String, Option<ServicePort>)>,
    ) -> Result<Applied, ApplyError> {
        let _ = changes;
        Ok(Applied::default())
    }
    /// Removes the table and the service route.
    pub fn remove(self) -> Result<(), ApplyError> {
        Ok(())
    }
}
