//! Kubeconfig files: read (YAML or JSON) and written with mode 0600.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A kubeconfig. Fields that we do not use are kept out.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Kubeconfig {
    /// `v1`.
    #[serde(rename = "apiVersion", default)]
    pub api_version: String,
    /// `Config`.
    #[serde(default)]
    pub kind: String,
    /// Servers.
    #[serde(default)]
    pub clusters: Vec<NamedCluster>,
    /// Pairs of server and user.
    #[serde(default)]
    pub contexts: Vec<NamedContext>,
    /// The context in use.
    #[serde(rename = "current-context", default)]
    pub current_context: String,
    /// Users.
    #[serde(default)]
    pub users: Vec<NamedAuthInfo>,
}

/// A cluster entry.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct NamedCluster {
    /// Its name.
    pub name: String,
    /// Its content.
    pub cluster: Cluster,
}

/// A server.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "kebab-case", default)]
pub struct Cluster {
    /// URL.
    pub server: String,
    /// Base64 of a PEM bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority_data: Option<String>,
    /// File with a PEM bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_authority: Option<String>,
    /// Trust anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub insecure_skip_tls_verify: Option<bool>,
    /// Name to verify instead of the URL's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_server_name: Option<String>,
}

/// A user entry.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct NamedAuthInfo {
    /// Its name.
    pub name: String,
    /// Its content.
    pub user: AuthInfo,
}

/// How a user shows itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct AuthInfo {
    /// Base64 of a PEM certificate.
    #[serde(rename = "client-certificate-data", skip_serializing_if = "Option::is_none")]
    pub client_certificate_data: Option<String>,
    /// Base64 of a PEM key.
    #[serde(rename = "client-key-data", skip_serializing_if = "Option::is_none")]
    pub client_key_data: Option<String>,
    /// File with a PEM certificate.
    #[serde(rename = "client-certificate", skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<String>,
    /// File with a PEM key.
    #[serde(rename = "client-key", skip_serializing_if = "Option::is_none")]
    pub client_key: Option<String>,
    /// Bearer token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// File with a bearer token, read again when it changes; wins over `token`.
    #[serde(rename = "tokenFile", skip_serializing_if = "Option::is_none")]
    pub token_file: Option<String>,
    /// User to act as.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub impersonate: Option<String>,
    /// Credential plugin; refused by `resolve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exec: Option<serde_json::Value>,
    /// Old credential plugin; refused by `resolve`.
    #[serde(rename = "auth-provider", skip_serializing_if = "Option::is_none")]
    pub auth_provider: Option<serde_json::Value>,
    /// Basic authentication; refused by `resolve`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
}

/// A context entry.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct NamedContext {
    /// Its name.
    pub name: String,
    /// Its content.
    pub context: Context,
}

/// A pair of cluster and user.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq)]
#[serde(default)]
pub struct Context {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the user.
    pub user: String,
    /// Default name space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What a client needs to call the server of one context.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// URL.
    pub server: String,
    /// PEM bundle of the server's CA; `None` means the system's roots.
    pub ca_pem: Option<String>,
    /// Trust anybody.
    pub insecure: bool,
    /// Name to verify instead of the URL's host.
    pub tls_server_name: Option<String>,
    /// Client certificate and key.
    pub client: Option<ClientSource>,
    /// The files of certificate and key, where they are files: whoever renews them writes them anew.
    pub client_files: Option<(PathBuf, PathBuf)>,
    /// Bearer token.
    pub token: Option<String>,
    /// File to read the bearer token from.
    pub token_file: Option<PathBuf>,
    /// User to act as.
    pub impersonate: Option<String>,
    /// Default name space.
    pub namespace: Option<String>,
}

/// A client certificate with its key, as PEM.
#[derive(Clone, Debug, PartialEq)]
pub struct ClientSource {
    /// Chain.
    pub cert_pem: String,
    /// Key.
    pub key_pem: String,
}

impl Kubeconfig {
    /// One cluster, one user, one context.
    pub fn single(cluster: &str, server: &str, ca_pem: &str, user: &str, auth: AuthInfo) -> Self {
        let content =
            Cluster { server: server.to_owned(), certificate_authority_data: Some(STANDARD.encode(ca_pem)), ..Cluster::default() };
        let context = Context { cluster: cluster.to_owned(), user: user.to_owned(), namespace: None };
        Self {
            api_version: "v1".into(),
            kind: "Config".into(),
            clusters: vec![NamedCluster { name: cluster.to_owned(), cluster: content }],
            contexts: vec![NamedContext { name: cluster.to_owned(), context }],
            current_context: cluster.to_owned(),
            users: vec![NamedAuthInfo { name: user.to_owned(), user: auth }],
        }
    }

