//! Text to tokens.

use crate::ast::Literal;

/// A token with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) at: usize,
    pub(crate) end: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Kind {
    Literal(Literal),
    /// An integer too large for a positive `i64` whose negative fits.
    MinInt,
    Name(String),
    /// A name in backticks, which only stands for a field.
    Quoted(String),
    Sign(&'static str),
    In,
    End,
}

/// Operators and brackets, longer ones first.
const SIGNS: [&str; 25] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "="];

/// An error: where and what.
pub(crate) type Fault = (usize, String);

/// Splits a text into tokens; the last one is the end.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Fault> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_ascii_whitespace() || first == '\u{c}' {
            at += 1;
            continue;
        }
        if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        let (kind, length) = token(rest).map_err(|(offset, what)| (at + offset, what))?;
        tokens.push(Token { kind, at, end: at + length });
        at += length;
    }
    tokens.push(Token { kind: Kind::End, at: text.len(), end: text.len() });
    Ok(tokens)
}

fn token(text: &str) -> Result<(Kind, usize), Fault> {
    let bytes = text.as_bytes();
    if bytes[0].is_ascii_digit() || (bytes[0] == b'.' && bytes.get(1).is_some_and(u8::is_ascii_digit)) {
        return number(text);
    }
    if let Some(found) = string(text) {
        return found;
    }
    if bytes[0].is_ascii_alphabetic() || bytes[0] == b'_' {
        let length = bytes.iter().take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_').count();
        let kind = match &text[..length] {
            "true" => Kind::Literal(Literal::Bool(true)),
            "false" => Kind::Literal(Literal::Bool(false)),
            "null" => Kind::Literal(Literal::Null),
            "in" => Kind::In,
            name => Kind::Name(name.into()),
        };
        return Ok((kind, length));
    }
    if let Some(inner) = text.strip_prefix('`') {
        let length = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-/ ".contains(byte)).count();
        if length > 0 && inner[length..].starts_with('`') {
            return Ok((Kind::Quoted(inner[..length].into()), length + 2));
        }
    }
    if let Some(sign) = SIGNS.iter().find(|sign| **sign != "=" && text.starts_with(**sign)) {
        return Ok((Kind::Sign(sign), sign.len()));
    }
    let letter = text.chars().next().unwrap_or(' ');
    Err((0, format!("Syntax error: token recognition error at: '{letter}'")))
}

fn number(text: &str) -> Result<(Kind, usize), Fault> {
    let bytes = text.as_bytes();
    let digits = |from: usize, test: fn(&u8) -> bool| bytes[from..].iter().take_while(|byte| test(byte)).count();
    let invalid = |what: &str| (0, format!("Syntax error: invalid {what} literal"));
    if text.len() > 2 && text.starts_with("0x") && bytes[2].is_ascii_hexdigit() {
        let length = 2 + digits(2, u8::is_ascii_hexdigit);
        let value = u64::from_str_radix(&text[2..length], 16);
        if matches!(bytes.get(length), Some(b'u' | b'U')) {
            return Ok((Kind::Literal(Literal::Uint(value.map_err(|_| invalid("uint"))?)), length + 1));
        }
        let value = value.ok().and_then(|value| i64::try_from(value).ok()).ok_or_else(|| invalid("int"))?;
        return Ok((Kind::Literal(Literal::Int(value)), length));
    }
    let mut length = digits(0, u8::is_ascii_digit);
    let mut double = false;
    if bytes.get(length) == Some(&b'.') && bytes.get(length + 1).is_some_and(u8::is_ascii_digit) {
        length += 1 + digits(length + 1, u8::is_ascii_digit);
        double = true;
    }
    if matches!(bytes.get(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(length + 1), Some(b'+' | b'-')));
        let exponent = digits(length + 1 + sign, u8::is_ascii_digit);
        if exponent > 0 {
            length += 1 + sign + exponent;
            double = true;
        }
    }
    if double {
        let value: f64 = text[..length].parse().map_err(|_| invalid("double"))?;
        return if value.is_finite() { Ok((Kind::Literal(Literal::Double(value)), length)) } else { Err(invalid("double")) };
    }
    if matches!(bytes.get(length), Some(b'u' | b'U')) {
        let value = text[..length].parse().map_err(|_| invalid("uint"))?;
        return Ok((Kind::Literal(Literal::Uint(value)), length + 1));
    }
    match text[..length].parse::<u64>() {
        Ok(value) if value == 1 << 63 => Ok((Kind::MinInt, length)),
        Ok(value) if value < 1 << 63 => Ok((Kind::Literal(Literal::Int(value as i64)), length)),
        _ => Err(invalid("int")),
    }
}

