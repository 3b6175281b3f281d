//! The bytes of D-Bus, as little of them as two services need: messages with texts, numbers and descriptors.
//!
//! Own code because the crates for it bring an executor, procedural macros and a thousand times the size for five calls.

/// Kinds of messages.
pub const CALL: u8 = 1;
/// An answer.
pub const REPLY: u8 = 2;
/// A refusal.
pub const ERROR: u8 = 3;
/// Something that happened.
pub const SIGNAL: u8 = 4;

/// Longest message that is read; those of the services spoken to are far shorter.
const LONGEST: usize = 1 << 20;
/// Bytes of a header before its fields.
const FIXED: usize = 16;

/// Bytes that are no message.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("malformed message on the system bus")]
pub struct Malformed;

/// A message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Which kind.
    pub kind: u8,
    /// Its number.
    pub serial: u32,
    /// The number of what it answers.
    pub reply_to: u32,
    /// Object.
    pub path: String,
    /// Interface.
    pub interface: String,
    /// Method or signal.
    pub member: String,
    /// Name of an error.
    pub error: String,
    /// To whom.
    pub destination: String,
    /// From whom, as the bus says.
    pub sender: String,
    /// How many descriptors come with it.
    pub descriptors: u32,
    /// Types of the body.
    pub signature: String,
    /// Arguments.
    pub body: Vec<u8>,
}

/// Writes arguments.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        while !self.0.len().is_multiple_of(to) {
            self.0.push(0);
        }
    }

    /// A number of 32 bits, a truth or the place of a descriptor.
    pub fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A number of 64 bits.
    pub fn long(&mut self, value: u64) {
        self.align(8);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// A text or path.
    pub fn text(&mut self, value: &str) {
        self.number(value.len() as u32);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }

    /// The types of something.
    pub fn signature(&mut self, value: &str) {
        self.0.push(value.len() as u8);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
    }
}

/// Reads arguments.
#[derive(Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// From the first.
    pub fn new(bytes: &'a [u8]) -> Reader<'a> {
        Reader { bytes, at: 0 }
    }

    fn take(&mut self, size: usize, align: usize) -> Result<&'a [u8], Malformed> {
        let from = self.at.next_multiple_of(align);
        let taken = from.checked_add(size).and_then(|to| self.bytes.get(from..to)).ok_or(Malformed)?;
        self.at = from + size;
        Ok(taken)
    }

    /// A number of 32 bits, a truth or the place of a descriptor.
    ///
    /// # Errors
    /// There is none.
    pub fn number(&mut self) -> Result<u32, Malformed> {
        self.take(4, 4)?.try_into().map(u32::from_le_bytes).map_err(|_| Malformed)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// There is none.
    pub fn long(&mut self) -> Result<u64, Malformed> {
        self.take(8, 8)?.try_into().map(u64::from_le_bytes).map_err(|_| Malformed)
    }

    /// A text or path.
    ///
    /// # Errors
    /// There is none.
    pub fn text(&mut self) -> Result<String, Malformed> {
        let size = self.number()? as usize;
        self.ended(size)
    }

    /// The types of something.
    ///
    /// # Errors
    /// There are none.
    pub fn signature(&mut self) -> Result<String, Malformed> {
        let size = usize::from(self.take(1, 1)?[0]);
        self.ended(size)
    }

    fn ended(&mut self, size: usize) -> Result<String, Malformed> {
        let text = self.take(size.checked_add(1).ok_or(Malformed)?, 1)?;
        String::from_utf8(text[..size].to_vec()).map_err(|_| Malformed)
    }
}

impl Message {
    /// Its bytes; descriptors go beside them.
    pub fn encode(&self) -> Vec<u8> {
        let mut fields = Writer::default();
        let mut field = |code: u8, kind: &str, write: &dyn Fn(&mut Writer)| {
            fields.align(8);
            fields.0.push(code);
            fields.signature(kind);
            write(&mut fields);
        };
        let texts = [
            (1, "o", &self.path),
            (2, "s", &self.interface),
            (3, "s", &self.member),
            (4, "s", &self.error),
            (6, "s", &self.destination),
            (7, "s", &self.sender),
        ];
        for (code, kind, value) in texts {
            if !value.is_empty() {
                field(code, kind, &|out| out.text(value));
            }
        }
        if self.reply_to != 0 {
            field(5, "u", &|out| out.number(self.reply_to));
        }
        if !self.signature.is_empty() {
            field(8, "g", &|out| out.signature(&self.signature));
        }
        if self.descriptors > 0 {
            field(9, "u", &|out| out.number(self.descriptors));
        }
        let mut all = Writer(vec![b'l', self.kind, 0, 1]);
        all.number(self.body.len() as u32);
        all.number(self.serial);
        all.number(fields.0.len() as u32);
        all.0.extend_from_slice(&fields.0);
        all.align(8);
        all.0.extend_from_slice(&self.body);
        all.0
    }

