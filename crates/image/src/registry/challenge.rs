//! `WWW-Authenticate`: what a registry wants to see before it answers.

use http::{HeaderMap, header};

/// One way to authenticate, with its parameters.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// The value of a parameter, or an empty text.
    pub(super) fn get(&self, name: &str) -> &str {
        self.parameters.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }
}

/// All challenges of a response. What cannot be read is skipped.
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(parse_value).collect()
}

fn parse_value(mut text: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    loop {
        text = text.trim_start_matches([' ', ',', '\t']);
        let end = text.find([' ', ',', '=', '\t']).unwrap_or(text.len());
        let (word, rest) = text.split_at(end);
        if word.is_empty() {
            return challenges;
        }
        match (rest.strip_prefix('='), challenges.last_mut()) {
            (Some(rest), Some(challenge)) => {
                let (value, rest) = parse_quoted(rest);
                challenge.parameters.push((word.to_ascii_lowercase(), value));
                text = rest;
            }
            (Some(_), None) => return challenges,
            (None, _) => {
                challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                text = rest;
            }
        }
    }
}

fn parse_quoted(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        return (text[..end].to_string(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, character) in quoted.char_indices() {
        match character {
            _ if escaped => {
                value.push(character);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let cases = [
            (r#"Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push""#, "bearer https://a/t s repository:a/b:pull,push"),
            (r#"bearer Realm=https://a/t, Service="a \"q\"""#, r#"bearer https://a/t a "q" "#),
            (r#"Basic realm="x", Bearer realm="y",scope=z"#, "basic x   bearer y  z"),
            (r#"=x"#, ""),
            (r#"Bearer realm="unclosed"#, "bearer unclosed  "),
            ("", ""),
        ];
        for (value, expected) in cases {
            let show = |c: &Challenge| [&c.scheme, c.get("realm"), c.get("service"), c.get("scope")].join(" ");
            let shown: Vec<String> = parse_value(value).iter().map(show).collect();
            assert_eq!(shown.join(" "), expected, "{value}");
        }
    }
}
