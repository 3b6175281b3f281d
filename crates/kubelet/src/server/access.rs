//! Who calls the kubelet and whether it may: certificates of the client authority, tokens by TokenReview, and
//! SubjectAccessReview for every call, with answers remembered for a short time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use client::Client;
use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use pki::ClientAuthorities;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// How long an allowance is remembered.
const REMEMBER: Duration = Duration::from_secs(60);
/// Answers that are remembered at most.
const MOST: usize = 1024;

/// An authenticated caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Caller {
    name: String,
    groups: Vec<String>,
}

/// What a route is to the authorizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// `get` or `create`.
    pub verb: &'static str,
    /// Subresource of `nodes`, for example `proxy` or `log`.
    pub subresource: &'static str,
}

/// Decides about calls.
pub struct Access {
    client: Client,
    authorities: ClientAuthorities,
    node: String,
    allowed: Mutex<HashMap<(Caller, Attributes), Instant>>,
    tokens: Mutex<HashMap<[u8; 32], (Caller, Instant)>>,
}

impl Access {
    /// Asks as the node's user.
    ///
    /// # Errors
    /// The authority is no PEM bundle.
    pub fn new(client: Client, client_ca: &str, node: &str) -> Result<Access> {
        let authorities = ClientAuthorities::from_pem(&[client_ca]).context("client authority of the kubelet")?;
        Ok(Access { client, authorities, node: node.to_owned(), allowed: Mutex::default(), tokens: Mutex::default() })
    }

    /// The caller that a certificate chain shows.
    pub fn by_certificate(&self, chain: &[CertificateDer<'_>]) -> Option<Caller> {
        if chain.is_empty() {
            return None;
        }
        let identity = self.authorities.verify(chain).ok()?;
        let mut groups = identity.groups;
        groups.push("system:authenticated".into());
        Some(Caller { name: identity.user, groups })
    }

    /// Whether a call may go on; otherwise the code and text of the answer.
    pub async fn allow<B>(
        &self,
        certified: Option<&Caller>,
        request: &Request<B>,
        attributes: Attributes,
    ) -> Result<(), (StatusCode, String)> {
        let caller = match certified {
            Some(caller) => caller.clone(),
            None => self.by_token(request).await.ok_or((StatusCode::UNAUTHORIZED, "Unauthorized".to_owned()))?,
        };
        let key = (caller, attributes);
        if self.allowed.lock().get(&key).is_some_and(|since| since.elapsed() < REMEMBER) {
            return Ok(());
        }
        let (caller, _) = &key;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {
                "user": caller.name, "groups": caller.groups,
                "resourceAttributes": {"verb": attributes.verb, "resource": "nodes", "subresource": attributes.subresource, "name": self.node, "version": "v1"},
            },
        });
        let answer = self.client.call(Method::POST, "/apis/authorization.k8s.io/v1/subjectaccessreviews", &review).await;
        let answer = answer.map_err(|status| (StatusCode::INTERNAL_SERVER_ERROR, format!("authorization failed: {status}")))?;
        if answer["status"]["allowed"] != true {
            let text = format!(
                "Forbidden (user={}, verb={}, resource=nodes, subresource({})=[{}])",
                caller.name, attributes.verb, self.node, attributes.subresource
            );
            return Err((StatusCode::FORBIDDEN, text));
        }
        let mut allowed = self.allowed.lock();
        if allowed.len() >= MOST {
            allowed.clear();
        }
        allowed.insert(key, Instant::now());
        Ok(())
    }

    async fn by_token<B>(&self, request: &Request<B>) -> Option<Caller> {
        let header = request.headers().get(http::header::AUTHORIZATION)?.to_str().ok()?;
        let token = header.strip_prefix("Bearer ")?;
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some((caller, since)) = self.tokens.lock().get(&hash) {
            if since.elapsed() < REMEMBER {
                return Some(caller.clone());
            }
        }
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
        let answer = self.client.call(Method::POST, "/apis/authentication.k8s.io/v1/tokenreviews", &review).await.ok()?;
        if answer["status"]["authenticated"] != true {
            return None;
        }
        let user = &answer["status"]["user"];
        let groups = user["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
        let caller = Caller { name: user["username"].as_str()?.to_owned(), groups };
        let mut tokens = self.tokens.lock();
        if tokens.len() >= MOST {
            tokens.clear();
        }
        tokens.insert(hash, (caller.clone(), Instant::now()));
        Some(caller)
    }
}
