//! The host journal: every change to the host is written down before it is made, so that
//! `knarr uninstall` can walk the list backwards and leave the host as it was found.

mod undo;

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// The first line of the file starts so; the format number and the writer's version follow.
const MAGIC: &str = "KNARR-HOST-JOURNAL";
const FORMAT: u32 = 1;

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
    Sysctl { path: String, old: String, new: String },
    /// An address on a link.
    Address { link: String, address: std::net::IpAddr },
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
///
/// The file is a header line and then one line per record: a checksum and the record as JSON. A
/// torn last line is what a crash leaves; it is cut off, its change was never made.
#[derive(Debug, Clone)]
pub struct HostJournal {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// The changes that stand, oldest first.
    standing: Vec<Change>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Record {
    Made(Change),
    Undone(Change),
}

impl HostJournal {
    /// Opens or creates the journal at a path.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, JournalError> {
        let path = path.into();
        let (file, standing) = load(&path)?;
        Ok(Self { shared: Arc::new(Shared { path, state: Mutex::new(State { file, standing }) }) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Writes a change down, durably, before it is made. A change that stands there already is
    /// not written again (for a sysctl the first old value counts).
    pub fn record(&self, change: Change) -> std::io::Result<()> {
        let mut state = self.state();
        let change = match first_value(&state.standing, &change) {
            Some(old) => with_old_value(change, old),
            None => change,
        };
        if state.standing.contains(&change) {
            return Ok(());
        }
        state.append(&Record::Made(change.clone()))?;
        state.standing.retain(|standing| !same_sysctl(standing, &change));
        state.standing.push(change);
        Ok(())
    }

    /// Notes that a change was undone in the normal course of things.
    pub fn forget(&self, change: &Change) -> std::io::Result<()> {
        let mut state = self.state();
        if state.standing.contains(change) {
            state.append(&Record::Undone(change.clone()))?;
            state.standing.retain(|standing| standing != change);
        }
        Ok(())
    }

    /// The changes that stand, oldest first.
    pub fn changes(&self) -> Vec<Change> {
        self.state().standing.clone()
    }

    /// Undoes everything, last change first, and returns what could not be undone (those stay).
    ///
    /// What fails is tried again as long as anything else succeeds: a directory can go once the
    /// mounts in it are gone, in whatever order they were written down.
    pub fn replay_backwards(&self) -> Vec<UndoFailure> {
        loop {
            let standing = self.changes();
            let mut failures = Vec::new();
            for change in standing.iter().rev() {
                let undone = undo::undo(change).and_then(|()| self.forget(change));
                if let Err(error) = undone {
                    let error = error.to_string();
                    failures.push(UndoFailure { change: change.clone(), error });
                }
            }
            if failures.is_empty() || failures.len() == standing.len() {
                return failures;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn append(&mut self, record: &Record) -> std::io::Result<()> {
        let json = serde_json::to_string(record)?;
        let line = format!("{:08x} {json}\n", crc32fast::hash(json.as_bytes()));
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }
}

fn first_value(standing: &[Change], change: &Change) -> Option<String> {
    standing.iter().find(|standing| same_sysctl(standing, change)).and_then(|standing| match standing {
        Change::Sysctl { old, .. } => Some(old.clone()),
        _ => None,
    })
}

fn with_old_value(change: Change, first: String) -> Change {
    match change {
        Change::Sysctl { path, new, .. } => Change::Sysctl { path, old: first, new },
        other => other,
    }
}

fn same_sysctl(one: &Change, other: &Change) -> bool {
    matches!((one, other), (Change::Sysctl { path: a, .. }, Change::Sysctl { path: b, .. }) if a == b)
}

fn load(path: &Path) -> Result<(File, Vec<Change>), JournalError> {
    let io = |source| JournalError::Io { path: path.into(), source };
    let mut file = File::options().read(true).append(true).create(true).open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io)?;
    let header_end = bytes.iter().position(|b| *b == b'\n');
    if let Some(header_end) = header_end {
        check_header(path, &bytes[..header_end])?;
    } else if !MAGIC.as_bytes().starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
        return Err(JournalError::NotAJournal { path: path.into() });
    }
    let mut standing: Vec<Change> = Vec::new();
    let mut good = header_end.map_or(0, |end| end + 1);
    while let Some(length) = bytes[good..].iter().position(|b| *b == b'\n') {
        let Some(record) = parse_line(&bytes[good..good + length]) else {
            break;
        };
        match record {
            Record::Made(change) => {
                standing.retain(|standing| !same_sysctl(standing, &change) && *standing != change);
                standing.push(change);
            }
            Record::Undone(change) => standing.retain(|standing| *standing != change),
        }
        good += length + 1;
    }
    if good < bytes.len() {
        file.set_len(good as u64).map_err(io)?;
    }
    if good == 0 {
        let header = format!("{MAGIC} {FORMAT} {}\n", env!("CARGO_PKG_VERSION"));
        file.write_all(header.as_bytes()).and_then(|()| file.sync_data()).map_err(io)?;
    }
    Ok((file, standing))
}

fn check_header(path: &Path, line: &[u8]) -> Result<(), JournalError> {
    let text = String::from_utf8_lossy(line);
    let mut words = text.split(' ');
    let format = (words.next() == Some(MAGIC)).then(|| words.next()?.parse::<u32>().ok()).flatten();
    match format {
        None => Err(JournalError::NotAJournal { path: path.into() }),
        Some(found) if found > FORMAT => Err(JournalError::TooNew { path: path.into(), found, known: FORMAT }),
        Some(_) => Ok(()),
    }
}

fn parse_line(line: &[u8]) -> Option<Record> {
    let text = std::str::from_utf8(line).ok()?;
    let (checksum, json) = text.split_once(' ')?;
    let checksum = u32::from_str_radix(checksum, 16).ok()?;
    (checksum == crc32fast::hash(json.as_bytes())).then(|| serde_json::from_str(json).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(path: &str) -> Change {
        Change::Dir { path: path.into() }
    }

    #[test]
    fn survives_reopening_and_a_torn_tail() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        let journal = HostJournal::open(&path).unwrap();
        journal.record(dir("/a")).unwrap();
        journal.record(dir("/b")).unwrap();
        journal.record(dir("/a")).unwrap();
        journal.forget(&dir("/b")).unwrap();
        journal.record(dir("/c")).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let again = HostJournal::open(&path).unwrap();
            again.record(dir("/d")).unwrap();
            assert_eq!(HostJournal::open(&path).unwrap().changes().last(), Some(&dir("/d")), "cut at {cut}");
        }
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(HostJournal::open(&path).unwrap().changes(), [dir("/a"), dir("/c")]);
    }

    #[test]
    fn keeps_the_first_old_value_of_a_sysctl() {
        let temp = tempfile::tempdir().unwrap();
        let journal = HostJournal::open(temp.path().join("journal")).unwrap();
        let sysctl = |old: &str, new: &str| Change::Sysctl { path: "x".into(), old: old.into(), new: new.into() };
        journal.record(sysctl("0", "1")).unwrap();
        journal.record(sysctl("1", "2")).unwrap();
        assert_eq!(journal.changes(), [sysctl("0", "2")]);
    }

    #[test]
    fn refuses_foreign_and_newer_files() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("journal");
        std::fs::write(&path, "something else\n").unwrap();
        assert!(matches!(HostJournal::open(&path), Err(JournalError::NotAJournal { .. })));
        std::fs::write(&path, "KNARR-HOST-JOURNAL 99 v9\n").unwrap();
        assert!(matches!(HostJournal::open(&path), Err(JournalError::TooNew { found: 99, .. })));
    }

    #[test]
    fn walks_files_and_directories_backwards() {
        let temp = tempfile::tempdir().unwrap();
        let journal = HostJournal::open(temp.path().join("journal")).unwrap();
        let (outer, tree, file) = (temp.path().join("o"), temp.path().join("o/t"), temp.path().join("o/f"));
        journal.record(Change::Dir { path: outer.clone() }).unwrap();
        journal.record(Change::DirTree { path: tree.clone() }).unwrap();
        std::fs::create_dir_all(tree.join("deep/er")).unwrap();
        journal.record(Change::File { path: file.clone() }).unwrap();
        std::fs::write(&file, "x").unwrap();
        let mounted = tree.join("deep");
        journal.record(Change::MountsBelow { dir: mounted.clone() }).unwrap();
        journal.record(Change::DirTree { path: mounted.clone() }).unwrap();
        rustix::mount::mount_bind(&mounted, &mounted).unwrap();
        journal.record(Change::Mount { target: temp.path().join("never mounted") }).unwrap();
        assert!(journal.replay_backwards().is_empty());
        assert!(!outer.exists());
        assert!(journal.changes().is_empty());
    }
}
