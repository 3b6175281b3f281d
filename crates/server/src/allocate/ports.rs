//! Node ports.

use rand::Rng;

/// A port of all nodes, by protocol.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// Number.
    pub number: u16,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: &'static str,
}

impl Copy for Port {}

impl Port {
    /// A port by the protocol's name.
    pub fn new(number: u16, protocol: &str) -> Port {
        let protocol = match protocol {
            "UDP" => "UDP",
            "SCTP" => "SCTP",
            _ => "TCP",
        };
        Port { number, protocol }
    }
}

/// A free port of a range. The first few are left to people who choose theirs themselves, as long as others are free.
pub fn free(range: (u16, u16), is_taken: impl Fn(u16) -> bool) -> Option<u16> {
    let size = u32::from(range.1 - range.0) + 1;
    let reserved = if size < 16 { 0 } else { (size / 32).clamp(16, 128) };
    let upper = size - reserved;
    let start = rand::rng().random_range(0..upper);
    let by_chance = (0..upper).map(|step| reserved + (start + step) % upper);
    let port = |offset: u32| range.0 + offset as u16;
    by_chance.chain(0..reserved).map(port).find(|number| !is_taken(*number))
}
