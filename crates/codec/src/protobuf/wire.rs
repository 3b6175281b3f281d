//! Tags, varints and lengths of the protobuf wire format, bounds checked.

use super::ProtobufError;

/// A field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

/// Reads the fields of one message.
pub(super) struct Fields<'b> {
    rest: &'b [u8],
}

impl<'b> Fields<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Fields<'b> {
        Fields { rest: bytes }
    }

    /// Field number and value of the next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Wire<'b>)>, ProtobufError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = varint(&mut self.rest)?;
        let number = u32::try_from(tag >> 3).map_err(|_| ProtobufError::Malformed("proto: illegal tag"))?;
        if number == 0 {
            return Err(ProtobufError::Malformed("proto: illegal tag 0"));
        }
        let value = match tag & 7 {
            0 => Wire::Varint(varint(&mut self.rest)?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.fixed()?)),
            5 => Wire::Fixed32(u32::from_le_bytes(self.fixed()?)),
            2 => {
                let length = varint(&mut self.rest)?;
                if length > self.rest.len() as u64 {
                    return Err(ProtobufError::Malformed("unexpected EOF"));
                }
                let (value, rest) = self.rest.split_at(length as usize);
                self.rest = rest;
                Wire::Bytes(value)
            }
            _ => return Err(ProtobufError::Malformed("proto: illegal wireType")),
        };
        Ok(Some((number, value)))
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], ProtobufError> {
        let (value, rest) = self.rest.split_first_chunk::<N>().ok_or(ProtobufError::Malformed("unexpected EOF"))?;
        self.rest = rest;
        Ok(*value)
    }
}

impl<'b> Wire<'b> {
    /// The bytes of a text, message or byte field.
    pub(super) fn bytes(self) -> Result<&'b [u8], ProtobufError> {
        match self {
            Wire::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Malformed("proto: wrong wireType")),
        }
    }

    /// The number of an integer or bool field.
    pub(super) fn varint(self) -> Result<u64, ProtobufError> {
        match self {
            Wire::Varint(number) => Ok(number),
            _ => Err(ProtobufError::Malformed("proto: wrong wireType")),
        }
    }
}

/// Takes a varint from the front.
pub(super) fn varint(rest: &mut &[u8]) -> Result<u64, ProtobufError> {
    let mut number = 0u64;
    for (index, byte) in rest.iter().enumerate().take(10) {
        if index == 9 && *byte > 1 {
            break;
        }
        number |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *rest = &rest[index + 1..];
            return Ok(number);
        }
    }
    Err(ProtobufError::Malformed(if rest.len() < 10 { "unexpected EOF" } else { "proto: integer overflow" }))
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

pub(crate) fn put_number(out: &mut Vec<u8>, field: u32, number: u64) {
    put_varint(out, u64::from(field) << 3);
    put_varint(out, number);
}

pub(crate) fn put_double(out: &mut Vec<u8>, field: u32, double: f64) {
    put_varint(out, u64::from(field) << 3 | 1);
    out.extend_from_slice(&double.to_le_bytes());
}

pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    put_varint(out, u64::from(field) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// A message field whose content is written by `write`; the length goes in front once it is known.
pub(crate) fn put_message<E>(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
    put_varint(out, u64::from(field) << 3 | 2);
    let start = out.len();
    write(out)?;
    let end = out.len();
    put_varint(out, (end - start) as u64);
    let width = out.len() - end;
    out[start..].rotate_right(width);
    Ok(())
}
