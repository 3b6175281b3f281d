//! Kubeconfig files: read (YAML or JSON) and written with mode 0600.

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
    pub fn single(cluster: &str, server: &str, ca_pem: &str, user: &str, auth: AuthInfo) -> Self { todo!() }
    /// Reads a file; relative paths inside are resolved against its folder.
    pub fn read(path: &Path) -> Result<Self, KubeconfigError> { todo!() }
    /// Parses YAML or JSON.
    pub fn parse(text: &str) -> Result<Self, KubeconfigError> { todo!() }
    /// Writes YAML.
    pub fn to_yaml(&self) -> Result<String, KubeconfigError> { todo!() }
    /// Writes the file atomically with mode 0600.
    pub fn write(&self, path: &Path) -> Result<(), KubeconfigError> { todo!() }
    /// Follows a context (`None`: the current one) and loads the files it names.
    pub fn resolve(&self, context: Option<&str>) -> Result<Resolved, KubeconfigError> { todo!() }
}

impl AuthInfo {
    /// An embedded client certificate.
    pub fn client_cert(cert_pem: &str, key_pem: &str) -> Self { todo!() }
    /// A bearer token.
    pub fn bearer(token: &str) -> Self { todo!() }
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
