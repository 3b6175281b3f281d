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
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        Ok(LabelSelector { requirements: parser.selector()?, nothing: false })
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

/// Tokens of the text form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Error,
    End,
    Close,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Word,
    In,
    Less,
    NotEquals,
    NotIn,
    Open,
}

const SPECIAL: &str = "=!(),><";

/// Splits a selector. The last token is the end.
fn tokens(text: &str) -> Vec<(Token, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start_matches(char::is_whitespace);
    while let Some(first) = rest.chars().next() {
        let (token, length) = if SPECIAL.contains(first) {
            match rest.as_bytes() {
                [b'=', b'=', ..] => (Token::DoubleEquals, 2),
                [b'!', b'=', ..] => (Token::NotEquals, 2),
                [b'=', ..] => (Token::Equals, 1),
                [b'!', ..] => (Token::Not, 1),
                [b'(', ..] => (Token::Open, 1),
                [b')', ..] => (Token::Close, 1),
                [b',', ..] => (Token::Comma, 1),
                [b'>', ..] => (Token::Greater, 1),
                [b'<', ..] => (Token::Less, 1),
                _ => (Token::Error, first.len_utf8()),
            }
        } else {
            let length = rest.find(|char: char| char.is_whitespace() || SPECIAL.contains(char)).unwrap_or(rest.len());
            let token = match &rest[..length] {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word,
            };
            (token, length)
        };
        found.push((token, rest[..length].to_owned()));
        rest = rest[length..].trim_start_matches(char::is_whitespace);
    }
    found.push((Token::End, String::new()));
    found
}

/// The grammar of apimachinery, with its words for what does not fit.
struct Parser {
    tokens: Vec<(Token, String)>,
    at: usize,
}

impl Parser {
    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            let (token, text) = self.ahead();
            match token {
                Token::Word | Token::Not => {
                    requirements.push(self.requirement().map_err(|why| format!("unable to parse requirement: {why}"))?);
                    match self.next() {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => {
                            let (token, text) = self.ahead();
                            if !matches!(token, Token::Word | Token::Not) {
                                return Err(format!("found '{text}', expected: identifier after ','"));
                            }
                        }
                        (_, text) => return Err(format!("found '{text}', expected: ',' or 'end of string'")),
                    }
                }
                Token::End => return Ok(requirements),
                _ => return Err(format!("found '{text}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    /// The next token where `in` and `notin` are words like others.
    fn ahead(&self) -> (Token, String) {
        let (token, text) = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        (if matches!(token, Token::In | Token::NotIn) { Token::Word } else { token }, text)
    }

    fn next(&mut self) -> (Token, String) {
        let found = self.ahead();
        self.at += 1;
        found
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next();
        let absent = token == Token::Not;
        if absent {
            (token, key) = self.next();
        }
        if token != Token::Word {
            return Err(format!("found '{key}', expected: identifier"));
        }
        let wrong = crate::names::qualified_name_errors(&key);
        if !wrong.is_empty() {
            return Err(format!("<nil>: Invalid value: {key:?}: {}", wrong.join("; ")));
        }
        if absent {
            return Ok(Requirement { key, operator: Operator::DoesNotExist });
        }
        if matches!(self.ahead().0, Token::End | Token::Comma) {
            return Ok(Requirement { key, operator: Operator::Exists });
        }
        let (sign, text) = self.tokens[self.at.min(self.tokens.len() - 1)].clone();
        self.at += 1;
        let values = match sign {
            Token::In | Token::NotIn => self.values()?,
            Token::Equals | Token::DoubleEquals | Token::NotEquals | Token::Greater | Token::Less => vec![self.value()?],
            _ => return Err(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")),
        };
        let bound = |value: &str| {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            value.parse::<i64>().map_err(|_| format!("values[0]: Invalid value: {value:?}: {why}"))
        };
        let operator = match sign {
            Token::Greater => Operator::Greater(bound(&values[0])?),
            Token::Less => Operator::Less(bound(&values[0])?),
            _ => {
                for (index, value) in values.iter().enumerate() {
                    let wrong = crate::names::label_value_errors(value);
                    if !wrong.is_empty() {
                        return Err(format!("values[{index}][{key}]: Invalid value: {value:?}: {}", wrong.join("; ")));
                    }
                }
                if matches!(sign, Token::NotIn | Token::NotEquals) { Operator::NotIn(values) } else { Operator::In(values) }
            }
        };
        Ok(Requirement { key, operator })
    }

    /// A value may be left out.
    fn value(&mut self) -> Result<String, String> {
        match self.ahead() {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Word, text) => {
                self.at += 1;
                Ok(text)
            }
            (_, text) => Err(format!("found '{text}', expected: identifier")),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        match self.next() {
            (Token::Open, _) => {}
            (_, text) => return Err(format!("found '{text}' expected: '('")),
        }
        let mut values = std::collections::BTreeSet::new();
        match self.ahead() {
            (Token::Word | Token::Comma, _) => {}
            (Token::Close, _) => return Err("values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty".to_owned()),
            (_, text) => return Err(format!("found '{text}', expected: ',', ')' or identifier")),
        }
        loop {
            match self.next() {
                (Token::Word, text) => {
                    values.insert(text);
                    match self.ahead() {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => break,
                        (_, text) => return Err(format!("found '{text}', expected: ',' or ')'")),
                    }
                }
                (Token::Comma, _) => {
                    if values.is_empty() {
                        values.insert(String::new());
                    }
                    match self.ahead().0 {
                        Token::Close => {
                            values.insert(String::new());
                            break;
                        }
                        Token::Comma => {
                            self.at += 1;
                            values.insert(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(format!("found '{text}', expected: ',', or identifier")),
            }
        }
        self.at += 1;
        Ok(values.into_iter().collect())
    }
}
