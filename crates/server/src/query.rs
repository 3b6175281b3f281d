//! The query of a request: names and values, with apimachinery's reading of booleans and numbers.

use api::Status;

/// Decoded pairs in the order given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads the part of a URI behind the question mark.
    pub fn parse(text: Option<&str>) -> Query {
        let pairs = text.unwrap_or("").split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (percent_decode(name, true), percent_decode(value, true))
        });
        Query(pairs.collect())
    }

    /// The first value of a name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first value, empty if absent.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).unwrap_or("")
    }

    /// All values of a name.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Present and anything but `false` and `0`, also empty.
    pub fn flag(&self, name: &str) -> bool {
        self.tristate(name) == Some(true)
    }

    /// Absent differs from false.
    pub fn tristate(&self, name: &str) -> Option<bool> {
        self.get(name).map(|value| !matches!(value.to_ascii_lowercase().as_str(), "false" | "0"))
    }

    /// A whole number.
    ///
    /// # Errors
    /// 400 for anything else.
    pub fn number(&self, name: &str) -> Result<Option<i64>, Status> {
        match self.get(name) {
            None | Some("") => Ok(None),
            Some(text) => {
                text.parse().map(Some).map_err(|_| Status::bad_request(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))
            }
        }
    }
}

/// Undoes percent encoding; `plus` says whether a plus sign is a blank. Bytes that are no UTF-8 are replaced.
pub fn percent_decode(text: &str, plus: bool) -> String {
    if !text.contains('%') && !(plus && text.contains('+')) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| bytes.get(at + 1..at + 3)).flatten();
        let value = hex.and_then(|hex| std::str::from_utf8(hex).ok()).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match value {
            Some(value) => {
                out.push(value);
                at += 3;
            }
            None => {
                out.push(if plus && bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Encodes a text for a query value.
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_follow_apimachinery() {
        let query = Query::parse(Some("a=1&b=&c=false&d=0&e=False&f&g=yes"));
        let flags: Vec<bool> = ["a", "b", "c", "d", "e", "f", "g", "h"].iter().map(|name| query.flag(name)).collect();
        assert_eq!(flags, [true, true, false, false, false, true, true, false]);
        assert_eq!(query.tristate("h"), None);
    }

    #[test]
    fn encoding() {
        let query = Query::parse(Some("labelSelector=app%3Da%2Cb+in+%28c%29"));
        assert_eq!(query.text("labelSelector"), "app=a,b in (c)");
        assert_eq!(percent_decode(&percent_encode("a b/ü%"), false), "a b/ü%");
    }
}
