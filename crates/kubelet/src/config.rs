//! What a kubelet is told: plain fields, no defaults; flags and files are read elsewhere.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use cri::engine::{Engine, Images};
use net::HostJournal;

use crate::eviction::{Policy, Threshold};

/// Configuration of a kubelet.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub node_name: String,
    /// Addresses of the node, the primary one first.
    pub node_ips: Vec<IpAddr>,
    /// The addresses are those of the default route's interface and change with it; false where they were given.
    pub follow_addresses: bool,
    /// Where pods' directories are, usually `/var/lib/kubelet`.
    pub root_dir: PathBuf,
    /// Where pods' logs are, usually `/var/log/pods`.
    pub log_dir: PathBuf,
    /// Where links to the logs are, usually `/var/log/containers`.
    pub container_log_dir: PathBuf,
    /// Where the kubelet serves, usually port 10250.
    pub listen: SocketAddr,
    /// Addresses of the cluster DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster, usually `cluster.local`.
    pub cluster_domain: String,
    /// The node's resolver configuration, for pods with `dnsPolicy: Default`.
    pub resolv_conf: PathBuf,
    /// How many pods the node takes.
    pub max_pods: u32,
    /// Processes and threads that a pod may have; none is as many as the machine allows.
    pub pod_pids_limit: Option<i64>,
    /// Ids of a pod with users of its own.
    pub user_ids_per_pod: u32,
    /// CPUs in thousandths instead of those of the machine.
    pub cpu_milli: Option<i64>,
    /// Memory in bytes instead of that of the machine.
    pub memory_bytes: Option<i64>,
    /// Labels given at registration.
    pub labels: Vec<(String, String)>,
    /// Taints given at registration, as `key=value:effect`.
    pub taints: Vec<String>,
    /// Directory of static pods.
    pub pod_manifests: Option<PathBuf>,
    /// Size at which a container's log is rotated, in bytes.
    pub log_max_size: u64,
    /// Files kept of a container's log.
    pub log_max_files: u32,
    /// Ranges of pods and services that pods reach with their own address.
    pub cluster_ranges: Vec<ipnet::IpNet>,
    /// Largest transfer unit of pod links.
    pub pod_mtu: u32,
    /// Pods are evicted while less than this is left.
    pub eviction_hard: Vec<Threshold>,
    /// What else pods are evicted for, and how.
    pub eviction: Policy,
    /// What happens when the machine goes down.
    pub shutdown: crate::shutdown::Config,
    /// Whether pods may use swap.
    pub swap: crate::swap::Config,
    /// Programs that know credentials for images.
    pub credential_providers: Vec<crate::credentials::Provider>,
    /// Whose credentials are verified for images that are here already.
    pub image_access: crate::image_access::Policy,
    /// When unused images are removed.
    pub image_gc: ImageGc,
    /// What is kept from pods, and how processors and memory are given to them.
    pub placement: crate::placement::Options,
    /// Version that the node reports.
    pub version: String,
    /// The KubeletConfiguration as it was written, for whoever asks for it; nothing is read from here.
    pub written: serde_json::Value,
}

/// When unused images are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageGc {
    /// Per cent of the disk in use at which removal begins; 100 turns it off.
    pub high_percent: u8,
    /// Per cent of the disk in use to which it goes on.
    pub low_percent: u8,
    /// Images that were used within this time stay.
    pub min_age: Duration,
}

/// What a kubelet works with.
#[derive(Clone)]
pub struct Deps {
    /// Calls as `system:node:<name>`.
    pub client: Client,
    /// Containers.
    pub runtime: Engine,
    /// Images.
    pub images: Images,
    /// Where changes to the host are noted.
    pub journal: Arc<HostJournal>,
    /// Certificate for serving; renewed by its owner.
    pub serving: Arc<rustls::ServerConfig>,
    /// PEM of the authority whose clients the kubelet's API knows.
    pub client_ca: String,
    /// Where the kubelet shows its numbers, and finds those of the process.
    pub metrics: client::metrics::Sources,
}
