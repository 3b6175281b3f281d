//! A reader for tar archives from strangers: ustar, GNU and PAX, long names, big numbers, sparse files.
//!
//! Ours and not a library's, because every extension must be bounded before it is read, and because a disagreement
//! about sizes between two readers of one archive is a known way to smuggle entries.

use std::io::{self, Read};

use super::tar_fields::{Pax, check_sparse, field_text, number, parse_pax, sparse_pairs, sum_is_right};

const BLOCK: u64 = 512;
/// Largest PAX header or GNU long name that is read.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// Most data pieces of one sparse file.
pub(super) const SPARSE_LIMIT: usize = 1 << 16;

/// One member of an archive, data not included.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub kind: Kind,
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Size of the file as a program sees it.
    pub size: u64,
    pub mtime: (i64, u32),
    pub device: (u32, u32),
    pub xattrs: Vec<(String, Vec<u8>)>,
    /// Pieces with data, ordered; the rest are holes.
    pub sparse: Option<Vec<(u64, u64)>>,
}

/// What a member is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Kind {
    #[default]
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    Directory,
    Other(u8),
}

/// Why an archive is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TarError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("tar header with a wrong checksum")]
    Checksum,
    #[error("tar header with a bad {0}")]
    Field(&'static str),
    #[error("tar extension header of {0} bytes is too large")]
    ExtensionTooLarge(u64),
    #[error("tar archive ends inside an entry")]
    Truncated,
}

/// Reads entries one after the other; the data of the current one is read through [`Read`].
pub(crate) struct TarReader<R> {
    input: R,
    /// Bytes taken from the input.
    position: u64,
    /// Data bytes of the current entry not yet read.
    remaining: u64,
    /// Zeros after the data up to the next block.
    padding: u64,
}

/// Input that may know a faster way over bytes than reading them.
pub(crate) trait Skip: Read + Sized {
    /// Goes over `count` bytes; fewer only at the end.
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        io::copy(&mut self.by_ref().take(count), &mut io::sink())
    }
}

impl<R: Skip> TarReader<R> {
    pub(crate) fn new(input: R) -> TarReader<R> {
        TarReader { input, position: 0, remaining: 0, padding: 0 }
    }

    /// Where in the input the unread data of the current entry begins.
    pub(crate) fn data_position(&self) -> u64 {
        self.position
    }

    /// Stored bytes of the current entry that are not read yet.
    pub(crate) fn remaining(&self) -> u64 {
        self.remaining
    }

