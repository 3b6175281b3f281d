//! The table's sets, chains and rules: what stands there whatever services there are.
//!
//! ```text
//! prerouting, output -> services -> shape chain     treatment of the client, a slot by chance
//!                                                   or affinity, DNAT to the endpoint in the slot
//! ```
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
use crate::netlink::Message;
use crate::nft::{
    Carries, Data, Dynamic, Family, Hook, Kind, Meta, Rule, Set, Table, Type, Verdict, octets,
    port_field,
};

/// The bit by which kube-proxy marks packets to be masqueraded; others know to leave it alone.
const MASQUERADE: u32 = 0x4000;
const STATE_INVALID: u32 = 1;
const STATE_NEW: u32 = 8;
const STATUS_DESTINATION_NAT: u32 = 0x20;
const TCP: u8 = 6;
/// Remembered clients at most; beyond that new clients are served without affinity.
const STICKY_CLIENTS: u32 = 1 << 18;

/// How connections to a front are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Treatment {
    /// A cluster address: masquerade what comes from outside the cluster.
    Cluster,
    /// An external address or node port: masquerade.
    Outside,
    /// The same with local endpoints only and the client's address kept. Clients in the cluster
    /// use the inner slots, of which there are this many: all endpoints.
    Local { inner: u32 },
    /// The inner slots.
    Inner,
}

/// The shape number of fronts without endpoints: it has no chain, so that connections are refused.
pub(super) const REFUSE: u32 = 0;
/// The shape number of fronts with endpoints, but none that may be used here.
pub(super) const DROP: u32 = 1;
/// Numbers of shapes with a chain are greater than this.
pub(super) const LAST_FIXED: u32 = DROP;
/// No shape has this number.
const NO_NUMBER: u32 = u32::MAX;

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
    /// address, the same address: local endpoints, which may reach themselves
    Hairpin,
    /// fronts with source ranges
    Guarded,
    /// front, client range
    Allowed,
}

const SETS: [SetName; 8] = [
    SetName::Fronts,
    SetName::Shapes,
    SetName::Slots,
    SetName::InnerSlots,
    SetName::Sticky,
    SetName::Hairpin,
    SetName::Guarded,
    SetName::Allowed,
];

impl SetName {
    /// The set's name in a family.
    pub(super) fn of(self, family: Family) -> Cow<'static, str> {
        let name = match self {
            Self::Fronts => "fronts",
            Self::Shapes => "shapes",
            Self::Slots => "slots",
            Self::InnerSlots => "inner-slots",
            Self::Sticky => "sticky",
            Self::Hairpin => "hairpin",
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
            Self::Slots | Self::InnerSlots => (
                [front, number].concat(),
                Carries::Data(vec![address, Type::Port]),
            ),
            Self::Sticky => ([client, front].concat(), Carries::Data(number)),
            Self::Hairpin => (vec![address; 2], Carries::Nothing),
            Self::Guarded => (front, Carries::Nothing),
            Self::Allowed => ([front, client].concat(), Carries::Nothing),
        };
        let kind = match self {
            Self::Sticky => Kind::Dynamic {
                size: STICKY_CLIENTS,
            },
            Self::Allowed => Kind::Ranges,
            _ => Kind::Plain,
        };
        Set {
            name: self.of(family),
            key,
            carries,
            kind,
        }
    }
}

/// Which packets a front is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum By {
    /// Those to its address.
    Address,
    /// Those to any address of this machine.
    Machine,
}

/// Everything about a front that its rules must know as a constant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Shape {
    pub(super) family: Family,
    pub(super) by: By,
    pub(super) treatment: Treatment,
    /// How many slots.
    pub(super) size: u32,
    /// Seconds that a client stays with its endpoint.
    pub(super) affinity: Option<u32>,
}

/// Where a family's values lie in the register slots, so that the keys of `sticky`, `fronts` and
/// `slots` are each contiguous: `[client][address][protocol][port][number][endpoint]`.
#[derive(Clone, Copy)]
struct Layout {
    family: Family,
}

