//! The service dataplane: one nftables table of our own, changed one atomic transaction at a time.

pub(crate) mod flows;
mod layout;
mod service;
mod shape;
mod state;
mod table_watch;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use crate::host_route;
use crate::journal::{Change, HostJournal};
use crate::netlink::{NetlinkError, Socket, Subsystem};
use crate::nft::Table;

pub(crate) use layout::{endpoint, hairpin, loopback_guard, marked};
pub(crate) use service::front_key;
use state::{Plan, State};
pub use table_watch::TableWatch;

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

impl Protocol {
    /// Its number in IP headers.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
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
    /// Used only by fronts that use local endpoints only: it is on its way out, but the last one
    /// here, while there are better ones elsewhere.
    pub only_local: bool,
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
    /// The largest packet that every endpoint can be sent, for that route.
    pub mtu: Option<u32>,
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
pub struct Dataplane {
    config: DataplaneConfig,
    table: Table,
    socket: Socket,
    journal: HostJournal,
    state: State,
    /// What stands in the kernel is not known: the next change makes the table anew.
    unknown: bool,
}

impl Dataplane {
    /// The table's name unless another one is configured.
    pub const TABLE: &'static str = "knarr";

    /// Replaces whatever table of ours there is by a fresh one, in one transaction that already
    /// holds the given services, so that a restart leaves no gap.
    pub fn open(config: DataplaneConfig, services: &BTreeMap<String, ServicePort>, journal: &HostJournal) -> Result<Self, ApplyError> {
        let name = config.table.clone().unwrap_or_else(|| Self::TABLE.into());
        let change = Change::NftTable { family: "inet".into(), name: name.clone() };
        journal.record(change).map_err(ApplyError::Journal)?;
        let mut dataplane = Self {
            config,
            table: Table::new(name),
            socket: Socket::open(Subsystem::Netfilter)?,
            journal: journal.clone(),
            state: State::default(),
            unknown: true,
        };
        dataplane.route_services()?;
        let all = services.iter().map(|(key, port)| (key.clone(), Some(port.clone()))).collect();
        dataplane.start_over(all)?;
        Ok(dataplane)
    }

    /// Makes the services those given, in one transaction.
    pub fn apply(&mut self, desired: &BTreeMap<String, ServicePort>) -> Result<Applied, ApplyError> {
        let gone = self.state.keys().filter(|key| !desired.contains_key(*key)).map(|key| (key.clone(), None));
        let mut changes: Vec<(String, Option<ServicePort>)> = gone.collect();
        let differs = |(key, port): &(&String, &ServicePort)| self.state.port(key) != Some(port);
        changes.extend(desired.iter().filter(differs).map(|(key, port)| (key.clone(), Some(port.clone()))));
        self.apply_changes(changes)
    }

    /// Changes only the services named; none removes one.
    ///
    /// Somebody may have removed our table (`nft flush ruleset`): it is then made anew with all
    /// services.
    pub fn apply_changes(&mut self, changes: Vec<(String, Option<ServicePort>)>) -> Result<Applied, ApplyError> {
        if changes.is_empty() && !self.unknown {
            return Ok(Applied::default());
        }
        let mut before = Vec::with_capacity(changes.len());
        let mut plan = Plan::default();
        for (key, port) in changes {
            before.push((key.clone(), self.state.port(&key).cloned()));
            self.state.change(&self.config, &mut plan, &key, port);
        }
        if !self.unknown {
            let (messages, elements) = self.state.messages(&self.table, &self.config, &plan);
            match self.socket.transaction(messages) {
                Ok(()) => return Ok(self.applied(&plan, elements)),
                Err(error) => {
                    tracing::warn!(%error, "the service table is not as it was left, making it anew")
                }
            }
        }
        let ports = std::mem::take(&mut self.state).into_ports();
        self.start_over(ports).map(|applied| Applied { services: plan.services, ..applied }).inspect_err(|_| {
            // The kernel has the former services still, so that the next change starts from them.
            let mut unused = Plan::default();
            for (key, port) in before.into_iter().rev() {
                self.state.change(&self.config, &mut unused, &key, port);
            }
        })
    }

    /// Makes the table anew with what it had, after somebody removed it.
    pub fn restore(&mut self) -> Result<Applied, ApplyError> {
        self.unknown = true;
        self.apply_changes(Vec::new())
    }

    /// Follows a change of the node's addresses.
    pub fn set_node_ips(&mut self, node_ips: Vec<IpAddr>) -> Result<(), ApplyError> {
        self.config.node_ips = node_ips;
        self.route_services()
    }

    /// Removes the table and the service route.
    pub fn remove(mut self) -> Result<(), ApplyError> {
        self.socket.transaction(vec![self.table.add(), self.table.delete()])?;
        let mut routes = Socket::open(Subsystem::Route)?;
        for cidr in &self.config.service_cidrs {
            host_route::remove_service_route(&mut routes, *cidr)?;
        }
        Ok(())
    }

    /// Makes the table anew with these services.
    fn start_over(&mut self, services: Vec<(String, Option<ServicePort>)>) -> Result<Applied, ApplyError> {
        self.state = State::default();
        let mut plan = Plan::default();
        for (key, port) in services {
            self.state.change(&self.config, &mut plan, &key, port);
        }
        let mut messages = layout::base(&self.table, &self.config);
        let (rest, elements) = self.state.messages(&self.table, &self.config, &plan);
        messages.extend(rest);
        self.unknown = true;
        self.socket.transaction(messages)?;
        self.unknown = false;
        Ok(self.applied(&plan, elements))
    }

    fn applied(&mut self, plan: &Plan, elements: usize) -> Applied {
        // The services are right already; a flow that stays is a nuisance, not a failure.
        let flows = flows::remove_stale(&mut self.socket, &plan.flows).unwrap_or_else(|error| {
            tracing::warn!(%error, "stale flows may remain");
            0
        });
        Applied { services: plan.services, elements, flows }
    }

    fn route_services(&mut self) -> Result<(), ApplyError> {
        let mut socket = Socket::open(Subsystem::Route)?;
        for cidr in &self.config.service_cidrs {
            let source = self.config.node_ips.iter().find(|ip| ip.is_ipv4() == cidr.addr().is_ipv4());
            if let Some(source) = source {
                host_route::ensure_service_route(&mut socket, *cidr, *source, self.config.mtu, &self.journal)?;
            }
        }
        Ok(())
    }
}

/// Makes a whole table with a service in it, for finding out whether the kernel can.
pub(crate) fn probe(socket: &mut Socket) -> Result<(), NetlinkError> {
    let config = DataplaneConfig {
        cluster_cidrs: vec![IpNet::from(IpAddr::from([10, 0, 0, 0]))],
        service_cidrs: vec![IpNet::from(IpAddr::from([10, 0, 0, 1]))],
        ..Default::default()
    };
    let service = ServicePort {
        key: "probe".into(),
        protocol: Protocol::Tcp,
        port: 1,
        cluster_ips: vec![[10, 0, 0, 1].into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        node_port: Some(1),
        affinity: Some(Duration::from_secs(1)),
        internal_local: false,
        external_local: true,
        source_ranges: Vec::new(),
        endpoints: vec![Endpoint { ip: [10, 0, 0, 0].into(), port: 1, local: true, only_local: false }],
    };
    let table = Table::new(Dataplane::TABLE);
    let (mut state, mut plan) = (State::default(), Plan::default());
    state.change(&config, &mut plan, "probe", Some(service));
    let mut messages = layout::base(&table, &config);
    messages.extend(state.messages(&table, &config, &plan).0);
    socket.transaction(messages)
}
