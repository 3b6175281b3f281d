//! Rules as lists of expressions, each a small program step on registers.
//!
//! Registers are counted in 4-byte slots from 0 to 15; a v6 address takes four.

use crate::netlink::Message;

/// Slot 0 as the kernel numbers it (`NFT_REG32_00`).
const FIRST_REGISTER: u32 = 8;
const VERDICT_REGISTER: u32 = 0;

/// Where a packet goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Return,
    Jump(String),
    Goto(String),
}

impl Verdict {
    /// Writes the verdict as `NFTA_DATA_VERDICT`.
    pub(super) fn write(&self, message: &mut Message) {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        message.nested(2, |message| {
            message.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                message.text(2, chain);
            }
        });
    }
}

/// What can be asked about a packet besides its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Meta {
    Mark = 3,
    InputInterface = 4,
    OutputInterface = 5,
    Family = 15,
    Protocol = 16,
}

/// What a rule does to a set that rules may change.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dynamic {
    Add = 0,
    Update = 1,
    Delete = 2,
}

/// Which family a DNAT is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Nat {
    V4 = 2,
    V6 = 10,
}

/// A rule under construction.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    expressions: Message,
}

impl Rule {
    pub(crate) fn new() -> Self {
        Self { expressions: Message::new("", 0, 0, &[]) }
    }

    pub(super) fn write(self, message: &mut Message) {
        let bytes = self.expressions.into_attributes();
        message.bytes(4 | 0x8000, &bytes);
    }

    fn expression(mut self, name: &str, data: impl FnOnce(&mut Message)) -> Self {
        self.expressions.nested(1, |message| {
            message.text(1, name);
            message.nested(2, data);
        });
        self
    }

    /// Loads bytes of the network header.
    pub(crate) fn network(self, slot: u32, offset: u32, length: u32) -> Self {
        self.payload(1, slot, offset, length)
    }

    /// Loads bytes of the transport header.
    pub(crate) fn transport(self, slot: u32, offset: u32, length: u32) -> Self {
        self.payload(2, slot, offset, length)
    }

    fn payload(self, base: u32, slot: u32, offset: u32, length: u32) -> Self {
        self.expression("payload", |message| {
            message.be32(1, register(slot));
            message.be32(2, base);
            message.be32(3, offset);
            message.be32(4, length);
        })
    }

    pub(crate) fn meta(self, slot: u32, key: Meta) -> Self {
        self.expression("meta", |message| {
            message.be32(1, register(slot));
            message.be32(2, key as u32);
        })
    }

    /// Sets the packet's mark.
    pub(crate) fn set_mark(self, slot: u32) -> Self {
        self.expression("meta", |message| {
            message.be32(2, Meta::Mark as u32);
            message.be32(3, register(slot));
        })
    }

    /// Loads the connection's state bits.
    pub(crate) fn connection_state(self, slot: u32) -> Self {
        self.connection(slot, 0)
    }

    /// Loads the connection's status bits.
    pub(crate) fn connection_status(self, slot: u32) -> Self {
        self.connection(slot, 2)
    }

    fn connection(self, slot: u32, key: u32) -> Self {
        self.expression("ct", |message| {
            message.be32(1, register(slot));
            message.be32(2, key);
        })
    }

    pub(crate) fn immediate(self, slot: u32, value: &[u8]) -> Self {
        self.expression("immediate", |message| {
            message.be32(1, register(slot));
            message.nested(2, |message| message.bytes(1, value));
        })
    }

    /// `(slot & mask) ^ xor`.
    pub(crate) fn bitwise(self, from: u32, to: u32, mask: &[u8], xor: &[u8]) -> Self {
        let length = mask.len() as u32;
        self.expression("bitwise", |message| {
            message.be32(1, register(from));
            message.be32(2, register(to));
            message.be32(3, length);
            message.nested(4, |message| message.bytes(1, mask));
            message.nested(5, |message| message.bytes(1, xor));
        })
    }

    /// Goes on only if the slot has the value.
    pub(crate) fn equal(self, slot: u32, value: &[u8]) -> Self {
        self.compare(slot, 0, value)
    }

    /// Goes on only if the slot has another value.
    pub(crate) fn unequal(self, slot: u32, value: &[u8]) -> Self {
        self.compare(slot, 1, value)
    }

    fn compare(self, slot: u32, operation: u32, value: &[u8]) -> Self {
        self.expression("cmp", |message| {
            message.be32(1, register(slot));
            message.be32(2, operation);
            message.nested(3, |message| message.bytes(1, value));
        })
    }