/// A string or bytes literal with its prefixes; `None` when the text begins with something else.
fn string(text: &str) -> Option<Result<(Kind, usize), Fault>> {
    let (mut raw, mut bytes, mut open) = (false, false, 0);
    for letter in text.chars() {
        match letter {
            'r' | 'R' if !raw => raw = true,
            'b' | 'B' if !bytes && !raw => bytes = true,
            '"' | '\'' => break,
            _ => return None,
        }
        open += 1;
    }
    let rest = &text[open..];
    let quote = rest.chars().next()?;
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let delimiter = if rest.starts_with(&triple) { triple } else { quote.to_string() };
    let body = &rest[delimiter.len()..];
    Some(
        closing(body, &delimiter, raw)
            .ok_or_else(|| (0, format!("Syntax error: token recognition error at: '{}'", text.replace('\n', "\\n"))))
            .and_then(|length| {
                let total = open + length + 2 * delimiter.len();
                let fail = |offset: usize| (open + delimiter.len() + offset, "Syntax error: invalid escape sequence".to_owned());
                let literal = if bytes {
                    Literal::Bytes(unescape_bytes(&body[..length], raw).map_err(fail)?)
                } else {
                    Literal::String(unescape(&body[..length], raw).map_err(fail)?)
                };
                Ok((Kind::Literal(literal), total))
            }),
    )
}

/// Length of the body before the closing delimiter.
fn closing(body: &str, delimiter: &str, raw: bool) -> Option<usize> {
    let mut at = 0;
    while at < body.len() {
        let rest = &body[at..];
        if rest.starts_with(delimiter) {
            return Some(at);
        }
        let letter = rest.chars().next()?;
        if matches!(letter, '\n' | '\r') && delimiter.len() == 1 {
            return None;
        }
        at += letter.len_utf8();
        if letter == '\\' && !raw {
            at += body[at..].chars().next()?.len_utf8();
        }
    }
    None
}

/// One escape sequence after its backslash: what it stands for and its length.
fn escape(text: &str) -> Option<(Escape, usize)> {
    let code = |from: usize, length: usize, radix: u32| u32::from_str_radix(text.get(from..from + length)?, radix).ok();
    let letter = match text.chars().next()? {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        letter @ ('\\' | '\'' | '"' | '`' | '?') => letter,
        'x' | 'X' => return Some((Escape::Byte(code(1, 2, 16)?), 3)),
        'u' => return Some((Escape::Letter(char::from_u32(code(1, 4, 16)?)?), 5)),
        'U' => return Some((Escape::Letter(char::from_u32(code(1, 8, 16)?)?), 9)),
        '0'..='3' => return Some((Escape::Byte(code(0, 3, 8)?), 3)),
        _ => return None,
    };
    Some((Escape::Letter(letter), 1))
}

enum Escape {
    Letter(char),
    /// A code below 256: a character in text, one byte in bytes.
    Byte(u32),
}

fn unescape(body: &str, raw: bool) -> Result<String, usize> {
    let mut out = String::with_capacity(body.len());
    pieces(body, raw, |piece| match piece {
        Ok(letter) => out.push(letter),
        Err(byte) => out.push(char::from(byte)),
    })?;
    Ok(out)
}

fn unescape_bytes(body: &str, raw: bool) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(body.len());
    pieces(body, raw, |piece| match piece {
        Ok(letter) => out.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes()),
        Err(byte) => out.push(byte),
    })?;
    Ok(out)
}

fn pieces(body: &str, raw: bool, mut put: impl FnMut(Result<char, u8>)) -> Result<(), usize> {
    let mut at = 0;
    while let Some(letter) = body[at..].chars().next() {
        at += letter.len_utf8();
        if letter != '\\' || raw {
            put(Ok(letter));
            continue;
        }
        let (found, length) = escape(&body[at..]).ok_or(at - 1)?;
        match found {
            Escape::Letter(letter) => put(Ok(letter)),
            Escape::Byte(code) => put(Err(code as u8)),
        }
        at += length;
    }
    Ok(())
}
