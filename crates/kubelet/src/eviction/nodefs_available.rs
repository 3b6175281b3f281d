//! `nodefs.available`: space of the file system with pods' volumes, writable layers and, usually, logs.

use super::{Condition, Observation, Order, Signal, file_system};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal {
        name: "nodefs.available",
        resource: "ephemeral-storage",
        condition: Condition::Disk,
        order: Order::Disk,
        images_help: true,
        observe,
    }
}

fn observe(kubelet: &Kubelet) -> Option<Observation> {
    file_system(&kubelet.config.root_dir).map(|(bytes, _)| bytes)
}
