//! The host journal: every change to the host is written down before it is made, so that
//! `knarr uninstall` can walk the list backwards and leave the host as it was found.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One kind of change to the host, with what is needed to undo it.
///
/// Frequent changes are covered by one record each (`LinkPrefix`, `MountsBelow`, `CgroupTree`,
/// `DirTree`), so that starting a pod writes nothing here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Change {
    /// A network link.
    Link { name: String },
    /// Every network link whose name starts so.
    LinkPrefix { prefix: String },
    /// An nftables table; family as `nft` names it (`inet`, `ip`, `ip6`).
    NftTable { family: String, name: String },
    /// A sysctl, named by its path below `/proc/sys`, with the value found and the value set.
    Sysctl {
        path: String,
        old: String,
        new: String,
    },
    /// An address on a link.
    Address {
        link: String,
        address: std::net::IpAddr,
    },
    /// A route through a link; the destination in CIDR notation.
    Route { link: String, destination: String },
    /// A mount.
    Mount { target: PathBuf },
    /// Every mount at or below a directory.
    MountsBelow { dir: PathBuf },
    /// A cgroup directory with all below it; processes in it are killed first.
    CgroupTree { path: PathBuf },
    /// A file that was not there.
    File { path: PathBuf },
    /// A directory that was not there; removed only if empty.
    Dir { path: PathBuf },
    /// A directory of ours with everything below it (never crosses into a mount).
    DirTree { path: PathBuf },
}

/// Why the journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("cannot use the host journal {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{} is not a host journal", path.display())]
    NotAJournal {
        /// The file.
        path: PathBuf,
    },
    /// A later version of knarr wrote it.
    #[error("{} has format {found}, this knarr knows up to {known}", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// A change that could not be undone.
#[derive(Debug)]
pub struct UndoFailure {
    /// The change.
    pub change: Change,
    /// Why.
    pub error: String,
}

/// The journal. Cheap to clone; all clones write the same file.
#[derive(Debug, Clone)]
pub struct HostJournal {}

impl HostJournal {
    /// Opens or creates the journal at a path.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        Err(JournalError::NotAJournal { path: path.into() })
    }
    /// Where it is.
    pub fn path(&self) -> &Path {
        Path::new("")
    }
    /// Writes a change down, durably, before it is made. A change that stands there already is
    /// not written again (for a sysctl the first old value counts).
    pub fn record(&self, change: Change) -> std::io::Result<()> {
        let _ = change;
        Ok(())
    }
    /// Notes that a change was undone in the normal course of things.
    pub fn forget(&self, change: &Change) -> std::io::Result<()> {
        let _ = change;
        Ok(())
    }
    /// The changes that stand, oldest first.
    pub fn changes(&self) -> Vec<Change> {
        Vec::new()
    }
    /// Undoes everything, last change first, and returns what could not be undone (those stay).
    pub fn replay_backwards(&self) -> Vec<UndoFailure> {
        Vec::new()
    }
}
