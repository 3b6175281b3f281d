//! `allocatableMemory.available`: what pods have left of the memory that the node gives to pods. It follows `memory.available`'s
//! threshold, so that pods together are held to what the node says to have.

use api::quantity::Format;
use cgroup::Group;

use super::{Condition, Observation, Order, Signal};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal {
        name: "allocatableMemory.available",
        resource: "memory",
        condition: Condition::Memory,
        order: Order::Memory,
        images_help: false,
        observe,
    }
}

fn observe(kubelet: &Kubelet) -> Option<Observation> {
    let pods = Group::new(kubelet.cgroups.clone(), &kubelet.pods_group()).ok()?;
    let used = pods.memory_stats().ok()?.working_set as i64;
    let capacity = kubelet.node.memory_bytes();
    Some(Observation { available: (capacity - used).max(0), capacity, format: Format::BinarySI })
}
