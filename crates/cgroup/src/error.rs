//! The one error of this crate: which file, which deed, why.

use std::io;
use std::path::PathBuf;

/// A control file could not be read or written, or a controller is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file operation failed.
    #[error("{deed} {path}")]
    File {
        /// What was tried.
        deed: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A value could not be set.
    #[error("write \"{value}\" to {path}")]
    Write {
        /// What was written.
        value: String,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No control groups are mounted.
    #[error("no control groups are mounted below /sys/fs/cgroup")]
    NotMounted,
    /// A controller is not available on this machine.
    #[error("controller {0} is not available")]
    NoController(&'static str),
    /// A group could not be removed in time.
    #[error("group {path} is still in use")]
    Busy {
        /// Which.
        path: PathBuf,
    },
    /// A path that leaves the root.
    #[error("\"{0}\" is not a relative path of plain names")]
    BadPath(String),
}

impl Error {
    /// The kernel's error number beneath, if any.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Error::File { source, .. } | Error::Write { source, .. } => Some(source),
            _ => None,
        }
    }
}
