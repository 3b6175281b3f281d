//! The columns of the nodes: one array a property, one index a node.
//!
//! A filter walks an array instead of a graph of objects, so that asking a thousand nodes costs microseconds.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::PodIndex;
use crate::resources::{Requests, Resource, Resources};
use crate::symbols::{Symbol, Symbols};
use crate::{ports::HostPort, read};

/// The place of a node in every column. Places of removed nodes are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeIndex(pub u32);

impl NodeIndex {
    /// As an index of an array.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// Effect of a taint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// No new pods.
    NoSchedule,
    /// Rather no new pods.
    PreferNoSchedule,
    /// No pods.
    NoExecute,
}

impl Effect {
    /// The effect with this name.
    pub fn find(name: &str) -> Option<Effect> {
        match name {
            "NoSchedule" => Some(Effect::NoSchedule),
            "PreferNoSchedule" => Some(Effect::PreferNoSchedule),
            "NoExecute" => Some(Effect::NoExecute),
            _ => None,
        }
    }
}

/// A taint of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Taint {
    /// Key.
    pub key: Symbol,
    /// Value.
    pub value: Symbol,
    /// Effect.
    pub effect: Effect,
}

/// All nodes.
#[derive(Default)]
pub struct Nodes {
    names: Vec<Arc<str>>,
    numbers: HashMap<Arc<str>, NodeIndex>,
    free: Vec<NodeIndex>,
    /// The nodes that exist, in the order in which they are asked.
    alive: Vec<NodeIndex>,
    labels: Vec<Box<[(Symbol, Symbol)]>>,
    taints: Vec<Box<[Taint]>>,
    unschedulable: Vec<bool>,
    /// `[resource][node]`.
    allocatable: Vec<Vec<i64>>,
    /// `[resource][node]`.
    requested: Vec<Vec<i64>>,
    /// CPU and memory with assumptions, `[resource][node]`.
    assumed: [Vec<i64>; 2],
    pub(crate) ports: Vec<Vec<HostPort>>,
    pub(crate) pods: Vec<Vec<PodIndex>>,
    /// Bytes of the images of each node, by name.
    images: Vec<HashMap<Arc<str>, i64>>,
    /// How many nodes have an image.
    image_holders: HashMap<Arc<str>, usize>,
}

/// What an update of a node changed, so that only pods that care are woken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// Labels differ.
    pub labels: bool,
    /// Taints or `unschedulable` differ.
    pub taints: bool,
    /// Allocatable amounts differ.
    pub resources: bool,
}

impl Nodes {
    /// The node with this name.
    pub fn find(&self, name: &str) -> Option<NodeIndex> {
        self.numbers.get(name).copied()
    }

    /// The name of a node.
    pub fn name(&self, node: NodeIndex) -> &Arc<str> {
        &self.names[node.at()]
    }

    /// The nodes that exist.
    pub fn alive(&self) -> &[NodeIndex] {
        &self.alive
    }

    /// Length of every column, including places that are free.
    pub fn places(&self) -> usize {
        self.names.len()
    }

    /// The value of a label.
    pub fn label(&self, node: NodeIndex, key: Symbol) -> Option<Symbol> {
        let labels = &self.labels[node.at()];
        labels.binary_search_by_key(&key, |(key, _)| *key).ok().map(|at| labels[at].1)
    }

    /// Taints of a node.
    pub fn taints(&self, node: NodeIndex) -> &[Taint] {
        &self.taints[node.at()]
    }

    /// `spec.unschedulable`.
    pub fn is_unschedulable(&self, node: NodeIndex) -> bool {
        self.unschedulable[node.at()]
    }

    /// What a node offers of a resource.
    pub fn allocatable(&self, node: NodeIndex, resource: Resource) -> i64 {
        self.allocatable.get(resource.0 as usize).map_or(0, |column| column[node.at()])
    }

    /// What the pods of a node ask of a resource.
    pub fn requested(&self, node: NodeIndex, resource: Resource) -> i64 {
        self.requested.get(resource.0 as usize).map_or(0, |column| column[node.at()])
    }

    /// CPU (0) or memory (1) requested, with assumptions for containers that ask for none.
    pub fn assumed(&self, node: NodeIndex, which: usize) -> i64 {
        self.assumed[which][node.at()]
    }

    /// Bytes of an image, if a node has it.
    pub fn image(&self, node: NodeIndex, name: &str) -> Option<i64> {
        self.images[node.at()].get(name).copied()
    }

    /// How many nodes have an image.
    pub fn image_holders(&self, name: &str) -> usize {
        self.image_holders.get(name).copied().unwrap_or(0)
    }

    fn set_images(&mut self, node: NodeIndex, images: &[read::Image]) {
        for name in std::mem::take(&mut self.images[node.at()]).into_keys() {
            if let Some(holders) = self.image_holders.get_mut(&name) {
                *holders -= 1;
                if *holders == 0 {
                    self.image_holders.remove(&name);
                }
            }
        }
        for image in images {
            for name in &image.names {
                // Nodes that have the same image share its name.
                let known = self.image_holders.get_key_value(&**name).map(|(name, _)| name.clone());
                let name = known.unwrap_or_else(|| Arc::from(&**name));
                if self.images[node.at()].insert(name.clone(), image.size_bytes).is_none() {
                    *self.image_holders.entry(name).or_insert(0) += 1;
                }
            }
        }
    }

