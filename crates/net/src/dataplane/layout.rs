//! The table's sets, chains and rules: what stands there whatever services there are.
//!
//! ```text
//! prerouting, output -> services -> shape chain     treatment of the client, a slot by chance
//!                                                   or affinity, DNAT to the endpoint in the slot
//! prerouting-again, output-again                    the same for what found no endpoint
//! ```
//!
//! Why again: the kernel changes rules and sets atomically for those who look from outside, but a
//! packet on its way through a base chain keeps the rules that it began with, while each lookup in
//! a set is of the newest state. A packet that a change overtakes may hold the number of a slot
//! that is no more. Another base chain begins anew, with rules and sets that belong together.
//!
//! A service is only elements: its fronts (address, protocol, port) and their slots, an endpoint
//! in each. A front leads to a shape: everything that the kernel wants constant (the bound of a
//! random number, the time of an affinity), and there is one chain per shape in use, whatever the
//! number of services. No verdict map grows with the services: the kernel would check the whole
//! table again at each change.
//!
//! A number that comes out of a map is passed through the packet's mark, which is put back at once,
//! before it is used as a key. That changes nothing in the kernel, but `nft list` of versions up to
//! 1.0.6 at least aborts on a key with a part whose length it does not know, as from a map.

use std::borrow::Cow;

use ipnet::IpNet;

use super::DataplaneConfig;
use super::shape::{By, DROP, Layout, MASQUERADE, NO_NUMBER};
use crate::netlink::Message;
use crate::nft::{Carries, Data, Family, Hook, Kind, Meta, Rule, Set, Table, Type, Verdict, octets, port_field};

const STATE_INVALID: u32 = 1;
const STATE_NEW: u32 = 8;
const STATUS_DESTINATION_NAT: u32 = 0x20;
const TCP: u8 = 6;
/// Remembered clients at most; beyond that new clients are served without affinity.
const STICKY_CLIENTS: u32 = 1 << 18;

/// The sets of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum SetName {
    /// front -> shape
    Fronts,
    /// shape -> chain
    Shapes,
    /// front, slot -> endpoint
    Slots,
    /// front, slot -> endpoint, for clients in the cluster where others get local endpoints only
    InnerSlots,
    /// client, front -> slot
    Sticky,
    /// fronts with source ranges
    Guarded,
    /// front, client range
    Allowed,
}

const SETS: [SetName; 7] =
    [SetName::Fronts, SetName::Shapes, SetName::Slots, SetName::InnerSlots, SetName::Sticky, SetName::Guarded, SetName::Allowed];

impl SetName {
    /// The set's name in a family.
    pub(super) fn of(self, family: Family) -> Cow<'static, str> {
        let name = match self {
            Self::Fronts => "fronts",
            Self::Shapes => "shapes",
            Self::Slots => "slots",
            Self::InnerSlots => "inner-slots",
            Self::Sticky => "sticky",
            Self::Guarded => "guarded",
            Self::Allowed => "allowed",
        };
        format!("{name}{}", family.suffix()).into()
    }

    fn definition(self, family: Family) -> Set {
        let address = family.address_type();
        let front = vec![address, Type::Protocol, Type::Port];
        let client = vec![address];
        let number = vec![Type::Number];
        let (key, carries) = match self {
            Self::Fronts => (front, Carries::Data(number)),
            Self::Shapes => (number, Carries::Verdict),
            Self::Slots | Self::InnerSlots => ([front, number].concat(), Carries::Data(vec![address, Type::Port])),
            Self::Sticky => ([client, front].concat(), Carries::Data(number)),
            Self::Guarded => (front, Carries::Nothing),
            Self::Allowed => ([front, client].concat(), Carries::Nothing),
        };
        let kind = match self {
            Self::Sticky => Kind::Dynamic { size: STICKY_CLIENTS },
            Self::Allowed => Kind::Ranges,
            _ => Kind::Plain,
        };
        Set { name: self.of(family), key, carries, kind }
    }
}

/// Everything but services, for a table made anew.
pub(super) fn base(table: &Table, config: &DataplaneConfig) -> Vec<Message> {
    let mut messages = table.replace();
    for (index, (family, set)) in families_and_sets().enumerate() {
        messages.push(table.set(&set.definition(family), index as u32 + 1));
    }
    for family in Family::BOTH {
        let suffix = family.suffix();
        for chain in ["services", "guard", "unserved"] {
            messages.push(table.chain(&format!("{chain}{suffix}")));
        }
    }
    for chain in ["refuse", "unserved"] {
        messages.push(table.chain(chain));
    }
    messages.extend([
        table.base_chain("loopback-guard", "filter", Hook::Prerouting, -300),
        table.base_chain("source-ranges", "filter", Hook::Prerouting, -110),
        table.base_chain("prerouting", "nat", Hook::Prerouting, -100),
        table.base_chain("prerouting-again", "nat", Hook::Prerouting, -99),
        table.base_chain("output", "nat", Hook::Output, -100),
        table.base_chain("output-again", "nat", Hook::Output, -99),
        table.base_chain("hairpin", "filter", Hook::Forward, 0),
        table.base_chain("postrouting", "nat", Hook::Postrouting, 100),
        table.base_chain("refuse-input", "filter", Hook::Input, 0),
        table.base_chain("refuse-forward", "filter", Hook::Forward, 0),
        table.base_chain("refuse-output", "filter", Hook::Output, 0),
    ]);
    messages.push(loopback_guard(table));
    for family in Family::BOTH {
        let suffix = family.suffix();
        for (chain, target) in [
            ("prerouting", "services"),
            ("prerouting-again", "services"),
            ("output", "services"),
            ("output-again", "services"),
            ("unserved", "unserved"),
        ] {
            messages.push(table.rule(chain, family.rule().jump(format!("{target}{suffix}"))));
        }
        messages.push(table.rule("source-ranges", family.rule().in_state(STATE_NEW).jump(format!("guard{suffix}"))));
        family_rules(table, config, family, &mut messages);
    }
    messages.extend(
        ["refuse-input", "refuse-forward", "refuse-output"]
            .map(|chain| table.rule(chain, Rule::new().in_state(STATE_NEW).jump("unserved"))),
    );
    messages.push(table.rule("refuse", Rule::new().meta(0, Meta::Protocol).equal(0, &[TCP]).reset()));
    messages.push(table.rule("refuse", Rule::new().port_unreachable()));
    messages.push(table.rule("postrouting", marked().masquerade()));
    messages.extend(Family::BOTH.map(|family| table.rule("hairpin", hairpin(family))));
    messages
}

