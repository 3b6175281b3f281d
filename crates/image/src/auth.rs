//! Credentials for registries: from pull secrets in Docker's two file formats, and which of them fits an image.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt;

use crate::reference::{DOCKER_HUB, Reference};

/// One credential and the images that it is meant for.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RegistryAuth {
    /// Host with optional port and path prefix, as in a Docker config: `registry.example.com:5000/team`; `*` stands for
    /// any part of one host label. Empty fits every registry.
    pub registry: String,
    /// User name for basic and token authentication.
    pub username: String,
    /// Password or access token for `username`.
    pub password: String,
    /// OAuth2 refresh token, used instead of a password at the token server.
    pub identity_token: String,
    /// A bearer token that is sent as it is.
    pub registry_token: String,
}

/// Why a pull secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DockerConfigError {
    /// Not JSON or not of the known form.
    #[error("pull secret is not a docker config: {0}")]
    Json(#[from] serde_json::Error),
    /// The field `auth` is not base64 of `user:password`.
    #[error("pull secret entry for {0:?} has an auth field that is not base64 of user:password")]
    Auth(String),
}

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, DockerEntry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct DockerEntry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl RegistryAuth {
    /// Reads `.dockerconfigjson` of a `kubernetes.io/dockerconfigjson` secret.
    pub fn parse_docker_config_json(bytes: &[u8]) -> Result<Vec<RegistryAuth>, DockerConfigError> {
        let config: DockerConfig = serde_json::from_slice(bytes)?;
        config.auths.into_iter().map(from_entry).collect()
    }

    /// Reads `.dockercfg` of a `kubernetes.io/dockercfg` secret: the older form without the outer `auths`.
    pub fn parse_docker_cfg(bytes: &[u8]) -> Result<Vec<RegistryAuth>, DockerConfigError> {
        let entries: BTreeMap<String, DockerEntry> = serde_json::from_slice(bytes)?;
        entries.into_iter().map(from_entry).collect()
    }

    /// Those whose credential fits the reference, the most specific first, as the kubelet's key ring orders them.
    pub fn matching<T>(all: impl IntoIterator<Item = T>, reference: &Reference, auth: impl Fn(&T) -> &RegistryAuth) -> Vec<T> {
        let mut fitting: Vec<T> = all.into_iter().filter(|one| auth(one).fits(reference)).collect();
        fitting.sort_by_key(|one| std::cmp::Reverse(normalise(&auth(one).registry)));
        fitting
    }

    fn fits(&self, reference: &Reference) -> bool {
        self.registry.is_empty() || Self::pattern_fits(&self.registry, reference)
    }

    /// Whether host, port and path prefix of a pattern, as [`RegistryAuth::registry`] has them, are those of an image.
    pub fn pattern_fits(pattern: &str, reference: &Reference) -> bool {
        let pattern = normalise(pattern);
        let (host, prefix) = pattern.split_once('/').unwrap_or((&pattern, ""));
        host_fits(host, &reference.registry) && reference.path.starts_with(prefix)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.username.is_empty() && self.password.is_empty() && self.identity_token.is_empty() && self.registry_token.is_empty()
    }

    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password)))
    }
}

/// Never prints a secret.
impl fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryAuth").field("registry", &self.registry).field("username", &self.username).finish_non_exhaustive()
    }
}

/// Splits base64 of `user:password`.
pub(crate) fn decode_basic(auth: &str) -> Option<(String, String)> {
    let bytes = STANDARD.decode(auth.trim()).or_else(|_| STANDARD_NO_PAD.decode(auth.trim())).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_string(), password.trim_end_matches('\0').to_string()))
}

fn from_entry((registry, entry): (String, DockerEntry)) -> Result<RegistryAuth, DockerConfigError> {
    let (username, password) = if entry.auth.is_empty() {
        (entry.username, entry.password)
    } else {
        decode_basic(&entry.auth).ok_or_else(|| DockerConfigError::Auth(registry.clone()))?
    };
    Ok(RegistryAuth { registry, username, password, identity_token: entry.identitytoken, registry_token: entry.registrytoken })
}

/// Docker writes keys as URLs with API version; `https://index.docker.io/v1/` is the best known one.
fn normalise(registry: &str) -> String {
    let rest = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let rest = rest.trim_end_matches('/');
    let rest = rest.strip_suffix("/v1").or_else(|| rest.strip_suffix("/v2")).unwrap_or(rest);
    let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
    let host = if matches!(host, "index.docker.io" | "registry-1.docker.io") { DOCKER_HUB } else { host };
    if path.is_empty() { host.to_string() } else { format!("{host}/{path}") }
}

/// Label by label, so that `*.example.com` fits one level only. A port must be equal.
fn host_fits(pattern: &str, host: &str) -> bool {
    let (pattern, pattern_port) = split_port(pattern);
    let (host, port) = split_port(host);
    let (patterns, labels): (Vec<_>, Vec<_>) = (pattern.split('.').collect(), host.split('.').collect());
    pattern_port == port
        && patterns.len() == labels.len()
        && patterns.iter().zip(&labels).all(|(pattern, label)| glob(pattern.as_bytes(), label.as_bytes()))
}

fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !host.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    }
}

/// `*` and `?` only. Linear, since the text comes from users.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((star_p, star_t)) => {
                    star = Some((star_p, star_t + 1));
                    p = star_p + 1;
                    t = star_t + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configs_are_read() {
        let json = br#"{"auths":{
            "https://index.docker.io/v1/":{"auth":"dTpwOnc="},
            "r.example.com":{"username":"a","password":"b","email":"x@y"},
            "t.example.com":{"identitytoken":"refresh"}},"credsStore":"x"}"#;
        let auths = RegistryAuth::parse_docker_config_json(json).expect("parses");
        let hub = auths.iter().find(|auth| auth.registry.contains("docker")).expect("hub");
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("u", "p:w"));
        assert_eq!(auths.len(), 3);
        assert_eq!(RegistryAuth::parse_docker_cfg(br#"{"r":{"auth":"dTpw"}}"#).expect("parses")[0].password, "p");
        assert!(RegistryAuth::parse_docker_config_json(br#"{"auths":{"r":{"auth":"!"}}}"#).is_err());
        assert!(!format!("{hub:?}").contains("p:w"));
    }

    #[test]
    fn credentials_fit_images() {
        let cases = [
            ("https://index.docker.io/v1/", "nginx", true),
            ("docker.io", "team/app", true),
            ("docker.io/team", "team/app", true),
            ("docker.io/other", "team/app", false),
            ("*.example.com", "a.example.com/x", true),
            ("*.example.com", "a.b.example.com/x", false),
            ("*.example.com", "example.com/x", false),
            ("r.io:5000", "r.io:5000/x", true),
            ("r.io", "r.io:5000/x", false),
            ("http://r.io/v2/", "r.io/x", true),
            ("", "r.io/x", true),
            ("evil.io", "r.io/x", false),
        ];
        for (registry, image, fits) in cases {
            let auth = RegistryAuth { registry: registry.into(), ..RegistryAuth::default() };
            assert_eq!(auth.fits(&Reference::parse(image).expect("parses")), fits, "{registry} {image}");
        }
        let auths = ["r.io", "r.io/team/app", "r.io/team"].map(|r| RegistryAuth { registry: r.into(), ..RegistryAuth::default() });
        let reference = Reference::parse("r.io/team/app").expect("parses");
        let order: Vec<&str> = RegistryAuth::matching(&auths, &reference, |auth| auth).iter().map(|a| a.registry.as_str()).collect();
        assert_eq!(order, ["r.io/team/app", "r.io/team", "r.io"]);
    }
}
