//! A front proxy that shows a certificate of its own authority says in headers for whom it calls.

use http::request::Parts;

use super::{Connection, Found};
use crate::query::percent_decode;
use crate::server::Server;
use crate::user::User;

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Common names that a proxy's certificate may have.
pub const ALLOWED_NAMES: [&str; 1] = ["front-proxy-client"];

/// The user that a trusted proxy names.
pub fn authenticate(server: &Server, parts: &mut Parts, connection: &Connection) -> Found {
    let Some(name) = parts.headers.get(USER).and_then(|value| value.to_str().ok()).map(str::to_owned) else {
        return Found::Nothing;
    };
    let trusted = !connection.chain.is_empty()
        && server.proxy_authorities.verify(&connection.chain).is_ok_and(|identity| ALLOWED_NAMES.contains(&identity.user.as_str()));
    if !trusted || name.is_empty() {
        return Found::Nothing;
    }
    let mut user = User { name, ..User::default() };
    for (header, value) in &parts.headers {
        let Ok(value) = value.to_str() else { continue };
        match header.as_str() {
            GROUP => user.groups.push(value.to_owned()),
            UID => user.uid = value.to_owned(),
            header => {
                if let Some(key) = header.strip_prefix(EXTRA) {
                    user.extra.entry(percent_decode(key, false)).or_default().push(value.to_owned());
                }
            }
        }
    }
    let ours: Vec<_> = parts.headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    for name in ours {
        parts.headers.remove(name);
    }
    Found::User(user)
}
