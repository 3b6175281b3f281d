//! One service port as the dataplane sees it: its fronts, the slots of its endpoints, its shapes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::shape::{By, Shape, Treatment};
use super::{DataplaneConfig, Protocol, ServicePort};
use crate::nft::{Family, octets, port_field};

/// An address, or any of this machine's, with protocol and port.
pub(super) type FrontKey = (Option<IpAddr>, Protocol, u16, Family);

/// Which endpoints a front uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reach {
    All,
    Local,
}

/// Endpoints in slot order. An endpoint keeps its slot while it lives; a hole is filled by a new
/// one or the last one, so that one change moves at most one other.
pub(super) type SlotOrder = Vec<(IpAddr, u16)>;

#[derive(Debug)]
pub(super) struct Service {
    pub(super) port: ServicePort,
    pub(super) slots: BTreeMap<(Family, Reach), SlotOrder>,
}

impl Service {
    pub(super) fn new(port: ServicePort, old: Option<&Self>) -> Self {
        let mut wanted: BTreeMap<(Family, Reach), BTreeSet<(IpAddr, u16)>> = BTreeMap::new();
        for end in &port.endpoints {
            let family = Family::of(end.ip);
            if !end.only_local {
                wanted.entry((family, Reach::All)).or_default().insert((end.ip, end.port));
            }
            if end.local && (port.internal_local || port.external_local) {
                wanted.entry((family, Reach::Local)).or_default().insert((end.ip, end.port));
            }
        }
        let former = |which: &(Family, Reach)| old.and_then(|old| old.slots.get(which)).map_or(&[][..], Vec::as_slice);
        let slots = wanted.into_iter().map(|(which, ends)| (which, fill_slots(former(&which), &ends))).collect();
        Self { port, slots }
    }

    pub(super) fn has_endpoints(&self, family: Family) -> bool {
        self.slots.contains_key(&(family, Reach::All))
    }

    pub(super) fn is_cluster(&self, front: &FrontKey) -> bool {
        front.0.is_some_and(|address| self.port.cluster_ips.contains(&address))
    }

    pub(super) fn is_guarded(&self, front: &FrontKey) -> bool {
        let balanced = front.0.is_some_and(|address| self.port.load_balancer_ips.contains(&address));
        balanced && !self.port.source_ranges.is_empty()
    }

    /// Which endpoints a front uses, and which it uses for clients in the cluster if others.
    pub(super) fn reaches(&self, front: &FrontKey) -> (Reach, Option<Reach>) {
        match self.is_cluster(front) {
            true if self.port.internal_local => (Reach::Local, None),
            false if self.port.external_local => (Reach::Local, Some(Reach::All)),
            _ => (Reach::All, None),
        }
    }

    /// The shape of a front with endpoints. Where only clients in the cluster have some, there is
    /// one, too.
    pub(super) fn shape(&self, front: &FrontKey) -> Option<Shape> {
        let family = front.3;
        let count = |reach| self.slots.get(&(family, reach)).map_or(0, |order| order.len() as u32);
        let (reach, inner) = self.reaches(front);
        let (size, inner) = (count(reach), inner.map(count));
        if size == 0 && inner.unwrap_or(0) == 0 {
            return None;
        }
        let treatment = match inner {
            Some(inner) => Treatment::Local { inner },
            None if self.is_cluster(front) => Treatment::Cluster,
            None => Treatment::Outside,
        };
        let by = if front.0.is_some() { By::Address } else { By::Machine };
        let affinity = self.port.affinity.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1));
        Some(Shape { family, by, treatment, size, affinity })
    }
}

/// Where a service is offered.
pub(super) fn fronts(config: &DataplaneConfig, port: &ServicePort) -> BTreeSet<FrontKey> {
    let front = |address: &IpAddr| (Some(*address), port.protocol, port.port, Family::of(*address));
    let cluster = port.cluster_ips.iter().filter(|address| !config.own_addresses.contains(address));
    let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
    let mut fronts: BTreeSet<FrontKey> = cluster.chain(outside).map(front).collect();
    if let Some(node_port) = port.node_port {
        let families = port.cluster_ips.iter().map(|address| Family::of(*address));
        fronts.extend(families.map(|family| (None, port.protocol, node_port, family)));
    }
    fronts
}

/// An address, protocol and port as a key.
pub(crate) fn front_key(family: Family, address: Option<IpAddr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let address = address.map_or_else(|| family.unspecified(), octets);
    [address, vec![protocol.number(), 0, 0, 0], port_field(port).to_vec()].concat()
}

fn fill_slots(old: &[(IpAddr, u16)], wanted: &BTreeSet<(IpAddr, u16)>) -> SlotOrder {
    let held: BTreeSet<(IpAddr, u16)> = old.iter().copied().collect();
    let mut missing = wanted.difference(&held).copied();
    let mut slots = old.to_vec();
    let mut index = 0;
    while index < slots.len() {
        if wanted.contains(&slots[index]) {
            index += 1;
        } else if let Some(end) = missing.next() {
            slots[index] = end;
            index += 1;
        } else {
            slots.swap_remove(index);
        }
    }
    slots.extend(missing);
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_keep_their_slots() {
        let end = |n: u8| (IpAddr::from([10, 0, 0, n]), 80);
        let order = |ends: &[u8]| ends.iter().copied().map(end).collect::<Vec<_>>();
        for (old, wanted, new) in [
            (&[][..], &[2, 1][..], &[1, 2][..]),
            (&[3, 1, 2], &[1, 2, 3, 4], &[3, 1, 2, 4]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[1, 2, 3], &[2, 3, 9], &[9, 2, 3]),
            (&[1, 2, 3], &[], &[]),
            (&[1, 2], &[7, 8, 9], &[7, 8, 9]),
        ] {
            assert_eq!(fill_slots(&order(old), &order(wanted).into_iter().collect()), order(new), "{old:?} {wanted:?}");
        }
    }
}
