//! Compressed header blocks: one zlib stream per direction and connection, flushed after each block.

use super::dictionary::DICTIONARY;
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// The largest header block that we decompress.
const LARGEST_BLOCK: usize = 64 * 1024;
/// The most headers in a block.
const MOST_HEADERS: usize = 256;

/// Names (lower case) and values of a stream's headers, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderList(pub Vec<(String, String)>);

impl HeaderList {
    /// From pairs; names are put in lower case.
    pub fn new(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| (name.to_ascii_lowercase(), (*value).to_owned())).collect())
    }

    /// The first value of a header, by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Decompresses the blocks of one direction, in order.
pub struct HeaderReader {
    inflate: Decompress,
}

impl Default for HeaderReader {
    fn default() -> Self {
        Self { inflate: Decompress::new(true) }
    }
}

impl HeaderReader {
    /// Reads one block.
    pub fn read(&mut self, block: &[u8]) -> Result<HeaderList, HeaderError> {
        parse(&self.decompress(block)?)
    }

    fn decompress(&mut self, block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut plain = Vec::with_capacity(1024);
        let mut rest = block;
        loop {
            if plain.len() == plain.capacity() {
                if plain.len() >= LARGEST_BLOCK {
                    return Err(HeaderError::TooLarge);
                }
                plain.reserve(plain.len());
            }
            let (before_in, before_out) = (self.inflate.total_in(), plain.len());
            let status = match self.inflate.decompress_vec(rest, &mut plain, FlushDecompress::Sync) {
                Ok(status) => status,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&DICTIONARY).map_err(|_| HeaderError::Corrupt)?;
                    Status::Ok
                }
                Err(_) => return Err(HeaderError::Corrupt),
            };
            let consumed = usize::try_from(self.inflate.total_in() - before_in).map_err(|_| HeaderError::Corrupt)?;
            rest = &rest[consumed..];
            let full = plain.len() == plain.capacity();
            let stalled = consumed == 0 && plain.len() == before_out;
            if rest.is_empty() && !full {
                return Ok(plain);
            }
            if status == Status::StreamEnd || (stalled && !full && status != Status::Ok) {
                return Err(HeaderError::Corrupt);
            }
        }
    }
}

/// Compresses the blocks of one direction, in order.
pub struct HeaderWriter {
    deflate: Compress,
}

impl Default for HeaderWriter {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&DICTIONARY).expect("a fresh zlib stream takes a dictionary");
        Self { deflate }
    }
}

impl HeaderWriter {
    /// Writes one block.
    pub fn write(&mut self, headers: &HeaderList) -> Vec<u8> {
        let mut plain = Vec::new();
        put_length(&mut plain, headers.0.len());
        for (name, value) in &headers.0 {
            for text in [name, value] {
                put_length(&mut plain, text.len());
                plain.extend_from_slice(text.as_bytes());
            }
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = plain.as_slice();
        loop {
            let before = self.deflate.total_in();
            let done = self.deflate.compress_vec(rest, &mut block, FlushCompress::Sync);
            done.expect("compressing into memory does not fail");
            let consumed = usize::try_from(self.deflate.total_in() - before).expect("no more than the input");
            rest = &rest[consumed..];
            // A flush is complete when the input is used up and room was left.
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
            block.reserve(256);
        }
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend_from_slice(&u32::try_from(length).expect("headers of our own are short").to_be_bytes());
}

fn parse(plain: &[u8]) -> Result<HeaderList, HeaderError> {
    let mut rest = plain;
    let count = take_length(&mut rest)?;
    if count > MOST_HEADERS {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = HeaderList::default();
    for _ in 0..count {
        let name = take_text(&mut rest)?.to_ascii_lowercase();
        // Several values of one header are separated by NUL.
        for value in take_text(&mut rest)?.split('\0') {
            headers.0.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

fn take_length(rest: &mut &[u8]) -> Result<usize, HeaderError> {
    let (head, tail) = rest.split_first_chunk::<4>().ok_or(HeaderError::Corrupt)?;
    *rest = tail;
    usize::try_from(u32::from_be_bytes(*head)).map_err(|_| HeaderError::Corrupt)
}

fn take_text(rest: &mut &[u8]) -> Result<String, HeaderError> {
    let length = take_length(rest)?;
    let (head, tail) = rest.split_at_checked(length).ok_or(HeaderError::Corrupt)?;
    *rest = tail;
    String::from_utf8(head.to_vec()).map_err(|_| HeaderError::Corrupt)
}

/// Why a block cannot be read. The connection cannot go on: its zlib state is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Not a header block.
    #[error("corrupt header block")]
    Corrupt,
    /// Beyond our limits.
    #[error("header block too large")]
    TooLarge,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_share_one_stream() {
        let (mut writer, mut reader) = (HeaderWriter::default(), HeaderReader::default());
        let long = "x".repeat(20_000);
        let cases = [
            HeaderList::default(),
            HeaderList::new(&[("streamType", "error")]),
            HeaderList::new(&[("streamtype", "data"), ("port", "80"), ("requestid", "0")]),
            HeaderList::new(&[("a", &long), ("b", &long)]),
            HeaderList::new(&[("streamType", "error")]),
        ];
        for case in cases {
            let block = writer.write(&case);
            assert_eq!(reader.read(&block).unwrap(), case);
        }
    }

    #[test]
    fn bombs_are_refused() {
        let mut writer = HeaderWriter::default();
        let block = writer.write(&HeaderList(vec![("a".into(), "0".repeat(10_000_000))]));
        assert!(block.len() < 20_000);
        assert_eq!(HeaderReader::default().read(&block), Err(HeaderError::TooLarge));
        assert_eq!(HeaderReader::default().read(b"garbage").unwrap_err(), HeaderError::Corrupt);
    }
}
