//! Service account tokens for pods' volumes: asked of the API, kept until four fifths of their life are over.

use std::collections::HashMap;

use api::Status;
use client::Client;
use parking_lot::Mutex;
use serde_json::json;

use crate::clock::now_ms;

/// One token and when it should be replaced.
#[derive(Debug, Clone)]
pub struct Token {
    /// The token itself.
    pub text: String,
    /// When it ends, as the API says it.
    pub expires: String,
    /// When to ask for the next, in milliseconds of even time.
    pub renew_at: i64,
}

#[derive(PartialEq, Eq, Hash)]
struct Key {
    pod_uid: String,
    account: String,
    audience: String,
    seconds: i64,
}

/// Tokens by pod.
pub struct Tokens {
    client: Client,
    known: Mutex<HashMap<Key, Token>>,
}

/// Whose token.
pub struct Request<'a> {
    /// Namespace of account and pod.
    pub namespace: &'a str,
    /// Service account.
    pub account: &'a str,
    /// Pod that the token is bound to.
    pub pod_name: &'a str,
    /// Its UID.
    pub pod_uid: &'a str,
    /// Audience; empty for the API server.
    pub audience: &'a str,
    /// Life in seconds.
    pub seconds: i64,
}

impl Tokens {
    /// Tokens asked for as the node's user.
    pub fn new(client: Client) -> Tokens {
        Tokens { client, known: Mutex::default() }
    }

    /// The token, asked for where there is none or it is too old.
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn get(&self, request: &Request<'_>) -> Result<Token, Status> {
        let key = Key {
            pod_uid: request.pod_uid.to_owned(),
            account: request.account.to_owned(),
            audience: request.audience.to_owned(),
            seconds: request.seconds,
        };
        if let Some(token) = self.known.lock().get(&key).filter(|token| token.renew_at > now_ms()) {
            return Ok(token.clone());
        }
        let audiences = if request.audience.is_empty() { json!([]) } else { json!([request.audience]) };
        let body = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences, "expirationSeconds": request.seconds,
                "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": request.pod_name, "uid": request.pod_uid},
            },
        });
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", request.namespace, request.account);
        let answer = self.client.call(http::Method::POST, &path, &body).await?;
        let text = answer["status"]["token"].as_str().ok_or_else(|| Status::internal("the answer to a token request has no token"))?;
        let expires = answer["status"]["expirationTimestamp"].as_str().unwrap_or("").to_owned();
        let granted = answer["spec"]["expirationSeconds"].as_i64().unwrap_or(request.seconds).min(86_400);
        let token = Token { text: text.to_owned(), expires, renew_at: now_ms() + granted * 800 };
        self.known.lock().insert(key, token.clone());
        Ok(token)
    }

    /// Forgets the tokens of a pod.
    pub fn release(&self, pod_uid: &str) {
        self.known.lock().retain(|key, _| key.pod_uid != pod_uid);
    }
}
