//! The log that is being written: one frame per batch, one write and one sync.

use std::io;
use std::path::PathBuf;

use super::dir::Dir;
use super::files::{File, is_full};
use super::frame::{FileHeader, FileKind, FrameBuffer, HEADER};
use crate::Revision;

/// Space is reserved in steps of this, so that a sync seldom has to change the size of the file.
const STEP: u64 = 4 << 20;

/// The last log of a data directory, open at its end.
pub(super) struct Log {
    dir: Dir,
    writer: String,
    path: PathBuf,
    file: Box<dyn File>,
    salt: u64,
    /// Everything before is durable, everything behind is nothing.
    end: u64,
    reserved: u64,
}

/// A batch that did not get onto the disk.
#[derive(Debug)]
pub(super) enum AppendError {
    /// Nothing has changed; it may work later.
    Full,
    /// It is not known what is on the disk. Nothing may be written behind it.
    Broken(String),
}

impl Log {
    /// Makes the log of the changes after `revision`.
    pub(super) fn create(dir: &Dir, writer: &str, revision: Revision) -> io::Result<Log> {
        let header = FileHeader::new(FileKind::Log, writer, revision);
        let path = dir.log(revision);
        let (file, ()) = dir.finish(&path, |file| {
            file.write_at(0, &header.encode())?;
            file.allocate(STEP)
        })?;
        let reserved = file.size()?;
        Ok(Log { dir: dir.clone(), writer: writer.to_owned(), path, file, salt: header.salt, end: HEADER as u64, reserved })
    }

    /// Goes on with a log whose last whole frame ends at `end`. What is behind is cut off.
    pub(super) fn resume(dir: &Dir, writer: &str, header: &FileHeader, mut file: Box<dyn File>, end: u64) -> io::Result<Log> {
        file.truncate(end)?;
        file.sync()?;
        let (path, salt) = (dir.log(header.revision), header.salt);
        Ok(Log { dir: dir.clone(), writer: writer.to_owned(), path, file, salt, end, reserved: end })
    }

    /// Bytes since the last snapshot.
    pub(super) fn size(&self) -> u64 {
        self.end
    }

    /// Writes a batch. When this returns, it is durable.
    pub(super) fn append(&mut self, frame: &mut FrameBuffer) -> Result<(), AppendError> {
        let bytes = frame.seal(self.salt);
        let end = self.end + bytes.len() as u64;
        if end > self.reserved {
            self.reserve(end)?;
        }
        if let Err(error) = self.file.write_at(self.end, bytes) {
            return Err(self.undo(&error));
        }
        if let Err(error) = self.file.sync() {
            // The kernel may have dropped the pages: a later sync that succeeds would prove nothing.
            return Err(self.broken("sync", &error));
        }
        self.end = end;
        Ok(())
    }

    fn reserve(&mut self, end: u64) -> Result<(), AppendError> {
        let size = end.next_multiple_of(STEP);
        let mut reserved = self.file.allocate(size);
        // An older snapshot is a luxury when the disk is full.
        if reserved.as_ref().is_err_and(is_full) && self.dir.prune(0).is_ok_and(|removed| removed > 0) {
            reserved = self.file.allocate(size);
        }
        // The last bytes of a disk are still good for some changes.
        if reserved.as_ref().is_err_and(is_full) {
            reserved = self.file.allocate(end);
        }
        match reserved {
            Ok(()) => {
                self.reserved = self.file.size().map_err(|error| self.broken("look at", &error))?.max(self.end);
                Ok(())
            }
            Err(error) => Err(self.undo(&error)),
        }
    }

    /// Takes back a part of a frame that may have been written.
    fn undo(&mut self, error: &io::Error) -> AppendError {
        if !is_full(error) {
            return self.broken("write", error);
        }
        if let Err(error) = self.file.truncate(self.end) {
            return self.broken("cut", &error);
        }
        self.reserved = self.end;
        AppendError::Full
    }

    fn broken(&self, doing: &str, error: &io::Error) -> AppendError {
        AppendError::Broken(format!("{doing} {}: {error}", self.path.display()))
    }

    /// Begins the next log, for the changes after `revision`. The old one is complete.
    pub(super) fn rotate(&mut self, revision: Revision) -> Result<(), AppendError> {
        let next = match Log::create(&self.dir, &self.writer, revision) {
            Ok(next) => next,
            Err(error) if is_full(&error) => return Err(AppendError::Full),
            Err(error) => return Err(self.broken("begin the log after", &error)),
        };
        let mut old = std::mem::replace(self, next);
        old.trim();
        Ok(())
    }

    /// Gives back the space that was reserved and not used.
    pub(super) fn trim(&mut self) {
        // Nothing depends on it: zeros at the end of a log mean nothing.
        let _ = self.file.truncate(self.end);
        self.reserved = self.end;
    }
}
