//! From services to set elements: what stands in the kernel, and what a change adds and removes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::flows::Fronts;
use super::layout::{By, DROP, LAST_FIXED, REFUSE, SetName, Shape, Treatment, endpoint, number};
use super::{DataplaneConfig, Protocol, ServicePort};
use crate::netlink::Message;
use crate::nft::{Data, Family, Table, octets, port_field};

/// An element's place: the set, its family, the key.
type Place = (SetName, Family, Vec<u8>);

/// An address, or any of this machine's, with protocol and port.
type FrontKey = (Option<IpAddr>, Protocol, u16, Family);

/// Which endpoints a front uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    All,
    Local,
}

/// Endpoints in slot order. An endpoint keeps its slot while it lives; a hole is filled by a new
/// one or the last one, so that one change moves at most one other.
type SlotOrder = Vec<(IpAddr, u16)>;

#[derive(Debug)]
struct Service {
    port: ServicePort,
    slots: BTreeMap<(Family, Reach), SlotOrder>,
}

#[derive(Debug)]
struct ShapeUse {
    id: u32,
    fronts: usize,
    /// Stands in the kernel.
    made: bool,
}

/// What one element was and is to be.
#[derive(Debug)]
struct Step {
    before: Option<Data>,
    after: Option<Data>,
}

/// Everything that stands in the kernel (after the transaction that the last plan is for).
#[derive(Debug, Default)]
pub(super) struct State {
    services: BTreeMap<String, Service>,
    /// Which services want a front; the first has it.
    owners: BTreeMap<FrontKey, BTreeSet<String>>,
    shapes: BTreeMap<Shape, ShapeUse>,
    /// How many endpoints of services each local address is.
    hairpins: BTreeMap<IpAddr, usize>,
    last_shape: u32,
}

/// One transaction.
#[derive(Debug, Default)]
pub(super) struct Plan {
    steps: BTreeMap<Place, Step>,
    /// Services that differ.
    pub(super) services: usize,
    /// UDP fronts whose flows may lead nowhere now, with where they may lead.
    pub(super) flows: Fronts,
}

