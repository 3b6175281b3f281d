//! What volume drivers say about nodes: how many volumes one takes, and how much room there is for new ones where.

use std::collections::{HashMap, HashSet};

use api::label_selector::LabelSelector;
use api::quantity::Quantity;

use crate::nodes::{NodeIndex, Nodes};
use crate::read::{self, Text};
use crate::symbols::Symbols;

/// Room that a driver offers for volumes of a class.
struct Room {
    class: Text,
    /// Nodes that reach it; none reaches what has no topology.
    nodes: Option<LabelSelector>,
    /// The largest volume that fits, as far as the driver says.
    largest: Option<Quantity>,
}

/// What all drivers say.
#[derive(Default)]
pub struct Drivers {
    /// Volumes that a node takes, by node and driver.
    limits: HashMap<Text, HashMap<Text, u32>>,
    /// Drivers that say how much room they have.
    count: HashSet<Text>,
    room: HashMap<Text, Room>,
}

impl Drivers {
    /// Follows what the drivers of a node say.
    pub(crate) fn put_node(&mut self, name: &str, view: read::CsiNode) {
        let limit = |driver: read::CsiNodeDriver| Some((driver.name, driver.allocatable.count?.max(0) as u32));
        let limits: HashMap<Text, u32> = view.spec.drivers.into_iter().filter_map(limit).collect();
        self.limits.insert(name.into(), limits);
    }

    /// Forgets a node.
    pub(crate) fn remove_node(&mut self, name: &str) {
        self.limits.remove(name);
    }

    /// Follows a driver.
    pub(crate) fn put_driver(&mut self, name: &str, view: &read::CsiDriver) {
        if view.spec.storage_capacity {
            self.count.insert(name.into());
        } else {
            self.count.remove(name);
        }
    }

    /// Forgets a driver.
    pub(crate) fn remove_driver(&mut self, name: &str) {
        self.count.remove(name);
    }

    /// Follows room for volumes.
    pub(crate) fn put_room(&mut self, key: &str, view: read::Capacity) {
        let room = Room {
            class: view.storage_class_name,
            nodes: view.node_topology.as_ref().map(read::Selector::compile),
            largest: view.maximum_volume_size.or(view.capacity).map(|amount| amount.0),
        };
        self.room.insert(key.into(), room);
    }

    /// Forgets room.
    pub(crate) fn remove_room(&mut self, key: &str) {
        self.room.remove(key);
    }

    /// How many volumes of a driver a node takes, if that is limited.
    pub fn limit(&self, node: &str, driver: &str) -> Option<u32> {
        self.limits.get(node)?.get(driver).copied()
    }

    /// Whether any driver limits a node.
    pub fn is_limited(&self, node: &str) -> bool {
        self.limits.get(node).is_some_and(|limits| !limits.is_empty())
    }

    /// Whether a driver has room for a volume of a class that a node reaches. One that does not count always has.
    pub fn has_room(&self, nodes: &Nodes, symbols: &Symbols, node: NodeIndex, provisioner: &str, class: &str, size: Quantity) -> bool {
        if !self.count.contains(provisioner) {
            return true;
        }
        let label = |key: &str| symbols.find(key).and_then(|key| nodes.label(node, key)).map(|value| symbols.text(value));
        self.room.values().any(|room| {
            *room.class == *class
                && room.largest.is_some_and(|largest| largest >= size)
                && room.nodes.as_ref().is_some_and(|nodes| nodes.matches(label))
        })
    }
}
