//! Flags of audit, encryption, authentication and authorization, under the names that kube-apiserver has for them, since
//! people's configurations know those.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{ArgAction, Args};
use server::{AuditSettings, Encryption, OidcSettings, Security};

/// The flags.
#[derive(Args, Clone, Default)]
pub struct SecurityFlags {
    /// Policy that says what is audited; read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Audit")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are written to; - is the standard output.
    #[arg(long, value_name = "FILE", help_heading = "Audit")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that rotated audit logs are kept; 0 for ever.
    #[arg(long, default_value_t = 0, value_name = "DAYS", help_heading = "Audit")]
    pub audit_log_maxage: u32,
    /// Rotated audit logs that are kept; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "COUNT", help_heading = "Audit")]
    pub audit_log_maxbackup: u32,
    /// Megabytes at which the audit log is rotated; 0 for 100.
    #[arg(long, default_value_t = 0, value_name = "MEGABYTES", help_heading = "Audit")]
    pub audit_log_maxsize: u32,
    /// Kubeconfig of a webhook that takes audit events.
    #[arg(long, value_name = "FILE", help_heading = "Audit")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Most events of one call of that webhook.
    #[arg(long, default_value_t = 400, value_name = "COUNT", help_heading = "Audit")]
    pub audit_webhook_batch_max_size: usize,
    /// Longest that an event waits for others.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION", help_heading = "Audit")]
    pub audit_webhook_batch_max_wait: Duration,
    /// EncryptionConfiguration of what is encrypted on disk; read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Encryption")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Accepted for compatibility; the file is always read again when it changes.
    #[arg(long, hide = true, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,
    /// AuthenticationConfiguration of issuers of tokens and of anonymous calls; read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Authentication")]
    pub authentication_config: Option<PathBuf>,
    /// Whether callers without credentials are served as system:anonymous.
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, help_heading = "Authentication")]
    pub anonymous_auth: bool,
    /// File of static tokens (token,user,uid,"groups").
    #[arg(long, value_name = "FILE", help_heading = "Authentication")]
    pub token_auth_file: Option<PathBuf>,
    /// Kubeconfig of a webhook that knows tokens.
    #[arg(long, value_name = "FILE", help_heading = "Authentication")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the reviews that it gets.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], help_heading = "Authentication")]
    pub authentication_token_webhook_version: String,
    /// How long its answers count.
    #[arg(long, default_value = "2m", value_parser = duration, value_name = "DURATION", help_heading = "Authentication")]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// Address of an OpenID issuer.
    #[arg(long, value_name = "URL", help_heading = "Authentication")]
    pub oidc_issuer_url: Option<String>,
    /// Audience of its tokens.
    #[arg(long, value_name = "ID", help_heading = "Authentication")]
    pub oidc_client_id: Option<String>,
    /// Certificates that it is trusted by; those of the system where absent.
    #[arg(long, value_name = "FILE", help_heading = "Authentication")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that names the user.
    #[arg(long, default_value = "sub", value_name = "CLAIM", help_heading = "Authentication")]
    pub oidc_username_claim: String,
    /// What is put before that name; - for nothing.
    #[arg(long, allow_hyphen_values = true, value_name = "PREFIX", help_heading = "Authentication")]
    pub oidc_username_prefix: Option<String>,
    /// Claim that lists the groups.
    #[arg(long, default_value = "", value_name = "CLAIM", help_heading = "Authentication")]
    pub oidc_groups_claim: String,
    /// What is put before each group.
    #[arg(long, default_value = "", value_name = "PREFIX", help_heading = "Authentication")]
    pub oidc_groups_prefix: String,
    /// Claim that must have a value (claim=value).
    #[arg(long, value_delimiter = ',', value_name = "CLAIM=VALUE", help_heading = "Authentication")]
    pub oidc_required_claim: Vec<String>,
    /// Algorithms of its signatures.
    #[arg(long, value_delimiter = ',', default_value = "RS256", value_name = "NAMES", help_heading = "Authentication")]
    pub oidc_signing_algs: Vec<String>,
    /// AuthorizationConfiguration of who is asked; read again when it changes.
    #[arg(long, value_name = "FILE", help_heading = "Authorization")]
    pub authorization_config: Option<PathBuf>,
    /// Who is asked, in order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny. Node and RBAC where absent.
    #[arg(long, value_delimiter = ',', value_name = "MODES", help_heading = "Authorization")]
    pub authorization_mode: Vec<String>,
    /// Kubeconfig of the webhook of the mode Webhook.
    #[arg(long, value_name = "FILE", help_heading = "Authorization")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the reviews that it gets.
    #[arg(long, default_value = "v1beta1", value_parser = ["v1", "v1beta1"], help_heading = "Authorization")]
    pub authorization_webhook_version: String,
    /// How long its yes counts.
    #[arg(long, default_value = "5m", value_parser = duration, value_name = "DURATION", help_heading = "Authorization")]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// How long anything else counts.
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "DURATION", help_heading = "Authorization")]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    server::parse_duration(text).ok_or_else(|| format!("{text:?} is no duration such as 30s or 5m"))
}

