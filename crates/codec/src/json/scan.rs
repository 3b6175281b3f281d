//! The lexical part of reading JSON: whitespace, strings, numbers and literals, with the messages of Go's scanner.

use serde_json::{Number, Value};

use super::DecodeError;

/// A position in a JSON text.
pub(super) struct Scanner<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Scanner<'b> {
    pub(super) fn new(bytes: &'b [u8]) -> Scanner<'b> {
        Scanner { bytes, at: 0 }
    }

    /// The next byte that is no whitespace, without taking it.
    pub(super) fn peek(&mut self) -> Result<u8, DecodeError> {
        while let Some(byte) = self.bytes.get(self.at) {
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' => self.at += 1,
                byte => return Ok(*byte),
            }
        }
        Err(self.end())
    }

    /// Takes the byte that [`Scanner::peek`] showed.
    pub(super) fn take(&mut self) {
        self.at += 1;
    }

    /// Nothing but whitespace may follow the document.
    pub(super) fn finish(&mut self) -> Result<(), DecodeError> {
        match self.peek() {
            Ok(_) => Err(self.unexpected("after top-level value")),
            Err(_) => Ok(()),
        }
    }

    /// The error for the byte at hand in a context such as `looking for beginning of value`.
    pub(super) fn unexpected(&self, context: &str) -> DecodeError {
        match self.bytes.get(self.at) {
            Some(byte) => DecodeError::Syntax(format!("invalid character {} {context}", quote(*byte))),
            None => self.end(),
        }
    }

    fn end(&self) -> DecodeError {
        DecodeError::Syntax("unexpected end of JSON input".into())
    }

    /// `true`, `false` or `null`; the first letter was seen by the caller.
    pub(super) fn literal(&mut self, text: &'static str) -> Result<(), DecodeError> {
        for expected in text.bytes() {
            if self.bytes.get(self.at) != Some(&expected) {
                return Err(self.unexpected(&format!("in literal {text} (expecting {})", quote(expected))));
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A string whose opening quote is at hand. Invalid UTF-8 and lone surrogates become U+FFFD.
    pub(super) fn string(&mut self) -> Result<String, DecodeError> {
        self.at += 1;
        let start = self.at;
        let plain = self.bytes[start..].iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
        let Some(length) = plain else {
            self.at = self.bytes.len();
            return Err(self.end());
        };
        self.at += length;
        let text = lossy(&self.bytes[start..self.at]);
        if self.bytes[self.at] == b'"' {
            self.at += 1;
            return Ok(text);
        }
        self.escaped(text)
    }

    fn escaped(&mut self, mut text: String) -> Result<String, DecodeError> {
        loop {
            let start = self.at;
            while self.bytes.get(self.at).is_some_and(|byte| !matches!(byte, b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            text.push_str(&lossy(&self.bytes[start..self.at]));
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(text);
                }
                Some(b'\\') => {
                    self.at += 1;
                    text.push(self.escape()?);
                }
                Some(_) => return Err(self.unexpected("in string literal")),
                None => return Err(self.end()),
            }
        }
    }

    fn escape(&mut self) -> Result<char, DecodeError> {
        let Some(byte) = self.bytes.get(self.at) else { return Err(self.end()) };
        let plain = match byte {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                self.at += 1;
                return self.unicode();
            }
            _ => return Err(self.unexpected("in string escape code")),
        };
        self.at += 1;
        Ok(plain)
    }

    fn unicode(&mut self) -> Result<char, DecodeError> {
        let first = self.hex()?;
        if (0xD800..0xDC00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xDC00..0xE000).contains(&second) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER))
    }

    fn hex(&mut self) -> Result<u32, DecodeError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = match self.bytes.get(self.at) {
                Some(byte) => (*byte as char).to_digit(16),
                None => return Err(self.end()),
            };
            let Some(digit) = digit else { return Err(self.unexpected("in \\u hexadecimal character escape")) };
            code = code * 16 + digit;
            self.at += 1;
        }
        Ok(code)
    }

    /// The text of a number whose first byte is at hand.
    pub(super) fn number(&mut self) -> Result<&'b str, DecodeError> {
        let start = self.at;
        if self.bytes[self.at] == b'-' {
            self.at += 1;
        }
        match self.bytes.get(self.at) {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            _ => return Err(self.unexpected("in numeric literal")),
        }
        if self.bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.some_digits("after decimal point in numeric literal")?;
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.bytes.get(self.at), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.some_digits("in exponent of numeric literal")?;
        }
        Ok(std::str::from_utf8(&self.bytes[start..self.at]).expect("a number is ASCII"))
    }

    fn digits(&mut self) {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
    }

    fn some_digits(&mut self, context: &str) -> Result<(), DecodeError> {
        if !self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            return Err(self.unexpected(context));
        }
        self.digits();
        Ok(())
    }
}

/// The value of a number's text: an integer where it is one, whole doubles become integers as Go writes them.
pub(super) fn number_value(text: &str) -> Option<Value> {
    if let Ok(integer) = text.parse::<i64>() {
        return Some(integer.into());
    }
    float_value(text.parse().ok()?)
}

/// A double as JSON value; whole ones in the range of `i64` are integers.
pub(crate) fn float_value(double: f64) -> Option<Value> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if double.fract() == 0.0 && double.abs() <= EXACT {
        return Some((double as i64).into());
    }
    Number::from_f64(double).map(Value::Number)
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        0x20..=0x7f => format!("'{}'", byte as char),
        0x80..=0x9f | 0xad => format!(r"'\u{byte:04x}'"),
        0xa0 => r"'\u00a0'".into(),
        0x80.. => format!("'{}'", byte as char),
        _ => format!(r"'\x{byte:02x}'"),
    }
}
