//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::{Key, Revision};

/// A read that could not be answered.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// The state of that revision is not kept any more.
    #[error("revision {asked} is too old, the history begins after {floor}")]
    TooOld {
        /// What was asked for.
        asked: Revision,
        /// The oldest state that can be read.
        floor: Revision,
    },
    /// No change has that revision yet.
    #[error("revision {asked} is in the future, the newest is {now}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest revision.
        now: Revision,
    },
    /// The backend does not answer.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// A change that was neither committed nor lost.
#[derive(Clone, Debug, Error)]
pub enum CommitError {
    /// The disk is full. Nothing was written; the next attempt may succeed.
    #[error("no space left for the store's log")]
    NoSpace,
    /// The value is not one that can be stored.
    #[error("value refused")]
    Refused(#[source] StampError),
    /// The value could not be encrypted.
    #[error("value could not be encrypted")]
    Cipher(#[source] CipherError),
    /// The value is larger than a change may be.
    #[error("value of {size} bytes is larger than {limit}")]
    TooLarge {
        /// Its size.
        size: usize,
        /// The limit.
        limit: usize,
    },
    /// The store takes no more changes until it is opened again, because a write to disk failed.
    #[error("the store is read-only: {0}")]
    Failed(String),
    /// The backend could not be asked. Nothing was done; a later attempt may work.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// It is not known whether the change happened.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
}

/// A watch that ended or could not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WatchError {
    /// Changes that the watcher has not seen are not kept any more.
    #[error("too old, the history begins after {floor}")]
    TooOld {
        /// A watch after this revision or later is possible.
        floor: Revision,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A compaction that could not be done.
#[derive(Clone, Debug, Error)]
pub enum CompactError {
    /// No change has that revision yet.
    #[error("revision {asked} is in the future, the newest is {now}")]
    Future {
        /// What was asked for.
        asked: Revision,
        /// The newest revision.
        now: Revision,
    },
    /// The backend does not answer.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}

/// Why the stamp function refused a value.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct StampError(pub String);

/// Why a value could not be sealed or opened.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub struct CipherError(pub String);

/// Why a data directory could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("data directory {} is in use by pid {pid}", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
        /// The process, 0 if it could not be read.
        pid: u32,
    },
    /// A newer program wrote it.
    #[error("{} has format {found}, written by {writer}; this program knows up to {known}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this program reads.
        known: u32,
        /// The version of the program that wrote it.
        writer: String,
    },
    /// The file is damaged at a place where that is not the mark of a crash.
    #[error("{} is damaged at byte {offset}: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// How.
        what: String,
    },
    /// A stored value is not one that the stamp function takes.
    #[error("stored value of {key} at revision {revision} was refused")]
    Refused {
        /// The object.
        key: Key,
        /// Its revision.
        revision: Revision,
        /// Why.
        #[source]
        source: StampError,
    },
    /// A stored value could not be decrypted.
    #[error("stored value of {key} could not be decrypted")]
    Cipher {
        /// The object.
        key: Key,
        /// Why.
        #[source]
        source: CipherError,
    },
    /// The operating system refused.
    #[error("{doing} {}", path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The backend does not answer.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
}