impl SecurityFlags {
    /// What the server is told. The encryption is also for the store, which must be opened with it.
    ///
    /// # Errors
    /// Files that cannot be used, and flags that do not fit together.
    pub fn settings(&self) -> Result<Security> {
        if self.audit_policy_file.is_none() && (self.audit_log_path.is_some() || self.audit_webhook_config_file.is_some()) {
            bail!("an audit log or webhook needs a policy: --audit-policy-file");
        }
        let audit = AuditSettings {
            policy: self.audit_policy_file.clone(),
            log: self.audit_log_path.clone(),
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_size_megabytes: self.audit_log_maxsize,
            webhook: self.audit_webhook_config_file.clone(),
            webhook_batch: self.audit_webhook_batch_max_size,
            webhook_wait: Some(self.audit_webhook_batch_max_wait),
        };
        Ok(Security {
            audit,
            encryption: self.encryption_provider_config.as_deref().map(Encryption::load).transpose()?,
            authentication: self.authentication_config.clone(),
            oidc: self.oidc()?,
            token_webhook: self.authentication_token_webhook_config_file.clone(),
            token_webhook_version: self.authentication_token_webhook_version.clone(),
            token_webhook_ttl: Some(self.authentication_token_webhook_cache_ttl),
            authorization: self.authorization_config.clone(),
            modes: self.authorization_mode.clone(),
            authorization_webhook: self.authorization_webhook_config_file.clone(),
            authorization_webhook_version: self.authorization_webhook_version.clone(),
            authorization_webhook_allowed_ttl: Some(self.authorization_webhook_cache_authorized_ttl),
            authorization_webhook_refused_ttl: Some(self.authorization_webhook_cache_unauthorized_ttl),
        })
    }

    fn oidc(&self) -> Result<Option<OidcSettings>> {
        let (issuer, client_id) = match (&self.oidc_issuer_url, &self.oidc_client_id) {
            (None, None) => return Ok(None),
            (Some(issuer), Some(client_id)) => (issuer.clone(), client_id.clone()),
            _ => bail!("--oidc-issuer-url and --oidc-client-id must be used together"),
        };
        let mut required_claims = Vec::new();
        for pair in &self.oidc_required_claim {
            let Some((claim, value)) = pair.split_once('=') else { bail!("--oidc-required-claim: {pair:?} is no claim=value") };
            required_claims.push((claim.to_owned(), value.to_owned()));
        }
        Ok(Some(OidcSettings {
            issuer,
            client_id,
            ca_file: self.oidc_ca_file.clone(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims,
            signing_algorithms: self.oidc_signing_algs.clone(),
        }))
    }
}
