//! Label selectors: the text form of requests and the `LabelSelector` object, matched against sorted labels.

use serde_json::Value;

/// One requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// Operator with its values.
    pub operator: Operator,
}

/// Operator of a requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// The value is one of these.
    In(Vec<String>),
    /// The label is absent or its value is none of these.
    NotIn(Vec<String>),
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The value is an integer above.
    Greater(i64),
    /// The value is an integer below.
    Less(i64),
}

/// All requirements must hold. The empty selector matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// Requirements in the order given.
    pub requirements: Vec<Requirement>,
    /// Matches nothing at all (a null `LabelSelector`).
    pub nothing: bool,
}

impl LabelSelector {
    /// Matches everything.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Matches nothing.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Whether every object matches.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// From a map of exact values.
    pub fn from_map<'a>(map: impl IntoIterator<Item = (&'a str, &'a str)>) -> LabelSelector {
        let requirements = map
            .into_iter()
            .map(|(key, value)| Requirement { key: key.to_owned(), operator: Operator::In(vec![value.to_owned()]) })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// From a `metav1.LabelSelector` as JSON; null matches nothing, `{}` everything.
    ///
    /// # Errors
    /// A line that says which operator or key is wrong.
    pub fn from_value(value: &Value) -> Result<LabelSelector, String> {
        if value.is_null() {
            return Ok(LabelSelector::nothing());
        }
        let mut selector = LabelSelector::default();
        for (key, value) in value.get("matchLabels").and_then(Value::as_object).into_iter().flatten() {
            let value = value.as_str().unwrap_or("").to_owned();
            selector.requirements.push(Requirement { key: key.clone(), operator: Operator::In(vec![value]) });
        }
        for expression in value.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = expression.get("key").and_then(Value::as_str).unwrap_or("").to_owned();
            let values: Vec<String> = expression
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect();
            let operator = match expression.get("operator").and_then(Value::as_str).unwrap_or("") {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(format!("{other:?} is not a valid label selector operator")),
            };
            selector.requirements.push(Requirement { key, operator });
        }
        Ok(selector)
    }

    /// From the text of a request, for example `app in (a,b),tier!=x,!y`.
    ///
    /// # Errors
    /// A line that says what could not be parsed.
    pub fn parse(text: &str) -> Result<LabelSelector, String> {
        let mut selector = LabelSelector::default();
        for part in split(text)? {
            let requirement = requirement(part.trim())?;
            if !crate::names::is_qualified_name(&requirement.key) {
                return Err(format!("invalid label key {:?}", requirement.key));
            }
            selector.requirements.push(requirement);
        }
        Ok(selector)
    }

    /// Whether the labels match; `get` looks one up.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| {
                let value = get(&requirement.key);
                match &requirement.operator {
                    Operator::In(values) => value.is_some_and(|value| values.iter().any(|one| one == value)),
                    Operator::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| one != value)),
                    Operator::Exists => value.is_some(),
                    Operator::DoesNotExist => value.is_none(),
                    Operator::Greater(bound) => number(value).is_some_and(|value| value > *bound),
                    Operator::Less(bound) => number(value).is_some_and(|value| value < *bound),
                }
            })
    }

    /// Whether sorted labels match.
    pub fn matches_sorted<S: AsRef<str>>(&self, labels: &[(S, S)]) -> bool {
        self.matches(|key| {
            let index = labels.binary_search_by(|(label, _)| label.as_ref().cmp(key)).ok()?;
            Some(labels[index].1.as_ref())
        })
    }
}

fn number(value: Option<&str>) -> Option<i64> {
    value?.parse().ok()
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth -= 1,
            b',' if depth == 0 => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    if depth != 0 {
        return Err(format!("unable to parse requirement: unbalanced parentheses in {text:?}"));
    }
    if start < text.len() {
        parts.push(&text[start..]);
    }
    Ok(parts)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let of = |key: &str, operator| Ok(Requirement { key: key.trim().to_owned(), operator });
    let one = |value: &str| vec![value.trim().to_owned()];
    if let Some(key) = text.strip_prefix('!') {
        return of(key, Operator::DoesNotExist);
    }
    if let Some((head, tail)) = text.split_once('(') {
        let tail = tail.trim_end();
        let inner = tail.strip_suffix(')').ok_or_else(|| format!("unable to parse requirement: {text:?}"))?;
        let values = inner.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        return match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => of(key, Operator::In(values)),
            (Some(key), Some("notin"), None) => of(key, Operator::NotIn(values)),
            _ => Err(format!("unable to parse requirement: {text:?}")),
        };
    }
    if let Some((key, value)) = text.split_once("!=") {
        return of(key, Operator::NotIn(one(value)));
    }
    if let Some((key, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        return of(key, Operator::In(one(value)));
    }
    for (sign, make) in [('>', Operator::Greater as fn(i64) -> Operator), ('<', Operator::Less)] {
        if let Some((key, value)) = text.split_once(sign) {
            let value = value.trim().parse().map_err(|_| format!("unable to parse requirement: {text:?}"))?;
            return of(key, make(value));
        }
    }
    if text.contains(char::is_whitespace) {
        return Err(format!("unable to parse requirement: {text:?}"));
    }
    of(text, Operator::Exists)
}
