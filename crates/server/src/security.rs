//! What the server is told about audit, encryption, authentication and authorization beyond what is built in: the names
//! of files, most of which are read again when they change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::encryption::Encryption;

/// Settings; the default is that none of it is used.
#[derive(Clone, Debug, Default)]
pub struct Security {
    /// What is written about requests.
    pub audit: AuditSettings,
    /// Encryption at rest; the store must have been opened with the same.
    pub encryption: Option<Arc<Encryption>>,
    /// A file `AuthenticationConfiguration`.
    pub authentication: Option<PathBuf>,
    /// One OIDC issuer, as single flags describe it. Not beside `authentication`.
    pub oidc: Option<OidcSettings>,
    /// Kubeconfig of a webhook that knows tokens.
    pub token_webhook: Option<PathBuf>,
    /// Version of the reviews that it gets; `v1beta1` where empty.
    pub token_webhook_version: String,
    /// How long its answers count; two minutes where absent.
    pub token_webhook_ttl: Option<Duration>,
    /// A file `AuthorizationConfiguration`.
    pub authorization: Option<PathBuf>,
    /// Modes in their order (`Node`, `RBAC`, `Webhook`, `AlwaysAllow`, `AlwaysDeny`). Empty means Node and RBAC. Not
    /// beside `authorization`.
    pub modes: Vec<String>,
    /// Kubeconfig of the webhook of the mode `Webhook`.
    pub authorization_webhook: Option<PathBuf>,
    /// Version of the reviews that it gets; `v1beta1` where empty.
    pub authorization_webhook_version: String,
    /// How long its yes counts; five minutes where absent.
    pub authorization_webhook_allowed_ttl: Option<Duration>,
    /// How long anything else counts; half a minute where absent.
    pub authorization_webhook_refused_ttl: Option<Duration>,
}

/// Settings of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditSettings {
    /// A file `Policy`; without one nothing is audited.
    pub policy: Option<PathBuf>,
    /// File of the log; `-` is the standard output.
    pub log: Option<PathBuf>,
    /// Days that rotated files are kept, 0 for ever.
    pub max_age_days: u32,
    /// Rotated files that are kept, 0 for all.
    pub max_backups: u32,
    /// Size in megabytes at which the file is rotated, 0 for 100.
    pub max_size_megabytes: u32,
    /// Kubeconfig of a webhook that takes events.
    pub webhook: Option<PathBuf>,
    /// Events of one call of the webhook, 0 for 400.
    pub webhook_batch: usize,
    /// Longest that an event waits for others; 30 seconds where absent.
    pub webhook_wait: Option<Duration>,
}

/// One OIDC issuer by flags.
#[derive(Clone, Debug, Default)]
pub struct OidcSettings {
    /// `--oidc-issuer-url`.
    pub issuer: String,
    /// `--oidc-client-id`.
    pub client_id: String,
    /// `--oidc-ca-file`.
    pub ca_file: Option<PathBuf>,
    /// `--oidc-username-claim`; `sub` where empty.
    pub username_claim: String,
    /// `--oidc-username-prefix`; the issuer's address and `#` where absent, `-` for none.
    pub username_prefix: Option<String>,
    /// `--oidc-groups-claim`.
    pub groups_claim: String,
    /// `--oidc-groups-prefix`.
    pub groups_prefix: String,
    /// `--oidc-required-claim`.
    pub required_claims: Vec<(String, String)>,
    /// `--oidc-signing-algs`; `RS256` where empty.
    pub signing_algorithms: Vec<String>,
}
