//! What the API server is told at start: plain values, parsed by whoever starts it.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use pki::{ClusterPki, HotCert, PublicKey};
use store::Store;

use crate::security::Security;

/// Settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where `run` listens.
    pub listen: SocketAddr,
    /// Address under which nodes and pods reach the server; the endpoint of the `kubernetes` Service.
    pub advertise: IpAddr,
    /// Port that belongs to `advertise`.
    pub advertise_port: u16,
    /// Range of service addresses.
    pub service_cidrs: Vec<IpNet>,
    /// Range of node ports, both ends included.
    pub node_ports: (u16, u16),
    /// Issuers of service account tokens; the first goes into new ones.
    pub issuers: Vec<String>,
    /// Audiences that the API accepts; empty means the issuers.
    pub audiences: Vec<String>,
    /// Older keys of service account tokens that are still accepted.
    pub old_token_keys: Vec<PublicKey>,
    /// Whether callers without credentials are served as `system:anonymous`.
    pub anonymous: bool,
    /// A file of static tokens (`token,user,uid,"groups"`), if there is one.
    pub token_file: Option<PathBuf>,
    /// How many requests that are not long-running are served at once.
    pub max_in_flight: usize,
    /// How long a request that is not long-running may take.
    pub request_timeout: Duration,
    /// How long a shutdown waits for running requests.
    pub drain_timeout: Duration,
    /// How long events are kept.
    pub event_ttl: Duration,
    /// Further names and addresses of the serving certificate.
    pub sans: Vec<String>,
    /// Domain of the cluster's services.
    pub cluster_domain: String,
    /// Audit, encryption and further ways to authenticate and authorize.
    pub security: Security,
}

impl Config {
    /// The first service address of the first range: the address of the `kubernetes` Service.
    pub fn kubernetes_service_ip(&self) -> IpAddr {
        let first = self.service_cidrs.first().expect("there is a service range");
        first.hosts().next().unwrap_or_else(|| first.network())
    }
}

/// What the server works with.
#[derive(Clone)]
pub struct Deps {
    /// Where objects live. Opened with [`client::header::stamp`].
    pub store: Arc<dyn Store>,
    /// Authorities and keys.
    pub pki: Arc<ClusterPki>,
    /// The serving certificate.
    pub serving: Arc<HotCert>,
    /// The certificate that kubelets are called with.
    pub kubelet_client: Arc<HotCert>,
    /// The certificate that aggregated API servers are called with.
    pub front_proxy: Arc<HotCert>,
}
