//! Functions of text, with regular expressions.

use std::borrow::Cow;

use regex::Regex;

use crate::Failure;
use crate::eval::Budget;
use crate::value::{List, Value};

use super::{Answer, double_text, int_arg, text_arg};

/// Most bytes of a compiled pattern.
const MAX_PATTERN: usize = 1 << 20;

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    match (name, args) {
        ("matches", [Value::String(text), Value::String(pattern)]) => Some(matches(text, pattern, budget)),
        ("strings.quote", [Value::String(text)]) => Some(budget.scan(text.len()).map(|()| Value::text(quote(text)))),
        ("jsonpatch.escapeKey", [Value::String(text)]) => {
            Some(budget.scan(text.len()).map(|()| Value::text(text.replace('~', "~0").replace('/', "~1"))))
        }
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    match target {
        Value::String(text) => {
            if let Err(failure) = budget.scan(text.len()) {
                return Some(Err(failure));
            }
            of_text(text, name, args, budget)
        }
        Value::List(list) if name == "join" => join(list, text_arg(args, 0).unwrap_or(""), budget),
        _ => None,
    }
}

fn of_text<'a>(text: &Cow<'a, str>, name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let other = text_arg(args, 0);
    Some(match (name, args.len()) {
        ("contains", 1) => Ok(Value::Bool(text.contains(other?))),
        ("startsWith", 1) => Ok(Value::Bool(text.starts_with(other?))),
        ("endsWith", 1) => Ok(Value::Bool(text.ends_with(other?))),
        ("matches", 1) => matches(text, other?, budget),
        ("find", 1) => compile(other?, budget).map(|regex| Value::text(regex.find(text).map_or("", |found| found.as_str()))),
        ("findAll", 1 | 2) => {
            let limit = if args.len() == 2 { int_arg(args, 1)? } else { -1 };
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            compile(other?, budget)
                .map(|regex| Value::list(regex.find_iter(text).take(limit).map(|found| Value::text(found.as_str())).collect()))
        }
        ("charAt", 1) => char_at(text, int_arg(args, 0)?),
        ("indexOf", 1 | 2) => index_of(text, other?, if args.len() == 2 { int_arg(args, 1)? } else { 0 }),
        ("lastIndexOf", 1 | 2) => last_index_of(text, other?, if args.len() == 2 { Some(int_arg(args, 1)?) } else { None }),
        ("lowerAscii", 0) => Ok(Value::text(text.to_ascii_lowercase())),
        ("upperAscii", 0) => Ok(Value::text(text.to_ascii_uppercase())),
        ("trim", 0) => Ok(Value::text(text.trim())),
        ("reverse", 0) => Ok(Value::text(text.chars().rev().collect::<String>())),
        ("replace", 2 | 3) => {
            let limit = if args.len() == 3 { int_arg(args, 2)? } else { -1 };
            replace(text, other?, text_arg(args, 1)?, usize::try_from(limit).unwrap_or(usize::MAX), budget)
        }
        ("split", 1 | 2) => Ok(split(text, other?, if args.len() == 2 { int_arg(args, 1)? } else { -1 })),
        ("substring", 1 | 2) => substring(text, int_arg(args, 0)?, if args.len() == 2 { Some(int_arg(args, 1)?) } else { None }),
        ("format", 1) => match &args[0] {
            Value::List(list) => format(text, list, budget),
            _ => return None,
        },
        _ => return None,
    })
}

/// A compiled pattern; its size is limited and its cost counted.
fn compile(pattern: &str, budget: &Budget) -> Result<Regex, Failure> {
    budget.spend(1 + pattern.len() as u64 / 4)?;
    regex::RegexBuilder::new(pattern)
        .size_limit(MAX_PATTERN)
        .dfa_size_limit(MAX_PATTERN)
        .build()
        .map_err(|_| Failure::new(format!("error parsing regexp: `{pattern}`")))
}

fn matches<'a>(text: &str, pattern: &str, budget: &Budget) -> Result<Value<'a>, Failure> {
    budget.spend((1 + text.len() as u64 / 10).saturating_mul(1 + pattern.len() as u64 / 4))?;
    Ok(Value::Bool(compile(pattern, budget)?.is_match(text)))
}

fn out_of_range<'a>(index: i64) -> Result<Value<'a>, Failure> {
    Err(Failure::new(format!("index out of range: {index}")))
}

fn char_at<'a>(text: &str, index: i64) -> Result<Value<'a>, Failure> {
    let count = text.chars().count() as i64;
    if index < 0 || index > count {
        return out_of_range(index);
    }
    Ok(Value::text(text.chars().nth(index as usize).map(String::from).unwrap_or_default()))
}

/// The byte offset of a character; `None` beyond the end.
fn offset(text: &str, index: usize) -> Option<usize> {
    text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(index)
}