impl State {
    /// The service as it was last given.
    pub(super) fn port(&self, key: &str) -> Option<&ServicePort> {
        self.services.get(key).map(|service| &service.port)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &String> {
        self.services.keys()
    }

    /// All services, for starting over.
    pub(super) fn into_ports(self) -> Vec<(String, Option<ServicePort>)> {
        self.services
            .into_iter()
            .map(|(key, service)| (key, Some(service.port)))
            .collect()
    }

    /// Takes one change into the state and into the plan.
    pub(super) fn change(
        &mut self,
        config: &DataplaneConfig,
        plan: &mut Plan,
        key: &str,
        port: Option<ServicePort>,
    ) {
        if self.port(key) == port.as_ref() {
            return;
        }
        plan.services += 1;
        let old = self.services.get(key);
        let new = port.map(|port| Service::new(port, old));
        note_stale_flows(plan, config, old, new.as_ref());
        let old_fronts = old.map_or_else(BTreeSet::new, |old| fronts(config, &old.port));
        let new_fronts = new
            .as_ref()
            .map_or_else(BTreeSet::new, |new| fronts(config, &new.port));
        let affected: BTreeSet<FrontKey> = old_fronts.union(&new_fronts).copied().collect();

        let mut steps: BTreeMap<Place, Step> = BTreeMap::new();
        let mut released = Vec::new();
        for front in &affected {
            let (elements, shape) = self.front_elements(front);
            released.extend(shape);
            for (place, data) in elements {
                steps.insert(
                    place,
                    Step {
                        before: Some(data),
                        after: None,
                    },
                );
            }
        }
        for (address, count) in old.map_or_else(BTreeMap::new, Service::local_addresses) {
            self.count_hairpin(plan, address, |now| now - count);
        }
        for front in &old_fronts {
            let owners = self.owners.entry(*front).or_default();
            owners.remove(key);
            if owners.is_empty() {
                self.owners.remove(front);
            }
        }
        match new {
            Some(new) => {
                for (address, count) in new.local_addresses() {
                    self.count_hairpin(plan, address, |now| now + count);
                }
                self.services.insert(key.to_owned(), new);
            }
            None => {
                self.services.remove(key);
            }
        }
        for front in &new_fronts {
            self.owners
                .entry(*front)
                .or_default()
                .insert(key.to_owned());
        }
        for front in &affected {
            if let Some(shape) = self.owner(front).and_then(|owner| owner.shape(front)) {
                self.acquire(shape);
            }
            for (place, data) in self.front_elements(front).0 {
                steps
                    .entry(place)
                    .or_insert(Step {
                        before: None,
                        after: None,
                    })
                    .after = Some(data);
            }
        }
        released.into_iter().for_each(|shape| self.release(shape));
        for (place, step) in steps {
            plan.step(place, step);
        }
    }

    /// The messages that carry the plan out. Chains come before what leads to them and go after.
    pub(super) fn messages(
        &mut self,
        table: &Table,
        config: &DataplaneConfig,
        plan: &Plan,
    ) -> (Vec<Message>, usize) {
        let mut messages = Vec::new();
        let new = |used: &ShapeUse| used.fronts > 0 && !used.made;
        // Inner chains lead nowhere, so that they can be made first.
        for inner in [true, false] {
            for (shape, used) in &self.shapes {
                if new(used) && inner == (shape.treatment == Treatment::Inner) {
                    messages.extend(shape.create(table, config));
                    messages.extend(shape.connect(table, used.id));
                }
            }
        }
        let mut count = 0;
        for adding in [false, true] {
            let changed = plan
                .steps
                .iter()
                .filter(|(_, step)| step.before != step.after);
            let elements: Vec<(&Place, &Data)> = changed
                .filter_map(|(place, step)| {
                    let data = if adding {
                        step.after.as_ref()
                    } else {
                        step.before.as_ref()
                    };
                    data.map(|data| (place, data))
                })
                .collect();
            count += elements.len();
            for group in
                elements.chunk_by(|one, other| (one.0.0, one.0.1) == (other.0.0, other.0.1))
            {
                let (set, family, _) = group[0].0;
                let elements = group
                    .iter()
                    .map(|((_, _, key), data)| (key.as_slice(), *data));
                let set = set.of(*family);
                messages.extend(match adding {
                    true => table.add_elements(&set, elements),
                    false => table.delete_elements(&set, elements),
                });
            }
        }
        let unused: Vec<_> = self
            .shapes
            .iter()
            .filter(|(_, used)| used.fronts == 0 && used.made)
            .collect();
        for (shape, used) in &unused {
            messages.extend(shape.disconnect(table, used.id));
            messages.push(shape.flush(table));
        }
        messages.extend(unused.iter().map(|(shape, _)| shape.delete(table)));
        self.shapes.retain(|_, used| used.fronts > 0);
        self.shapes.values_mut().for_each(|used| used.made = true);
        (messages, count)
    }

    fn owner(&self, front: &FrontKey) -> Option<&Service> {
        let owner = self.owners.get(front)?.first()?;
        self.services.get(owner)
    }

    /// The elements of a front as its owner wants it, and the shape if it has a chain.
    fn front_elements(&self, front: &FrontKey) -> (BTreeMap<Place, Data>, Option<Shape>) {
        let mut elements = BTreeMap::new();
        let Some(service) = self.owner(front) else {
            return (elements, None);
        };
        let family = front.3;
        let key = front_key(family, front.0, front.1, front.2);
        let shape = service.shape(front);
        let id = match &shape {
            Some(shape) => self.shapes.get(shape).map_or(REFUSE, |used| used.id),
            None if service.has_endpoints(family) => DROP,
            None => REFUSE,
        };
        elements.insert(
            (SetName::Fronts, family, key.clone()),
            Data::Value(number(id)),
        );
        let (reach, inner) = service.reaches(front);
        for (set, reach) in [(SetName::Slots, Some(reach)), (SetName::InnerSlots, inner)] {
            let order = reach.and_then(|reach| service.slots.get(&(family, reach)));
            for (slot, (ip, port)) in order.into_iter().flatten().enumerate() {
                let key = [key.clone(), number(slot as u32)].concat();
                elements.insert((set, family, key), Data::Value(endpoint(*ip, *port)));
            }
        }
        if service.is_guarded(front) {
            elements.insert((SetName::Guarded, family, key.clone()), Data::None);
            // The kernel refuses ranges that overlap.
            for range in IpNet::aggregate(&family.only(&service.port.source_ranges).collect()) {
                let [first, last] = [range.network(), range.broadcast()]
                    .map(|end| [key.clone(), octets(end)].concat());
                elements.insert((SetName::Allowed, family, first), Data::End(last));
            }
        }
        (elements, shape)
    }

    fn acquire(&mut self, shape: Shape) {
        for shape in [Some(shape), shape.inner()].into_iter().flatten() {
            let last = &mut self.last_shape;
            let used = self.shapes.entry(shape).or_insert_with(|| {
                *last += 1;
                ShapeUse {
                    id: *last + LAST_FIXED,
                    fronts: 0,
                    made: false,
                }
            });
            used.fronts += 1;
        }
    }

    fn release(&mut self, shape: Shape) {
        for shape in [Some(shape), shape.inner()].into_iter().flatten() {
            if let Some(used) = self.shapes.get_mut(&shape) {
                used.fronts -= 1;
            }
        }
    }

    fn count_hairpin(
        &mut self,
        plan: &mut Plan,
        address: IpAddr,
        change: impl FnOnce(usize) -> usize,
    ) {
        let before = self.hairpins.get(&address).copied().unwrap_or_default();
        let after = change(before);
        match after {
            0 => self.hairpins.remove(&address),
            after => self.hairpins.insert(address, after),
        };
        let data = |count: usize| (count > 0).then_some(Data::None);
        let bytes = octets(address);
        let place = (
            SetName::Hairpin,
            Family::of(address),
            [bytes.clone(), bytes].concat(),
        );
        plan.step(
            place,
            Step {
                before: data(before),
                after: data(after),
            },
        );
    }
}

impl Plan {
    /// Adds a step after those that are planned already.
    fn step(&mut self, place: Place, step: Step) {
        let Step { before, after } = step;
        self.steps
            .entry(place)
            .or_insert(Step {
                before,
                after: None,
            })
            .after = after;
    }
}

impl Service {
    fn new(port: ServicePort, old: Option<&Self>) -> Self {
        let mut wanted: BTreeMap<(Family, Reach), BTreeSet<(IpAddr, u16)>> = BTreeMap::new();
        for end in &port.endpoints {
            let family = Family::of(end.ip);
            if !end.only_local {
                wanted
                    .entry((family, Reach::All))
                    .or_default()
                    .insert((end.ip, end.port));
            }
            if end.local && (port.internal_local || port.external_local) {
                wanted
                    .entry((family, Reach::Local))
                    .or_default()
                    .insert((end.ip, end.port));
            }
        }
        let former = |which: &(Family, Reach)| {
            old.and_then(|old| old.slots.get(which))
                .map_or(&[][..], Vec::as_slice)
        };
        let slots = wanted
            .into_iter()
            .map(|(which, ends)| (which, fill_slots(former(&which), &ends)))
            .collect();
        Self { port, slots }
    }

