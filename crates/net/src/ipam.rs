//! Pod addresses of one node: a bitmap over the node's pod CIDR.
//!
//! It has no file of its own: after a restart the caller claims the addresses of the attachments
//! that it finds, which cannot go stale.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// More addresses than this are not looked at: no node has so many pods.
const MOST: u128 = 1 << 16;

/// Why there is no address to give.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AllocateError {
    /// All are in use.
    #[error("no free address in {0}")]
    Full(IpNet),
    /// The address asked for does not belong to the range or is one of the reserved ones.
    #[error("address {0} is not an allocatable address of {1}")]
    OutOfRange(IpAddr, IpNet),
    /// The address asked for is taken.
    #[error("address {0} is in use")]
    Taken(IpAddr),
}

/// A bitmap allocator. Released addresses are used again last.
#[derive(Debug)]
pub struct Ipam {
    cidr: IpNet,
    /// One bit per address; the first two and for v4 the last are never set nor given.
    used: Vec<u64>,
    /// Indexes that may be given.
    first: u32,
    end: u32,
    /// Where the search goes on.
    next: u32,
    count: usize,
}

impl Ipam {
    /// An empty allocator. The network address (the overlay's), the first (the gateway's habit)
    /// and for v4 the broadcast address are never handed out.
    pub fn new(cidr: IpNet) -> Self {
        let cidr = cidr.trunc();
        let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
        let size = if host_bits >= 16 { MOST } else { 1u128 << host_bits };
        let broadcast = cidr.addr().is_ipv4() && host_bits <= 16;
        let end = size as u32 - u32::from(broadcast);
        Self { cidr, used: vec![0; (size as usize).div_ceil(64)], first: 2, end, next: 2, count: 0 }
    }

    /// The range.
    pub fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Marks an address found in use after a restart.
    pub fn claim(&mut self, address: IpAddr) -> Result<(), AllocateError> {
        let index = self.index(address).ok_or(AllocateError::OutOfRange(address, self.cidr))?;
        if self.is_used(index) {
            return Err(AllocateError::Taken(address));
        }
        self.set(index);
        self.next = self.next.max(index + 1);
        Ok(())
    }

    /// The next free address.
    pub fn allocate(&mut self) -> Result<IpAddr, AllocateError> {
        let from = self.next.clamp(self.first, self.end.max(self.first));
        let index = (from..self.end)
            .chain(self.first..from.min(self.end))
            .find(|index| !self.is_used(*index))
            .ok_or(AllocateError::Full(self.cidr))?;
        self.set(index);
        self.next = index + 1;
        Ok(self.address(index))
    }

    /// Gives an address back; false if it was not in use.
    pub fn release(&mut self, address: IpAddr) -> bool {
        match self.index(address) {
            Some(index) if self.is_used(index) => {
                self.used[index as usize / 64] &= !(1 << (index % 64));
                self.count -= 1;
                true
            }
            _ => false,
        }
    }

    /// How many are in use.
    pub fn in_use(&self) -> usize {
        self.count
    }

    /// How many there are to give in all.
    pub fn capacity(&self) -> usize {
        self.end.saturating_sub(self.first) as usize
    }

    fn is_used(&self, index: u32) -> bool {
        self.used[index as usize / 64] & (1 << (index % 64)) != 0
    }

    fn set(&mut self, index: u32) {
        self.used[index as usize / 64] |= 1 << (index % 64);
        self.count += 1;
    }

    fn index(&self, address: IpAddr) -> Option<u32> {
        let offset = match (address, self.cidr.network()) {
            (IpAddr::V4(address), IpAddr::V4(network)) => u128::from(u32::from(address).checked_sub(network.into())?),
            (IpAddr::V6(address), IpAddr::V6(network)) => u128::from(address).checked_sub(network.into())?,
            _ => return None,
        };
        let index = u32::try_from(offset).ok()?;
        (self.first..self.end).contains(&index).then_some(index)
    }

    fn address(&self, index: u32) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(network) => Ipv4Addr::from(u32::from(network) + index).into(),
            IpAddr::V6(network) => Ipv6Addr::from(u128::from(network) + u128::from(index)).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ipam(cidr: &str) -> Ipam {
        Ipam::new(cidr.parse().unwrap())
    }

    #[test]
    fn capacities() {
        for (cidr, capacity) in [
            ("10.0.0.0/24", 253),
            ("10.0.0.0/30", 1),
            ("10.0.0.0/31", 0),
            ("10.0.0.0/32", 0),
            ("10.0.0.0/8", 65534),
            ("fd00::/64", 65534),
            ("fd00::/126", 2),
        ] {
            let mut ipam = ipam(cidr);
            assert_eq!(ipam.capacity(), capacity, "{cidr}");
            let given: std::collections::HashSet<_> = std::iter::from_fn(|| ipam.allocate().ok()).collect();
            assert_eq!(given.len(), capacity, "{cidr}");
            assert!(given.iter().all(|address| ipam.cidr().contains(address)), "{cidr}");
        }
    }

    #[test]
    fn released_addresses_come_last() {
        let mut ipam = ipam("10.0.0.0/29");
        let first = ipam.allocate().unwrap();
        assert_eq!(first, "10.0.0.2".parse::<IpAddr>().unwrap());
        assert!(ipam.release(first));
        assert!(!ipam.release(first));
        let rest: Vec<_> = std::iter::from_fn(|| ipam.allocate().ok()).collect();
        assert_eq!(rest.len(), 5);
        assert_eq!(rest.last(), Some(&first));
        assert_eq!(ipam.allocate(), Err(AllocateError::Full(ipam.cidr())));
    }

    #[test]
    fn claims() {
        let mut ipam = ipam("10.0.0.0/24");
        let address: IpAddr = "10.0.0.9".parse().unwrap();
        ipam.claim(address).unwrap();
        assert_eq!(ipam.claim(address), Err(AllocateError::Taken(address)));
        assert_eq!(ipam.allocate().unwrap(), "10.0.0.10".parse::<IpAddr>().unwrap());
        for outside in ["10.0.0.0", "10.0.0.1", "10.0.0.255", "10.0.1.1", "9.0.0.9", "fd00::9"] {
            assert!(matches!(ipam.claim(outside.parse().unwrap()), Err(AllocateError::OutOfRange(..))), "{outside}");
        }
    }
}
