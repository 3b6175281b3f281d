//! `registries.yaml`, compatible with k3s: where images of a registry are really fetched, with which credentials and TLS.
//!
//! ```yaml
//! mirrors:
//!   docker.io:
//!     endpoint: ["https://mirror.example.com", "http://10.0.0.5:5000/v2"]
//!     rewrite: {"^library/(.*)": "hub/$1"}
//!   "*": {endpoint: ["http://10.0.0.5:5000"]}
//! configs:
//!   mirror.example.com:
//!     auth: {username: u, password: p}
//!     tls: {ca_file: /etc/ca.pem, cert_file: /etc/me.pem, key_file: /etc/me.key, insecure_skip_verify: false}
//! ```
//!
//! Mirrors are tried in their order, the registry itself comes last. Rewrites apply to mirrors only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Uri;
use regex::Regex;
use serde::Deserialize;

use crate::auth::{RegistryAuth, decode_basic};
use crate::reference::{DOCKER_HUB, Reference};

/// Mirrors, credentials and TLS settings by registry. The default value uses every registry directly. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    mirrors: Arc<BTreeMap<String, Mirror>>,
    configs: Arc<BTreeMap<String, HostConfig>>,
    mirrors_only: bool,
}

/// Why the file was refused.
#[derive(Debug, thiserror::Error)]
pub enum RegistriesError {
    /// The file cannot be read.
    #[error("cannot read {path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Not YAML or not of the known form.
    #[error("registries file is not of the known form: {0}")]
    Form(String),
    /// An endpoint that is no http or https URL.
    #[error("registries file: mirror {mirror:?} has the endpoint {endpoint:?}, which is no http or https URL")]
    Endpoint {
        /// Key below `mirrors`.
        mirror: String,
        /// The refused text.
        endpoint: String,
    },
    /// A rewrite whose pattern is no regular expression.
    #[error("registries file: mirror {mirror:?} has a rewrite that is no regular expression: {error}")]
    Rewrite {
        /// Key below `mirrors`.
        mirror: String,
        /// What the parser said.
        error: regex::Error,
    },
    /// The field `auth` is not base64 of `user:password`.
    #[error("registries file: the auth of {0:?} is not base64 of user:password")]
    Auth(String),
}

/// TLS settings of one host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub(crate) struct TlsSettings {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub insecure_skip_verify: bool,
}

/// One place to ask for one repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub tls: bool,
    /// Host with optional port, as in the URL.
    pub authority: String,
    /// Path before the repository, without a slash at the end: `/v2`.
    pub prefix: String,
    /// Repository path at this endpoint, after rewrites.
    pub repository: String,
    /// The registry of the reference if this endpoint is a mirror of it: sent as `ns=`.
    pub namespace: Option<String>,
    pub settings: TlsSettings,
    pub auth: Option<RegistryAuth>,
}

#[derive(Clone, Debug)]
struct Mirror {
    endpoints: Vec<(bool, String, String)>,
    rewrites: Vec<(Regex, String)>,
}

