//! nftables as messages: tables, chains, sets, elements and rules of one table of our own.
//!
//! Nothing here sends anything; a caller collects messages and hands them to
//! [`Socket::transaction`](crate::netlink::Socket::transaction), so that a change is one atomic step.

mod family;
mod rule;

use std::borrow::Cow;

use rustix::io::Errno;

use crate::netlink::{CREATE, Message, NetlinkError, Socket, Subsystem, attribute, read_be32, read_text};

pub(crate) use family::{Family, octets, port_field};
pub(crate) use rule::{Dynamic, Meta, Nat, Rule, Verdict};

/// `NFNL_SUBSYS_NFTABLES`.
pub(crate) const SUBSYSTEM: u8 = 10;

const NEWTABLE: u8 = 0;
const GETTABLE: u8 = 1;
const DELTABLE: u8 = 2;
const NEWCHAIN: u8 = 3;
const GETCHAIN: u8 = 4;
const DELCHAIN: u8 = 5;
const NEWRULE: u8 = 6;
const DELRULE: u8 = 8;
const NEWSET: u8 = 9;
const NEWSETELEM: u8 = 12;
const DELSETELEM: u8 = 14;

/// Elements are sent in messages of about this size; an attribute cannot be longer than 64 KiB.
const ELEMENTS_AT_ONCE: usize = 48 << 10;

/// Tells `nft list` that the numbers of a set are in the machine's byte order.
const KEY_BYTE_ORDER: [u8; 6] = [0, 4, 1, 0, 0, 0];
/// The same of the numbers that a map holds.
const DATA_BYTE_ORDER: [u8; 6] = [1, 4, 1, 0, 0, 0];
const NUMBER: &[Type] = &[Type::Number];

/// Both v4 and v6 (`inet`).
pub(crate) const INET: u8 = 1;

/// A table of ours in the family `inet`.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    name: String,
}

/// Where a base chain hooks in.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Types as `nft` numbers them, so that `nft list` shows our sets readably.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    V4 = 7,
    V6 = 8,
    Protocol = 12,
    Port = 13,
    /// Any number of ours.
    Number = 19,
}

impl Type {
    fn length(self) -> u32 {
        match self {
            Self::V6 => 16,
            _ => 4,
        }
    }
}

/// What the elements of a set carry besides their key.
#[derive(Debug, Clone)]
pub(crate) enum Carries {
    Nothing,
    Data(Vec<Type>),
    Verdict,
}

impl Carries {
    fn is_number(&self) -> bool {
        matches!(self, Self::Data(types) if types == NUMBER)
    }
}

/// How a set is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Changed by us only.
    Plain,
    /// Changed by rules, with entries that time out.
    Dynamic {
        /// How many entries at most.
        size: u32,
    },
    /// Keys are ranges, in the last field at least.
    Ranges,
}

/// A named set or map.
#[derive(Debug, Clone)]
pub(crate) struct Set {
    pub(crate) name: Cow<'static, str>,
    pub(crate) key: Vec<Type>,
    pub(crate) carries: Carries,
    pub(crate) kind: Kind,
}

/// What stands beside a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    None,
    Value(Vec<u8>),
    Verdict(Verdict),
    /// The upper end of the range that the key begins.
    End(Vec<u8>),
}

impl Table {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Makes the table anew, whether it is there or not.
    pub(crate) fn replace(&self) -> Vec<Message> {
        vec![self.add(), self.delete(), self.add()]
    }

    pub(crate) fn add(&self) -> Message {
        let mut message = message(format!("add the table {}", self.name), NEWTABLE, CREATE, INET);
        message.text(1, &self.name);
        message.be32(2, 0);
        message
    }

    pub(crate) fn delete(&self) -> Message {
        let mut message = message(format!("delete the table {}", self.name), DELTABLE, 0, INET);
        message.text(1, &self.name);
        message
    }

    pub(crate) fn chain(&self, name: &str) -> Message {
        let mut message = message(format!("add the chain {name}"), NEWCHAIN, CREATE, INET);
        message.text(1, &self.name);
        message.text(3, name);
        message
    }