    /// Goes on only if the key is in the set.
    pub(crate) fn contained(self, slot: u32, set: &str) -> Self {
        self.expression("lookup", |message| {
            message.text(1, set);
            message.be32(2, register(slot));
        })
    }

    /// Goes on only if the key is not in the set.
    pub(crate) fn not_contained(self, slot: u32, set: &str) -> Self {
        self.expression("lookup", |message| {
            message.text(1, set);
            message.be32(2, register(slot));
            message.be32(5, 1);
        })
    }

    /// Loads what the map has for the key; goes on only if it has something.
    pub(crate) fn map(self, slot: u32, set: &str, to: u32) -> Self {
        self.expression("lookup", |message| {
            message.text(1, set);
            message.be32(2, register(slot));
            message.be32(3, register(to));
        })
    }

    /// Does what the map has for the key.
    pub(crate) fn verdict_map(self, slot: u32, set: &str) -> Self {
        self.expression("lookup", |message| {
            message.text(1, set);
            message.be32(2, register(slot));
            message.be32(3, VERDICT_REGISTER);
        })
    }

    /// Changes a dynamic set; `data` is the slot of what a map gets.
    pub(crate) fn dynamic(self, operation: Dynamic, set: &str, key: u32, data: Option<u32>, timeout: Option<u64>) -> Self {
        self.expression("dynset", |message| {
            message.text(1, set);
            message.be32(3, operation as u32);
            message.be32(4, register(key));
            if let Some(data) = data {
                message.be32(5, register(data));
            }
            if let Some(milliseconds) = timeout {
                message.be64(6, milliseconds);
            }
        })
    }

    /// A random number below `modulus`.
    pub(crate) fn random(self, slot: u32, modulus: u32) -> Self {
        self.expression("numgen", |message| {
            message.be32(1, register(slot));
            message.be32(2, modulus);
            message.be32(3, 1);
        })
    }

    /// The routing type of the destination address.
    pub(crate) fn destination_type(self, slot: u32) -> Self {
        self.route_type(slot, 2)
    }

    /// The routing type of the source address.
    pub(crate) fn source_type(self, slot: u32) -> Self {
        self.route_type(slot, 1)
    }

    /// The interface by which the packet came in if it also goes out by it, or 0.
    pub(crate) fn route_by_input(self, slot: u32) -> Self {
        const DESTINATION: u32 = 2;
        const INPUT_INTERFACE: u32 = 8;
        self.expression("fib", |message| {
            message.be32(1, register(slot));
            message.be32(2, 1);
            message.be32(3, DESTINATION | INPUT_INTERFACE);
        })
    }

    fn route_type(self, slot: u32, flags: u32) -> Self {
        self.expression("fib", |message| {
            message.be32(1, register(slot));
            message.be32(2, 3);
            message.be32(3, flags);
        })
    }

    /// Sends the connection to the address and port in these slots.
    pub(crate) fn destination_nat(self, family: Nat, address: u32, port: u32) -> Self {
        self.expression("nat", |message| {
            message.be32(1, 1);
            message.be32(2, family as u32);
            message.be32(3, register(address));
            message.be32(5, register(port));
        })
    }

    /// Gives the connection the address of the interface that it leaves by, and a random port.
    pub(crate) fn masquerade(self) -> Self {
        const RANDOM_FULLY: u32 = 16;
        self.expression("masq", |message| message.be32(1, RANDOM_FULLY))
    }

    pub(crate) fn reset(self) -> Self {
        self.expression("reject", |message| {
            message.be32(1, 1);
            message.u8(2, 0);
        })
    }

    pub(crate) fn port_unreachable(self) -> Self {
        self.expression("reject", |message| {
            message.be32(1, 2);
            message.u8(2, 1);
        })
    }

    pub(crate) fn verdict(self, verdict: &Verdict) -> Self {
        self.expression("immediate", |message| {
            message.be32(1, VERDICT_REGISTER);
            message.nested(2, |message| verdict.write(message));
        })
    }

    pub(crate) fn jump(self, chain: impl Into<String>) -> Self {
        self.verdict(&Verdict::Jump(chain.into()))
    }

    pub(crate) fn goto(self, chain: impl Into<String>) -> Self {
        self.verdict(&Verdict::Goto(chain.into()))
    }

    pub(crate) fn drop(self) -> Self {
        self.verdict(&Verdict::Drop)
    }
}

fn register(slot: u32) -> u32 {
    FIRST_REGISTER + slot
}
