//! Control groups of both versions, and of the mix of them, behind one interface.
//!
//! A [`Layout`] says which controller is mounted where, as this process sees it. A [`Group`] is a path relative to those
//! mounts; it exists in every hierarchy that we use at once. Callers name groups like `knarr/kubepods/burstable/pod1`
//! and never see the version.
//!
//! Caveats: where there is no version 1 hierarchy for devices, an allow-list becomes a program of the unified one. Such a
//! list is set once; setting another adds to the first, and both have to allow.

mod apply;
mod devices;
mod error;
mod group;
mod layout;
mod limits;
mod pressure;
mod stats;
mod sys;

pub use error::Error;
pub use group::{Group, JoinHandles};
pub use layout::{Layout, Version};
pub use limits::{DeviceRule, HugepageLimit, Limits, shares_of_weight, weight_of_shares};
pub use pressure::{Pressure, Stall};
pub use stats::{MemoryStats, Stats};