    /// A chain that the kernel enters by itself. `kind` is `nat` or `filter`. Its policy is accept.
    pub(crate) fn base_chain(&self, name: &str, kind: &str, hook: Hook, priority: i32) -> Message {
        let mut message = self.chain(name);
        message.nested(4, |message| {
            message.be32(1, hook as u32);
            message.bytes(2, &priority.to_be_bytes());
        });
        message.be32(5, 1);
        message.text(7, kind);
        message
    }

    /// Removes all rules of a chain.
    pub(crate) fn flush_chain(&self, name: &str) -> Message {
        let mut message = message(format!("flush the chain {name}"), DELRULE, 0, INET);
        message.text(1, &self.name);
        message.text(2, name);
        message
    }

    /// Removes a chain without rules, to which nothing leads any more.
    pub(crate) fn delete_chain(&self, name: &str) -> Message {
        let mut message = message(format!("delete the chain {name}"), DELCHAIN, 0, INET);
        message.text(1, &self.name);
        message.text(3, name);
        message
    }

    /// Appends a rule to a chain.
    pub(crate) fn rule(&self, chain: &str, rule: Rule) -> Message {
        let mut message = message(format!("add a rule to the chain {chain}"), NEWRULE, CREATE | crate::netlink::APPEND, INET);
        message.text(1, &self.name);
        message.text(2, chain);
        rule.write(&mut message);
        message
    }

    /// Makes a set. `id` must be unique within the transaction.
    pub(crate) fn set(&self, set: &Set, id: u32) -> Message {
        const MAP: u32 = 8;
        const INTERVAL: u32 = 4;
        const TIMEOUT: u32 = 0x10;
        const EVAL: u32 = 0x20;
        const CONCAT: u32 = 0x80;
        let concatenated = if set.kind == Kind::Ranges && set.key.len() > 1 { CONCAT } else { 0 };
        let carries = if matches!(set.carries, Carries::Nothing) { 0 } else { MAP };
        let kind = match set.kind {
            Kind::Plain => 0,
            Kind::Dynamic { .. } => TIMEOUT | EVAL,
            Kind::Ranges => INTERVAL,
        };
        let mut message = message(format!("add the set {}", set.name), NEWSET, CREATE, INET);
        message.text(1, &self.name);
        message.text(2, &set.name);
        message.be32(3, concatenated | carries | kind);
        message.be32(4, type_number(&set.key));
        message.be32(5, set.key.iter().map(|part| part.length()).sum());
        match &set.carries {
            Carries::Nothing => {}
            Carries::Data(data) => {
                message.be32(6, type_number(data));
                message.be32(7, data.iter().map(|part| part.length()).sum());
            }
            Carries::Verdict => {
                message.be32(6, 0xffff_ff00);
                message.be32(7, 16);
            }
        }
        message.nested(9, |message| {
            if let Kind::Dynamic { size } = set.kind {
                message.be32(1, size);
            }
            if set.kind == Kind::Ranges && set.key.len() > 1 {
                message.nested(2, |message| {
                    for part in &set.key {
                        message.nested(1, |message| message.be32(1, part.length()));
                    }
                });
            }
        });
        message.be32(10, id);
        let numbers = [(KEY_BYTE_ORDER, &*set.key == NUMBER), (DATA_BYTE_ORDER, set.carries.is_number())];
        let hints: Vec<u8> = numbers.iter().filter(|(_, is)| *is).flat_map(|(hint, _)| *hint).collect();
        if !hints.is_empty() {
            message.bytes(13, &hints);
        }
        message
    }

