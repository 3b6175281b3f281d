//! The configuration of credential providers: which program is asked for which images.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Versions of the configuration, and of the words that a program speaks.
const CONFIG_VERSIONS: [&str; 3] = ["kubelet.config.k8s.io/v1", "kubelet.config.k8s.io/v1beta1", "kubelet.config.k8s.io/v1alpha1"];
const WORD_VERSIONS: [&str; 3] =
    ["credentialprovider.kubelet.k8s.io/v1", "credentialprovider.kubelet.k8s.io/v1beta1", "credentialprovider.kubelet.k8s.io/v1alpha1"];

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It is of another kind.
    #[error("no kind CredentialProviderConfig of a known version in the credential provider config")]
    Kind,
    /// It is not of the known form.
    #[error("credential provider config")]
    Form(#[from] serde_json::Error),
    /// A field is wrong.
    #[error("credential provider {provider:?}: {what}")]
    Field {
        /// Whose.
        provider: String,
        /// What.
        what: String,
    },
}

/// One program.
#[derive(Debug, Clone)]
pub struct Provider {
    /// Its name, which is that of its file.
    pub name: String,
    /// Its file.
    pub program: PathBuf,
    /// The images that it is asked for.
    pub match_images: Vec<String>,
    /// How long its answers hold where they do not say.
    pub cache_duration: Duration,
    /// Version of the words that it speaks.
    pub api_version: String,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment beside our own.
    pub env: Vec<(String, String)>,
    /// What it gets of the pod's service account.
    pub token: Option<TokenAttributes>,
}

/// What a program gets of a pod's service account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenAttributes {
    /// For whom the token is.
    pub audience: String,
    /// Answers hold for one token only, rather than for the account.
    pub cache_by_token: bool,
    /// The program is not asked for pods without an account.
    pub require_account: bool,
    /// Annotations that the account must have.
    pub required: Vec<String>,
    /// Annotations that it may have.
    pub optional: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    providers: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    args: Option<Vec<String>>,
    env: Option<Vec<Variable>>,
    token_attributes: Option<Attributes>,
}

#[derive(Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Attributes {
    #[serde(default)]
    service_account_token_audience: String,
    #[serde(default)]
    cache_type: String,
    require_service_account: Option<bool>,
    #[serde(default)]
    required_service_account_annotation_keys: Vec<String>,
    #[serde(default)]
    optional_service_account_annotation_keys: Vec<String>,
}

/// Reads a configuration; the programs are in `programs`.
///
/// # Errors
/// What is wrong with it, or a program that is not there.
pub fn parse(config: &Value, programs: &Path) -> Result<Vec<Provider>, ConfigError> {
    let known = CONFIG_VERSIONS.iter().any(|version| config["apiVersion"] == *version) && config["kind"] == "CredentialProviderConfig";
    if !known {
        return Err(ConfigError::Kind);
    }
    let file: File = serde_json::from_value(config.clone())?;
    let mut providers: Vec<Provider> = Vec::new();
    for entry in file.providers {
        let name = entry.name.clone();
        let wrong = |what: String| ConfigError::Field { provider: name.clone(), what };
        if providers.iter().any(|known| known.name == entry.name) {
            return Err(wrong("duplicate name".into()));
        }
        providers.push(provider(entry, programs).map_err(wrong)?);
    }
    if providers.is_empty() {
        return Err(ConfigError::Field { provider: String::new(), what: "at least 1 item in plugins is required".into() });
    }
    Ok(providers)
}

fn provider(entry: Entry, programs: &Path) -> Result<Provider, String> {
    let name = entry.name;
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', ' ', '\0']) {
        return Err("provider name cannot be empty, '.' or '..', or contain path separators or spaces".into());
    }
    if entry.match_images.is_empty() || entry.match_images.iter().any(String::is_empty) {
        return Err("at least one image pattern must be specified in matchImages".into());
    }
    if !WORD_VERSIONS.contains(&entry.api_version.as_str()) {
        return Err(format!("unsupported apiVersion {:?}", entry.api_version));
    }
    let duration = entry.default_cache_duration.ok_or("defaultCacheDuration is required")?;
    let program = programs.join(&name);
    if !program.is_file() {
        return Err(format!("plugin binary executable {} did not exist", program.display()));
    }
    let token = entry.token_attributes.map(|attributes| token(attributes, &entry.api_version)).transpose()?;
    Ok(Provider {
        program,
        match_images: entry.match_images,
        cache_duration: super::duration(&duration).ok_or("defaultCacheDuration must be a duration that is not negative")?,
        api_version: entry.api_version,
        args: entry.args.unwrap_or_default(),
        env: entry.env.unwrap_or_default().into_iter().map(|variable| (variable.name, variable.value)).collect(),
        token,
        name,
    })
}

fn token(attributes: Attributes, version: &str) -> Result<TokenAttributes, String> {
    let (required, optional) = (attributes.required_service_account_annotation_keys, attributes.optional_service_account_annotation_keys);
    if version != WORD_VERSIONS[0] {
        return Err(format!("tokenAttributes is only supported for {}", WORD_VERSIONS[0]));
    }
    if attributes.service_account_token_audience.is_empty() {
        return Err("serviceAccountTokenAudience must be set".into());
    }
    let require_account = attributes.require_service_account.ok_or("requireServiceAccount must be set")?;
    if !require_account && !required.is_empty() {
        return Err("requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set".into());
    }
    if let Some(both) = required.iter().find(|key| optional.contains(key)) {
        return Err(format!("annotation key {both:?} cannot be both required and optional"));
    }
    let cache_by_token = match attributes.cache_type.as_str() {
        "Token" => true,
        "ServiceAccount" => false,
        other => return Err(format!("unsupported cacheType {other:?}, it must be \"ServiceAccount\" or \"Token\"")),
    };
    Ok(TokenAttributes { audience: attributes.service_account_token_audience, cache_by_token, require_account, required, optional })
}
