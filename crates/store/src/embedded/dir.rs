//! The data directory: which files there are, what they are called, and which may go.
//!
//! ```text
//! lock                             held by the process that has the directory open
//! log-00000000000000000001         changes after revision 1
//! snapshot-00000000000000004711    all objects as of revision 4711
//! log-00000000000000004711         changes after revision 4711
//! *.tmp                            a file that was not finished
//! *.damaged                        a snapshot that could not be read
//! ```
//!
//! A snapshot is taken where a log ends and the next begins. The one before and its logs stay until
//! the next, so that a damaged snapshot costs nothing but time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{File, FileLayer, Lock};
use crate::{OpenError, Revision};

const LOG: &str = "log-";
const SNAPSHOT: &str = "snapshot-";
const UNFINISHED: &str = ".tmp";

/// A data directory, locked unless it is a clone for another thread.
#[derive(Clone)]
pub(super) struct Dir {
    pub(super) files: Arc<dyn FileLayer>,
    pub(super) path: PathBuf,
    _lock: Arc<Lock>,
}

/// What is in a data directory, oldest first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) logs: Vec<Revision>,
    pub(super) snapshots: Vec<Revision>,
}

impl Dir {
    pub(super) fn open(files: Arc<dyn FileLayer>, path: &Path) -> Result<Dir, OpenError> {
        let io = |doing, source| OpenError::Io { doing, path: path.to_owned(), source };
        files.make_dir(path).map_err(|error| io("make", error))?;
        let lock = match files.lock(&path.join("lock")).map_err(|error| io("lock", error))? {
            Lock::Busy(pid) => {
                return Err(OpenError::InUse { dir: path.to_owned(), pid });
            }
            held => Arc::new(held),
        };
        Ok(Dir { files, path: path.to_owned(), _lock: lock })
    }

    pub(super) fn log(&self, after: Revision) -> PathBuf {
        self.path.join(format!("{LOG}{:020}", after.0))
    }

    pub(super) fn snapshot(&self, at: Revision) -> PathBuf {
        self.path.join(format!("{SNAPSHOT}{:020}", at.0))
    }

    /// Removes what was not finished. Only at start: later there may be somebody who is at it.
    pub(super) fn remove_unfinished(&self) -> io::Result<()> {
        for name in self.files.names(&self.path)?.iter().filter(|name| name.ends_with(UNFINISHED)) {
            self.files.remove(&self.path.join(name))?;
        }
        Ok(())
    }

    /// The logs and snapshots.
    pub(super) fn content(&self) -> io::Result<Content> {
        let mut content = Content::default();
        for name in self.files.names(&self.path)? {
            let revision = |prefix| name.strip_prefix(prefix)?.parse().ok().map(Revision);
            if let Some(after) = revision(LOG) {
                content.logs.push(after);
            } else if let Some(at) = revision(SNAPSHOT) {
                content.snapshots.push(at);
            }
        }
        content.logs.sort();
        content.snapshots.sort();
        Ok(content)
    }

    /// Makes a file under its name only when all of it is durable.
    pub(super) fn finish<T>(&self, path: &Path, write: impl FnOnce(&mut dyn File) -> io::Result<T>) -> io::Result<(Box<dyn File>, T)> {
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(UNFINISHED);
        let unfinished = Path::new(&unfinished);
        let mut file = self.files.create(unfinished)?;
        let written = write(&mut *file).and_then(|value| file.sync().map(|()| value));
        let value = match written {
            Ok(value) => value,
            Err(error) => {
                // The space may be needed; a leftover would go at the next start.
                let _ = self.files.remove(unfinished);
                return Err(error);
            }
        };
        self.files.rename(unfinished, path)?;
        self.files.sync_dir(&self.path)?;
        Ok((file, value))
    }

    /// Puts a snapshot out of the way that cannot be read, so that nothing is removed in its favour.
    pub(super) fn set_aside(&self, at: Revision) -> io::Result<()> {
        let path = self.snapshot(at);
        let mut aside = path.as_os_str().to_owned();
        aside.push(".damaged");
        self.files.rename(&path, Path::new(&aside))?;
        self.files.sync_dir(&self.path)
    }

    /// Removes the snapshots before the newest two, and the logs that none of the two needs. With
    /// `spare` of 0 only the newest is kept.
    pub(super) fn prune(&self, spare: usize) -> io::Result<usize> {
        let content = self.content()?;
        let Some(oldest) = content.snapshots.iter().rev().take(1 + spare).next_back() else {
            return Ok(0);
        };
        let snapshots = content.snapshots.iter().filter(|at| *at < oldest).map(|at| self.snapshot(*at));
        let logs = content.logs.iter().filter(|after| *after < oldest).map(|after| self.log(*after));
        let obsolete: Vec<PathBuf> = snapshots.chain(logs).collect();
        for path in &obsolete {
            match self.files.remove(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(obsolete.len())
    }
}
