//! One question to a program, and its answer.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use image::RegistryAuth;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::config::Provider;

/// How long a program may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It could not be run.
    #[error("run {0}")]
    Run(String, #[source] std::io::Error),
    /// It failed.
    #[error("{name} ended with {code}: {said}")]
    Failed {
        /// Who.
        name: String,
        /// How.
        code: i32,
        /// What it said about it.
        said: String,
    },
    /// It did not end in time.
    #[error("{0} did not answer within a minute")]
    Silent(String),
    /// What it wrote is no answer.
    #[error("{name} wrote no answer: {what}")]
    Answer {
        /// Who.
        name: String,
        /// What is wrong.
        what: String,
    },
}

/// A question.
pub struct Question<'a> {
    /// Whom.
    pub provider: &'a Provider,
    /// For which image.
    pub image: &'a str,
    /// Token of the pod's account; empty without.
    pub token: &'a str,
    /// Annotations of the account.
    pub annotations: &'a BTreeMap<String, String>,
}

/// What an answer holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum CacheKey {
    /// The image.
    Image,
    /// All images of the registry.
    Registry,
    /// All images.
    Global,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// What it holds for.
    pub key: CacheKey,
    /// How long it holds, if it says.
    pub lasts: Option<Duration>,
    /// Credentials.
    pub auths: Vec<RegistryAuth>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    kind: &'static str,
    api_version: &'a str,
    image: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    service_account_token: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    service_account_annotations: &'a BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    kind: String,
    api_version: String,
    cache_key_type: Option<CacheKey>,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<BTreeMap<String, Login>>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// Asks.
///
/// # Errors
/// There is no answer.
pub async fn ask(question: &Question<'_>) -> Result<Answer, ExecError> {
    let provider = question.provider;
    let failed = |error| ExecError::Run(provider.program.display().to_string(), error);
    let request = Request {
        kind: "CredentialProviderRequest",
        api_version: &provider.api_version,
        image: question.image,
        service_account_token: question.token,
        service_account_annotations: question.annotations,
    };
    let request = serde_json::to_vec(&request).map_err(|error| failed(error.into()))?;
    let mut child = Command::new(&provider.program)
        .args(&provider.args)
        .envs(provider.env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let input = child.stdin.take();
    let run = async {
        if let Some(mut input) = input {
            // A program that does not want to know closes its end.
            let _not_read = input.write_all(&request).await;
        }
        child.wait_with_output().await
    };
    let output = tokio::time::timeout(PATIENCE, run).await.map_err(|_| ExecError::Silent(provider.name.clone()))?.map_err(failed)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(1024).collect();
        return Err(ExecError::Failed { name: provider.name.clone(), code: output.status.code().unwrap_or(-1), said });
    }
    read(provider, &output.stdout).map_err(|what| ExecError::Answer { name: provider.name.clone(), what })
}

/// The text of an answer is never shown: it holds secrets.
fn read(provider: &Provider, text: &[u8]) -> Result<Answer, String> {
    let response: Response = serde_json::from_slice(text).map_err(|error| format!("line {} column {}", error.line(), error.column()))?;
    if response.kind != "CredentialProviderResponse" || response.api_version != provider.api_version {
        return Err(format!(
            "it is {} of {}, not CredentialProviderResponse of {}",
            response.kind, response.api_version, provider.api_version
        ));
    }
    let lasts = match &response.cache_duration {
        Some(text) => Some(super::duration(text).ok_or("its cacheDuration is no duration")?),
        None => None,
    };
    let auths = response.auth.unwrap_or_default().into_iter().map(|(registry, login)| RegistryAuth {
        registry,
        username: login.username,
        password: login.password,
        ..RegistryAuth::default()
    });
    Ok(Answer { key: response.cache_key_type.ok_or("it has no cacheKeyType")?, lasts, auths: auths.collect() })
}