    fn has_endpoints(&self, family: Family) -> bool {
        self.slots.contains_key(&(family, Reach::All))
    }

    fn local_addresses(&self) -> BTreeMap<IpAddr, usize> {
        let mut addresses = BTreeMap::new();
        for end in self.port.endpoints.iter().filter(|end| end.local) {
            *addresses.entry(end.ip).or_insert(0) += 1;
        }
        addresses
    }

    fn is_cluster(&self, front: &FrontKey) -> bool {
        front
            .0
            .is_some_and(|address| self.port.cluster_ips.contains(&address))
    }

    fn is_guarded(&self, front: &FrontKey) -> bool {
        let balanced = front
            .0
            .is_some_and(|address| self.port.load_balancer_ips.contains(&address));
        balanced && !self.port.source_ranges.is_empty()
    }

    /// Which endpoints a front uses, and which it uses for clients in the cluster if others.
    fn reaches(&self, front: &FrontKey) -> (Reach, Option<Reach>) {
        match self.is_cluster(front) {
            true if self.port.internal_local => (Reach::Local, None),
            false if self.port.external_local => (Reach::Local, Some(Reach::All)),
            _ => (Reach::All, None),
        }
    }

    /// The shape of a front with endpoints. Where only clients in the cluster have some, there is
    /// one, too.
    fn shape(&self, front: &FrontKey) -> Option<Shape> {
        let family = front.3;
        let count = |reach| {
            self.slots
                .get(&(family, reach))
                .map_or(0, |order| order.len() as u32)
        };
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
        let by = if front.0.is_some() {
            By::Address
        } else {
            By::Machine
        };
        let affinity = self
            .port
            .affinity
            .map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX).max(1));
        Some(Shape {
            family,
            by,
            treatment,
            size,
            affinity,
        })
    }
}

