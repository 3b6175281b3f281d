//! The pods' own nftables table: host ports, and masquerading of what leaves the cluster.
//!
//! It is apart from the service dataplane because it belongs to the kubelet's side: it must stand
//! also where another proxy serves the services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::dataplane::flows::{self, Fronts};
use crate::dataplane::{Applied, ApplyError, Protocol, endpoint, front_key, hairpin, loopback_guard, marked};
use crate::journal::{Change, HostJournal};
use crate::netlink::{Message, Socket, Subsystem};
use crate::nft::{Carries, Data, Family, Hook, Kind, Meta, Rule, Set, Table, Type, Verdict};

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
pub struct PodRules {
    config: PodRulesConfig,
    table: Table,
    socket: Socket,
    /// What stands in the kernel.
    elements: Elements,
    /// Where each UDP port leads, for finding stale flows.
    flows: Fronts,
    /// What stands in the kernel is not known: the next change makes the table anew.
    unknown: bool,
}

/// By family and key: address, protocol, port -> pod.
type Elements = BTreeMap<(Family, Vec<u8>), Data>;

/// The set with a family's host ports.
fn ports(family: Family) -> String {
    format!("ports{}", family.suffix())
}

impl PodRules {
    /// The table's name unless another one is configured.
    pub const TABLE: &'static str = "knarr-pods";

    /// Replaces whatever table of ours there is by a fresh one, in one transaction.
    pub fn open(config: PodRulesConfig, host_ports: &[HostPort], journal: &HostJournal) -> Result<Self, ApplyError> {
        let name = config.table.clone().unwrap_or_else(|| Self::TABLE.into());
        let change = Change::NftTable { family: "inet".into(), name: name.clone() };
        journal.record(change).map_err(ApplyError::Journal)?;
        let mut rules = Self {
            config,
            table: Table::new(name),
            socket: Socket::open(Subsystem::Netfilter)?,
            elements: Elements::new(),
            flows: Fronts::new(),
            unknown: true,
        };
        rules.set_host_ports(host_ports)?;
        Ok(rules)
    }

    /// Makes the host ports those given, in one transaction. Where two want the same port, the
    /// first in the list has it.
    pub fn set_host_ports(&mut self, host_ports: &[HostPort]) -> Result<Applied, ApplyError> {
        let elements = elements(host_ports);
        let flows = flows_of(host_ports);
        if !self.unknown {
            let (messages, count) = difference(&self.table, &self.elements, &elements);
            if messages.is_empty() {
                return Ok(Applied::default());
            }
            match self.socket.transaction(messages) {
                Ok(()) => return Ok(self.applied(elements, flows, count)),
                Err(error) => {
                    tracing::warn!(%error, "the pod table is not as it was left, making it anew")
                }
            }
        }
        let mut messages = base(&self.table, &self.config);
        let (rest, count) = difference(&self.table, &Elements::new(), &elements);
        messages.extend(rest);
        self.unknown = true;
        self.socket.transaction(messages)?;
        self.unknown = false;
        Ok(self.applied(elements, flows, count))
    }

    /// Makes the table anew with what it had, after somebody removed it.
    pub fn restore(&mut self, host_ports: &[HostPort]) -> Result<Applied, ApplyError> {
        self.unknown = true;
        self.set_host_ports(host_ports)
    }

    /// Removes the table.
    pub fn remove(mut self) -> Result<(), ApplyError> {
        Ok(self.socket.transaction(vec![self.table.add(), self.table.delete()])?)
    }

    fn applied(&mut self, elements: Elements, flows: Fronts, count: usize) -> Applied {
        self.elements = elements;
        let former = std::mem::replace(&mut self.flows, flows);
        let mut changed = Fronts::new();
        for (front, ends) in &self.flows {
            if former.get(front) != Some(ends) {
                changed.insert(*front, ends.clone());
            }
        }
        changed.extend(former.into_keys().filter(|front| !self.flows.contains_key(front)).map(|f| (f, BTreeSet::new())));
        let flows = flows::remove_stale(&mut self.socket, &changed).unwrap_or_else(|error| {
            tracing::warn!(%error, "stale flows may remain");
            0
        });
        Applied { services: 0, elements: count, flows }
    }
}

fn host_address(host_port: &HostPort) -> Option<IpAddr> {
    host_port.host_ip.filter(|address| !address.is_unspecified())
}

fn elements(host_ports: &[HostPort]) -> Elements {
    let mut elements = Elements::new();
    for port in host_ports {
        let family = Family::of(port.pod_ip);
        let address = host_address(port);
        if address.is_some_and(|address| Family::of(address) != family) {
            continue;
        }
        let key = front_key(family, address, port.protocol, port.host_port);
        let pod = Data::Value(endpoint(port.pod_ip, port.pod_port));
        elements.entry((family, key)).or_insert(pod);
    }
    elements
}

fn flows_of(host_ports: &[HostPort]) -> Fronts {
    let mut flows = Fronts::new();
    for port in host_ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let ends = flows.entry((host_address(port), port.host_port)).or_default();
        ends.insert((port.pod_ip, port.pod_port));
    }
    flows
}

