//! Snapshots: all objects as of one revision in one file, so that the logs before it may go.

use std::io;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;

use super::Reading;
use super::dir::Dir;
use super::files::File;
use super::frame::{FileHeader, FileKind, Found, FrameBuffer, FrameReader, HEADER};
use super::record::{self, Part};
use crate::key::Kinds;
use crate::mvcc::Snapshot;
use crate::{Cipher, Entry, Kind, OpenError, Revision};

/// Objects are gathered into frames of about this size.
const CHUNK: usize = 256 << 10;

/// Writes a snapshot. Returns its size.
pub(super) fn write(dir: &Dir, writer: &str, cipher: &dyn Cipher, revision: Revision, kinds: &[(Kind, Snapshot)]) -> io::Result<u64> {
    let header = FileHeader::new(FileKind::Snapshot, writer, revision);
    let (_, size) = dir.finish(&dir.snapshot(revision), |file| {
        let mut out = Out { file, salt: header.salt, at: HEADER as u64, frame: FrameBuffer::new() };
        out.file.write_at(0, &header.encode())?;
        let mut objects = 0;
        record::begin_objects(&mut out.frame);
        for entry in kinds.iter().flat_map(|(_, snapshot)| snapshot.iter()) {
            let stored = cipher.seal(&entry.key, &entry.bytes).map_err(io::Error::other)?;
            record::object(&mut out.frame, entry, &stored);
            objects += 1;
            if out.frame.payload_len() >= CHUNK {
                out.flush()?;
                record::begin_objects(&mut out.frame);
            }
        }
        out.flush()?;
        record::end(&mut out.frame, objects);
        out.flush()?;
        Ok(out.at)
    })?;
    Ok(size)
}

struct Out<'a> {
    file: &'a mut dyn File,
    salt: u64,
    at: u64,
    frame: FrameBuffer,
}

impl Out<'_> {
    fn flush(&mut self) -> io::Result<()> {
        let bytes = self.frame.seal(self.salt);
        self.file.write_at(self.at, bytes)?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

/// Reads a snapshot. The objects are stamped on all cores, for that is nearly all of the work.
pub(super) fn read(dir: &Dir, revision: Revision, reading: &Reading) -> Result<Vec<Arc<Entry>>, OpenError> {
    let path = dir.snapshot(revision);
    let io = |source| OpenError::Io { doing: "read", path: path.clone(), source };
    let file = dir.files.open(&path).map_err(io)?;
    let mut head = [0; HEADER];
    let length = file.read_at(0, &mut head).map_err(io)?;
    let header = FileHeader::decode(FileKind::Snapshot, &head[..length], &path)?;
    if header.revision != revision {
        return Err(damaged(&path, 0, "it holds another revision than its name says"));
    }
    let reader = Mutex::new(Source { frames: FrameReader::new(&*file, header.salt).map_err(io)?, promised: None });
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(8);
    let parts: Result<Vec<_>, OpenError> = thread::scope(|scope| {
        let work = || read_parts(&reader, &path, reading);
        let workers: Vec<_> = (1..workers).map(|_| scope.spawn(work)).collect();
        let own = work();
        let others = workers.into_iter().map(|worker| worker.join().expect("reading does not panic"));
        std::iter::once(own).chain(others).collect()
    });
    let entries: Vec<Arc<Entry>> = parts?.into_iter().flatten().collect();
    if reader.into_inner().promised != Some(entries.len() as u64) {
        return Err(damaged(&path, 0, "it has another number of objects than it says"));
    }
    Ok(entries)
}

struct Source<'a> {
    frames: FrameReader<'a>,
    /// The number of objects, once the end was read.
    promised: Option<u64>,
}

fn read_parts(source: &Mutex<Source<'_>>, path: &Path, reading: &Reading) -> Result<Vec<Arc<Entry>>, OpenError> {
    let mut kinds = Kinds::default();
    let mut entries = Vec::new();
    loop {
        let part = {
            let mut source = source.lock();
            if source.promised.is_some() {
                return Ok(entries);
            }
            let at = source.frames.offset;
            let found = source.frames.next();
            let found = found.map_err(|source| OpenError::Io { doing: "read", path: path.to_owned(), source })?;
            let payload = match found {
                Found::Frame { payload, .. } => payload,
                Found::End => return Err(damaged(path, at, "it is cut off")),
                Found::Broken(what) => return Err(damaged(path, at, what)),
            };
            match record::read_part(&payload, &mut kinds) {
                Some(Part::Objects(objects)) => objects,
                Some(Part::End(objects)) => {
                    source.promised = Some(objects);
                    return Ok(entries);
                }
                None => return Err(damaged(path, at, "a record makes no sense")),
            }
        };
        for saved in part {
            let (bytes, header) = reading.stamp(&saved.key, &saved.stored, saved.revision)?;
            let mut entry = Entry::new(saved.key, saved.revision, saved.created, bytes, header);
            entry.expires = saved.expires;
            entries.push(Arc::new(entry));
        }
    }
}

fn damaged(path: &Path, offset: u64, what: &str) -> OpenError {
    OpenError::Damaged { path: path.to_owned(), offset, what: what.to_owned() }
}

impl Reading {
    /// The version that a stored value stands for.
    pub(super) fn stamp(&self, key: &crate::Key, stored: &Bytes, revision: Revision) -> Result<(Bytes, crate::Header), OpenError> {
        let raw = self.cipher.open(key, stored);
        let raw = raw.map_err(|source| OpenError::Cipher { key: key.clone(), source })?;
        let stamped = (self.stamp)(key, raw, revision);
        stamped.map_err(|source| OpenError::Refused { key: key.clone(), revision, source })
    }
}
