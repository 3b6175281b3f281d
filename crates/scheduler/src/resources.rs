//! Resources as numbered columns, and what a pod asks of each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::quantity::Quantity;

use crate::read::{Amounts, Container, PodSpec};

/// The number of a resource: an index into the columns of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource(pub u16);

impl Resource {
    /// `cpu`, counted in thousandths.
    pub const CPU: Resource = Resource(0);
    /// `memory`, in bytes.
    pub const MEMORY: Resource = Resource(1);
    /// `ephemeral-storage`, in bytes.
    pub const STORAGE: Resource = Resource(2);
    /// `pods`.
    pub const PODS: Resource = Resource(3);
}

/// The names of all resources that a node offers or a pod asks for.
pub struct Resources {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, Resource>,
}

impl Default for Resources {
    fn default() -> Resources {
        let mut resources = Resources { names: Vec::new(), numbers: HashMap::new() };
        for name in ["cpu", "memory", "ephemeral-storage", "pods"] {
            resources.intern(name);
        }
        resources
    }
}

impl Resources {
    /// The number of a resource, made if it is new.
    pub fn intern(&mut self, name: &str) -> Resource {
        if let Some(resource) = self.numbers.get(name) {
            return *resource;
        }
        let resource = Resource(u16::try_from(self.names.len()).expect("fewer than 2^16 resources"));
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.numbers.insert(name, resource);
        resource
    }

    /// The name of a resource.
    pub fn name(&self, resource: Resource) -> &str {
        &self.names[resource.0 as usize]
    }

    /// How many columns that takes.
    pub fn columns(&self) -> usize {
        self.names.len()
    }

    /// An amount as the column counts it.
    pub fn count(resource: Resource, amount: Quantity) -> i64 {
        if resource == Resource::CPU { amount.milli() } else { amount.value() }
    }
}

/// CPU and memory that score assumes for a container that asks for none: 0.1 cores and 200 MiB.
const ASSUMED: [i64; 2] = [100, 200 << 20];

/// What a pod asks of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requests {
    /// Exact amounts, without zeroes; `pods` is one of them.
    pub amounts: Vec<(Resource, i64)>,
    /// CPU and memory with assumptions for containers that ask for none.
    pub assumed: [i64; 2],
}

/// The sum of containers and sidecars or the largest moment of the start, pod-level requests, and the overhead.
pub fn requests(resources: &mut Resources, spec: &PodSpec) -> Requests {
    let mut exact = total(spec, |container, add| {
        for (name, amount) in &container.resources.requests {
            add(name, amount.0);
        }
    });
    let mut assumed = total(spec, |container, add| {
        for (name, default) in
            [("cpu", Quantity::from_milli(ASSUMED[0])), ("memory", Quantity::from_value(ASSUMED[1], api::quantity::Format::BinarySI))]
        {
            add(name, container.resources.requests.get(name).map_or(default, |amount| amount.0));
        }
    });
    for sums in [&mut exact, &mut assumed] {
        for (name, amount) in &spec.resources.requests {
            sums.insert(name, amount.0);
        }
        add_all(sums, &spec.overhead);
    }
    let mut amounts: Vec<(Resource, i64)> = exact
        .into_iter()
        .map(|(name, amount)| {
            let resource = resources.intern(name);
            (resource, Resources::count(resource, amount))
        })
        .filter(|(resource, amount)| *amount > 0 && *resource != Resource::PODS)
        .collect();
    amounts.push((Resource::PODS, 1));
    amounts.sort_unstable();
    let of = |name: &str| assumed.get(name).copied().unwrap_or_default();
    Requests { amounts, assumed: [of("cpu").milli(), of("memory").value()] }
}

type Sums<'a> = BTreeMap<&'a str, Quantity>;

/// Adds up containers by the rule of init containers: they run one after another, beside the sidecars that started
/// before them; sidecars stay.
fn total<'a>(spec: &'a PodSpec, of: impl Fn(&'a Container, &mut dyn FnMut(&'a str, Quantity))) -> Sums<'a> {
    let mut sum = Sums::new();
    let add = |sums: &mut Sums<'a>, container: &'a Container| {
        of(container, &mut |name, amount| {
            let slot = sums.entry(name).or_default();
            *slot = slot.add(amount);
        });
    };
    for container in &spec.containers {
        add(&mut sum, container);
    }
    let (mut sidecars, mut peak) = (Sums::new(), Sums::new());
    for container in &spec.init_containers {
        let mut moment = sidecars.clone();
        add(&mut moment, container);
        if &*container.restart_policy == "Always" {
            add(&mut sum, container);
            sidecars = moment.clone();
        }
        raise(&mut peak, &moment);
    }
    raise(&mut sum, &peak);
    sum
}

fn raise<'a>(sums: &mut Sums<'a>, other: &Sums<'a>) {
    for (name, amount) in other {
        let slot = sums.entry(name).or_default();
        *slot = (*slot).max(*amount);
    }
}

fn add_all<'a>(sums: &mut Sums<'a>, amounts: &'a Amounts) {
    for (name, amount) in amounts {
        let slot = sums.entry(name).or_default();
        *slot = slot.add(amount.0);
    }
}
