//! Eviction under pressure: a node that runs out of memory, disk or process numbers throws pods out, the worst offender first,
//! before the kernel does it blindly.
//!
//! ```text
//!  signals (one file each) --> observations --> thresholds met --> conditions of the node (and through them its taints)
//!                                                     |
//!                      reclaim (unused images), else rank pods and evict one
//! ```
//!
//! Limits of single pods on local storage (`limits`) are looked after in the same round.

mod allocatable_memory_available;
mod evict;
mod imagefs_available;
mod imagefs_inodes_free;
mod limits;
mod list;
mod memory_available;
mod nodefs_available;
mod nodefs_inodes_free;
mod pid_available;
mod pressure;
mod rank;
mod threshold;
pub(crate) mod usage;

use api::quantity::Format;

use crate::Kubelet;

pub(crate) use evict::look;
pub use evict::run;
pub use pressure::{CONDITIONS, Condition, Pressure};
pub use threshold::{Amount, DEFAULT_HARD, ParseError, Policy, Threshold, parse};

/// Something that a node can run out of.
pub struct Signal {
    /// Name as in flags, for example `memory.available`.
    pub name: &'static str,
    /// Resource that messages speak of, for example `ephemeral-storage`.
    pub resource: &'static str,
    /// Condition of the node while the threshold is met.
    pub condition: Condition,
    /// Which pods go first.
    pub order: Order,
    /// Whether unused images may help.
    pub images_help: bool,
    /// Reads it now; none where this machine does not tell.
    pub observe: fn(&Kubelet) -> Option<Observation>,
}

/// What decides which pod goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Memory beyond the request.
    Memory,
    /// Bytes on disk beyond the request.
    Disk,
    /// Files on disk.
    Inodes,
    /// Number of processes.
    Processes,
}

/// One reading of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// What is left.
    pub available: i64,
    /// What there is in all.
    pub capacity: i64,
    /// How people write it.
    pub format: Format,
}

/// The signal of a name.
pub fn find(name: &str) -> Option<&'static Signal> {
    list::ALL.iter().find(|signal| signal.name == name)
}

/// Space and files of the file system that a path is on: as the kernel gives them to ordinary users, over all that there is.
fn file_system(path: &std::path::Path) -> Option<(Observation, Observation)> {
    let stat = rustix::fs::statvfs(path).ok()?;
    let space = |blocks: u64| i64::try_from(blocks.saturating_mul(stat.f_frsize)).unwrap_or(i64::MAX);
    let bytes = Observation { available: space(stat.f_bavail), capacity: space(stat.f_blocks), format: Format::BinarySI };
    let inodes = Observation { available: stat.f_ffree as i64, capacity: stat.f_files as i64, format: Format::DecimalSI };
    Some((bytes, inodes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_known_by_their_names() {
        for signal in list::ALL {
            assert!(find(signal.name).is_some_and(|found| std::ptr::eq(found, signal)), "{}", signal.name);
        }
        assert!(find("tea.available").is_none());
    }

    #[test]
    fn a_file_system_has_less_left_than_it_has() {
        let dir = tempfile::tempdir().unwrap();
        let (bytes, inodes) = file_system(dir.path()).unwrap();
        assert!(bytes.capacity > 0 && bytes.available <= bytes.capacity && inodes.available <= inodes.capacity);
        assert_eq!(file_system(std::path::Path::new("/nowhere")), None);
    }
}
