//! Tokens that a webhook knows: asked with a TokenReview, its answers remembered for a while.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::Found;
use crate::expiring::{self, Expiring};
use crate::remote::Remote;
use crate::security::Security;
use crate::user::User;

/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts of one review, and the wait behind the first.
const ATTEMPTS: u32 = 3;
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// How long answers count where nothing is said.
const TTL: Duration = Duration::from_secs(120);

/// The webhook.
pub struct TokenWebhook {
    remote: Remote,
    version: String,
    ttl: Duration,
    answers: Expiring<Option<(User, Vec<String>)>>,
}

impl TokenWebhook {
    /// The webhook of the settings, if they name one.
    ///
    /// # Errors
    /// As `open`.
    pub fn of(settings: &Security) -> anyhow::Result<Option<TokenWebhook>> {
        let open = |path: &PathBuf| TokenWebhook::open(path, &settings.token_webhook_version, settings.token_webhook_ttl);
        settings.token_webhook.as_ref().map(open).transpose()
    }

    /// The webhook of a kubeconfig file; an empty version means `v1beta1`, as the flag has it.
    ///
    /// # Errors
    /// When the file cannot be used or the version is not known.
    pub fn open(kubeconfig: &Path, version: &str, ttl: Option<Duration>) -> anyhow::Result<TokenWebhook> {
        let remote = Remote::of_kubeconfig(kubeconfig).map_err(|why| anyhow::anyhow!("token webhook: {why}"))?;
        let version = if version.is_empty() { "v1beta1" } else { version };
        anyhow::ensure!(matches!(version, "v1" | "v1beta1"), "token webhook: version {version:?} is not v1 or v1beta1");
        Ok(TokenWebhook { remote, version: version.to_owned(), ttl: ttl.unwrap_or(TTL), answers: Expiring::default() })
    }

    /// Whom a token stands for. `own` are the audiences of this server.
    pub async fn authenticate(&self, token: &str, audiences: &[String], own: &[String]) -> Found {
        let mut spec = json!({"token": token});
        if !audiences.is_empty() {
            spec["audiences"] = json!(audiences);
        }
        let key = expiring::key(spec.to_string().as_bytes());
        let answer = match self.answers.get(&key) {
            Some(answer) => answer,
            None => {
                let status = match self.review(spec).await {
                    Ok(status) => status,
                    Err(why) => return Found::Refused(why),
                };
                let error = status["error"].as_str().unwrap_or("");
                if !error.is_empty() {
                    return Found::Refused(error.to_owned());
                }
                let answer = (status["authenticated"] == true).then(|| user(&status));
                self.answers.put(key, answer.clone(), self.ttl);
                answer
            }
        };
        match answer {
            // A webhook that names no audiences speaks for those of this server.
            Some((user, found))
                if audiences.is_empty() || (if found.is_empty() { own } else { &found }).iter().any(|one| audiences.contains(one)) =>
            {
                Found::User(user)
            }
            _ => Found::Nothing,
        }
    }

    async fn review(&self, spec: Value) -> Result<Value, String> {
        let review = json!({
            "kind": "TokenReview", "apiVersion": format!("authentication.k8s.io/{}", self.version),
            "metadata": {}, "spec": spec, "status": {"user": {}},
        });
        let body = Bytes::from(review.to_string());
        let mut wait = FIRST_WAIT;
        let mut attempt = 1;
        loop {
            let why = match self.remote.post(body.clone(), PATIENCE).await {
                Ok((200..300, bytes)) => {
                    let answer: Value = serde_json::from_slice(&bytes).map_err(|error| format!("token webhook: {error}"))?;
                    return Ok(answer["status"].clone());
                }
                Ok((code, _)) if code < 500 && code != 429 => return Err(format!("token webhook answered with code {code}")),
                Ok((code, _)) => format!("token webhook answered with code {code}"),
                Err(why) => why,
            };
            if attempt == ATTEMPTS {
                tracing::error!(%why, "the token webhook cannot be asked");
                return Err(why);
            }
            attempt += 1;
            tokio::time::sleep(wait).await;
            wait = wait * 3 / 2;
        }
    }
}

fn user(status: &Value) -> (User, Vec<String>) {
    let user = &status["user"];
    let texts =
        |value: &Value| -> Vec<String> { value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect() };
    let extra: BTreeMap<String, Vec<String>> =
        user["extra"].as_object().into_iter().flatten().map(|(key, values)| (key.clone(), texts(values))).collect();
    let found = User {
        name: user["username"].as_str().unwrap_or("").to_owned(),
        uid: user["uid"].as_str().unwrap_or("").to_owned(),
        groups: texts(&user["groups"]),
        extra,
    };
    (found, texts(&status["audiences"]))
}