    pub(crate) fn add_elements<'a>(&self, set: &str, elements: impl Iterator<Item = (&'a [u8], &'a Data)>) -> Vec<Message> {
        self.elements("add elements to the set", NEWSETELEM, CREATE, set, elements)
    }

    pub(crate) fn delete_elements<'a>(&self, set: &str, elements: impl Iterator<Item = (&'a [u8], &'a Data)>) -> Vec<Message> {
        self.elements("delete elements of the set", DELSETELEM, 0, set, elements)
    }

    fn elements<'a>(
        &self,
        what: &str,
        kind: u8,
        flags: u16,
        set: &str,
        elements: impl Iterator<Item = (&'a [u8], &'a Data)>,
    ) -> Vec<Message> {
        let mut messages = Vec::new();
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut message = message(format!("{what} {set}"), kind, flags, INET);
            message.text(1, &self.name);
            message.text(2, set);
            message.nested(3, |message| {
                while message.len() < ELEMENTS_AT_ONCE
                    && let Some((key, data)) = elements.next()
                {
                    message.nested(1, |message| {
                        // Data is of no use for finding an element to delete, but the end of a range is.
                        message.nested(1, |message| message.bytes(1, key));
                        match data {
                            Data::End(end) => message.nested(10, |message| message.bytes(1, end)),
                            Data::Value(value) if kind == NEWSETELEM => {
                                message.nested(2, |message| message.bytes(1, value));
                            }
                            Data::Verdict(verdict) if kind == NEWSETELEM => {
                                message.nested(2, |message| verdict.write(message));
                            }
                            _ => {}
                        }
                    });
                }
            });
            messages.push(message);
        }
        messages
    }
}

fn message(what: String, kind: u8, flags: u16, family: u8) -> Message {
    Message::new(what, u16::from(SUBSYSTEM) << 8 | u16::from(kind), flags, &[family, 0, 0, 0])
}

/// `nft` packs the types of a concatenation six bits each.
fn type_number(parts: &[Type]) -> u32 {
    parts.iter().fold(0, |number, part| number << 6 | *part as u32)
}

/// Removes a whole table, whoever made it; fine if there is none.
pub(crate) fn delete_table(family: &str, name: &str) -> Result<(), NetlinkError> {
    let what = format!("delete the table {family} {name}");
    let number = match family {
        "inet" => INET,
        "ip" => 2,
        "ip6" => 10,
        _ => return Err(NetlinkError::new(what, Errno::AFNOSUPPORT)),
    };
    let mut message = message(what, DELTABLE, 0, number);
    message.text(1, name);
    match Socket::open(Subsystem::Netfilter)?.transaction(vec![message]) {
        Err(error) if error.errno == Some(Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Whether a message says that a table of this name in the family `inet` was removed.
pub(crate) fn tells_removal(kind: u16, payload: &[u8], name: &str) -> bool {
    let removed = kind == u16::from(SUBSYSTEM) << 8 | u16::from(DELTABLE) && payload.first() == Some(&INET);
    removed && payload.get(4..).and_then(|rest| attribute(rest, 1)).is_some_and(|text| read_text(text) == name)
}

/// Whether a table of this name in the family `inet` is there.
pub(crate) fn table_exists(socket: &mut Socket, name: &str) -> Result<bool, NetlinkError> {
    let mut request = message(format!("look for the table {name}"), GETTABLE, 0, INET).tolerate(&[Errno::NOENT]);
    request.text(1, name);
    Ok(socket.request(request)?.tolerated.is_none())
}

/// A base chain of anybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BaseChain {
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    pub(crate) hook: u32,
    pub(crate) drops: bool,
}

impl BaseChain {
    /// The family as `nft` names it.
    pub(crate) fn family_name(&self) -> &'static str {
        match self.family {
            INET => "inet",
            2 => "ip",
            10 => "ip6",
            _ => "other",
        }
    }
}

/// All base chains, for looking whether somebody drops what we forward.
pub(crate) fn base_chains(socket: &mut Socket) -> Result<Vec<BaseChain>, NetlinkError> {
    let mut chains = Vec::new();
    socket.dump(message("list chains".into(), GETCHAIN, 0, 0), |_, payload| {
        chains.extend(parse_base_chain(payload));
    })?;
    Ok(chains)
}

fn parse_base_chain(payload: &[u8]) -> Option<BaseChain> {
    let rest = payload.get(4..)?;
    let hook = attribute(rest, 4)?;
    Some(BaseChain {
        family: *payload.first()?,
        table: read_text(attribute(rest, 1)?),
        name: read_text(attribute(rest, 3)?),
        hook: read_be32(attribute(hook, 1)?)?,
        drops: attribute(rest, 5).and_then(read_be32) == Some(0),
    })
}
