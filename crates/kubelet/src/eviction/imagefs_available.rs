//! `imagefs.available`: space of the file system with images, which is usually that of the node.

use super::{Condition, Observation, Order, Signal, file_system};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal {
        name: "imagefs.available",
        resource: "ephemeral-storage",
        condition: Condition::Disk,
        order: Order::Disk,
        images_help: true,
        observe,
    }
}

fn observe(kubelet: &Kubelet) -> Option<Observation> {
    file_system(kubelet.images.dir()).map(|(bytes, _)| bytes)
}