fn index_of<'a>(text: &str, part: &str, from: i64) -> Result<Value<'a>, Failure> {
    let Some(start) = usize::try_from(from).ok().and_then(|from| offset(text, from)) else { return out_of_range(from) };
    let found = text[start..].find(part).map(|at| text[..start + at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn last_index_of<'a>(text: &str, part: &str, until: Option<i64>) -> Result<Value<'a>, Failure> {
    let end = match until {
        None => text.len(),
        Some(until) => {
            let Some(start) = usize::try_from(until).ok().and_then(|until| offset(text, until)) else { return out_of_range(until) };
            (start + part.len()).min(text.len())
        }
    };
    let mut end = end;
    while !text.is_char_boundary(end) {
        end += 1;
    }
    let found = text[..end].rfind(part).map(|at| text[..at].chars().count() as i64);
    Ok(Value::Int(found.unwrap_or(-1)))
}

fn replace<'a>(text: &str, from: &str, to: &str, limit: usize, budget: &Budget) -> Result<Value<'a>, Failure> {
    let count = text.matches(from).take(limit).count();
    budget.scan(text.len().saturating_add(count.saturating_mul(to.len())))?;
    Ok(Value::text(text.replacen(from, to, limit)))
}

fn split<'a>(text: &str, separator: &str, limit: i64) -> Value<'a> {
    let part = |part: &str| Value::text(part);
    let parts: Vec<Value> = match (limit, separator) {
        (0, _) => Vec::new(),
        (limit, "") => {
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let mut parts: Vec<Value> = Vec::new();
            let mut rest = text;
            while let Some(letter) = rest.chars().next() {
                if parts.len() + 1 == limit {
                    parts.push(part(rest));
                    break;
                }
                parts.push(part(&rest[..letter.len_utf8()]));
                rest = &rest[letter.len_utf8()..];
            }
            parts
        }
        (..0, separator) => text.split(separator).map(part).collect(),
        (limit, separator) => text.splitn(limit as usize, separator).map(part).collect(),
    };
    Value::list(parts)
}

fn substring<'a>(text: &str, from: i64, to: Option<i64>) -> Result<Value<'a>, Failure> {
    let count = text.chars().count() as i64;
    let end = to.unwrap_or(count);
    if from < 0 || from > count {
        return out_of_range(from);
    }
    if end < 0 || end > count {
        return out_of_range(end);
    }
    if from > end {
        return Err(Failure::new(format!("invalid substring range. start: {from}, end: {end}")));
    }
    Ok(Value::text(text.chars().skip(from as usize).take((end - from) as usize).collect::<String>()))
}

fn join<'a>(list: &List<'a>, separator: &str, budget: &Budget) -> Answer<'a> {
    let mut texts: Vec<Cow<str>> = Vec::with_capacity(list.len());
    for item in list.iter() {
        let Value::String(text) = item else { return None };
        texts.push(text);
    }
    let size = texts.iter().map(|text| text.len() + separator.len()).sum();
    Some(budget.scan(size).map(|()| Value::text(texts.join(separator))))
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for letter in text.chars() {
        match letter {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            letter => out.push(letter),
        }
    }
    out.push('"');
    out
}

/// `"%s has %d".format(["x", 1])`
fn format<'a>(text: &str, args: &List<'a>, budget: &Budget) -> Result<Value<'a>, Failure> {
    let mut out = String::new();
    let mut letters = text.chars().peekable();
    let mut next = 0;
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        if letters.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if letters.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = letters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            precision =
                Some(digits.parse::<usize>().ok().filter(|digits| *digits <= 100).ok_or_else(|| Failure::new("invalid precision"))?);
        }
        let clause = letters.next().ok_or_else(|| Failure::new("could not parse formatting clause: unexpected end of string"))?;
        let value = args.get(next).ok_or_else(|| Failure::new(format!("index {next} out of range")))?;
        next += 1;
        let piece = piece(clause, precision, &value)?;
        budget.scan(piece.len())?;
        out.push_str(&piece);
    }
    Ok(Value::text(out))
}

fn piece(clause: char, precision: Option<usize>, value: &Value) -> Result<String, Failure> {
    let wrong = || Failure::new(format!("error during formatting: %{clause} cannot take {}", value.type_name()));
    Ok(match (clause, value) {
        ('s', value) => shown(value).ok_or_else(wrong)?,
        ('d', Value::Int(integer)) => integer.to_string(),
        ('d', Value::Uint(integer)) => integer.to_string(),
        ('f', value) => format!("{:.*}", precision.unwrap_or(6), as_double(value).ok_or_else(wrong)?),
        ('e', value) => {
            let text = format!("{:.*e}", precision.unwrap_or(6), as_double(value).ok_or_else(wrong)?);
            let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            format!("{mantissa}e{sign}{digits:0>2}")
        }
        ('b', Value::Int(integer)) => {
            if *integer < 0 {
                format!("-{:b}", integer.unsigned_abs())
            } else {
                format!("{integer:b}")
            }
        }
        ('b', Value::Uint(integer)) => format!("{integer:b}"),
        ('b', Value::Bool(flag)) => u8::from(*flag).to_string(),
        ('o', Value::Int(integer)) => format!("{integer:o}"),
        ('o', Value::Uint(integer)) => format!("{integer:o}"),
        ('x' | 'X', value) => {
            let text = match value {
                Value::Int(integer) if *integer < 0 => format!("-{:x}", integer.unsigned_abs()),
                Value::Int(integer) => format!("{integer:x}"),
                Value::Uint(integer) => format!("{integer:x}"),
                Value::String(text) => text.bytes().map(|byte| format!("{byte:02x}")).collect(),
                Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => return Err(wrong()),
            };
            if clause == 'X' { text.to_uppercase() } else { text }
        }
        _ => return Err(wrong()),
    })
}

fn as_double(value: &Value) -> Option<f64> {
    match value {
        Value::Double(double) => Some(*double),
        Value::Int(integer) => Some(*integer as f64),
        Value::Uint(integer) => Some(*integer as f64),
        _ => None,
    }
}

/// A value as `%s` shows it.
fn shown(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "null".into(),
        Value::Double(double) => double_text(*double),
        Value::Type(name) => name.to_string(),
        Value::List(list) => {
            let items: Option<Vec<String>> = list.iter().map(|item| shown(&item)).collect();
            format!("[{}]", items?.join(", "))
        }
        Value::Map(map) => {
            let mut entries: Vec<String> =
                map.entries().iter().map(|(key, value)| Some(format!("{}: {}", shown(key)?, shown(value)?))).collect::<Option<_>>()?;
            entries.sort();
            format!("{{{}}}", entries.join(", "))
        }
        value => value.to_text()?,
    })
}
