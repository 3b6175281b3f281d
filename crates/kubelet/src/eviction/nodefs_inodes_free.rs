//! `nodefs.inodesFree`: files that the file system with pods' volumes and writable layers can still hold.

use super::{Condition, Observation, Order, Signal, file_system};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal { name: "nodefs.inodesFree", resource: "inodes", condition: Condition::Disk, order: Order::Inodes, images_help: true, observe }
}

fn observe(kubelet: &Kubelet) -> Option<Observation> {
    file_system(&kubelet.config.root_dir).map(|(_, inodes)| inodes)
}
