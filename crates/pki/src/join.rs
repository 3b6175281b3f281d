//! Bootstrap tokens and the token that a node joins with, which also pins the CA of the server.

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
    pub fn generate() -> Self { todo!() }
    /// Parses `id.secret`.
    pub fn parse(text: &str) -> Result<Self, TokenParseError> { todo!() }
    /// `id.secret`.
    pub fn to_text(&self) -> String { todo!() }
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
    pub fn pinned(ca_pem: &str, token: &BootstrapToken) -> Self { todo!() }
    /// Parses any form.
    pub fn parse(text: &str) -> Result<Self, TokenParseError> { todo!() }
    /// Writes the token in its long form if it pins a CA, else the short one.
    pub fn to_text(&self) -> String { todo!() }
    /// The bootstrap token inside, if the credential is one.
    pub fn bootstrap(&self) -> Option<BootstrapToken> { todo!() }
    /// Whether the bundle fetched from `/cacerts` is the pinned one; true when nothing is pinned.
    pub fn accepts(&self, ca_pem: &str) -> bool { todo!() }
}

/// Hex SHA-256 of a CA bundle as it is served.
pub fn ca_hash(ca_pem: &str) -> String { todo!() }

/// Why a token is no token.
#[derive(Debug, thiserror::Error)]
#[error("not a token: {0}")]
pub struct TokenParseError(pub &'static str);