#[derive(Clone, Debug, Default)]
struct HostConfig {
    auth: Option<RegistryAuth>,
    tls: Option<TlsSettings>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct FileForm {
    mirrors: Option<BTreeMap<String, Option<MirrorForm>>>,
    configs: Option<BTreeMap<String, Option<ConfigForm>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MirrorForm {
    endpoint: Option<Vec<String>>,
    rewrite: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConfigForm {
    auth: Option<AuthForm>,
    tls: Option<TlsSettings>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthForm {
    username: String,
    password: String,
    auth: String,
    identity_token: String,
}

impl Registries {
    /// Parses the text of a `registries.yaml`. An empty text means no settings.
    pub fn parse(text: &str) -> Result<Registries, RegistriesError> {
        let form: Option<FileForm> = if text.trim().is_empty() {
            None
        } else {
            serde_saphyr::from_str(text).map_err(|error| RegistriesError::Form(error.to_string()))?
        };
        let form = form.unwrap_or_default();
        let mut mirrors = BTreeMap::new();
        for (name, mirror) in form.mirrors.unwrap_or_default() {
            let mirror = parse_mirror(&name, mirror.unwrap_or_default())?;
            mirrors.insert(host_of(&name).to_string(), mirror);
        }
        let mut configs = BTreeMap::new();
        for (name, config) in form.configs.unwrap_or_default() {
            let config = config.unwrap_or_default();
            let auth = config.auth.map(|auth| parse_auth(&name, auth)).transpose()?;
            configs.insert(host_of(&name).to_string(), HostConfig { auth, tls: config.tls });
        }
        Ok(Registries { mirrors: Arc::new(mirrors), configs: Arc::new(configs), mirrors_only: false })
    }

    /// Reads the file; a missing file means no settings.
    pub fn load(path: &Path) -> Result<Registries, RegistriesError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Registries::parse(&text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Registries::default()),
            Err(error) => Err(RegistriesError::Read { path: path.to_path_buf(), error }),
        }
    }

    /// Registries that have a mirror are never asked themselves (k3s: `--disable-default-registry-endpoint`).
    pub fn mirrors_only(mut self) -> Registries {
        self.mirrors_only = true;
        self
    }

    /// Where to ask for the reference, in this order.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let mirror = self.mirrors.get(&reference.registry).or_else(|| self.mirrors.get("*"));
        let mut endpoints = Vec::new();
        if let Some(mirror) = mirror {
            let repository = mirror.rewrite(&reference.path);
            for (tls, authority, prefix) in &mirror.endpoints {
                let config = self.config(&[authority]);
                endpoints.push(Endpoint {
                    tls: *tls,
                    authority: authority.clone(),
                    prefix: prefix.clone(),
                    repository: repository.clone(),
                    namespace: (*authority != reference.registry).then(|| reference.registry.clone()),
                    settings: config.tls.unwrap_or_default(),
                    auth: config.auth,
                });
            }
        }
        if !(self.mirrors_only && mirror.is_some_and(|mirror| !mirror.endpoints.is_empty())) {
            let own = self.own_endpoint(reference);
            let known = |endpoint: &Endpoint| {
                (endpoint.tls, &endpoint.authority, &endpoint.repository) == (own.tls, &own.authority, &own.repository)
            };
            if !endpoints.iter().any(known) {
                endpoints.push(own);
            }
        }
        endpoints
    }

    fn own_endpoint(&self, reference: &Reference) -> Endpoint {
        let hub = reference.registry == DOCKER_HUB;
        let authority = if hub { "registry-1.docker.io" } else { &reference.registry };
        let config = self.config(&[&reference.registry, authority]);
        let tls = config.tls.is_some() || !is_loopback(authority) || authority.ends_with(":443");
        Endpoint {
            tls,
            authority: authority.to_string(),
            prefix: "/v2".into(),
            repository: reference.path.clone(),
            namespace: None,
            settings: config.tls.unwrap_or_default(),
            auth: config.auth,
        }
    }

    fn config(&self, hosts: &[&str]) -> HostConfig {
        let found = hosts.iter().find_map(|host| self.configs.get(*host));
        found.or_else(|| self.configs.get("*")).cloned().unwrap_or_default()
    }
}

impl Mirror {
    /// The first pattern that matches decides.
    fn rewrite(&self, repository: &str) -> String {
        let rewrite = self.rewrites.iter().find(|(pattern, _)| pattern.is_match(repository));
        match rewrite {
            Some((pattern, replacement)) => pattern.replace_all(repository, replacement.as_str()).into_owned(),
            None => repository.to_string(),
        }
    }
}

fn parse_mirror(name: &str, form: MirrorForm) -> Result<Mirror, RegistriesError> {
    let mut endpoints = Vec::new();
    for endpoint in form.endpoint.unwrap_or_default() {
        let parsed = parse_endpoint(&endpoint);
        endpoints.push(parsed.ok_or(RegistriesError::Endpoint { mirror: name.to_string(), endpoint })?);
    }
    let mut rewrites = Vec::new();
    for (pattern, replacement) in form.rewrite.unwrap_or_default() {
        let pattern = Regex::new(&pattern).map_err(|error| RegistriesError::Rewrite { mirror: name.to_string(), error })?;
        rewrites.push((pattern, replacement));
    }
    Ok(Mirror { endpoints, rewrites })
}

/// Scheme (true for https), authority and path prefix. Without a scheme loopback means http, as with containerd.
fn parse_endpoint(text: &str) -> Option<(bool, String, String)> {
    let with_scheme = if text.contains("://") {
        text.to_string()
    } else {
        format!("{}://{text}", if is_loopback(text.split('/').next()?) { "http" } else { "https" })
    };
    let uri: Uri = with_scheme.parse().ok()?;
    let tls = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    let authority = uri.authority()?.as_str();
    if authority.contains('@') || uri.query().is_some() {
        return None;
    }
    let path = uri.path().trim_end_matches('/');
    Some((tls, authority.to_string(), if path.is_empty() { "/v2".into() } else { path.to_string() }))
}

fn parse_auth(name: &str, form: AuthForm) -> Result<RegistryAuth, RegistriesError> {
    let (username, password) = if form.username.is_empty() && !form.auth.is_empty() {
        decode_basic(&form.auth).ok_or_else(|| RegistriesError::Auth(name.to_string()))?
    } else {
        (form.username, form.password)
    };
    Ok(RegistryAuth { username, password, identity_token: form.identity_token, ..RegistryAuth::default() })
}

/// Keys are hosts; people write URLs too.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

fn is_loopback(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(registries: &Registries, image: &str) -> Vec<String> {
        let endpoints = registries.endpoints(&Reference::parse(image).expect("a reference"));
        let url = |endpoint: Endpoint| {
            let scheme = if endpoint.tls { "https" } else { "http" };
            format!("{scheme}://{}{}/{}", endpoint.authority, endpoint.prefix, endpoint.repository)
        };
        endpoints.into_iter().map(url).collect()
    }

    #[test]
    fn endpoints_follow_the_file() {
        let registries = Registries::parse(
            r#"
mirrors:
  docker.io:
    endpoint: ["https://mirror.example.com", "http://10.0.0.5:5000/v2/hub/", "127.0.0.1:5001"]
    rewrite: {"^library/(.*)": "official/$1"}
  registry.k8s.io:
  own.example.com:
    endpoint: ["https://own.example.com"]
  "*":
    endpoint: ["http://any:5000"]
configs:
  mirror.example.com: {auth: {username: u, password: p}}
  docker.io: {auth: {auth: "aHViOnB3"}}
  "any:5000": {tls: {insecure_skip_verify: true, ca_file: /ca.pem}}
"#,
        )
        .expect("parses");
        let cases: [(&str, &[&str]); 4] = [
            (
                "nginx",
                &[
                    "https://mirror.example.com/v2/official/nginx",
                    "http://10.0.0.5:5000/v2/hub/official/nginx",
                    "http://127.0.0.1:5001/v2/official/nginx",
                    "https://registry-1.docker.io/v2/library/nginx",
                ],
            ),
            ("registry.k8s.io/pause:3", &["https://registry.k8s.io/v2/pause"]),
            ("own.example.com/a", &["https://own.example.com/v2/a"]),
            ("q.io/a/b", &["http://any:5000/v2/a/b", "https://q.io/v2/a/b"]),
        ];
        for (image, urls) in cases {
            assert_eq!(asked(&registries, image), urls, "{image}");
        }
        assert_eq!(asked(&registries.clone().mirrors_only(), "q.io/a"), ["http://any:5000/v2/a"]);
        let endpoints = registries.endpoints(&Reference::parse("nginx").expect("a reference"));
        let user = |index: usize| endpoints[index].auth.as_ref().map(|auth| auth.username.as_str());
        assert_eq!((user(0), user(1), user(3)), (Some("u"), None, Some("hub")));
        assert_eq!(endpoints[0].namespace.as_deref(), Some("docker.io"));
        assert_eq!(endpoints[3].namespace, None);
        let any = registries.endpoints(&Reference::parse("q.io/a").expect("a reference"));
        assert!(any[0].settings.insecure_skip_verify);
    }

    #[test]
    fn without_a_file_registries_are_asked_directly() {
        let none = Registries::parse("").expect("an empty file is fine");
        assert_eq!(asked(&none, "nginx"), ["https://registry-1.docker.io/v2/library/nginx"]);
        assert_eq!(asked(&none, "localhost:5000/a"), ["http://localhost:5000/v2/a"]);
        assert_eq!(asked(&none, "[::1]:5000/a"), ["http://[::1]:5000/v2/a"]);
        let missing = Registries::load(Path::new("/nonexistent/registries.yaml")).expect("missing is fine");
        assert_eq!(asked(&missing, "q.io/a"), ["https://q.io/v2/a"]);
        let loopback_tls = Registries::parse("configs: {'localhost:5000': {tls: {ca_file: /x}}}").expect("parses");
        assert_eq!(asked(&loopback_tls, "localhost:5000/a"), ["https://localhost:5000/v2/a"]);
    }

    #[test]
    fn wrong_files_are_refused() {
        let cases = [
            ("mirrors: [1]", "known form"),
            ("mirrors: {a: {endpoint: ['ftp://x']}}", "no http or https URL"),
            ("mirrors: {a: {endpoint: ['http://u:p@x']}}", "no http or https URL"),
            ("mirrors: {a: {rewrite: {'(': x}}}", "no regular expression"),
            ("configs: {a: {auth: {auth: '!!'}}}", "not base64"),
        ];
        for (text, part) in cases {
            let error = Registries::parse(text).expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
