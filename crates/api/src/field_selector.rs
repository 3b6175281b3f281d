//! Field selectors: `metadata.name=x,status.phase!=Running` over the selectable fields of a kind.

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// Path, for example `spec.nodeName`.
    pub field: String,
    /// Value compared with.
    pub value: String,
    /// `=` or `==` when true, `!=` when false.
    pub equal: bool,
}

/// All comparisons must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<Comparison>);

impl FieldSelector {
    /// Parses the text of a request; `\,`, `\=` and `\\` are escapes in values.
    ///
    /// # Errors
    /// A line that says what could not be parsed.
    pub fn parse(text: &str) -> Result<FieldSelector, String> {
        let mut comparisons = Vec::new();
        for part in terms(text).iter().filter(|part| !part.is_empty()) {
            let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
                (field, value, false)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, value, true)
            } else {
                return Err(format!("invalid selector: '{text}'; can't understand '{part}'"));
            };
            let value = unescape(value).ok_or_else(|| format!("invalid field selector: invalid escape in {value:?}"))?;
            comparisons.push(Comparison { field: field.to_owned(), value, equal });
        }
        Ok(FieldSelector(comparisons))
    }

    /// Whether every comparison holds; `get` returns the value of a field, empty for absent.
    pub fn matches<'a>(&self, get: impl Fn(&str) -> &'a str) -> bool {
        self.0.iter().all(|one| (get(&one.field) == one.value) == one.equal)
    }

    /// The value that a field must equal, if the selector pins it.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|one| one.equal && one.field == field).map(|one| one.value.as_str())
    }
}

/// Splits at commas that are not escaped.
fn terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => out.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            ',' | '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}
