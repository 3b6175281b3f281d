//! The part of JSONPath that custom resource definitions may use: fields, keys in brackets, indices and one kind of filter.

use serde_json::{Map, Value};

/// A parsed path such as `.status.conditions[?(@.type=="Ready")].status`.
#[derive(Debug, Clone, PartialEq)]
pub struct JsonPath(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    /// Items of which the path has (or has not) the value.
    Filter {
        path: Vec<String>,
        equal: bool,
        value: Value,
    },
    /// Items that have the path.
    Exists(Vec<String>),
}

impl JsonPath {
    /// Parses a path; `None` for an empty one and for what is outside the supported part.
    pub fn parse(text: &str) -> Option<JsonPath> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = match rest.strip_prefix('.') {
                Some("") if steps.is_empty() => return Some(JsonPath(steps)),
                Some(after) if after.starts_with('[') => bracket(after)?,
                Some(after) => name(after)?,
                None if rest.starts_with('[') => bracket(rest)?,
                None => return None,
            };
            steps.push(step);
            rest = after;
        }
        (!steps.is_empty()).then_some(JsonPath(steps))
    }

    /// The first value at the path.
    pub fn first<'v>(&self, object: &'v Map<String, Value>) -> Option<&'v Value> {
        let (first, rest) = self.0.split_first()?;
        let Step::Field(name) = first else { return None };
        self::first(object.get(name)?, rest)
    }

    /// The names of the steps, when the path consists of fields only.
    pub fn fields(&self) -> Option<Vec<&str>> {
        self.0.iter().map(|step| if let Step::Field(name) = step { Some(name.as_str()) } else { None }).collect()
    }
}

fn first<'v>(value: &'v Value, steps: &[Step]) -> Option<&'v Value> {
    let Some((step, rest)) = steps.split_first() else { return Some(value) };
    match (step, value) {
        (Step::Field(name), Value::Object(map)) => first(map.get(name)?, rest),
        (Step::Index(index), Value::Array(items)) => {
            let index = if *index < 0 { items.len() as i64 + index } else { *index };
            first(items.get(usize::try_from(index).ok()?)?, rest)
        }
        (Step::All, Value::Array(items)) => items.iter().find_map(|item| first(item, rest)),
        (Step::All, Value::Object(map)) => map.values().find_map(|item| first(item, rest)),
        (Step::Filter { path, equal, value: wanted }, Value::Array(items)) => items
            .iter()
            .filter(|item| (at(item, path) == Some(wanted)) == *equal && at(item, path).is_some())
            .find_map(|item| first(item, rest)),
        (Step::Exists(path), Value::Array(items)) => {
            items.iter().filter(|item| at(item, path).is_some()).find_map(|item| first(item, rest))
        }
        _ => None,
    }
}

fn at<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// A name after a dot; a backslash takes the next letter as it is, so that names may have dots.
fn name(text: &str) -> Option<(Step, &str)> {
    let mut name = String::new();
    let mut letters = text.char_indices();
    let mut end = text.len();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => name.push(letters.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            letter => name.push(letter),
        }
    }
    if name.is_empty() {
        return None;
    }
    let step = if name == "*" { Step::All } else { Step::Field(name) };
    Some((step, &text[end..]))
}

fn bracket(text: &str) -> Option<(Step, &str)> {
    let inner = &text[1..];
    let end = closing(inner)?;
    let (content, rest) = (inner[..end].trim(), &inner[end + 1..]);
    let step = if let Some(condition) = content.strip_prefix("?(").and_then(|condition| condition.strip_suffix(')')) {
        filter(condition)?
    } else if content == "*" {
        Step::All
    } else if let Some(key) = quoted(content) {
        Step::Field(key)
    } else {
        Step::Index(content.parse().ok()?)
    };
    Some((step, rest))
}

/// The place of the closing bracket, outside of quotes.
fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, letter) in text.char_indices() {
        match (quote, letter) {
            (None, ']') => return Some(at),
            (None, '"' | '\'') => quote = Some(letter),
            (Some(open), letter) if letter == open => quote = None,
            _ => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<String> {
    let open = text.chars().next().filter(|letter| matches!(letter, '"' | '\''))?;
    let inner = text[1..].strip_suffix(open)?;
    Some(inner.replace("\\'", "'").replace("\\\"", "\""))
}

fn filter(text: &str) -> Option<Step> {
    let (path, operator, value) = match text.split_once("==").map(|(path, value)| (path, "==", value)) {
        Some(parts) => parts,
        None => match text.split_once("!=") {
            Some((path, value)) => (path, "!=", value),
            None => (text, "", ""),
        },
    };
    let path: Vec<String> = path.trim().strip_prefix("@.")?.split('.').map(str::to_owned).collect();
    if operator.is_empty() {
        return Some(Step::Exists(path));
    }
    let value = value.trim();
    let value = match quoted(value) {
        Some(text) => Value::String(text),
        None => serde_json::from_str(value).ok()?,
    };
    Some(Step::Filter { path, equal: operator == "==", value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let object = json!({"a": {"b.c": 1, "d": [{"n": "x", "v": 1}, {"n": "y", "v": 2}], "e": {"f": true}}});
        for (path, expected) in [
            (".a.e.f", Some(json!(true))),
            ("{.a.e.f}", Some(json!(true))),
            (".a['b.c']", Some(json!(1))),
            (".a.b\\.c", Some(json!(1))),
            (".a.d[1].v", Some(json!(2))),
            (".a.d[-1].n", Some(json!("y"))),
            (".a.d[?(@.n==\"y\")].v", Some(json!(2))),
            (".a.d[?(@.n=='x')].v", Some(json!(1))),
            (".a.d[?(@.n!='x')].v", Some(json!(2))),
            (".a.d[*].v", Some(json!(1))),
            (".a.none", None),
            (".a.d[7]", None),
        ] {
            let parsed = JsonPath::parse(path).unwrap_or_else(|| panic!("{path}"));
            assert_eq!(parsed.first(object.as_object().expect("an object")).cloned(), expected, "{path}");
        }
        for bad in ["", "a", ".a[", ".a..b", ".a[x]"] {
            assert_eq!(JsonPath::parse(bad), None, "{bad}");
        }
    }
}