impl Layout {
    const CLIENT: u32 = 0;

    fn front(self) -> u32 {
        self.family.slots()
    }
    fn number(self) -> u32 {
        self.family.slots() * 2 + 2
    }
    fn endpoint(self) -> u32 {
        self.family.slots() * 2 + 3
    }
    fn endpoint_port(self) -> u32 {
        self.family.slots() * 3 + 3
    }
}

impl Rule {
    /// Loads the key under which a packet's front is found.
    fn front(self, family: Family, by: By) -> Self {
        let at = Layout { family }.front();
        let rule = match by {
            By::Address => self.destination(family, at),
            By::Machine => self.immediate(at, &family.unspecified()),
        };
        rule.meta(at + family.slots(), Meta::Protocol)
            .transport(at + family.slots() + 1, 2, 2)
    }

    /// Loads the shape of the packet's front; goes on only if there is such a front.
    fn shape(self, family: Family, by: By) -> Self {
        let layout = Layout { family };
        let rule = match by {
            By::Address => self,
            By::Machine => self.for_this_machine(),
        };
        rule.front(family, by)
            .number(layout.front(), &SetName::Fronts.of(family), layout.number())
    }

    /// Loads a number from a map. The slot after it is overwritten.
    fn number(self, key: u32, set: &str, to: u32) -> Self {
        let mark = to + 1;
        self.map(key, set, to)
            .meta(mark, Meta::Mark)
            .set_mark(to)
            .meta(to, Meta::Mark)
            .set_mark(mark)
    }

    fn mark(self) -> Self {
        let (mask, bit) = ((!MASQUERADE).to_ne_bytes(), MASQUERADE.to_ne_bytes());
        self.meta(0, Meta::Mark)
            .bitwise(0, 0, &mask, &bit)
            .set_mark(0)
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
        table.base_chain("output", "nat", Hook::Output, -100),
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
            ("output", "services"),
            ("unserved", "unserved"),
        ] {
            messages.push(table.rule(chain, family.rule().jump(format!("{target}{suffix}"))));
        }
        messages.push(
            table.rule(
                "source-ranges",
                family
                    .rule()
                    .in_state(STATE_NEW)
                    .jump(format!("guard{suffix}")),
            ),
        );
        family_rules(table, config, family, &mut messages);
    }
    messages.extend(
        ["refuse-input", "refuse-forward", "refuse-output"]
            .map(|chain| table.rule(chain, Rule::new().in_state(STATE_NEW).jump("unserved"))),
    );
    messages.push(table.rule(
        "refuse",
        Rule::new().meta(0, Meta::Protocol).equal(0, &[TCP]).reset(),
    ));
    messages.push(table.rule("refuse", Rule::new().port_unreachable()));
    messages.push(table.rule("postrouting", marked().masquerade()));
    for family in Family::BOTH {
        let set = SetName::Hairpin.of(family);
        let rule = family
            .rule()
            .source(family, 0)
            .destination(family, family.slots())
            .contained(0, &set);
        messages.push(table.rule("postrouting", rule.masquerade()));
    }
    messages
}

/// Interfaces of pods route loopback addresses, for node ports on 127.0.0.1. Nothing from outside
/// may use that to reach what listens on loopback only.
pub(crate) fn loopback_guard(table: &Table) -> Message {
    const LOOPBACK: u32 = 1;
    let loopback =
        IpNet::new(std::net::Ipv4Addr::LOCALHOST.into(), 8).expect("8 is a prefix length of v4");
    let foreign = Family::V4
        .rule()
        .meta(0, Meta::InputInterface)
        .unequal(0, &LOOPBACK.to_ne_bytes());
    table.rule(
        "loopback-guard",
        foreign
            .destination(Family::V4, 0)
            .within(0, loopback)
            .drop(),
    )
}

fn families_and_sets() -> impl Iterator<Item = (Family, SetName)> {
    Family::BOTH
        .into_iter()
        .flat_map(|family| SETS.map(|set| (family, set)))
}

