//! Bootstrap tokens and the token that a node joins with, which also pins the CA of the server.

use rand::Rng;
use sha2::{Digest, Sha256};
use std::fmt;

const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// `abcdef.0123456789abcdef`: the two parts of a bootstrap token.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Public id, 6 characters of `[a-z0-9]`.
    pub id: String,
    /// Secret, 16 characters of `[a-z0-9]`.
    pub secret: String,
}

impl BootstrapToken {
    /// A new random token.
    pub fn generate() -> Self {
        Self { id: random_text(6), secret: random_text(16) }
    }

    /// Parses `id.secret`.
    pub fn parse(text: &str) -> Result<Self, TokenParseError> {
        let error = TokenParseError("a bootstrap token is [a-z0-9]{6}.[a-z0-9]{16}");
        let (id, secret) = text.split_once('.').ok_or(error.clone())?;
        let good = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
        if !good(id, 6) || !good(secret, 16) {
            return Err(error);
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned() })
    }

    /// `id.secret`.
    pub fn to_text(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "BootstrapToken({}.***)", self.id)
    }
}

fn random_text(length: usize) -> String {
    // `rand::rng()` is a cryptographic generator seeded by the system.
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}

/// What a joining node is given: who to trust and how to show itself.
///
/// Forms: `K10<hash>::<user>:<password>`, `K10<hash>::<id>.<secret>`, `<id>.<secret>` and a bare password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerToken {
    /// Hex SHA-256 of the CA bundle (PEM bytes as served at `/cacerts`); `None` in the short forms.
    pub ca_hash: Option<String>,
    /// The credential as a bearer token would carry it: `id.secret`, or the password.
    pub credential: String,
    /// The user of the long form (`node`, `server`), if any.
    pub user: Option<String>,
}

impl ServerToken {
    /// The long form for a bootstrap token, pinning the given CA bundle.
    pub fn pinned(ca_pem: &str, token: &BootstrapToken) -> Self {
        Self { ca_hash: Some(ca_hash(ca_pem)), credential: token.to_text(), user: None }
    }

    /// Parses any form.
    pub fn parse(text: &str) -> Result<Self, TokenParseError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(TokenParseError("the token is empty"));
        }
        let Some(long) = text.strip_prefix("K10") else {
            return Ok(Self { ca_hash: None, credential: text.to_owned(), user: None });
        };
        let (hash, rest) = long.split_once("::").ok_or(TokenParseError("after K10<hash> comes :: and a credential"))?;
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(TokenParseError("after K10 come the 64 hexadecimal digits of the CA's SHA-256"));
        }
        let (user, credential) = match rest.split_once(':') {
            Some((user, password)) => (Some(user.to_owned()), password),
            None => (None, rest),
        };
        if credential.is_empty() {
            return Err(TokenParseError("the token has no credential"));
        }
        Ok(Self { ca_hash: Some(hash.to_ascii_lowercase()), credential: credential.to_owned(), user })
    }

    /// Writes the token in its long form if it pins a CA, else the short one.
    pub fn to_text(&self) -> String {
        match (&self.ca_hash, &self.user) {
            (Some(hash), Some(user)) => format!("K10{hash}::{user}:{}", self.credential),
            (Some(hash), None) => format!("K10{hash}::{}", self.credential),
            (None, _) => self.credential.clone(),
        }
    }

    /// The bootstrap token inside, if the credential is one.
    pub fn bootstrap(&self) -> Option<BootstrapToken> {
        BootstrapToken::parse(&self.credential).ok()
    }

    /// Whether the bundle fetched from `/cacerts` is the pinned one; true when nothing is pinned.
    pub fn accepts(&self, ca_pem: &str) -> bool {
        self.ca_hash.as_ref().is_none_or(|hash| *hash == ca_hash(ca_pem))
    }
}

impl fmt::Debug for ServerToken {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerToken").field("ca_hash", &self.ca_hash).field("user", &self.user).finish()
    }
}

/// Hex SHA-256 of a CA bundle as it is served.
pub fn ca_hash(ca_pem: &str) -> String {
    Sha256::digest(ca_pem.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why a token is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token: {0}")]
pub struct TokenParseError(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        let token = BootstrapToken::generate();
        assert_eq!(BootstrapToken::parse(&token.to_text()).unwrap(), token);
        let pinned = ServerToken::pinned("PEM", &token);
        let parsed = ServerToken::parse(&pinned.to_text()).unwrap();
        assert_eq!(parsed, pinned);
        assert_eq!(parsed.bootstrap(), Some(token));
        assert!(parsed.accepts("PEM") && !parsed.accepts("other"));
    }

    #[test]
    fn forms_of_tokens() {
        let hash = "0".repeat(64);
        let cases = [
            (format!("K10{hash}::server:secret"), Ok((true, Some("server"), "secret"))),
            (format!("K10{hash}::abcdef.0123456789abcdef\n"), Ok((true, None, "abcdef.0123456789abcdef"))),
            ("plain".to_owned(), Ok((false, None, "plain"))),
            ("K10beef::x".to_owned(), Err(())),
            (format!("K10{hash}"), Err(())),
            (format!("K10{hash}::"), Err(())),
            (String::new(), Err(())),
        ];
        for (text, expected) in cases {
            let parsed = ServerToken::parse(&text).map_err(|_| ());
            let found = parsed.as_ref().map(|t| (t.ca_hash.is_some(), t.user.as_deref(), t.credential.as_str()));
            assert_eq!(found.map_err(|_| ()), expected, "{text}");
        }
        for bad in ["abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcde", "abcdef.0123456789abcdef0"] {
            assert!(BootstrapToken::parse(bad).is_err(), "{bad}");
        }
    }
}
