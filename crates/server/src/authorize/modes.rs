//! Which authorizers are asked, in which order: by flags or by the file `AuthorizationConfiguration`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use parking_lot::RwLock;
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::webhook::{Settings, Webhook};
use crate::durations;
use crate::reload::Reloads;
use crate::security::Security;

/// One authorizer.
pub enum Mode {
    /// What kubelets may do.
    Node,
    /// Roles and bindings.
    Rbac,
    /// Everything.
    AlwaysAllow,
    /// Nothing.
    AlwaysDeny,
    /// What somebody else says.
    Webhook(Webhook),
}

/// The authorizers in their order, as they are now.
pub struct Authorizers {
    current: Arc<RwLock<Arc<Vec<Mode>>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    authorizers: Vec<One>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct One {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    webhook: Option<WebhookFile>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WebhookFile {
    #[serde(rename = "authorizedTTL", default = "five_minutes")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL", default = "half_a_minute")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    connection_info: ConnectionInfo,
    #[serde(default)]
    match_conditions: Vec<Condition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ConnectionInfo {
    #[serde(rename = "type")]
    kind: String,
    kube_config_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Condition {
    expression: String,
}

fn five_minutes() -> String {
    "5m".into()
}

fn half_a_minute() -> String {
    "30s".into()
}

impl Authorizers {
    /// Reads the file or the flags of the settings; without either, Node and RBAC decide.
    ///
    /// # Errors
    /// When they cannot be used.
    pub fn open(settings: &Security, reloads: &Arc<Reloads>, shutdown: &CancellationToken) -> anyhow::Result<Authorizers> {
        let Some(path) = &settings.authorization else {
            let modes = of_flags(settings).map_err(|why| anyhow::anyhow!("authorization modes: {why}"))?;
            return Ok(Authorizers { current: Arc::new(RwLock::new(Arc::new(modes))) });
        };
        anyhow::ensure!(
            settings.modes.is_empty() && settings.authorization_webhook.is_none(),
            "an authorization configuration and flags of authorization modes cannot be used together"
        );
        let content = std::fs::read(path).with_context(|| format!("read the authorization configuration {}", path.display()))?;
        let modes = parse(&content).map_err(|why| anyhow::anyhow!("authorization configuration {}: {why}", path.display()))?;
        let current = Arc::new(RwLock::new(Arc::new(modes)));
        let replaced = current.clone();
        reloads.follow("authorization", path, &content, shutdown.clone(), move |content| {
            *replaced.write() = Arc::new(parse(content)?);
            Ok(())
        });
        Ok(Authorizers { current })
    }

    /// The authorizers as they are now.
    pub fn current(&self) -> Arc<Vec<Mode>> {
        self.current.read().clone()
    }
}

fn of_flags(settings: &Security) -> Result<Vec<Mode>, String> {
    if settings.modes.is_empty() {
        return Ok(vec![Mode::Node, Mode::Rbac]);
    }
    let mut modes = Vec::new();
    for (index, name) in settings.modes.iter().enumerate() {
        if settings.modes[..index].contains(name) {
            return Err(format!("{name:?} is there twice"));
        }
        modes.push(match name.as_str() {
            "Webhook" => {
                let path = settings.authorization_webhook.as_ref().ok_or("the mode Webhook needs --authorization-webhook-config-file")?;
                let version =
                    if settings.authorization_webhook_version.is_empty() { "v1beta1" } else { &settings.authorization_webhook_version };
                Mode::Webhook(Webhook::open(
                    path,
                    Settings {
                        name: "default".into(),
                        version: version.to_owned(),
                        allowed_ttl: settings.authorization_webhook_allowed_ttl.unwrap_or(Duration::from_secs(300)),
                        refused_ttl: settings.authorization_webhook_refused_ttl.unwrap_or(Duration::from_secs(30)),
                        timeout: Duration::from_secs(30),
                        fails_closed: false,
                        conditions: Vec::new(),
                    },
                )?)
            }
            name => plain(name)?,
        });
    }
    Ok(modes)
}

fn plain(name: &str) -> Result<Mode, String> {
    match name {
        "Node" => Ok(Mode::Node),
        "RBAC" => Ok(Mode::Rbac),
        "AlwaysAllow" => Ok(Mode::AlwaysAllow),
        "AlwaysDeny" => Ok(Mode::AlwaysDeny),
        "ABAC" => Err("the mode ABAC is not supported".into()),
        other => Err(format!("{other:?} is not a valid mode: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny")),
    }
}

fn parse(content: &[u8]) -> Result<Vec<Mode>, String> {
    let value = codec::yaml::parse(content).map_err(|error| error.to_string())?;
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let known = matches!(
        file.api_version.as_str(),
        "apiserver.config.k8s.io/v1" | "apiserver.config.k8s.io/v1beta1" | "apiserver.config.k8s.io/v1alpha1"
    );
    if !known || file.kind != "AuthorizationConfiguration" {
        return Err(format!(
            "expected AuthorizationConfiguration of apiserver.config.k8s.io/v1, got {} of {}",
            file.kind, file.api_version
        ));
    }
    if file.authorizers.is_empty() {
        return Err("authorizers: at least one authorization mode must be defined".into());
    }
    let (mut names, mut kinds) = (Vec::new(), Vec::new());
    let mut modes = Vec::new();
    for (index, one) in file.authorizers.into_iter().enumerate() {
        let fail = |why: String| format!("authorizers[{index}]: {why}");
        if one.name.is_empty() || names.contains(&one.name) {
            return Err(fail(format!("name {:?} must be there, once", one.name)));
        }
        if one.kind != "Webhook" && kinds.contains(&one.kind) {
            return Err(fail(format!("type {:?} is there twice", one.kind)));
        }
        names.push(one.name.clone());
        kinds.push(one.kind.clone());
        modes.push(match (one.kind.as_str(), one.webhook) {
            ("Webhook", Some(webhook)) => Mode::Webhook(open(one.name, webhook).map_err(|why| fail(format!("webhook.{why}")))?),
            ("Webhook", None) => return Err(fail("webhook: required when type=Webhook".into())),
            (_, Some(_)) => return Err(fail("webhook: may only be specified when type=Webhook".into())),
            (kind, None) => plain(kind).map_err(fail)?,
        });
    }
    Ok(modes)
}

fn open(name: String, file: WebhookFile) -> Result<Webhook, String> {
    let positive = |field: &str, text: &str| {
        durations::parse(text).filter(|found| !found.is_zero()).ok_or_else(|| format!("{field}: {text:?} must be > 0s"))
    };
    let timeout = positive("timeout", &file.timeout)?;
    if timeout > Duration::from_secs(30) {
        return Err(format!("timeout: {:?} must be > 0s and <= 30s", file.timeout));
    }
    let kept = |ttl: Duration, is_kept: Option<bool>| if is_kept == Some(false) { Duration::ZERO } else { ttl };
    if !matches!(file.subject_access_review_version.as_str(), "v1" | "v1beta1") {
        return Err(format!("subjectAccessReviewVersion: {:?} is not v1 or v1beta1", file.subject_access_review_version));
    }
    if !file.match_conditions.is_empty() && file.match_condition_subject_access_review_version != "v1" {
        return Err("matchConditionSubjectAccessReviewVersion: required if match conditions are specified, must be v1".into());
    }
    let fails_closed = match file.failure_policy.as_str() {
        "Deny" => true,
        "NoOpinion" => false,
        other => return Err(format!("failurePolicy: {other:?} is not NoOpinion or Deny")),
    };
    let info = &file.connection_info;
    let path: &Path = match (info.kind.as_str(), &info.kube_config_file) {
        ("KubeConfigFile", Some(path)) if path.is_absolute() => path,
        ("KubeConfigFile", Some(_)) => return Err("connectionInfo.kubeConfigFile: must be an absolute path".into()),
        ("KubeConfigFile", None) => return Err("connectionInfo.kubeConfigFile: required when type=KubeConfigFile".into()),
        (other, _) => return Err(format!("connectionInfo.type: {other:?} is not supported, only KubeConfigFile is")),
    };
    Webhook::open(
        path,
        Settings {
            name,
            version: file.subject_access_review_version.clone(),
            allowed_ttl: kept(positive("authorizedTTL", &file.authorized_ttl)?, file.cache_authorized_requests),
            refused_ttl: kept(positive("unauthorizedTTL", &file.unauthorized_ttl)?, file.cache_unauthorized_requests),
            timeout,
            fails_closed,
            conditions: file.match_conditions.into_iter().map(|one| one.expression).collect(),
        },
    )
}