fn marked() -> Rule {
    let bit = MASQUERADE.to_ne_bytes();
    let all = u32::MAX.to_ne_bytes();
    Rule::new()
        .meta(0, Meta::Mark)
        .bitwise(0, 1, &bit, &[0; 4])
        .equal(1, &bit)
        .bitwise(0, 0, &all, &bit)
        .set_mark(0)
}

fn family_rules(
    table: &Table,
    config: &DataplaneConfig,
    family: Family,
    messages: &mut Vec<Message>,
) {
    let suffix = family.suffix();
    let layout = Layout { family };
    let chain = |name: &str| format!("{name}{suffix}");
    let mut rule = |name: &str, rule: Rule| messages.push(table.rule(&chain(name), rule));

    for by in [By::Address, By::Machine] {
        let shape = family.rule().shape(family, by);
        rule(
            "services",
            shape.verdict_map(layout.number(), &SetName::Shapes.of(family)),
        );
    }

    let guarded = family
        .rule()
        .front(family, By::Address)
        .contained(layout.front(), &SetName::Guarded.of(family));
    let client = layout.number();
    let allowed = SetName::Allowed.of(family);
    rule(
        "guard",
        guarded
            .source(family, client)
            .not_contained(layout.front(), &allowed)
            .drop(),
    );

    // What was not sent on by now has no endpoint.
    rule(
        "unserved",
        Rule::new()
            .connection_status(0)
            .has_bits(STATUS_DESTINATION_NAT)
            .verdict(&Verdict::Return),
    );
    for by in [By::Address, By::Machine] {
        let known = family
            .rule()
            .shape(family, by)
            .unequal(layout.number(), &NO_NUMBER.to_ne_bytes());
        rule("unserved", known.goto("refuse"));
    }
    for cidr in family.only(&config.service_cidrs) {
        rule(
            "unserved",
            family
                .rule()
                .destination(family, 0)
                .within(0, cidr)
                .for_others()
                .goto("refuse"),
        );
    }
    for cidr in family.only(&config.cluster_cidrs) {
        let invalid = || family.rule().in_state(STATE_INVALID);
        messages.push(table.rule(
            "refuse-forward",
            invalid().source(family, 0).within(0, cidr).drop(),
        ));
        messages.push(table.rule(
            "refuse-forward",
            invalid().destination(family, 0).within(0, cidr).drop(),
        ));
    }

    let drop = (number(DROP), Data::Verdict(Verdict::Drop));
    let elements = std::iter::once((drop.0.as_slice(), &drop.1));
    messages.extend(table.add_elements(&SetName::Shapes.of(family), elements));
}

impl Shape {
    /// The chain for clients in the cluster, where it differs.
    pub(super) fn inner(&self) -> Option<Self> {
        match self.treatment {
            Treatment::Local { inner } => Some(Self {
                treatment: Treatment::Inner,
                size: inner,
                ..*self
            }),
            _ => None,
        }
    }

    fn chain(&self) -> String {
        let treatment = match self.treatment {
            Treatment::Cluster => "cluster".to_owned(),
            Treatment::Outside => "outside".to_owned(),
            Treatment::Local { inner } => format!("local-of-{inner}"),
            Treatment::Inner => "inner".to_owned(),
        };
        let by = match self.by {
            By::Address => "address",
            By::Machine => "machine",
        };
        let chain = format!("{by}{}-{treatment}-{}", self.family.suffix(), self.size);
        self.affinity
            .map_or(chain.clone(), |seconds| format!("{chain}-sticky-{seconds}"))
    }

    /// Makes the chain.
    pub(super) fn create(&self, table: &Table, config: &DataplaneConfig) -> Vec<Message> {
        let chain = self.chain();
        let mut messages = vec![table.chain(&chain)];
        messages.extend(
            self.clients(config)
                .into_iter()
                .chain(self.picks())
                .map(|rule| table.rule(&chain, rule)),
        );
        messages
    }

