//! Tokens of identity providers (OpenID Connect): verified with the issuer's keys, turned into users by the mappings of
//! `AuthenticationConfiguration`.

mod claims;
mod config;
mod keys;

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::RwLock;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::Found;
use crate::reload::Reloads;
use crate::security::Security;
use claims::Mapper;
use config::{Anonymous, Jwt};
use keys::{Keys, Token};

/// How far clocks may differ where a token is not valid yet.
const LEEWAY: i64 = 300;

/// All issuers that are trusted now.
pub struct Issuers {
    current: Arc<RwLock<Arc<Trusted>>>,
}

#[derive(Default)]
struct Trusted {
    issuers: Vec<Issuer>,
    anonymous: Option<Anonymous>,
}

struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    keys: Keys,
    mapper: Mapper,
}

impl Issuers {
    /// Reads the file or the flags of the settings. `own` are the issuers of this server's tokens.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn open(settings: &Security, own: &[String], reloads: &Arc<Reloads>, shutdown: &CancellationToken) -> anyhow::Result<Issuers> {
        let current = Arc::new(RwLock::new(Arc::new(Trusted::default())));
        if let Some(path) = &settings.authentication {
            anyhow::ensure!(settings.oidc.is_none(), "an authentication configuration and flags of OIDC cannot be used together");
            let content = std::fs::read(path).with_context(|| format!("read the authentication configuration {}", path.display()))?;
            *current.write() = Arc::new(Trusted::read(&content, own).map_err(|why| wrong(path, &why))?);
            let (replaced, own) = (current.clone(), own.to_vec());
            reloads.follow("authentication", path, &content, shutdown.clone(), move |content| {
                *replaced.write() = Arc::new(Trusted::read(content, &own)?);
                Ok(())
            });
        } else if let Some(flags) = &settings.oidc {
            let jwt = config::of_flags(flags, own).map_err(|why| anyhow::anyhow!("flags of OIDC: {why}"))?;
            let issuer = Issuer::new(jwt).map_err(|why| anyhow::anyhow!("flags of OIDC: {why}"))?;
            *current.write() = Arc::new(Trusted { issuers: vec![issuer], anonymous: None });
        }
        Ok(Issuers { current })
    }

    /// Whether callers without credentials are served at a path; `by_default` where the file says nothing.
    pub fn allows_anonymous(&self, path: &str, by_default: bool) -> bool {
        match &self.current.read().anonymous {
            None => by_default,
            Some(anonymous) => {
                anonymous.enabled && (anonymous.conditions.is_empty() || anonymous.conditions.iter().any(|one| one.path == path))
            }
        }
    }

    /// The user of a token, if an issuer that is trusted made it.
    pub async fn authenticate(&self, token: &str) -> Found {
        let trusted = self.current.read().clone();
        if trusted.issuers.is_empty() {
            return Found::Nothing;
        }
        let Some(token) = Token::parse(token) else { return Found::Nothing };
        let Some(issuer) = trusted.issuers.iter().find(|issuer| token.claims["iss"] == issuer.url.as_str()) else { return Found::Nothing };
        match issuer.user(&token).await {
            Ok(user) => Found::User(user),
            Err(why) => Found::Refused(why),
        }
    }
}

fn wrong(path: &Path, why: &str) -> anyhow::Error {
    anyhow::anyhow!("authentication configuration {}: {why}", path.display())
}

impl Trusted {
    fn read(content: &[u8], own: &[String]) -> Result<Trusted, String> {
        let file = config::parse(content, own)?;
        let issuers = file.jwt.into_iter().enumerate().map(|(index, jwt)| Issuer::new(jwt).map_err(|why| format!("jwt[{index}].{why}")));
        Ok(Trusted { issuers: issuers.collect::<Result<_, _>>()?, anonymous: file.anonymous })
    }
}

impl Issuer {
    fn new(jwt: Jwt) -> Result<Issuer, String> {
        let mapper = Mapper::compile(&jwt)?;
        let keys = Keys::new(&jwt.issuer.url, jwt.issuer.discovery_url.as_deref(), &jwt.issuer.certificate_authority);
        Ok(Issuer { url: jwt.issuer.url, audiences: jwt.issuer.audiences, algorithms: jwt.algorithms, keys, mapper })
    }

    async fn user(&self, token: &Token<'_>) -> Result<crate::user::User, String> {
        let fail = |why: String| format!("oidc: verify token: {why}");
        let claims = &token.claims;
        let audiences: Vec<&str> = match &claims["aud"] {
            Value::String(one) => vec![one],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        if !audiences.iter().any(|one| self.audiences.iter().any(|wanted| wanted == one)) {
            return Err(fail(format!("oidc: expected audience in {:?} got {audiences:?}", self.audiences)));
        }
        let now = jiff::Timestamp::now().as_second();
        let time = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
        if time("exp").is_none_or(|end| end < now) {
            return Err(fail("oidc: token is expired".into()));
        }
        if time("nbf").is_some_and(|start| now + LEEWAY < start) {
            return Err(fail("oidc: current time is before the nbf (not before) time".into()));
        }
        self.keys.verify(token, &self.algorithms).await.map_err(fail)?;
        self.mapper.user(claims)
    }
}
