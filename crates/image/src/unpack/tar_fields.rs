//! The fields of tar headers: octal and binary numbers, checksums, PAX records, maps of sparse files.

use super::tar::{SPARSE_LIMIT, TarError};

/// What PAX records override for the entry that follows.
#[derive(Debug, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(String, Vec<u8>)>,
    pub sparse_version: Option<(u32, u32)>,
    pub sparse_name: Option<Vec<u8>>,
    pub sparse_size: Option<u64>,
    pub sparse_map: Vec<u64>,
}

impl Pax {
    pub(super) fn is_sparse(&self) -> bool {
        self.sparse_version.is_some() || self.sparse_size.is_some() || !self.sparse_map.is_empty()
    }
}

/// Records of the form `length key=value\n`, where the length counts the whole record.
pub(super) fn parse_pax(mut bytes: &[u8]) -> Result<Pax, TarError> {
    const BAD: TarError = TarError::Field("PAX record");
    let mut pax = Pax::default();
    let mut version = (None, None);
    while !bytes.is_empty() {
        let space = bytes.iter().take(8).position(|byte| *byte == b' ').ok_or(BAD)?;
        let length: usize = text(&bytes[..space]).ok_or(BAD)?;
        if length > bytes.len() || length < space + 4 || bytes[length - 1] != b'\n' {
            return Err(BAD);
        }
        let record = &bytes[space + 1..length - 1];
        bytes = &bytes[length..];
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(BAD)?;
        let (key, value) = (std::str::from_utf8(&record[..equals]).map_err(|_| BAD)?, &record[equals + 1..]);
        match key {
            "path" => pax.path = Some(name(value)?),
            "linkpath" => pax.link = Some(name(value)?),
            "size" => pax.size = Some(text(value).ok_or(TarError::Field("size"))?),
            "uid" => pax.uid = Some(text(value).ok_or(TarError::Field("uid"))?),
            "gid" => pax.gid = Some(text(value).ok_or(TarError::Field("gid"))?),
            "mtime" => pax.mtime = Some(time(value).ok_or(TarError::Field("mtime"))?),
            "GNU.sparse.major" => version.0 = text(value),
            "GNU.sparse.minor" => version.1 = text(value),
            "GNU.sparse.name" => pax.sparse_name = Some(name(value)?),
            "GNU.sparse.size" | "GNU.sparse.realsize" => {
                pax.sparse_size = Some(text(value).ok_or(TarError::Field("sparse size"))?);
            }
            "GNU.sparse.offset" | "GNU.sparse.numbytes" => {
                pax.sparse_map.push(text(value).ok_or(TarError::Field("sparse map"))?);
            }
            "GNU.sparse.map" if !value.is_empty() => {
                let numbers: Option<Vec<u64>> = value.split(|byte| *byte == b',').map(text).collect();
                pax.sparse_map = numbers.ok_or(TarError::Field("sparse map"))?;
            }
            _ => {
                if let Some(attribute) = key.strip_prefix("SCHILY.xattr.") {
                    pax.xattrs.push((attribute.to_string(), value.to_vec()));
                }
            }
        }
    }
    pax.sparse_version = version.0.zip(version.1);
    Ok(pax)
}

/// Offsets and lengths in turn.
pub(super) fn sparse_pairs(numbers: &[u64]) -> Result<Vec<(u64, u64)>, TarError> {
    if !numbers.len().is_multiple_of(2) || numbers.len() > 2 * SPARSE_LIMIT {
        return Err(TarError::Field("sparse map"));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Pieces must be ordered, inside the file, and together exactly what is stored.
pub(super) fn check_sparse(pieces: &[(u64, u64)], size: u64, stored: u64) -> Result<(), TarError> {
    let (mut end, mut sum) = (0, 0u64);
    for (offset, length) in pieces {
        let piece_end = offset.checked_add(*length).filter(|piece_end| *offset >= end && *piece_end <= size);
        end = piece_end.ok_or(TarError::Field("sparse map"))?;
        sum += length;
    }
    if sum == stored { Ok(()) } else { Err(TarError::Field("sparse map")) }
}

/// Octal text, or binary with the first bit set. Negative and too large numbers are none.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let (first, rest) = (field[0] & 0x7f, &field[1..]);
        let (high, low) = rest.split_at(rest.len() - 8.min(rest.len()));
        if first != 0 || high.iter().any(|byte| *byte != 0) {
            // Fields of eight bytes carry seven bytes of number; the first byte is only the mark.
            return None;
        }
        return Some(low.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)));
    }
    let digits = field.split(|byte| *byte == 0).next().unwrap_or_default();
    let digits = std::str::from_utf8(digits).ok()?.trim_matches(' ');
    if digits.is_empty() { Some(0) } else { u64::from_str_radix(digits, 8).ok() }
}

/// The text of a field, up to the first NUL.
pub(super) fn field_text(field: &[u8]) -> &[u8] {
    &field[..field.iter().position(|byte| *byte == 0).unwrap_or(field.len())]
}

/// The sum of all bytes with the sum itself read as spaces. Old programs added signed bytes.
pub(super) fn sum_is_right(header: &[u8; 512]) -> bool {
    let bytes = || header.iter().enumerate().map(|(at, byte)| if (148..156).contains(&at) { b' ' } else { *byte });
    let unsigned: u64 = bytes().map(u64::from).sum();
    let signed: i64 = bytes().map(|byte| i64::from(byte as i8)).sum();
    number(&header[148..156]).is_some_and(|sum| sum == unsigned || i64::try_from(sum) == Ok(signed))
}

fn name(value: &[u8]) -> Result<Vec<u8>, TarError> {
    if value.contains(&0) { Err(TarError::Field("path")) } else { Ok(value.to_vec()) }
}

fn text<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `seconds[.fraction]`, also before 1970.
fn time(value: &[u8]) -> Option<(i64, u32)> {
    let value = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = value.split_once('.').unwrap_or((value, ""));
    let negative = seconds.starts_with('-');
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanos: u32 = digits.parse().ok()?;
    match (negative, nanos) {
        (true, 1..) => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos)),
        _ => Some((seconds, nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_octal_or_binary() {
        let cases: [(&[u8], Option<u64>); 8] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"00008\0\0\0", None),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", None),
            (b"\x80\0\0\0\0\0\0\x02\0\0\0\0", Some(2 << 32)),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }

    #[test]
    fn pax_records_are_bounded_and_exact() {
        let pax = parse_pax(b"12 path=a/b\n20 mtime=-1.5000000\n30 SCHILY.xattr.user.x=a=b\n\0c\n").expect("parses");
        assert_eq!(pax.path.as_deref(), Some(&b"a/b"[..]));
        assert_eq!(pax.mtime, Some((-2, 500_000_000)));
        assert_eq!(pax.xattrs, [("user.x".to_string(), b"a=b\n\0c".to_vec())]);
        for bad in [&b"99 path=a\n"[..], b"12 path=a/bX", b"x path=a\n", b"9 path\nab\n", b"3 \n", b"12 path=a\0b\n"] {
            assert!(parse_pax(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sparse_maps_are_checked() {
        assert!(check_sparse(&[(0, 5), (10, 5)], 20, 10).is_ok());
        let bad: [(&[(u64, u64)], u64, u64); 4] =
            [(&[(10, 5), (0, 5)], 20, 10), (&[(18, 5)], 20, 5), (&[(0, 5)], 20, 6), (&[(u64::MAX, 5)], 20, 5)];
        for (pieces, size, stored) in bad {
            assert!(check_sparse(pieces, size, stored).is_err(), "{pieces:?}");
        }
    }
}