    /// The input, to read what follows the archive.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// Skips what is left of the current entry and reads the next header, extensions applied.
    pub(crate) fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let (mut long_name, mut long_link) = (None, None);
        loop {
            self.skip_data()?;
            let Some(header) = self.read_header()? else {
                return Ok(None);
            };
            let size = number(&header[124..136]).ok_or(TarError::Field("size"))?;
            match header[156] {
                b'x' => pax = parse_pax(&self.read_extension(size)?)?,
                b'g' => drop(self.read_extension(size)?),
                b'L' => long_name = Some(until_nul(self.read_extension(size)?)),
                b'K' => long_link = Some(until_nul(self.read_extension(size)?)),
                _ => {
                    return self.finish_entry(&header, size, pax, long_name, long_link).map(Some);
                }
            }
        }
    }

    fn finish_entry(
        &mut self,
        header: &[u8; 512],
        header_size: u64,
        mut pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let ustar = &header[257..263] == b"ustar\0";
        let mut path = field_text(&header[..100]).to_vec();
        if ustar && header[345] != 0 {
            path = [field_text(&header[345..500]), b"/", path.as_slice()].concat();
        }
        let path = pax.path.take().or(long_name).unwrap_or(path);
        let kind = match header[156] {
            b'\0' if path.ends_with(b"/") => Kind::Directory,
            b'0' | b'\0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => Kind::Other(other),
        };
        // Links and nodes have no data, whatever their size field says.
        let stored = match kind {
            Kind::File | Kind::Other(_) => pax.size.unwrap_or(header_size),
            _ => 0,
        };
        self.remaining = stored;
        self.padding = stored.next_multiple_of(BLOCK) - stored;
        let id =
            |range: std::ops::Range<usize>, name| number(&header[range]).and_then(|id| u32::try_from(id).ok()).ok_or(TarError::Field(name));
        let mtime = number(&header[136..148]).and_then(|time| i64::try_from(time).ok());
        let device = matches!(kind, Kind::CharDevice | Kind::BlockDevice);
        let mut entry = Entry {
            kind,
            path,
            link: pax.link.take().or(long_link).unwrap_or_else(|| field_text(&header[157..257]).to_vec()),
            mode: number(&header[100..108]).ok_or(TarError::Field("mode"))? as u32 & 0o7777,
            uid: pax.uid.map_or_else(|| id(108..116, "uid"), Ok)?,
            gid: pax.gid.map_or_else(|| id(116..124, "gid"), Ok)?,
            size: stored,
            mtime: pax.mtime.or(mtime.map(|seconds| (seconds, 0))).unwrap_or_default(),
            device: if device { (id(329..337, "device")?, id(337..345, "device")?) } else { (0, 0) },
            xattrs: std::mem::take(&mut pax.xattrs),
            sparse: None,
        };
        if header[156] == b'S' && pax.sparse_version.is_none() {
            entry.size = number(&header[483..495]).ok_or(TarError::Field("sparse size"))?;
            entry.sparse = Some(self.read_gnu_sparse(header)?);
        } else if kind == Kind::File && pax.is_sparse() {
            entry.size = pax.sparse_size.ok_or(TarError::Field("sparse size"))?;
            if let Some(name) = pax.sparse_name.take() {
                entry.path = name;
            }
            entry.sparse = Some(match pax.sparse_version {
                Some((1, 0)) => self.read_pax_sparse()?,
                _ => sparse_pairs(&pax.sparse_map)?,
            });
        }
        if let Some(pieces) = &entry.sparse {
            check_sparse(pieces, entry.size, self.remaining)?;
        }
        Ok(entry)
    }

    /// The table of the old GNU form: four pieces in the header, more in blocks that follow it.
    fn read_gnu_sparse(&mut self, header: &[u8; 512]) -> Result<Vec<(u64, u64)>, TarError> {
        let mut pieces = Vec::new();
        let mut add = |fields: &[u8]| {
            for field in fields.chunks_exact(24).filter(|field| field[0] != 0) {
                let piece = number(&field[..12]).zip(number(&field[12..]));
                pieces.push(piece.ok_or(TarError::Field("sparse map"))?);
            }
            if pieces.len() > SPARSE_LIMIT { Err(TarError::Field("sparse map")) } else { Ok(()) }
        };
        add(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; 512];
            self.read_block(&mut block)?;
            add(&block[..504])?;
            more = block[504] != 0;
        }
        Ok(pieces)
    }

    /// The table of PAX version 1.0: decimal lines at the start of the data, filled up to a block.
    fn read_pax_sparse(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let mut text = Vec::new();
        let mut numbers: Vec<u64> = Vec::new();
        loop {
            let wanted = numbers.first().map_or(1, |count| count.saturating_mul(2).saturating_add(1));
            if wanted > 2 * SPARSE_LIMIT as u64 + 1 {
                return Err(TarError::Field("sparse map"));
            }
            if numbers.len() as u64 >= wanted {
                break;
            }
            let mut block = [0; 512];
            if self.remaining < BLOCK {
                return Err(TarError::Field("sparse map"));
            }
            self.read_exact(&mut block).map_err(end_is_truncation)?;
            text.extend_from_slice(&block);
            while let Some(newline) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=newline).collect();
                let parsed = std::str::from_utf8(&line[..newline]).ok().and_then(|line| line.parse().ok());
                numbers.push(parsed.ok_or(TarError::Field("sparse map"))?);
                if numbers.len() as u64 > numbers[0].saturating_mul(2) {
                    break;
                }
            }
            if text.len() > 4096 {
                return Err(TarError::Field("sparse map"));
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_LIMIT {
            return Err(TarError::ExtensionTooLarge(size));
        }
        let mut bytes = vec![0; size as usize];
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK) - size;
        self.read_exact(&mut bytes).map_err(end_is_truncation)?;
        Ok(bytes)
    }

    /// `None` at the end: two blocks of zeros, one and nothing more, or nothing at all.
    fn read_header(&mut self) -> Result<Option<[u8; 512]>, TarError> {
        let mut header = [0; 512];
        for _ in 0..2 {
            match self.input.read(&mut header[..1])? {
                0 => return Ok(None),
                _ => self.input.read_exact(&mut header[1..]).map_err(end_is_truncation)?,
            }
            self.position += BLOCK;
            if header.iter().any(|byte| *byte != 0) {
                return if sum_is_right(&header) { Ok(Some(header)) } else { Err(TarError::Checksum) };
            }
        }
        Ok(None)
    }

    fn read_block(&mut self, block: &mut [u8; 512]) -> Result<(), TarError> {
        self.input.read_exact(block).map_err(end_is_truncation)?;
        self.position += BLOCK;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        let left = self.remaining.checked_add(self.padding).ok_or(TarError::Field("size"))?;
        let skipped = self.input.skip(left)?;
        self.position += skipped;
        (self.remaining, self.padding) = (0, 0);
        if skipped == left { Ok(()) } else { Err(TarError::Truncated) }
    }
}

/// Data of the current entry: short only at its end, an error if the archive ends before.
impl<R: Skip> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (buffer.len() as u64).min(self.remaining) as usize;
        if wanted == 0 {
            return Ok(0);
        }
        let got = self.input.read(&mut buffer[..wanted])?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.remaining -= got as u64;
        self.position += got as u64;
        Ok(got)
    }
}

fn end_is_truncation(error: io::Error) -> TarError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => TarError::Truncated,
        _ => TarError::Read(error),
    }
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}
