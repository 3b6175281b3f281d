//! Protobuf as far as our protocols need it: texts, bytes, numbers, maps of texts, messages and lists of these.
//!
//! A message is a line of a table (`name: type = number`). What is not in the table is skipped when read, as the
//! protocol wants it.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};

/// What came cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed message")]
pub struct Malformed;

/// A message of the protocol.
pub trait Message: Default + Send + 'static {
    /// Appends the message.
    fn write(&self, out: &mut Vec<u8>);

    /// Takes over one field.
    ///
    /// # Errors
    /// Its value is not of the field's type.
    fn read_field(&mut self, number: u32, value: Value) -> Result<(), Malformed>;

    /// Reads a whole message.
    ///
    /// # Errors
    /// It is none.
    fn read(mut bytes: Bytes) -> Result<Self, Malformed> {
        let mut message = Self::default();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes)?;
            let value = match tag & 7 {
                0 => Value::Number(varint(&mut bytes)?),
                1 => take(&mut bytes, 8).map(|_| Value::Other)?,
                2 => {
                    let length = varint(&mut bytes)?;
                    Value::Bytes(take(&mut bytes, length)?)
                }
                5 => take(&mut bytes, 4).map(|_| Value::Other)?,
                _ => return Err(Malformed),
            };
            message.read_field(u32::try_from(tag >> 3).map_err(|_| Malformed)?, value)?;
        }
        Ok(message)
    }

    /// The message as bytes.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.write(&mut out);
        out
    }
}

/// The value of one field as it came.
pub enum Value {
    /// A number.
    Number(u64),
    /// A text, bytes, a message, or numbers packed together.
    Bytes(Bytes),
    /// Of a kind that none of our protocols uses.
    Other,
}

/// What a field of a message may be.
pub trait Field {
    /// Appends the field unless it has its default value.
    fn write_field(&self, number: u32, out: &mut Vec<u8>);

    /// Takes a value over.
    ///
    /// # Errors
    /// It is of another type.
    fn take_value(&mut self, value: Value) -> Result<(), Malformed>;
}

/// What may stand in lists.
pub trait Element: Sized {
    /// Appends one element.
    fn write_element(&self, number: u32, out: &mut Vec<u8>);

    /// Reads what one value holds: one element, or several numbers packed together.
    ///
    /// # Errors
    /// It is of another type.
    fn read_elements(value: Value, into: &mut Vec<Self>) -> Result<(), Malformed>;
}

fn varint(bytes: &mut Bytes) -> Result<u64, Malformed> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if bytes.is_empty() {
            return Err(Malformed);
        }
        let byte = bytes.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

fn take(bytes: &mut Bytes, length: u64) -> Result<Bytes, Malformed> {
    let length = usize::try_from(length).ok().filter(|length| *length <= bytes.len());
    length.map(|length| bytes.split_to(length)).ok_or(Malformed)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_number(out: &mut Vec<u8>, number: u32, value: u64) {
    put_varint(out, u64::from(number) << 3);
    put_varint(out, value);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_varint(out, u64::from(number) << 3 | 2);
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

/// Appends a message as a field, also an empty one.
pub fn put_message(out: &mut Vec<u8>, number: u32, message: &impl Message) {
    put_bytes(out, number, &message.to_bytes());
}

fn text(value: Value) -> Result<String, Malformed> {
    match value {
        Value::Bytes(bytes) => String::from_utf8(bytes.into()).map_err(|_| Malformed),
        _ => Err(Malformed),
    }
}

impl Field for String {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, number, self.as_bytes());
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        *self = text(value)?;
        Ok(())
    }
}

impl Field for Bytes {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if !self.is_empty() {
            put_bytes(out, number, self);
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = bytes;
        Ok(())
    }
}

impl Element for String {
    fn write_element(&self, number: u32, out: &mut Vec<u8>) {
        put_bytes(out, number, self.as_bytes());
    }

    fn read_elements(value: Value, into: &mut Vec<String>) -> Result<(), Malformed> {
        into.push(text(value)?);
        Ok(())
    }
}

impl Field for bool {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if *self {
            put_number(out, number, 1);
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        let Value::Number(value) = value else { return Err(Malformed) };
        *self = value != 0;
        Ok(())
    }
}

/// Numbers travel as 64 bits; negative ones have all upper bits set.
macro_rules! numbers {
    ($($type:ty),*) => {$(
        impl Field for $type {
            fn write_field(&self, number: u32, out: &mut Vec<u8>) {
                if *self != 0 {
                    put_number(out, number, *self as i64 as u64);
                }
            }

            fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
                let Value::Number(value) = value else { return Err(Malformed) };
                *self = value as $type;
                Ok(())
            }
        }

        impl Element for $type {
            fn write_element(&self, number: u32, out: &mut Vec<u8>) {
                put_number(out, number, *self as i64 as u64);
            }

            fn read_elements(value: Value, into: &mut Vec<$type>) -> Result<(), Malformed> {
                match value {
                    Value::Number(value) => into.push(value as $type),
                    Value::Bytes(mut packed) => {
                        while !packed.is_empty() {
                            into.push(varint(&mut packed)? as $type);
                        }
                    }
                    Value::Other => return Err(Malformed),
                }
                Ok(())
            }
        }
    )*};
}
numbers!(i32, i64, u32, u64);

