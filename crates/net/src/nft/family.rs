//! What differs between v4 and v6 in rules, and the steps on addresses that depend on it.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Meta, Nat, Rule, Type};

/// An address family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Family {
    V4,
    V6,
}

/// The routing type of addresses that are the machine's own (`RTN_LOCAL`).
const LOCAL: u32 = 2;

impl Family {
    pub(crate) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// What names of sets and chains end in.
    pub(crate) fn suffix(self) -> &'static str {
        match self {
            Self::V4 => "4",
            Self::V6 => "6",
        }
    }

    /// How many register slots an address takes.
    pub(crate) fn slots(self) -> u32 {
        match self {
            Self::V4 => 1,
            Self::V6 => 4,
        }
    }

    pub(crate) fn bytes(self) -> u32 {
        self.slots() * 4
    }

    pub(crate) fn nat(self) -> Nat {
        match self {
            Self::V4 => Nat::V4,
            Self::V6 => Nat::V6,
        }
    }

    pub(crate) fn address_type(self) -> Type {
        match self {
            Self::V4 => Type::V4,
            Self::V6 => Type::V6,
        }
    }

    /// The address that stands for "any address of this machine" in keys.
    pub(crate) fn unspecified(self) -> Vec<u8> {
        vec![0; self.bytes() as usize]
    }

    /// Those of one family.
    pub(crate) fn only(self, cidrs: &[IpNet]) -> impl Iterator<Item = IpNet> {
        cidrs.iter().copied().filter(move |cidr| Self::of(cidr.addr()) == self)
    }

    fn source_offset(self) -> u32 {
        match self {
            Self::V4 => 12,
            Self::V6 => 8,
        }
    }

    fn destination_offset(self) -> u32 {
        match self {
            Self::V4 => 16,
            Self::V6 => 24,
        }
    }

    /// A rule for packets of this family only.
    pub(crate) fn rule(self) -> Rule {
        Rule::new().meta(0, Meta::Family).equal(0, &[self.nat() as u8])
    }
}

/// Steps on addresses.
impl Rule {
    pub(crate) fn source(self, family: Family, slot: u32) -> Self {
        self.network(slot, family.source_offset(), family.bytes())
    }

    pub(crate) fn destination(self, family: Family, slot: u32) -> Self {
        self.network(slot, family.destination_offset(), family.bytes())
    }

    /// Goes on only if the address in the slots is in the range. The slots hold the network then.
    pub(crate) fn within(self, slot: u32, cidr: IpNet) -> Self {
        let (mask, network) = (octets(cidr.netmask()), octets(cidr.network()));
        let zero = vec![0; mask.len()];
        self.bitwise(slot, slot, &mask, &zero).equal(slot, &network)
    }

    /// Goes on only if the address in the slots is not in the range. `scratch` is overwritten.
    pub(crate) fn not_within(self, slot: u32, scratch: u32, cidr: IpNet) -> Self {
        let (mask, network) = (octets(cidr.netmask()), octets(cidr.network()));
        let zero = vec![0; mask.len()];
        self.bitwise(slot, scratch, &mask, &zero).unequal(scratch, &network)
    }

    /// Goes on only if the packet is for this machine.
    pub(crate) fn for_this_machine(self) -> Self {
        self.destination_type(0).equal(0, &LOCAL.to_ne_bytes())
    }

    /// Goes on only if the packet is not for this machine.
    pub(crate) fn for_others(self) -> Self {
        self.destination_type(0).unequal(0, &LOCAL.to_ne_bytes())
    }

    /// Goes on only if the packet is from this machine.
    pub(crate) fn sent_by_this_machine(self) -> Self {
        self.source_type(0).equal(0, &LOCAL.to_ne_bytes())
    }

    /// Goes on only if the connection has one of these state bits.
    pub(crate) fn in_state(self, bits: u32) -> Self {
        self.connection_state(0).has_bits(bits)
    }

    /// Goes on only if some of these bits are set in slot 0, which is overwritten.
    pub(crate) fn has_bits(self, bits: u32) -> Self {
        self.bitwise(0, 0, &bits.to_ne_bytes(), &[0; 4]).unequal(0, &[0; 4])
    }
}

/// The bytes of an address.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// A port as a field of a key: two bytes in network order, padded.
pub(crate) fn port_field(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}
