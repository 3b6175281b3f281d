//! YAML to JSON values and back, with the rules that Go's YAML-to-JSON conversion has.
//!
//! This module is the only one that calls the YAML library: its defaults differ from Go's (`0644` must be octal,
//! whole doubles are integers), and its limits are what stands between an alias bomb and our memory.

use api::Type;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error, Options};

use crate::json::float_value;
use crate::{DecodeError, Decoded, MAX_DEPTH, Strictness, json};

/// Most bytes of one stream.
pub const MAX_BYTES: usize = 3 << 20;
/// Most values that aliases may stand for in one stream: what takes some milliseconds, and more than people write.
const MAX_REPLAYED: usize = 4_000;

/// Reads one YAML document as a JSON value; an empty one is null. Further documents are an error.
pub fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
    let mut documents = read(bytes, DuplicateKeyPolicy::LastWins).map_err(|error| syntax(&error))?;
    match documents.len() {
        0 => Ok(Value::Null),
        1 => Ok(documents.remove(0)),
        _ => Err(DecodeError::Syntax("error converting YAML to JSON: yaml: expected one document".into())),
    }
}

/// Reads all documents of a stream; empty documents are left out.
pub fn parse_all(bytes: &[u8]) -> Result<Vec<Value>, DecodeError> {
    let documents = read(bytes, DuplicateKeyPolicy::LastWins).map_err(|error| syntax(&error))?;
    Ok(documents.into_iter().filter(|value| !value.is_null()).collect())
}

/// Reads an object of a type.
pub fn decode(bytes: &[u8], schema: &Type, strictness: Strictness) -> Result<Decoded, DecodeError> {
    let value = parse(bytes)?;
    let duplicate = match strictness {
        Strictness::Ignore => None,
        Strictness::Warn | Strictness::Strict => duplicate(bytes),
    };
    let Some(duplicate) = duplicate else { return json::decode_value(value, schema, strictness) };
    let mut decoded = json::decode_value(value, schema, Strictness::Warn)?;
    decoded.problems.insert(0, duplicate);
    if strictness == Strictness::Strict {
        return Err(DecodeError::Strict(decoded.problems));
    }
    Ok(decoded)
}

/// The first key that stands twice in a mapping, as a problem.
pub fn duplicate(bytes: &[u8]) -> Option<String> {
    let error = read(bytes, DuplicateKeyPolicy::Error).err()?;
    let Error::DuplicateMappingKey { key, location, .. } = error.without_snippet() else { return None };
    let key = key.as_deref().unwrap_or_default();
    Some(format!("yaml: unmarshal errors:\n  line {}: key {key:?} already set in map", location.line()))
}

fn read(bytes: &[u8], duplicate_keys: DuplicateKeyPolicy) -> Result<Vec<Value>, Error> {
    let mut values: Vec<Value> = serde_saphyr::from_slice_multiple_with_options(bytes, options(duplicate_keys))?;
    values.iter_mut().for_each(integers);
    Ok(values)
}

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    serde_saphyr::options! {
        duplicate_keys: duplicate_keys,
        legacy_octal_numbers: true,
        with_snippet: false,
        emit_comments: false,
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED, max_replay_stack_depth: 32 },
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_events: 1_000_000,
            max_nodes: 500_000,
            max_total_scalar_bytes: 2 * MAX_BYTES,
        },
    }
}

fn syntax(error: &Error) -> DecodeError {
    DecodeError::Syntax(format!("error converting YAML to JSON: yaml: {}", error.without_snippet()))
}

