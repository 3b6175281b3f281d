//! The bytes of the store's files.
//!
//! ```text
//! file    header | frame | frame | ... | zeros
//!
//! header  magic 8 | format 4 | size 4 | writer 32 | revision 8 | salt 8 | zero 4 | crc 4      = 72
//! frame   mark 4 | length 4 | crc 4 | payload
//! ```
//!
//! All numbers are little endian. The salt is random per file; the mark of each frame comes from it and
//! the crc covers it, so bytes of another file, or of a value that looks like a frame, are never taken
//! for one. `revision` is the state that the file begins with (log) or holds (snapshot).

use std::path::Path;

use crate::embedded::files::File;
use crate::{OpenError, Revision};

/// The newest format that this program reads, and the one that it writes.
pub(super) const FORMAT: u32 = 1;
pub(super) const HEADER: usize = 72;
const FRAME_HEAD: usize = 12;
const WRITER: usize = 32;
/// No frame is larger: a batch is closed long before, and no value comes near it.
const MAX_PAYLOAD: usize = 1 << 30;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Log,
    Snapshot,
}

impl FileKind {
    fn magic(self) -> &'static [u8; 8] {
        match self {
            FileKind::Log => b"KNARRLOG",
            FileKind::Snapshot => b"KNARRSNP",
        }
    }
}

/// The first bytes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) kind: FileKind,
    pub(super) writer: String,
    pub(super) revision: Revision,
    pub(super) salt: u64,
}

impl FileHeader {
    pub(super) fn new(kind: FileKind, writer: &str, revision: Revision) -> FileHeader {
        FileHeader { kind, writer: writer.to_owned(), revision, salt: rand::random() }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER);
        bytes.extend_from_slice(self.kind.magic());
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&(HEADER as u32).to_le_bytes());
        let mut writer = [0; WRITER];
        let length = self.writer.len().min(WRITER);
        writer[..length].copy_from_slice(&self.writer.as_bytes()[..length]);
        bytes.extend_from_slice(&writer);
        bytes.extend_from_slice(&self.revision.0.to_le_bytes());
        bytes.extend_from_slice(&self.salt.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The place of the format number and of the writer never changes, so that any program can name
    /// who wrote a file that it does not know.
    pub(super) fn decode(kind: FileKind, bytes: &[u8], path: &Path) -> Result<FileHeader, OpenError> {
        let damaged = |what: &str| OpenError::Damaged { path: path.to_owned(), offset: 0, what: what.to_owned() };
        if bytes.len() < HEADER {
            return Err(damaged("the header is cut off"));
        }
        let mut fields = Fields(bytes);
        let magic = fields.take(8);
        let format = fields.u32();
        let _size = fields.u32();
        let writer = fields.take(WRITER).unwrap_or_default();
        let writer = String::from_utf8_lossy(writer).trim_end_matches('\0').to_owned();
        if magic != Some(kind.magic()) {
            return Err(damaged("this is not a file of the store"));
        }
        match format {
            Some(FORMAT) => {}
            Some(found) if found > FORMAT => {
                return Err(OpenError::Newer { path: path.to_owned(), found, known: FORMAT, writer });
            }
            _ => return Err(damaged("the format number is not valid")),
        }
        let crc = u32::from_le_bytes(bytes[HEADER - 4..HEADER].try_into().expect("four bytes"));
        if crc != crc32fast::hash(&bytes[..HEADER - 4]) {
            return Err(damaged("the checksum of the header is wrong"));
        }
        let (Some(revision), Some(salt)) = (fields.u64(), fields.u64()) else {
            return Err(damaged("cut off"));
        };
        Ok(FileHeader { kind, writer, revision: Revision(revision), salt })
    }
}

fn mark(salt: u64) -> [u8; 4] {
    // Never begins with zero, so that it is not found in space that was never written.
    let [first, second, third, fourth, ..] = salt.to_le_bytes();
    [first | 0x80, second, third, fourth]
}