    /// The pods that count on a node.
    pub fn pods_on(&self, node: NodeIndex) -> &[PodIndex] {
        &self.pods[node.at()]
    }

    /// Adds a node without properties. The name must be new.
    pub(crate) fn add(&mut self, name: &str) -> NodeIndex {
        let name: Arc<str> = name.into();
        let node = self.free.pop().unwrap_or_else(|| self.grow());
        self.names[node.at()] = name.clone();
        self.numbers.insert(name, node);
        self.alive.push(node);
        node
    }

    fn grow(&mut self) -> NodeIndex {
        let node = NodeIndex(u32::try_from(self.names.len()).expect("fewer than 2^32 nodes"));
        self.names.push("".into());
        self.labels.push(Box::default());
        self.taints.push(Box::default());
        self.unschedulable.push(false);
        self.ports.push(Vec::new());
        self.pods.push(Vec::new());
        self.images.push(HashMap::new());
        self.allocatable.iter_mut().chain(&mut self.requested).chain(&mut self.assumed).for_each(|column| column.push(0));
        node
    }

    /// Removes a node. Its pods were taken off before.
    pub(crate) fn remove(&mut self, node: NodeIndex) {
        self.numbers.remove(&self.names[node.at()]);
        self.alive.retain(|one| *one != node);
        self.free.push(node);
        self.labels[node.at()] = Box::default();
        self.taints[node.at()] = Box::default();
        self.set_images(node, &[]);
        self.unschedulable[node.at()] = false;
        self.ports[node.at()].clear();
        self.pods[node.at()].clear();
        self.allocatable.iter_mut().chain(&mut self.requested).chain(&mut self.assumed).for_each(|column| column[node.at()] = 0);
    }

    /// Makes sure that a column for each resource exists.
    pub(crate) fn widen(&mut self, resources: usize) {
        let places = self.places();
        self.allocatable.resize_with(resources.max(self.allocatable.len()), || vec![0; places]);
        self.requested.resize_with(resources.max(self.requested.len()), || vec![0; places]);
    }

    pub(crate) fn labels_of(symbols: &mut Symbols, labels: &[(Box<str>, Box<str>)]) -> Box<[(Symbol, Symbol)]> {
        let mut labels: Vec<(Symbol, Symbol)> = labels.iter().map(|(key, value)| (symbols.intern(key), symbols.intern(value))).collect();
        labels.sort_unstable();
        labels.into()
    }

    pub(crate) fn has_labels(&self, node: NodeIndex, labels: &[(Symbol, Symbol)]) -> bool {
        &*self.labels[node.at()] == labels
    }

    pub(crate) fn set_labels(&mut self, node: NodeIndex, labels: Box<[(Symbol, Symbol)]>) {
        self.labels[node.at()] = labels;
    }

    /// Sets everything but labels.
    pub(crate) fn set(&mut self, node: NodeIndex, view: &read::Node, symbols: &mut Symbols, resources: &mut Resources) -> NodeChange {
        let taint = |taint: &read::Taint| {
            let effect = Effect::find(&taint.effect)?;
            Some(Taint { key: symbols.intern(&taint.key), value: symbols.intern(&taint.value), effect })
        };
        let taints: Box<[Taint]> = view.spec.taints.iter().filter_map(taint).collect();
        let mut change = NodeChange {
            taints: taints != self.taints[node.at()] || view.spec.unschedulable != self.unschedulable[node.at()],
            ..NodeChange::default()
        };
        self.taints[node.at()] = taints;
        self.unschedulable[node.at()] = view.spec.unschedulable;
        let offered: Vec<(Resource, i64)> = view
            .status
            .allocatable
            .iter()
            .map(|(name, amount)| {
                let resource = resources.intern(name);
                (resource, Resources::count(resource, amount.0))
            })
            .collect();
        self.widen(resources.columns());
        for (number, column) in self.allocatable.iter_mut().enumerate() {
            let amount = offered.iter().find(|(resource, _)| resource.0 as usize == number).map_or(0, |(_, amount)| *amount);
            change.resources |= column[node.at()] != amount;
            column[node.at()] = amount;
        }
        self.set_images(node, &view.status.images);
        change
    }

    /// Adds what a pod asks for.
    pub(crate) fn request(&mut self, node: NodeIndex, requests: &Requests, sign: i64) {
        for (resource, amount) in &requests.amounts {
            if self.requested.len() <= resource.0 as usize {
                self.widen(resource.0 as usize + 1);
            }
            self.requested[resource.0 as usize][node.at()] += sign * amount;
        }
        for (column, amount) in self.assumed.iter_mut().zip(requests.assumed) {
            column[node.at()] += sign * amount;
        }
    }
}