/// Numbers as Go's conversion leaves them: whole doubles and what does not fit 64 bits signed.
fn integers(value: &mut Value) {
    match value {
        Value::Number(number) if !number.is_i64() => {
            if let Some(normal) = number.as_f64().and_then(float_value) {
                *value = normal;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(integers),
        Value::Object(map) => map.values_mut().for_each(integers),
        _ => {}
    }
}

/// Writes a value as kubectl prints it: keys sorted, lists not indented, text quoted only where it has to be.
pub fn encode(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => block(&mut out, value, 0),
        Value::Array(items) if !items.is_empty() => block(&mut out, value, 0),
        _ => {
            inline(&mut out, value, 0);
            out.push('\n');
        }
    }
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    out.extend(std::iter::repeat_n(' ', indent));
                }
                scalar(out, key, None);
                out.push(':');
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, value, indent + 2);
                    }
                    Value::Array(items) if !items.is_empty() => {
                        out.push('\n');
                        block(out, value, indent);
                    }
                    _ => {
                        out.push(' ');
                        inline(out, value, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 || !out.ends_with("- ") {
                    out.extend(std::iter::repeat_n(' ', indent));
                }
                out.push_str("- ");
                match item {
                    Value::Object(inner) if !inner.is_empty() => block(out, item, indent + 2),
                    Value::Array(inner) if !inner.is_empty() => block(out, item, indent + 2),
                    _ => {
                        inline(out, item, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        _ => inline(out, value, indent),
    }
}

fn inline(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number.to_string()),
        Value::String(text) if text.contains('\n') && literal_fits(text) => literal(out, text, indent),
        Value::String(text) => scalar(out, text, Some(indent)),
        Value::Array(_) => out.push_str("[]"),
        Value::Object(_) => out.push_str("{}"),
    }
}

/// Text over several lines stays readable as a literal block unless the block could not say it.
fn literal_fits(text: &str) -> bool {
    !text.starts_with([' ', '\n'])
        && !text.chars().any(|letter| letter.is_control() && letter != '\n' && letter != '\t')
        && text.lines().all(|line| !line.ends_with(' ') || !line.trim_end().is_empty())
}

fn literal(out: &mut String, text: &str, indent: usize) {
    let body = text.trim_end_matches('\n');
    out.push_str(match text.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    let lines = text.strip_suffix('\n').unwrap_or(text);
    for line in lines.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
    }
}

/// Writes text. `indent` is where lines that follow begin; a key has none and stays on its line.
fn scalar(out: &mut String, text: &str, indent: Option<usize>) {
    if text.chars().any(|letter| letter.is_control() || letter == '\u{feff}' || letter == '\u{2028}' || letter == '\u{2029}') {
        // JSON text is YAML text in double quotes.
        folded(out, &Value::from(text).to_string(), indent, true);
    } else if plain(text) {
        folded(out, text, indent, false);
    } else if resolves(text) || text.is_empty() {
        out.push_str(&Value::from(text).to_string());
    } else {
        folded(out, &format!("'{}'", text.replace('\'', "''")), indent, false);
    }
}

/// Column behind which a line is broken at the next blank.
const WIDTH: usize = 80;

/// Text with its quotes, whose lines end at the first blank behind the width, as Go's library breaks them.
fn folded(out: &mut String, text: &str, indent: Option<usize>, double: bool) {
    let begin = out.rfind('\n').map_or(0, |at| at + 1);
    let mut column = out[begin..].chars().count();
    let Some(indent) = indent.filter(|_| column + text.len() > WIDTH) else { return out.push_str(text) };
    let letters: Vec<char> = text.chars().collect();
    let quote = usize::from(letters[0] == '\'' || letters[0] == '"');
    let mut after_blank = false;
    for (at, letter) in letters.iter().copied().enumerate() {
        // Blanks beside quotes stay where they are.
        let inside = at > quote && at + 1 + quote < letters.len();
        let before_blank = letters.get(at + 1) == Some(&' ');
        if letter == ' ' && !after_blank && column > WIDTH && inside && (double || !before_blank) {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', indent));
            column = indent;
            if before_blank {
                out.push('\\');
                column += 1;
            }
        } else {
            out.push(letter);
            column += 1;
        }
        after_blank = letter == ' ';
    }
}

/// Whether a text can stand without quotes.
fn plain(text: &str) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let last = text.chars().next_back();
    let indicator = match first {
        '-' | '?' | ':' => text.len() == 1 || text[1..].starts_with(' '),
        ',' | '[' | ']' | '{' | '}' | '#' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`' | ' ' => true,
        _ => false,
    };
    !indicator
        && last != Some(' ')
        && last != Some(':')
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.starts_with("---")
        && !text.starts_with("...")
        && !resolves(text)
}

/// Whether a plain text would be read as something else than text.
fn resolves(text: &str) -> bool {
    const WORDS: [&str; 17] =
        ["~", "null", "true", "false", "yes", "no", "on", "off", "y", "n", ".nan", ".inf", "+.inf", "-.inf", "<<", "=", "-"];
    let lower = text.to_ascii_lowercase();
    if WORDS.contains(&lower.as_str()) {
        return true;
    }
    let digits = lower.strip_prefix(['-', '+']).unwrap_or(&lower);
    let Some(first) = digits.chars().next() else { return false };
    if !first.is_ascii_digit() && first != '.' {
        return false;
    }
    let number = digits.replace('_', "");
    number.parse::<f64>().is_ok()
        || ["0x", "0o", "0b"]
            .iter()
            .any(|prefix| number.strip_prefix(prefix).is_some_and(|rest| rest.chars().all(|digit| digit.is_ascii_hexdigit())))
        || sexagesimal(&number)
        || date(&lower)
}

/// `1:30`, a number with base 60 in YAML 1.1.
fn sexagesimal(text: &str) -> bool {
    text.contains(':') && text.split(':').all(|part| !part.is_empty() && part.chars().all(|digit| digit.is_ascii_digit() || digit == '.'))
}

/// `2001-12-14...`, a time in YAML 1.1.
fn date(text: &str) -> bool {
    let mut parts = text.splitn(3, '-');
    let digits = |part: Option<&str>, count: std::ops::RangeInclusive<usize>| {
        part.is_some_and(|part| count.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    digits(parts.next(), 4..=4)
        && digits(parts.next(), 1..=2)
        && parts.next().is_some_and(|rest| {
            let day = rest.len() - rest.trim_start_matches(|letter: char| letter.is_ascii_digit()).len();
            (1..=2).contains(&day) && (rest.len() == day || rest[day..].starts_with(['t', ' ']))
        })
}