    /// Reads a file; relative paths inside are resolved against its folder.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> {
        let text = read_text(path)?;
        let mut config = Self::parse(&text)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let clusters = config.clusters.iter_mut().map(|entry| &mut entry.cluster.certificate_authority);
        let users = config.users.iter_mut().flat_map(|entry| {
            let user = &mut entry.user;
            [&mut user.client_certificate, &mut user.client_key, &mut user.token_file]
        });
        for file in clusters.chain(users).flatten() {
            *file = folder.join(&*file).to_string_lossy().into_owned();
        }
        Ok(config)
    }

    /// Parses YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> {
        serde_saphyr::from_str(text).map_err(|error| KubeconfigError::Parse(error.to_string()))
    }

    /// Writes YAML.
    pub fn to_yaml(&self) -> Result<String, KubeconfigError> {
        serde_saphyr::to_string(self).map_err(|error| KubeconfigError::Parse(error.to_string()))
    }

    /// Writes the file atomically with mode 0600.
    pub fn write(&self, path: &Path) -> Result<(), KubeconfigError> {
        Ok(crate::write_private(path, self.to_yaml()?.as_bytes())?)
    }

    /// Follows a context (`None`: the current one) and loads the files it names.
    pub fn resolve(&self, context: Option<&str>) -> Result<Resolved, KubeconfigError> {
        let missing = |what, name: &str| KubeconfigError::Missing { what, name: name.to_owned() };
        let name = context.unwrap_or(&self.current_context);
        let context = self.contexts.iter().find(|entry| entry.name == name).ok_or_else(|| missing("context", name))?;
        let context = &context.context;
        let cluster = self.clusters.iter().find(|entry| entry.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| missing("cluster", &context.cluster))?.cluster;
        let no_user = AuthInfo::default();
        let user = match self.users.iter().find(|entry| entry.name == context.user) {
            Some(entry) => &entry.user,
            None if context.user.is_empty() => &no_user,
            None => return Err(missing("user", &context.user)),
        };
        let unsupported = |what| KubeconfigError::Unsupported { user: context.user.clone(), what };
        if user.exec.is_some() {
            return Err(unsupported("an exec credential plugin"));
        }
        if user.auth_provider.is_some() {
            return Err(unsupported("an auth-provider"));
        }
        if user.username.is_some() {
            return Err(unsupported("basic authentication"));
        }
        let cert = data_or_file(&user.client_certificate_data, &user.client_certificate)?;
        let key = data_or_file(&user.client_key_data, &user.client_key)?;
        let client = match (cert, key) {
            (Some(cert_pem), Some(key_pem)) => Some(ClientSource { cert_pem, key_pem }),
            (None, None) => None,
            _ => {
                return Err(unsupported("a client certificate without its key, or the reverse"));
            }
        };
        let client_files = file_of(&user.client_certificate_data, &user.client_certificate)
            .zip(file_of(&user.client_key_data, &user.client_key))
            .map(|(cert, key)| (cert.into(), key.into()));
        Ok(Resolved {
            server: cluster.server.clone(),
            ca_pem: data_or_file(&cluster.certificate_authority_data, &cluster.certificate_authority)?,
            insecure: cluster.insecure_skip_tls_verify.unwrap_or(false),
            tls_server_name: cluster.tls_server_name.clone(),
            client,
            client_files,
            token: user.token.clone(),
            token_file: user.token_file.as_ref().map(PathBuf::from),
            impersonate: user.impersonate.clone(),
            namespace: context.namespace.clone(),
        })
    }
}

/// Embedded data wins over a file, as in every client.
fn data_or_file(data: &Option<String>, file: &Option<String>) -> Result<Option<String>, KubeconfigError> {
    if let Some(data) = data.as_ref().filter(|data| !data.is_empty()) {
        let bytes = STANDARD.decode(data.trim()).map_err(|error| KubeconfigError::Parse(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| KubeconfigError::Parse(error.to_string()))?;
        return Ok(Some(text));
    }
    file_of(&None, file).map(|file| read_text(Path::new(file))).transpose()
}

/// The file, if it is that which counts.
fn file_of<'a>(data: &Option<String>, file: &'a Option<String>) -> Option<&'a str> {
    let data = data.as_deref().is_some_and(|data| !data.is_empty());
    file.as_deref().filter(|file| !data && !file.is_empty())
}

fn read_text(path: &Path) -> Result<String, KubeconfigError> {
    std::fs::read_to_string(path).map_err(|source| KubeconfigError::Read { path: path.to_owned(), source })
}

impl AuthInfo {
    /// An embedded client certificate.
    pub fn client_cert(cert_pem: &str, key_pem: &str) -> Self {
        Self {
            client_certificate_data: Some(STANDARD.encode(cert_pem)),
            client_key_data: Some(STANDARD.encode(key_pem)),
            ..Self::default()
        }
    }

    /// A bearer token.
    pub fn bearer(token: &str) -> Self {
        Self { token: Some(token.to_owned()), ..Self::default() }
    }
}

/// Why a kubeconfig cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KubeconfigError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file could not be written.
    #[error("cannot write the kubeconfig")]
    Write(#[from] crate::WriteError),
    /// Not a kubeconfig.
    #[error("not a kubeconfig: {0}")]
    Parse(String),
    /// A named entry is missing.
    #[error("{what} {name:?} does not exist in the kubeconfig")]
    Missing {
        /// Kind of entry.
        what: &'static str,
        /// Its name.
        name: String,
    },
    /// Something that we do not support.
    #[error("user {user:?} uses {what}, which is not supported")]
    Unsupported {
        /// Which user.
        user: String,
        /// What.
        what: &'static str,
    },
}
