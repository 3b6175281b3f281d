//! The file `EncryptionConfiguration`: which resources are encrypted, with which keys. The first provider of a rule
//! writes, all of them read.

use std::sync::atomic::AtomicU64;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::ciphers::{AesCbc, AesGcm, Identity, Provider, SecretBox};
use super::kms::Kms;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    providers: Vec<Choice>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Choice {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<KmsChoice>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    #[serde(default)]
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct KmsChoice {
    #[serde(default)]
    api_version: String,
    name: String,
    endpoint: String,
    #[serde(default)]
    timeout: String,
    #[serde(default)]
    cachesize: Option<i64>,
}

/// Resources and what they are encrypted with.
pub(super) struct Rule {
    patterns: Vec<Pattern>,
    /// The first writes.
    pub(super) providers: Vec<Keyed>,
    /// Generation of the first provider's key when it was last looked at.
    pub(super) generation: AtomicU64,
}

/// A provider with the words in front of what it writes.
pub(super) struct Keyed {
    /// Such as `k8s:enc:aescbc:v1:key1:`; empty for plain text.
    pub(super) prefix: String,
    /// Tells two keys of one name apart.
    pub(super) fingerprint: [u8; 32],
    /// What encrypts.
    pub(super) provider: Box<dyn Provider>,
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
enum Pattern {
    Everything,
    Group(String),
    One(String, String),
}

impl Rule {
    /// Whether a resource is meant.
    pub(super) fn covers(&self, group: &str, plural: &str) -> bool {
        self.patterns.iter().any(|pattern| match pattern {
            Pattern::Everything => true,
            Pattern::Group(wanted) => wanted == group,
            Pattern::One(one, wanted) => one == plural && wanted == group,
        })
    }
}

/// Reads a file.
///
/// # Errors
/// What is wrong with it.
pub(super) fn parse(content: &[u8]) -> Result<Vec<Rule>, String> {
    let value = codec::yaml::parse(content).map_err(|error| error.to_string())?;
    let file: File = serde_json::from_value(value).map_err(|error| error.to_string())?;
    if !matches!(file.api_version.as_str(), "apiserver.config.k8s.io/v1" | "v1") || file.kind != "EncryptionConfiguration" {
        return Err(format!("expected EncryptionConfiguration of apiserver.config.k8s.io/v1, got {} of {}", file.kind, file.api_version));
    }
    if file.resources.is_empty() {
        return Err("resources: at least one resources is required".into());
    }
    let mut kms_names = Vec::new();
    let rules = file.resources.into_iter().enumerate();
    rules.map(|(index, one)| rule(one, &mut kms_names).map_err(|why| format!("resources[{index}]: {why}"))).collect()
}

fn rule(one: Resources, kms_names: &mut Vec<String>) -> Result<Rule, String> {
    if one.resources.is_empty() || one.providers.is_empty() {
        return Err("at least one resource and one provider are required".into());
    }
    let patterns = one.resources.iter().map(|text| pattern(text)).collect::<Result<Vec<_>, _>>()?;
    check_overlap(&one.resources)?;
    let mut providers = Vec::new();
    for (index, choice) in one.providers.into_iter().enumerate() {
        provider(choice, kms_names, &mut providers).map_err(|why| format!("providers[{index}]: {why}"))?;
    }
    Ok(Rule { patterns, providers, generation: AtomicU64::new(0) })
}

fn pattern(text: &str) -> Result<Pattern, String> {
    let (plural, group) = text.split_once('.').unwrap_or((text, ""));
    if text == "*" {
        return Err("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources".into());
    }
    if group == "events.k8s.io" {
        return Err(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file".into()
        );
    }
    if text.chars().any(|char| char.is_ascii_uppercase()) {
        return Err(format!("{text:?}: resource name should not contain capital letters"));
    }
    Ok(match (plural, group) {
        ("*", "*") => Pattern::Everything,
        ("*", group) => Pattern::Group(group.to_owned()),
        (_, "*") => return Err(format!("{text:?}: encrypting the same resource across groups is not supported")),
        (plural, group) => Pattern::One(plural.to_owned(), group.to_owned()),
    })
}

/// One list may not name a resource twice, be it by a star.
fn check_overlap(resources: &[String]) -> Result<(), String> {
    for (index, one) in resources.iter().enumerate() {
        if resources[..index].contains(one) {
            return Err(format!("{one:?}: the same resource cannot be specified multiple times"));
        }
        let group = one.split_once('.').map_or("", |(_, group)| group);
        let masked = resources.iter().any(|other| other != one && (other == "*.*" || *other == format!("*.{group}")));
        if masked {
            return Err(
                "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked"
                    .into(),
            );
        }
    }
    Ok(())
}

fn provider(choice: Choice, kms_names: &mut Vec<String>, found: &mut Vec<Keyed>) -> Result<(), String> {
    let given =
        [choice.aesgcm.is_some(), choice.aescbc.is_some(), choice.secretbox.is_some(), choice.identity.is_some(), choice.kms.is_some()];
    match given.iter().filter(|given| **given).count() {
        1 => {}
        0 => return Err("provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity".into()),
        _ => return Err("more than one provider specified in a single element, should split into different list elements".into()),
    }
    if choice.identity.is_some() {
        found.push(Keyed { prefix: String::new(), fingerprint: [0; 32], provider: Box::new(Identity) });
    }
    if let Some(kms) = choice.kms {
        found.push(kms_provider(kms, kms_names)?);
    }
    keys(choice.aesgcm, "aesgcm", &[16, 24, 32], found, |key| Ok(Box::new(AesGcm::new(key)?)))?;
    keys(choice.aescbc, "aescbc", &[16, 24, 32], found, |key| Ok(Box::new(AesCbc::new(key)?)))?;
    keys(choice.secretbox, "secretbox", &[32], found, |key| Ok(Box::new(SecretBox::new(key)?)))
}

fn keys(
    keys: Option<Keys>,
    name: &str,
    sizes: &[usize],
    found: &mut Vec<Keyed>,
    make: impl Fn(&[u8]) -> Result<Box<dyn Provider>, String>,
) -> Result<(), String> {
    let Some(Keys { keys }) = keys else { return Ok(()) };
    if keys.is_empty() {
        return Err(format!("{name}: at least one keys is required"));
    }
    for key in keys {
        if key.name.is_empty() || key.name.contains(':') {
            return Err(format!("{name}: {:?} is no name of a key", key.name));
        }
        let secret = STANDARD.decode(key.secret.trim()).map_err(|_| format!("{name}: secrets must be base64 encoded"))?;
        if !sizes.contains(&secret.len()) {
            return Err(format!("{name}: secret is not of the expected length, got {}, expected one of {sizes:?}", secret.len()));
        }
        let fingerprint = sha2::Digest::finalize(sha2::Digest::chain_update(<sha2::Sha256 as sha2::Digest>::new(), &secret)).into();
        found.push(Keyed { prefix: format!("k8s:enc:{name}:v1:{}:", key.name), fingerprint, provider: make(&secret)? });
    }
    Ok(())
}

fn kms_provider(choice: KmsChoice, names: &mut Vec<String>) -> Result<Keyed, String> {
    if choice.api_version != "v2" {
        return Err(format!("kms: apiVersion {:?} is not supported, only v2 is", choice.api_version));
    }
    if choice.cachesize.is_some() {
        return Err("kms: cachesize is not supported in v2".into());
    }
    if choice.name.is_empty() || choice.name.contains(':') {
        return Err(format!("kms: invalid KMS provider name {}, must not contain ':'", choice.name));
    }
    if names.contains(&choice.name) {
        return Err(format!("kms: duplicate KMS provider name {}, names must be unique", choice.name));
    }
    let path =
        choice.endpoint.strip_prefix("unix://").ok_or_else(|| format!("kms: endpoint {:?}: only unix is supported", choice.endpoint))?;
    let timeout =
        if choice.timeout.is_empty() { Some(std::time::Duration::from_secs(3)) } else { crate::durations::parse(&choice.timeout) };
    let timeout =
        timeout.filter(|timeout| !timeout.is_zero()).ok_or_else(|| format!("kms: timeout {:?} is no positive duration", choice.timeout))?;
    let prefix = format!("k8s:enc:kms:v2:{}:", choice.name);
    names.push(choice.name);
    Ok(Keyed { prefix, fingerprint: [1; 32], provider: Box::new(Kms::connect(path, timeout)?) })
}
