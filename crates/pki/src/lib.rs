//! Certificates, keys, service account tokens and their renewal: everything that proves who somebody is.
//!
//! One place owns the cryptographic material so that no other crate ever handles a private key as bytes.
//! All keys that we make are P-256 (ES256): generating one takes a millisecond where RSA takes a sixth of a second.
//! Nothing here knows objects of the API: the server maps `ParsedCsr`, `Identity` and `VerifiedToken` to them.

mod authority;
mod clock;
mod cluster;
mod csr;
mod files;
mod hot;
mod identity;
mod issued;
mod join;
mod keys;
mod kubeconfig;
mod names;
mod service_account;
mod subject;
mod tls;

pub use authority::{Authority, IssueError};
pub use clock::{WallWake, sleep_until};
pub use cluster::{ClusterPki, PkiError};
pub use csr::{CsrBuildError, CsrError, KeyKind, ParsedCsr, build_csr};
pub use files::{WriteError, write_private, write_public};
pub use hot::{HotCert, RenewError};
pub use identity::{ClientAuthorities, ClientCertError, Identity, ask_client_cert};
pub use issued::Issued;
pub use join::{BootstrapToken, ServerToken, TokenParseError, ca_hash};
pub use keys::{KeyError, PrivateKey, PublicKey};
pub use kubeconfig::{
    AuthInfo, ClientSource, Cluster, Context, Kubeconfig, KubeconfigError, NamedAuthInfo, NamedCluster, NamedContext, Resolved,
};
pub use service_account::{BoundObject, LegacyToken, MintError, TokenAuthority, TokenRequest, VerifiedToken, VerifyError};
pub use subject::{IssueRequest, San, Subject, Usage};
pub use tls::{ServerTrust, TlsError, anybody, client_config, install_provider, server_config};
