//! Control groups of both versions, and of the mix of them, behind one interface.
//!
//! A [`Layout`] says which controller is mounted where, as this process sees it. A [`Group`] is a path relative to those
//! mounts; it exists in every hierarchy that we use at once. Callers name groups like `knarr/kubepods/burstable/pod1`
//! and never see the version.
//!
//! Caveats: on version 2 device access is not limited here (it would need a BPF program); what keeps a container from
//! devices there is that it has no nodes for them and no right to make usable ones outside its own `/dev`.

mod apply;
mod error;
mod group;
mod layout;
mod limits;
mod stats;

pub use error::Error;
pub use group::{Group, JoinHandles};
pub use layout::{Layout, Version};
pub use limits::{DeviceRule, HugepageLimit, Limits, shares_of_weight, weight_of_shares};
pub use stats::{MemoryStats, Stats};
