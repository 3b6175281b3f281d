//! Shapes: the chains by which fronts are served, and how their rules use registers.

use ipnet::IpNet;

use super::DataplaneConfig;
use super::layout::{SetName, number};
use crate::netlink::Message;
use crate::nft::{Data, Dynamic, Family, Meta, Rule, Table, Verdict};

/// The bit by which kube-proxy marks packets to be masqueraded; others know to leave it alone.
pub(super) const MASQUERADE: u32 = 0x4000;

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
pub(super) const NO_NUMBER: u32 = u32::MAX;

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
pub(super) struct Layout {
    pub(super) family: Family,
}

impl Layout {
    const CLIENT: u32 = 0;

    pub(super) fn front(self) -> u32 {
        self.family.slots()
    }
    pub(super) fn number(self) -> u32 {
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
    pub(super) fn front(self, family: Family, by: By) -> Self {
        let at = Layout { family }.front();
        let rule = match by {
            By::Address => self.destination(family, at),
            By::Machine => self.immediate(at, &family.unspecified()),
        };
        rule.meta(at + family.slots(), Meta::Protocol).transport(at + family.slots() + 1, 2, 2)
    }

    /// Loads the shape of the packet's front; goes on only if there is such a front.
    pub(super) fn shape(self, family: Family, by: By) -> Self {
        let layout = Layout { family };
        let rule = match by {
            By::Address => self,
            By::Machine => self.for_this_machine(),
        };
        rule.front(family, by).number(layout.front(), &SetName::Fronts.of(family), layout.number())
    }

    /// Loads a number from a map. The slot after it is overwritten.
    fn number(self, key: u32, set: &str, to: u32) -> Self {
        let mark = to + 1;
        self.map(key, set, to).meta(mark, Meta::Mark).set_mark(to).meta(to, Meta::Mark).set_mark(mark)
    }

    /// Marks the packet to be masqueraded.
    pub(crate) fn masquerade_mark(self) -> Self {
        let (mask, bit) = ((!MASQUERADE).to_ne_bytes(), MASQUERADE.to_ne_bytes());
        self.meta(0, Meta::Mark).bitwise(0, 0, &mask, &bit).set_mark(0)
    }
}

impl Shape {
    /// The chain for clients in the cluster, where it differs.
    pub(super) fn inner(&self) -> Option<Self> {
        match self.treatment {
            Treatment::Local { inner } => Some(Self { treatment: Treatment::Inner, size: inner, ..*self }),
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
        self.affinity.map_or(chain.clone(), |seconds| format!("{chain}-sticky-{seconds}"))
    }

    /// Makes the chain.
    pub(super) fn create(&self, table: &Table, config: &DataplaneConfig) -> Vec<Message> {
        let chain = self.chain();
        let mut messages = vec![table.chain(&chain)];
        messages.extend(self.clients(config).into_iter().chain(self.picks()).map(|rule| table.rule(&chain, rule)));
        messages
    }

    /// Makes the way to the chain.
    pub(super) fn connect(&self, table: &Table, id: u32) -> Vec<Message> {
        let element = (number(id), Data::Verdict(Verdict::Goto(self.chain())));
        table.add_elements(&SetName::Shapes.of(self.family), std::iter::once((element.0.as_slice(), &element.1)))
    }

    /// Takes the way away.
    pub(super) fn disconnect(&self, table: &Table, id: u32) -> Vec<Message> {
        let element = (number(id), Data::None);
        table.delete_elements(&SetName::Shapes.of(self.family), std::iter::once((element.0.as_slice(), &element.1)))
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
                vec![cidrs.iter().fold(from_outside, |rule, cidr| rule.not_within(0, 4, *cidr)).masquerade_mark()]
            }
            (Treatment::Outside, _) => vec![Rule::new().masquerade_mark()],
            (Treatment::Local { .. }, Some(inner)) => {
                let from = |cidr: &IpNet| family.rule().source(family, 0).within(0, *cidr).goto(inner.chain());
                let from_here = Rule::new().sent_by_this_machine().masquerade_mark().goto(inner.chain());
                cidrs.iter().map(from).chain([from_here]).collect()
            }
            _ => Vec::new(),
        }
    }

    /// The choice of an endpoint.
    fn picks(&self) -> Vec<Rule> {
        let layout = Layout { family: self.family };
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
        let nat = |rule: Rule| rule.destination_nat(self.family.nat(), layout.endpoint(), layout.endpoint_port());
        let Some(seconds) = self.affinity else {
            return vec![nat(endpoint(chance(front())))];
        };
        let timeout = Some(u64::from(seconds) * 1000);
        let sticky = SetName::Sticky.of(self.family);
        let client = || front().source(self.family, Layout::CLIENT);
        let remember =
            |rule: Rule, how: Dynamic, timeout: Option<u64>| rule.dynamic(how, &sticky, Layout::CLIENT, Some(layout.number()), timeout);
        let known = client().number(Layout::CLIENT, &sticky, layout.number());
        vec![
            nat(endpoint(remember(known, Dynamic::Update, timeout))),
            // What is remembered is a slot that is no more.
            remember(client().immediate(layout.number(), &[0; 4]), Dynamic::Delete, None),
            nat(endpoint(remember(chance(client()), Dynamic::Add, timeout))),
            // No room to remember the client.
            nat(endpoint(chance(front()))),
        ]
    }
}