fn checksum(salt: u64, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

/// A frame that is being written. Reused, so that a commit allocates nothing for it.
pub(super) struct FrameBuffer(Vec<u8>);

impl FrameBuffer {
    pub(super) fn new() -> FrameBuffer {
        FrameBuffer(vec![0; FRAME_HEAD])
    }

    pub(super) fn clear(&mut self) {
        self.0.truncate(FRAME_HEAD);
        // One large value should not hold its size for ever.
        self.0.shrink_to(1 << 20);
    }

    pub(super) fn payload_len(&self) -> usize {
        self.0.len() - FRAME_HEAD
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(&(value.len() as u32).to_le_bytes());
        self.0.extend_from_slice(value);
    }

    /// The complete frame.
    pub(super) fn seal(&mut self, salt: u64) -> &[u8] {
        let payload = &self.0[FRAME_HEAD..];
        let (length, crc) = (payload.len() as u32, checksum(salt, payload));
        self.0[..4].copy_from_slice(&mark(salt));
        self.0[4..8].copy_from_slice(&length.to_le_bytes());
        self.0[8..12].copy_from_slice(&crc.to_le_bytes());
        &self.0
    }
}

/// Reads a payload from its beginning; every method says `None` where it is too short.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.take(4)?.try_into().expect("four bytes")))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.take(8)?.try_into().expect("eight bytes")))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.u32()?;
        self.take(length as usize)
    }

    pub(super) fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

/// What stands at a place in a file.
pub(super) enum Found {
    /// A whole frame; `offset` is where its payload begins.
    Frame { offset: u64, payload: Vec<u8> },
    /// The end of the file, or space that was never written.
    End,
    /// Something else.
    Broken(&'static str),
}

/// Reads the frames of one file in their order.
pub(super) struct FrameReader<'a> {
    file: &'a dyn File,
    salt: u64,
    size: u64,
    /// Where the next frame begins.
    pub(super) offset: u64,
    window: Vec<u8>,
    window_at: u64,
}

const WINDOW: usize = 256 << 10;

impl<'a> FrameReader<'a> {
    pub(super) fn new(file: &'a dyn File, salt: u64) -> std::io::Result<FrameReader<'a>> {
        let size = file.size()?;
        Ok(FrameReader { file, salt, size, offset: HEADER as u64, window: Vec::new(), window_at: 0 })
    }

    pub(super) fn next(&mut self) -> std::io::Result<Found> {
        let found = self.at(self.offset)?;
        if let Found::Frame { offset, payload } = &found {
            self.offset = offset + payload.len() as u64;
        }
        Ok(found)
    }

    /// The first whole frame behind the place where reading ended, if there is one: then that place is
    /// not the torn end of the file, but damage.
    pub(super) fn frame_behind(&mut self) -> std::io::Result<Option<u64>> {
        let mark = mark(self.salt);
        let mut at = self.offset + 1;
        loop {
            let window = self.window(at, FRAME_HEAD)?;
            if window.len() < FRAME_HEAD {
                return Ok(None);
            }
            let candidate = window.windows(4).position(|bytes| bytes[0] == mark[0] && bytes == mark);
            match candidate {
                Some(position) => {
                    at += position as u64;
                    if matches!(self.at(at)?, Found::Frame { .. }) {
                        return Ok(Some(at));
                    }
                    at += 1;
                }
                // A mark may lie across the end of the window.
                None => at += window.len() as u64 - 3,
            }
        }
    }

    fn at(&mut self, offset: u64) -> std::io::Result<Found> {
        let (mark, salt, size) = (mark(self.salt), self.salt, self.size);
        let head = self.window(offset, FRAME_HEAD)?;
        let head = &head[..head.len().min(FRAME_HEAD)];
        if head.iter().all(|byte| *byte == 0) {
            return Ok(Found::End);
        }
        if head.len() < FRAME_HEAD {
            return Ok(Found::Broken("the head of a record is cut off"));
        }
        if head[..4] != mark {
            return Ok(Found::Broken("no record begins here"));
        }
        let length = u32::from_le_bytes(head[4..8].try_into().expect("four bytes")) as usize;
        let crc = u32::from_le_bytes(head[8..12].try_into().expect("four bytes"));
        let offset = offset + FRAME_HEAD as u64;
        if length > MAX_PAYLOAD || length as u64 > size - offset {
            return Ok(Found::Broken("a record is cut off"));
        }
        let payload = self.window(offset, length)?;
        if payload.len() < length {
            return Ok(Found::Broken("a record is cut off"));
        }
        let payload = &payload[..length];
        if checksum(salt, payload) != crc {
            return Ok(Found::Broken("the checksum of a record is wrong"));
        }
        Ok(Found::Frame { offset, payload: payload.to_vec() })
    }

    /// The bytes from `offset` on: at least `length` of them unless the file ends before.
    fn window(&mut self, offset: u64, length: usize) -> std::io::Result<&[u8]> {
        let end = self.window_at + self.window.len() as u64;
        if offset < self.window_at || offset + length as u64 > end {
            self.window.resize(length.max(WINDOW), 0);
            let read = self.file.read_at(offset, &mut self.window)?;
            self.window.truncate(read);
            self.window_at = offset;
        }
        Ok(&self.window[usize::try_from(offset - self.window_at).expect("inside the window")..])
    }
}