/// Where a service is offered.
fn fronts(config: &DataplaneConfig, port: &ServicePort) -> BTreeSet<FrontKey> {
    let front = |address: &IpAddr| {
        (
            Some(*address),
            port.protocol,
            port.port,
            Family::of(*address),
        )
    };
    let cluster = port
        .cluster_ips
        .iter()
        .filter(|address| !config.own_addresses.contains(address));
    let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
    let mut fronts: BTreeSet<FrontKey> = cluster.chain(outside).map(front).collect();
    if let Some(node_port) = port.node_port {
        let families = port.cluster_ips.iter().map(|address| Family::of(*address));
        fronts.extend(families.map(|family| (None, port.protocol, node_port, family)));
    }
    fronts
}

/// An address, protocol and port as a key.
pub(crate) fn front_key(
    family: Family,
    address: Option<IpAddr>,
    protocol: Protocol,
    port: u16,
) -> Vec<u8> {
    let address = address.map_or_else(|| family.unspecified(), octets);
    [
        address,
        vec![protocol.number(), 0, 0, 0],
        port_field(port).to_vec(),
    ]
    .concat()
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

/// UDP has no connection that ends: a flow goes on to where it once went, even if nobody is there
/// any more, and one that went past the rules goes on past them.
fn note_stale_flows(
    plan: &mut Plan,
    config: &DataplaneConfig,
    old: Option<&Service>,
    new: Option<&Service>,
) {
    let of = |service: Option<&Service>| -> Fronts {
        let service = service.filter(|service| service.port.protocol == Protocol::Udp);
        service.map_or_else(Fronts::new, |service| {
            let all: BTreeSet<_> = service.slots.values().flatten().copied().collect();
            fronts(config, &service.port)
                .iter()
                .map(|front| ((front.0, front.2), all.clone()))
                .collect()
        })
    };
    let (old, mut new) = (of(old), of(new));
    for (front, before) in old {
        let after = new.remove(&front).unwrap_or_default();
        if before.is_empty() != after.is_empty() || !before.is_subset(&after) {
            plan.flows.insert(front, after);
        }
    }
    plan.flows
        .extend(new.into_iter().filter(|(_, after)| !after.is_empty()));
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
            assert_eq!(
                fill_slots(&order(old), &order(wanted).into_iter().collect()),
                order(new),
                "{old:?} {wanted:?}"
            );
        }
    }
}
