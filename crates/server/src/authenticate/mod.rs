//! Who calls: one authenticator a file, asked in the order of the list.
//!
//! An authenticator knows the caller, has nothing to say, or refuses credentials that are meant for it.

pub mod anonymous;
pub mod bootstrap_token;
pub mod certificate;
pub mod front_proxy;
pub mod impersonate;
mod oidc;
pub mod service_account;
pub mod static_token;
mod trust;
mod webhook_token;

use std::net::SocketAddr;

use api::Status;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use http::request::Parts;
use parking_lot::Mutex;
use pki::Identity;
use rustls_pki_types::CertificateDer;
use tokio::time::Instant;

use crate::failure;
use crate::server::Server;
use crate::user::User;

pub use oidc::Issuers;
pub use static_token::StaticTokens;
pub use trust::Trust;
pub use webhook_token::TokenWebhook;

/// What a TLS connection says about the caller.
pub struct Connection {
    /// Address.
    pub peer: SocketAddr,
    /// Client certificate with its chain.
    pub chain: Vec<CertificateDer<'static>>,
    verified: Mutex<Option<(Instant, Identity)>>,
}

impl Connection {
    /// A connection with the certificates that the caller presented.
    pub fn new(peer: SocketAddr, chain: Vec<CertificateDer<'static>>) -> Connection {
        Connection { peer, chain, verified: Mutex::new(None) }
    }
}

/// What an authenticator found.
pub enum Found {
    /// The caller.
    User(User),
    /// Not my business.
    Nothing,
    /// Meant for me, but wrong.
    Refused(String),
}

/// Asks the authenticators in order.
///
/// # Errors
/// 401.
pub async fn authenticate(server: &Server, parts: &mut Parts, connection: &Connection) -> Result<User, Status> {
    let token = bearer(parts);
    let mut refused = None;
    for found in [front_proxy::authenticate(server, parts, connection), certificate::authenticate(server, connection)] {
        match found {
            Found::User(user) => return Ok(known(user, parts)),
            Found::Nothing => {}
            Found::Refused(why) => refused = Some(why),
        }
    }
    if let Some(token) = &token {
        match by_token(server, token, &audiences(server)).await {
            Found::User(user) => return Ok(known(user, parts)),
            Found::Nothing => refused = Some("unknown bearer token".into()),
            Found::Refused(why) => refused = Some(why),
        }
    }
    if let Some(why) = refused {
        tracing::debug!(%why, peer = %connection.peer, "authentication failed");
        return Err(failure::unauthorized());
    }
    anonymous::authenticate(server, parts.uri.path()).ok_or_else(failure::unauthorized)
}

/// Who a bearer token stands for; also what a TokenReview asks.
pub async fn by_token(server: &Server, token: &str, audiences: &[String]) -> Found {
    let mut refused = Found::Nothing;
    for found in [
        server.static_tokens.authenticate(token),
        service_account::authenticate(server, token, audiences),
        bootstrap_token::authenticate(server, token),
    ] {
        match found {
            Found::User(user) => return Found::User(user),
            Found::Nothing => {}
            Found::Refused(why) => refused = Found::Refused(why),
        }
    }
    match server.issuers.authenticate(token).await {
        Found::Nothing => {}
        Found::User(user) => return Found::User(user),
        Found::Refused(why) => refused = Found::Refused(why),
    }
    if let Some(webhook) = &server.token_webhook {
        match webhook.authenticate(token, audiences, &self::audiences(server)).await {
            Found::Nothing => {}
            found => return found,
        }
    }
    refused
}

/// Audiences that the API stands for.
pub fn audiences(server: &Server) -> Vec<String> {
    if server.config.audiences.is_empty() { server.config.issuers.clone() } else { server.config.audiences.clone() }
}

fn known(mut user: User, parts: &mut Parts) -> User {
    user.mark_authenticated();
    parts.headers.remove(AUTHORIZATION);
    user
}

/// What browsers send in place of a header they cannot set.
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

fn bearer(parts: &mut Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned()).filter(|token| !token.is_empty());
    }
    let protocols = parts.headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?.to_owned();
    let all = protocols.split(',').map(str::trim);
    let encoded = all.clone().find_map(|one| one.strip_prefix(BEARER_PROTOCOL))?;
    let bytes = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
    let rest: Vec<&str> = all.filter(|one| !one.starts_with(BEARER_PROTOCOL)).collect();
    if let Ok(value) = rest.join(", ").parse() {
        parts.headers.insert(SEC_WEBSOCKET_PROTOCOL, value);
    }
    String::from_utf8(bytes).ok()
}

/// Who the connection's certificate was found to be, by authorities that are in force since then.
pub(crate) fn remembered(connection: &Connection, since: Instant) -> Option<Identity> {
    let verified = connection.verified.lock();
    verified.as_ref().filter(|(at, _)| *at >= since && at.elapsed() < certificate::TRUST_FOR).map(|(_, identity)| identity.clone())
}

pub(crate) fn remember(connection: &Connection, identity: &Identity) {
    *connection.verified.lock() = Some((Instant::now(), identity.clone()));
}
