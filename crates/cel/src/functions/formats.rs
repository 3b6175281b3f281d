//! Named formats such as `dns1123Label`, each with a test that lists what is wrong with a text.

use crate::eval::Budget;
use crate::value::Value;

use super::Answer;

/// Names of the formats.
const NAMES: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

pub(super) fn global<'a>(name: &str, args: &[Value<'a>], _: &Budget) -> Answer<'a> {
    let known = |name: &str| NAMES.iter().find(|known| **known == name).copied();
    match (name.strip_prefix("format.")?, args) {
        ("named", [Value::String(name)]) => Some(Ok(Value::Optional(known(name).map(|name| Value::Format(name).into())))),
        (name, []) => known(name).map(|name| Ok(Value::Format(name))),
        _ => None,
    }
}

pub(super) fn method<'a>(target: &Value<'a>, name: &str, args: &[Value<'a>], budget: &Budget) -> Answer<'a> {
    let (Value::Format(format), "validate", [Value::String(text)]) = (target, name, args) else { return None };
    if let Err(failure) = budget.scan(text.len()) {
        return Some(Err(failure));
    }
    let problems: Vec<Value> = problems(format, text).into_iter().map(Value::text).collect();
    Some(Ok(Value::Optional((!problems.is_empty()).then(|| Value::list(problems).into()))))
}

fn problems(format: &str, text: &str) -> Vec<String> {
    let lower = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
    let end = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let label = |text: &str| !text.is_empty() && text.chars().all(lower) && text.starts_with(end) && text.ends_with(end);
    let masked = |text: &str| match text.strip_suffix('-') {
        Some(prefix) => format!("{prefix}a"),
        None => text.to_owned(),
    };
    let mut found = Vec::new();
    let mut limit = |text: &str, most: usize| {
        if text.len() > most {
            found.push(format!("must be no more than {most} bytes"));
        }
    };
    let (valid, why) = match format {
        "dns1123Label" | "dns1123LabelPrefix" => {
            limit(text, 63);
            let text = if format.ends_with("Prefix") { masked(text) } else { text.to_owned() };
            (
                label(&text),
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
            )
        }
        "dns1123Subdomain" | "dns1123SubdomainPrefix" => {
            limit(text, 253);
            let text = if format.ends_with("Prefix") { masked(text) } else { text.to_owned() };
            (
                text.split('.').all(label),
                "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            )
        }
        "dns1035Label" | "dns1035LabelPrefix" => {
            limit(text, 63);
            let text = if format.ends_with("Prefix") { masked(text) } else { text.to_owned() };
            let valid = label(&text) && text.starts_with(|letter: char| letter.is_ascii_lowercase());
            (
                valid,
                "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
            )
        }
        "qualifiedName" => {
            let (prefix, name) = text.split_once('/').map_or((None, text), |(prefix, name)| (Some(prefix), name));
            let good = !name.is_empty() && value_text(name) && name.len() <= 63;
            let prefix = prefix.is_none_or(|prefix| prefix.len() <= 253 && prefix.split('.').all(label));
            (
                good && prefix,
                "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            )
        }
        "labelValue" => {
            limit(text, 63);
            (
                text.is_empty() || value_text(text),
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            )
        }
        "uri" => (text.contains(':') || text.starts_with('/'), "invalid URI"),
        "uuid" => (uuid(text), "does not match the UUID format"),
        "byte" => (base64(text), "invalid base64"),
        "date" => (text.len() == 10 && format!("{text}T00:00:00Z").parse::<jiff::Timestamp>().is_ok(), "invalid date"),
        _ => (text.len() >= 20 && text.as_bytes()[10] == b'T' && text.parse::<jiff::Timestamp>().is_ok(), "invalid datetime"),
    };
    if !valid {
        found.push(why.to_owned());
    }
    found
}

fn value_text(text: &str) -> bool {
    let end = |letter: char| letter.is_ascii_alphanumeric();
    text.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_.".contains(letter)) && text.starts_with(end) && text.ends_with(end)
}

fn uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, byte)| if matches!(at, 8 | 13 | 18 | 23) { byte == b'-' } else { byte.is_ascii_hexdigit() })
}

fn base64(text: &str) -> bool {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}
