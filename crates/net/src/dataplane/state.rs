//! From services to set elements: what stands in the kernel, and what a change adds and removes.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::flows::Fronts;
use super::layout::{SetName, endpoint, number};
use super::service::{FrontKey, Service, front_key, fronts};
use super::shape::{DROP, LAST_FIXED, REFUSE, Shape, Treatment};
use super::{DataplaneConfig, Protocol, ServicePort};
use crate::netlink::Message;
use crate::nft::{Data, Family, Table, octets};

/// An element's place: the set, its family, the key.
type Place = (SetName, Family, Vec<u8>);

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
        self.services.into_iter().map(|(key, service)| (key, Some(service.port))).collect()
    }

    /// Takes one change into the state and into the plan.
    pub(super) fn change(&mut self, config: &DataplaneConfig, plan: &mut Plan, key: &str, port: Option<ServicePort>) {
        if self.port(key) == port.as_ref() {
            return;
        }
        plan.services += 1;
        let old = self.services.get(key);
        let new = port.map(|port| Service::new(port, old));
        note_stale_flows(plan, config, old, new.as_ref());
        let old_fronts = old.map_or_else(BTreeSet::new, |old| fronts(config, &old.port));
        let new_fronts = new.as_ref().map_or_else(BTreeSet::new, |new| fronts(config, &new.port));
        let affected: BTreeSet<FrontKey> = old_fronts.union(&new_fronts).copied().collect();

        let mut steps: BTreeMap<Place, Step> = BTreeMap::new();
        let mut released = Vec::new();
        for front in &affected {
            let (elements, shape) = self.front_elements(front);
            released.extend(shape);
            for (place, data) in elements {
                steps.insert(place, Step { before: Some(data), after: None });
            }
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
                self.services.insert(key.to_owned(), new);
            }
            None => {
                self.services.remove(key);
            }
        }
        for front in &new_fronts {
            self.owners.entry(*front).or_default().insert(key.to_owned());
        }
        for front in &affected {
            if let Some(shape) = self.owner(front).and_then(|owner| owner.shape(front)) {
                self.acquire(shape);
            }
            for (place, data) in self.front_elements(front).0 {
                steps.entry(place).or_insert(Step { before: None, after: None }).after = Some(data);
            }
        }
        released.into_iter().for_each(|shape| self.release(shape));
        for (place, step) in steps {
            plan.step(place, step);
        }
    }

    /// The messages that carry the plan out. Chains come before what leads to them and go after.
    pub(super) fn messages(&mut self, table: &Table, config: &DataplaneConfig, plan: &Plan) -> (Vec<Message>, usize) {
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
            let changed = plan.steps.iter().filter(|(_, step)| step.before != step.after);
            let elements: Vec<(&Place, &Data)> = changed
                .filter_map(|(place, step)| {
                    let data = if adding { step.after.as_ref() } else { step.before.as_ref() };
                    data.map(|data| (place, data))
                })
                .collect();
            count += elements.len();
            for group in elements.chunk_by(|one, other| (one.0.0, one.0.1) == (other.0.0, other.0.1)) {
                let (set, family, _) = group[0].0;
                let elements = group.iter().map(|((_, _, key), data)| (key.as_slice(), *data));
                let set = set.of(*family);
                messages.extend(match adding {
                    true => table.add_elements(&set, elements),
                    false => table.delete_elements(&set, elements),
                });
            }
        }
        let unused: Vec<_> = self.shapes.iter().filter(|(_, used)| used.fronts == 0 && used.made).collect();
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
        elements.insert((SetName::Fronts, family, key.clone()), Data::Value(number(id)));
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
                let [first, last] = [range.network(), range.broadcast()].map(|end| [key.clone(), octets(end)].concat());
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
                ShapeUse { id: *last + LAST_FIXED, fronts: 0, made: false }
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
}

impl Plan {
    /// Adds a step after those that are planned already.
    fn step(&mut self, place: Place, step: Step) {
        let Step { before, after } = step;
        self.steps.entry(place).or_insert(Step { before, after: None }).after = after;
    }
}

/// UDP has no connection that ends: a flow goes on to where it once went, even if nobody is there
/// any more, and one that went past the rules goes on past them.
fn note_stale_flows(plan: &mut Plan, config: &DataplaneConfig, old: Option<&Service>, new: Option<&Service>) {
    let of = |service: Option<&Service>| -> Fronts {
        let service = service.filter(|service| service.port.protocol == Protocol::Udp);
        service.map_or_else(Fronts::new, |service| {
            let all: BTreeSet<_> = service.slots.values().flatten().copied().collect();
            fronts(config, &service.port).iter().map(|front| ((front.0, front.2), all.clone())).collect()
        })
    };
    let (old, mut new) = (of(old), of(new));
    for (front, before) in old {
        let after = new.remove(&front).unwrap_or_default();
        if before.is_empty() != after.is_empty() || !before.is_subset(&after) {
            plan.flows.insert(front, after);
        }
    }
    plan.flows.extend(new.into_iter().filter(|(_, after)| !after.is_empty()));
}
