//! Archives say by their first bytes how they are compressed; media types are not trusted for that.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// Memory that a zstd frame may ask for, as a power of two: 128 MiB, the format's own recommendation for decoders.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER: usize = 128 << 10;

/// The plain bytes of a gzip, zstd or uncompressed stream, all members and frames of it.
pub(crate) fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = input;
    let mut magic = Vec::with_capacity(4);
    input.by_ref().take(4).read_to_end(&mut magic)?;
    let kind = (magic.starts_with(&[0x1f, 0x8b]), magic == [0x28, 0xb5, 0x2f, 0xfd]);
    let whole = BufReader::with_capacity(BUFFER, io::Cursor::new(magic).chain(input));
    Ok(match kind {
        (true, _) => Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(whole))),
        (_, true) => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(BufReader::with_capacity(BUFFER, decoder))
        }
        _ => Box::new(whole),
    })
}