    /// Makes the way to the chain.
    pub(super) fn connect(&self, table: &Table, id: u32) -> Vec<Message> {
        let element = (number(id), Data::Verdict(Verdict::Goto(self.chain())));
        table.add_elements(
            &SetName::Shapes.of(self.family),
            std::iter::once((element.0.as_slice(), &element.1)),
        )
    }

    /// Takes the way away.
    pub(super) fn disconnect(&self, table: &Table, id: u32) -> Vec<Message> {
        let element = (number(id), Data::None);
        table.delete_elements(
            &SetName::Shapes.of(self.family),
            std::iter::once((element.0.as_slice(), &element.1)),
        )
    }

    /// Takes the rules away, and with them the ways to other chains.
    pub(super) fn flush(&self, table: &Table) -> Message {
        table.flush_chain(&self.chain())
    }

    /// Takes the chain away.
    pub(super) fn delete(&self, table: &Table) -> Message {
        table.delete_chain(&self.chain())
    }

    /// What depends on who asks.
    fn clients(&self, config: &DataplaneConfig) -> Vec<Rule> {
        let family = self.family;
        let cidrs: Vec<IpNet> = family.only(&config.cluster_cidrs).collect();
        match (self.treatment, self.inner()) {
            (Treatment::Cluster, _) if !cidrs.is_empty() => {
                let from_outside = family.rule().source(family, 0);
                vec![
                    cidrs
                        .iter()
                        .fold(from_outside, |rule, cidr| rule.not_within(0, 4, *cidr))
                        .mark(),
                ]
            }
            (Treatment::Outside, _) => vec![Rule::new().mark()],
            (Treatment::Local { .. }, Some(inner)) => {
                let from = |cidr: &IpNet| {
                    family
                        .rule()
                        .source(family, 0)
                        .within(0, *cidr)
                        .goto(inner.chain())
                };
                let from_here = Rule::new()
                    .sent_by_this_machine()
                    .mark()
                    .goto(inner.chain());
                cidrs.iter().map(from).chain([from_here]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The choice of an endpoint.
    fn picks(&self) -> Vec<Rule> {
        let layout = Layout {
            family: self.family,
        };
        let slots = match self.treatment {
            Treatment::Inner => SetName::InnerSlots.of(self.family),
            _ => SetName::Slots.of(self.family),
        };
        if self.size == 0 {
            return vec![Rule::new().drop()];
        }
        let front = || self.family.rule().front(self.family, self.by);
        let chance = |rule: Rule| rule.random(layout.number(), self.size);
        let endpoint = |rule: Rule| rule.map(layout.front(), &slots, layout.endpoint());
        let nat = |rule: Rule| {
            rule.destination_nat(self.family.nat(), layout.endpoint(), layout.endpoint_port())
        };
        let Some(seconds) = self.affinity else {
            return vec![nat(endpoint(chance(front())))];
        };
        let timeout = Some(u64::from(seconds) * 1000);
        let sticky = SetName::Sticky.of(self.family);
        let client = || front().source(self.family, Layout::CLIENT);
        let remember = |rule: Rule, how: Dynamic, timeout: Option<u64>| {
            rule.dynamic(how, &sticky, Layout::CLIENT, Some(layout.number()), timeout)
        };
        let known = client().number(Layout::CLIENT, &sticky, layout.number());
        vec![
            nat(endpoint(remember(known, Dynamic::Update, timeout))),
            // What is remembered is a slot that is no more.
            remember(
                client().immediate(layout.number(), &[0; 4]),
                Dynamic::Delete,
                None,
            ),
            nat(endpoint(remember(chance(client()), Dynamic::Add, timeout))),
            // No room to remember the client.
            nat(endpoint(chance(front()))),
        ]
    }
}

/// A number of ours as a field of a key or of data.
pub(super) fn number(value: u32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

/// An endpoint as data or as the end of a key.
pub(crate) fn endpoint(ip: std::net::IpAddr, port: u16) -> Vec<u8> {
    [octets(ip), port_field(port).to_vec()].concat()
}
