//! From the files of a data directory to the state that they stand for.
//!
//! # Guarantees
//!
//! * Every change that was acknowledged is there, and of a batch that was being written when the
//!   power went, all or nothing.
//! * Damage that a crash cannot explain is refused with its place, never skipped.

use std::io;
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use bytes::Bytes;

use super::Reading;
use super::dir::Dir;
use super::files::File;
use super::frame::{FileHeader, FileKind, Found, FrameReader, HEADER};
use super::log::Log;
use super::record::{self, Batch, Logged};
use super::snapshot;
use crate::key::Kinds;
use crate::mvcc::HistoryLimits;
use crate::{Entry, Event, EventKind, Header, Key, Metrics, Mvcc, OpenError, Revision};

/// The state of an empty store. Not 0, which stands for "any" in the API.
const EMPTY: Revision = Revision(1);

/// Batches that are read before those in front of them are taken in. One has a few MiB at most.
const AHEAD: usize = 8;

/// What a data directory stands for.
pub(super) struct Recovered {
    pub(super) mvcc: Arc<Mvcc>,
    pub(super) log: Log,
}

pub(super) fn recover(
    dir: &Dir,
    writer: &str,
    reading: &Reading,
    limits: HistoryLimits,
    metrics: &Arc<Metrics>,
) -> Result<Recovered, OpenError> {
    let listed = dir.remove_unfinished().and_then(|()| dir.content());
    let content = listed.map_err(|source| io_error("list", &dir.path, source))?;
    let (base, entries) = newest_snapshot(dir, &content.snapshots, reading)?;
    let mvcc = Mvcc::new(base, entries, limits, metrics.clone());
    let logs: Vec<Revision> = content.logs.into_iter().filter(|after| *after >= base).collect();
    if logs.is_empty() && content.snapshots.is_empty() {
        let log = Log::create(dir, writer, base);
        let log = log.map_err(|source| io_error("make", &dir.log(base), source))?;
        return Ok(Recovered { mvcc, log });
    }
    if logs.first() != Some(&base) {
        return Err(damaged(&dir.log(base), 0, format!("the log of the changes after revision {base} is missing")));
    }
    let mut last = None;
    for (place, after) in logs.iter().enumerate() {
        let path = dir.log(*after);
        let opened = OpenLog::open(dir, *after, &path)?;
        let end = opened.replay(&path, &mvcc, reading)?;
        if let Some(next) = logs.get(place + 1).filter(|next| **next != mvcc.revision()) {
            let reached = mvcc.revision();
            return Err(damaged(&path, end, format!("it ends at revision {reached}, the next log begins after {next}")));
        }
        last = Some((opened, path, end));
    }
    let (opened, path, end) = last.expect("at least one log");
    let log = Log::resume(dir, writer, &opened.header, opened.file, end);
    let log = log.map_err(|source| io_error("write", &path, source))?;
    Ok(Recovered { mvcc, log })
}

/// The objects of the newest snapshot that can be read: with its predecessor and the logs since then
/// the state is complete, too.
fn newest_snapshot(dir: &Dir, snapshots: &[Revision], reading: &Reading) -> Result<(Revision, Vec<Arc<Entry>>), OpenError> {
    let mut first_damage = None;
    let mut damaged_ones = Vec::new();
    for at in snapshots.iter().rev() {
        match snapshot::read(dir, *at, reading) {
            Ok(entries) => {
                for damaged in damaged_ones {
                    let aside = dir.set_aside(damaged);
                    aside.map_err(|source| io_error("rename", &dir.snapshot(damaged), source))?;
                }
                return Ok((*at, entries));
            }
            Err(damage @ OpenError::Damaged { .. }) => {
                tracing::error!("{damage}; going back to the snapshot before it");
                damaged_ones.push(*at);
                first_damage.get_or_insert(damage);
            }
            Err(error) => return Err(error),
        }
    }
    // The first snapshot has none before it, but the logs from the beginning.
    match first_damage {
        Some(damage) if dir.files.open(&dir.log(EMPTY)).is_err() => Err(damage),
        _ => {
            for damaged in damaged_ones {
                let aside = dir.set_aside(damaged);
                aside.map_err(|source| io_error("rename", &dir.snapshot(damaged), source))?;
            }
            Ok((EMPTY, Vec::new()))
        }
    }
}

struct OpenLog {
    header: FileHeader,
    file: Box<dyn File>,
}

impl OpenLog {
    fn open(dir: &Dir, after: Revision, path: &Path) -> Result<OpenLog, OpenError> {
        let io = |source| io_error("read", path, source);
        let file = dir.files.open(path).map_err(io)?;
        let mut head = [0; HEADER];
        let length = file.read_at(0, &mut head).map_err(io)?;
        let header = FileHeader::decode(FileKind::Log, &head[..length], path)?;
        if header.revision != after {
            return Err(damaged(path, 0, "it begins after another revision than its name says".into()));
        }
        Ok(OpenLog { header, file })
    }