fn difference(table: &Table, old: &Elements, new: &Elements) -> (Vec<Message>, usize) {
    let mut messages = Vec::new();
    let mut count = 0;
    for family in Family::BOTH {
        let differ = |one: &Elements, other: &Elements| -> Vec<(Vec<u8>, Data)> {
            let of_family = one.iter().filter(|((f, _), _)| *f == family);
            let differing = of_family.filter(|(place, data)| other.get(*place) != Some(*data));
            differing.map(|((_, key), data)| (key.clone(), data.clone())).collect()
        };
        let (gone, come) = (differ(old, new), differ(new, old));
        count += gone.len() + come.len();
        let name = ports(family);
        messages.extend(table.delete_elements(&name, gone.iter().map(|(key, data)| (key.as_slice(), data))));
        messages.extend(table.add_elements(&name, come.iter().map(|(key, data)| (key.as_slice(), data))));
    }
    (messages, count)
}

/// Everything but host ports, for a table made anew.
fn base(table: &Table, config: &PodRulesConfig) -> Vec<Message> {
    let mut messages = table.replace();
    for (id, family) in (1..).zip(Family::BOTH) {
        let address = family.address_type();
        let set = Set {
            name: ports(family).into(),
            key: vec![address, Type::Protocol, Type::Port],
            carries: Carries::Data(vec![address, Type::Port]),
            kind: Kind::Plain,
        };
        messages.push(table.set(&set, id));
    }
    for family in Family::BOTH {
        messages.push(table.chain(&format!("host-ports{}", family.suffix())));
        messages.push(table.chain(&format!("leaving{}", family.suffix())));
    }
    // Services come first: a node port that somebody also uses as a host port is the service's.
    messages.extend([
        table.base_chain("loopback-guard", "filter", Hook::Prerouting, -300),
        table.base_chain("prerouting", "nat", Hook::Prerouting, -95),
        table.base_chain("prerouting-again", "nat", Hook::Prerouting, -94),
        table.base_chain("output", "nat", Hook::Output, -95),
        table.base_chain("output-again", "nat", Hook::Output, -94),
        table.base_chain("hairpin", "filter", Hook::Forward, 0),
        table.base_chain("postrouting", "nat", Hook::Postrouting, 105),
        loopback_guard(table),
    ]);
    messages.push(table.rule("postrouting", marked().masquerade()));
    for family in Family::BOTH {
        messages.push(table.rule("hairpin", hairpin(family)));
        messages.extend(family_rules(table, config, family));
    }
    messages
}

fn family_rules(table: &Table, config: &PodRulesConfig, family: Family) -> Vec<Message> {
    let suffix = family.suffix();
    let chain = |name: &str| format!("{name}{suffix}");
    let (size, ports) = (family.slots(), ports(family));
    let to_pod = |rule: Rule| {
        let key = rule.meta(size, Meta::Protocol).transport(size + 1, 2, 2);
        key.map(0, &ports, size + 2).destination_nat(family.nat(), size + 2, size * 2 + 2)
    };
    // Again, because a packet that a change overtakes may find nothing at first (see the dataplane's layout).
    let mut messages: Vec<Message> = ["prerouting", "prerouting-again", "output", "output-again"]
        .map(|base| {
            let for_this_machine = family.rule().for_this_machine();
            table.rule(base, for_this_machine.jump(chain("host-ports")))
        })
        .into();
    messages.extend([
        table.rule(&chain("host-ports"), to_pod(family.rule().destination(family, 0))),
        table.rule(&chain("host-ports"), to_pod(family.rule().immediate(0, &family.unspecified()))),
    ]);
    let loopback: IpNet = match family {
        Family::V4 => IpNet::new(std::net::Ipv4Addr::LOCALHOST.into(), 8),
        Family::V6 => IpNet::new(std::net::Ipv6Addr::LOCALHOST.into(), 128),
    }
    .expect("these are prefix lengths of their families");
    let not_to_loopback = || family.rule().meta(0, Meta::OutputInterface).unequal(0, &1u32.to_ne_bytes());
    let from_loopback = not_to_loopback().source(family, 0).within(0, loopback);
    messages.push(table.rule("postrouting", from_loopback.masquerade()));
    for cidr in family.only(&config.pod_cidrs) {
        let leaving = not_to_loopback().source(family, 0).within(0, cidr);
        messages.push(table.rule("postrouting", leaving.jump(chain("leaving"))));
    }
    let multicast: IpNet = match family {
        Family::V4 => IpNet::new(std::net::Ipv4Addr::new(224, 0, 0, 0).into(), 4),
        Family::V6 => IpNet::new(std::net::Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0).into(), 8),
    }
    .expect("these are prefix lengths of their families");
    let kept = config.pod_cidrs.iter().chain(&config.non_masquerade_cidrs).copied().chain([multicast]);
    for cidr in family.only(&kept.collect::<Vec<_>>()) {
        let rule = family.rule().destination(family, 0).within(0, cidr).verdict(&Verdict::Return);
        messages.push(table.rule(&chain("leaving"), rule));
    }
    messages.push(table.rule(&chain("leaving"), Rule::new().masquerade()));
    messages
}