/// Interfaces of pods route loopback addresses, for node ports on 127.0.0.1. Nothing from outside
/// may use that to reach what listens on loopback only.
pub(crate) fn loopback_guard(table: &Table) -> Message {
    const LOOPBACK: u32 = 1;
    let loopback = IpNet::new(std::net::Ipv4Addr::LOCALHOST.into(), 8).expect("8 is a prefix length of v4");
    let foreign = Family::V4.rule().meta(0, Meta::InputInterface).unequal(0, &LOOPBACK.to_ne_bytes());
    table.rule("loopback-guard", foreign.destination(Family::V4, 0).within(0, loopback).drop())
}

fn families_and_sets() -> impl Iterator<Item = (Family, SetName)> {
    Family::BOTH.into_iter().flat_map(|family| SETS.map(|set| (family, set)))
}

/// Goes on only if the packet is marked to be masqueraded, and takes the mark away.
pub(crate) fn marked() -> Rule {
    let bit = MASQUERADE.to_ne_bytes();
    let all = u32::MAX.to_ne_bytes();
    Rule::new().meta(0, Meta::Mark).bitwise(0, 1, &bit, &[0; 4]).equal(1, &bit).bitwise(0, 0, &all, &bit).set_mark(0)
}

fn family_rules(table: &Table, config: &DataplaneConfig, family: Family, messages: &mut Vec<Message>) {
    let suffix = family.suffix();
    let layout = Layout { family };
    let chain = |name: &str| format!("{name}{suffix}");
    let mut rule = |name: &str, rule: Rule| messages.push(table.rule(&chain(name), rule));

    for by in [By::Address, By::Machine] {
        let shape = family.rule().shape(family, by);
        rule("services", shape.verdict_map(layout.number(), &SetName::Shapes.of(family)));
    }

    let guarded = family.rule().front(family, By::Address).contained(layout.front(), &SetName::Guarded.of(family));
    let client = layout.number();
    let allowed = SetName::Allowed.of(family);
    rule("guard", guarded.source(family, client).not_contained(layout.front(), &allowed).drop());

    // What was not sent on by now has no endpoint.
    rule("unserved", Rule::new().connection_status(0).has_bits(STATUS_DESTINATION_NAT).verdict(&Verdict::Return));
    for by in [By::Address, By::Machine] {
        let known = family.rule().shape(family, by).unequal(layout.number(), &NO_NUMBER.to_ne_bytes());
        rule("unserved", known.goto("refuse"));
    }
    for cidr in family.only(&config.service_cidrs) {
        rule("unserved", family.rule().destination(family, 0).within(0, cidr).for_others().goto("refuse"));
    }
    for cidr in family.only(&config.cluster_cidrs) {
        let invalid = || family.rule().in_state(STATE_INVALID);
        messages.push(table.rule("refuse-forward", invalid().source(family, 0).within(0, cidr).drop()));
        messages.push(table.rule("refuse-forward", invalid().destination(family, 0).within(0, cidr).drop()));
    }

    let drop = (number(DROP), Data::Verdict(Verdict::Drop));
    let elements = std::iter::once((drop.0.as_slice(), &drop.1));
    messages.extend(table.add_elements(&SetName::Shapes.of(family), elements));
}

/// A pod that was sent to itself would answer itself, not the service: its connections are marked
/// to be masqueraded. Whether a packet leaves by the way it came is asked of the routes, not of a
/// set of endpoints, which might lose the endpoint while the packet is between two chains.
pub(crate) fn hairpin(family: Family) -> Rule {
    family
        .rule()
        .in_state(STATE_NEW)
        .connection_status(0)
        .has_bits(STATUS_DESTINATION_NAT)
        .route_by_input(0)
        .unequal(0, &[0; 4])
        .masquerade_mark()
}

/// A number of ours as a field of a key or of data.
pub(super) fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// An endpoint as data or as the end of a key.
pub(crate) fn endpoint(ip: std::net::IpAddr, port: u16) -> Vec<u8> {
    [octets(ip), port_field(port).to_vec()].concat()
}