    /// Takes the changes into `mvcc`. Returns where the last whole batch ends.
    ///
    /// Reading and stamping go on while the batches before are taken in: each is about half of the work.
    fn replay(&self, path: &Path, mvcc: &Arc<Mvcc>, reading: &Reading) -> Result<u64, OpenError> {
        let expected = mvcc.revision().next();
        thread::scope(|scope| {
            let (send, stamped) = sync_channel(AHEAD);
            let reader = scope.spawn(move || self.read_ahead(path, expected, reading, &send));
            for batch in stamped {
                apply(batch, mvcc, reading, path)?;
            }
            reader.join().expect("reading does not panic")
        })
    }

    /// Reads and stamps all batches, the first of which begins at `expected`. Returns where the last whole one ends.
    fn read_ahead(&self, path: &Path, mut expected: Revision, reading: &Reading, send: &SyncSender<Stamped>) -> Result<u64, OpenError> {
        let io = |source| io_error("read", path, source);
        let mut frames = FrameReader::new(&*self.file, self.header.salt).map_err(io)?;
        let mut kinds = Kinds::default();
        loop {
            let at = frames.offset;
            let what = match frames.next().map_err(io)? {
                Found::Frame { payload, .. } => {
                    let Some(batch) = record::read_batch(&payload, &mut kinds) else {
                        return Err(damaged(path, at, "a record makes no sense".into()));
                    };
                    if batch.first != expected {
                        let (first, reached) = (batch.first, Revision(expected.0 - 1));
                        return Err(damaged(path, at, format!("revision {first} follows on revision {reached}")));
                    }
                    let stamped = Stamped::new(batch, at, reading)?;
                    expected = Revision(expected.0 + stamped.changes.len() as u64);
                    // Whoever takes them in has met an error of its own.
                    if send.send(stamped).is_err() {
                        return Ok(at);
                    }
                    continue;
                }
                Found::End => "nothing is written here",
                Found::Broken(what) => what,
            };
            // Only the end of the last batch can be torn, so nothing whole may follow.
            return match frames.frame_behind().map_err(io)? {
                None => Ok(at),
                Some(behind) => Err(damaged(path, at, format!("{what}, but a whole record follows at byte {behind}"))),
            };
        }
    }
}

/// A batch whose new versions are ready to be taken in.
struct Stamped {
    /// Where it stands in the file.
    at: u64,
    time: u64,
    first: Revision,
    changes: Vec<StampedChange>,
}

enum StampedChange {
    Put { key: Key, expires: Option<NonZeroU64>, bytes: Bytes, header: Header },
    Delete { key: Key },
}

impl Stamped {
    fn new(batch: Batch, at: u64, reading: &Reading) -> Result<Stamped, OpenError> {
        let mut revision = batch.first;
        let mut changes = Vec::with_capacity(batch.changes.len());
        for change in batch.changes {
            changes.push(match change {
                Logged::Put { key, expires, stored } => {
                    let (bytes, header) = reading.stamp(&key, &stored, revision)?;
                    StampedChange::Put { key, expires, bytes, header }
                }
                Logged::Delete { key } => StampedChange::Delete { key },
            });
            revision = revision.next();
        }
        Ok(Stamped { at, time: batch.time, first: batch.first, changes })
    }
}

fn apply(batch: Stamped, mvcc: &Arc<Mvcc>, reading: &Reading, path: &Path) -> Result<(), OpenError> {
    let mut revision = batch.first;
    // One by one, for a change may build on the one before it in the same batch.
    for change in batch.changes {
        let event = match change {
            StampedChange::Put { key, expires, bytes, header } => {
                let previous = mvcc.get(&key).value;
                let created = previous.as_ref().map_or(revision, |previous| previous.created);
                let key = previous.as_ref().map_or(key, |previous| previous.key.clone());
                let mut entry = Entry::new(key, revision, created, bytes, header);
                entry.expires = expires;
                Event { revision, kind: EventKind::Put, entry: Arc::new(entry), previous, time: batch.time }
            }
            StampedChange::Delete { key } => {
                let Some(last) = mvcc.get(&key).value else {
                    let what = format!("{key} is deleted at revision {revision} but was not there");
                    return Err(damaged(path, batch.at, what));
                };
                // The value in memory is not sealed; it is stamped as it is.
                let stamped = (reading.stamp)(&key, last.bytes.clone(), revision);
                let (bytes, header) = stamped.map_err(|source| OpenError::Refused { key: key.clone(), revision, source })?;
                let entry = Arc::new(Entry::new(last.key.clone(), revision, last.created, bytes, header));
                Event { revision, kind: EventKind::Delete, entry, previous: Some(last), time: batch.time }
            }
        };
        // Nobody watches yet.
        drop(mvcc.apply(vec![Arc::new(event)]));
        revision = revision.next();
    }
    Ok(())
}

fn io_error(doing: &'static str, path: &Path, source: io::Error) -> OpenError {
    OpenError::Io { doing, path: path.to_owned(), source }
}

fn damaged(path: &Path, offset: u64, what: String) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), offset, what }
}