/// A number of a `oneof`, where zero differs from nothing.
impl Field for Option<u64> {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(value) = self {
            put_number(out, number, *value);
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        let Value::Number(value) = value else { return Err(Malformed) };
        *self = Some(value);
        Ok(())
    }
}

impl<T: Element> Field for Vec<T> {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        for element in self {
            element.write_element(number, out);
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        T::read_elements(value, self)
    }
}

impl<M: Message> Field for Option<M> {
    fn write_field(&self, number: u32, out: &mut Vec<u8>) {
        if let Some(message) = self {
            put_message(out, number, message);
        }
    }

    fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
        let Value::Bytes(bytes) = value else { return Err(Malformed) };
        *self = Some(M::read(bytes)?);
        Ok(())
    }
}

/// Makes a type of each line `Name { field: type = number, ... }`.
#[macro_export]
macro_rules! messages {
    ($($name:ident { $($field:ident : $type:ty = $number:literal),* $(,)? })*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the protocol.")]
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the words are the protocol's")]
        pub struct $name {
            $(pub $field: $type,)*
        }

        impl $crate::wire::Message for $name {
            #[allow(unused_variables, reason = "some messages are empty")]
            fn write(&self, out: &mut Vec<u8>) {
                $($crate::wire::Field::write_field(&self.$field, $number, out);)*
            }

            #[allow(unused_variables, reason = "some messages are empty")]
            fn read_field(&mut self, number: u32, value: $crate::wire::Value) -> Result<(), $crate::wire::Malformed> {
                match number {
                    $($number => $crate::wire::Field::take_value(&mut self.$field, value),)*
                    _ => Ok(()),
                }
            }
        }

        impl $crate::wire::Element for $name {
            fn write_element(&self, number: u32, out: &mut Vec<u8>) {
                $crate::wire::put_message(out, number, self);
            }

            fn read_elements(value: $crate::wire::Value, into: &mut Vec<Self>) -> Result<(), $crate::wire::Malformed> {
                let $crate::wire::Value::Bytes(bytes) = value else { return Err($crate::wire::Malformed) };
                into.push(<Self as $crate::wire::Message>::read(bytes)?);
                Ok(())
            }
        }
    )*};
}
messages! {
    Pair { key: String = 1, value: String = 2 }
    BytesPair { key: String = 1, value: Bytes = 2 }
}

/// Maps from texts are lists of pairs; of two with one key the later holds.
macro_rules! maps {
    ($($type:ty: $pair:ident),*) => {$(
        impl Field for BTreeMap<String, $type> {
            fn write_field(&self, number: u32, out: &mut Vec<u8>) {
                for (key, value) in self {
                    put_message(out, number, &$pair { key: key.clone(), value: value.clone() });
                }
            }

            fn take_value(&mut self, value: Value) -> Result<(), Malformed> {
                let Value::Bytes(bytes) = value else { return Err(Malformed) };
                let pair = $pair::read(bytes)?;
                self.insert(pair.key, pair.value);
                Ok(())
            }
        }
    )*};
}
maps!(String: Pair, Bytes: BytesPair);

#[cfg(test)]
mod tests {
    use super::*;

    messages! {
        Inner { name: String = 1, count: i64 = 2 }
        Outer { inner: Option<Inner> = 1, list: Vec<Inner> = 2, numbers: Vec<i64> = 3, map: BTreeMap<String, String> = 4, on: bool = 16, raw: Bytes = 17 }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let inner = |name: &str, count| Inner { name: name.into(), count };
        let outer = Outer {
            inner: Some(Inner::default()),
            list: vec![inner("a", -1), inner("", 1 << 40)],
            numbers: vec![0, -5, 300],
            map: BTreeMap::from([("k".into(), String::new())]),
            on: true,
            raw: Bytes::from_static(&[0, 255]),
        };
        assert_eq!(Outer::read(outer.to_bytes().into()), Ok(outer));
    }

    #[test]
    fn bytes_are_those_of_the_protocol() {
        assert_eq!(Inner { name: "ab".into(), count: 300 }.to_bytes(), [0x0a, 2, b'a', b'b', 0x10, 0xac, 2]);
        let packed = Outer::read(Bytes::from_static(&[0x1a, 3, 1, 0xac, 2])).map(|outer| outer.numbers);
        assert_eq!(packed, Ok(vec![1, 300]));
        // Unknown fields of all kinds are skipped.
        let unknown = Bytes::from_static(&[0x48, 1, 0x51, 0, 0, 0, 0, 0, 0, 0, 0, 0x5d, 0, 0, 0, 0, 0x62, 1, 7, 0x80, 1, 1]);
        assert!(Outer::read(unknown).is_ok_and(|outer| outer.on));
        for broken in [&[0x0a, 5, 1][..], &[0x80], &[0x0b], &[0x0a, 2, 0x0a, 9]] {
            assert_eq!(Outer::read(Bytes::copy_from_slice(broken)), Err(Malformed), "{broken:?}");
        }
    }
}