    /// The first message of some bytes with its length; none while it is not whole.
    ///
    /// # Errors
    /// These are no messages.
    pub fn decode(bytes: &[u8]) -> Result<Option<(Message, usize)>, Malformed> {
        if bytes.len() < FIXED {
            return Ok(None);
        }
        if bytes[0] != b'l' || bytes[3] != 1 {
            return Err(Malformed);
        }
        let mut head = Reader { bytes, at: 4 };
        let (body, serial, fields) = (head.number()? as usize, head.number()?, head.number()? as usize);
        if body > LONGEST || fields > LONGEST {
            return Err(Malformed);
        }
        let start = (FIXED + fields).next_multiple_of(8);
        if bytes.len() < start + body {
            return Ok(None);
        }
        let mut message = Message { kind: bytes[1], serial, ..Message::default() };
        // Places are counted from the beginning of the message, and the fields begin at a multiple of 8.
        let mut reader = Reader { bytes: &bytes[..FIXED + fields], at: FIXED };
        while reader.at < FIXED + fields {
            let code = reader.take(1, 8)?[0];
            let kind = reader.signature()?;
            match (code, kind.as_str()) {
                (1, "o") => message.path = reader.text()?,
                (2, "s") => message.interface = reader.text()?,
                (3, "s") => message.member = reader.text()?,
                (4, "s") => message.error = reader.text()?,
                (5, "u") => message.reply_to = reader.number()?,
                (6, "s") => message.destination = reader.text()?,
                (7, "s") => message.sender = reader.text()?,
                (8, "g") => message.signature = reader.signature()?,
                (9, "u") => message.descriptors = reader.number()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.number()?),
                _ => return Err(Malformed),
            }
        }
        message.body = bytes[start..start + body].to_vec();
        Ok(Some((message, start + body)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first call of every client, byte for byte as others send it.
    #[test]
    fn hello_is_written_as_everybody_writes_it() {
        let hello = Message {
            kind: CALL,
            serial: 1,
            path: "/org/freedesktop/DBus".into(),
            interface: "org.freedesktop.DBus".into(),
            member: "Hello".into(),
            destination: "org.freedesktop.DBus".into(),
            ..Message::default()
        };
        let bytes = hello.encode();
        let expected = [
            b"l\x01\x00\x01\x00\x00\x00\x00\x01\x00\x00\x00\x6d\x00\x00\x00".as_slice(),
            b"\x01\x01o\x00\x15\x00\x00\x00/org/freedesktop/DBus\x00\x00\x00",
            b"\x02\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00",
            b"\x03\x01s\x00\x05\x00\x00\x00Hello\x00\x00\x00",
            b"\x06\x01s\x00\x14\x00\x00\x00org.freedesktop.DBus\x00\x00\x00\x00",
        ]
        .concat();
        assert_eq!(bytes, expected);
        assert_eq!(Message::decode(&bytes), Ok(Some((hello, bytes.len()))));
        for end in 0..bytes.len() {
            assert_eq!(Message::decode(&bytes[..end]), Ok(None), "{end}");
        }
    }

    #[test]
    fn arguments_come_back_and_nonsense_is_refused() {
        let mut body = Writer::default();
        body.text("shutdown");
        body.long(5_000_000);
        body.number(1);
        let sender = ":1.2".to_owned();
        let answer = Message {
            kind: REPLY,
            serial: 7,
            reply_to: 3,
            sender,
            descriptors: 1,
            signature: "stu".into(),
            body: body.0,
            ..Message::default()
        };
        let bytes = answer.encode();
        let (read, _) = Message::decode(&bytes).unwrap().unwrap();
        assert_eq!(read, answer);
        let mut reader = Reader::new(&read.body);
        assert_eq!((reader.text(), reader.long(), reader.number()), (Ok("shutdown".into()), Ok(5_000_000), Ok(1)));
        assert_eq!(reader.number(), Err(Malformed));
        assert_eq!(Message::decode(&[b'B'; 64]), Err(Malformed));
        let mut long = bytes.clone();
        long[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Message::decode(&long), Err(Malformed));
    }
}
