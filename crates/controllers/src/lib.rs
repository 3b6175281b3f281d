//! The controllers of the controller manager: each file brings one part of the world where objects say it should be.
//!
//! A controller reads caches, plans purely and applies through the API as its own service account. The loop around
//! them is the `reconcile` crate; this crate only holds the list and the start.

use std::sync::Arc;

use cache::Caches;
use client::{Client, Recorder};
use ipnet::IpNet;
use reconcile::{Context, Controller, Metrics};
use tokio::task::JoinSet;

mod attach_detach;
mod autoscale_plan;
mod bootstrap_signer;
mod certificate_approval;
mod certificate_cleaner;
mod certificate_signing;
mod clusterrole_aggregation;
mod cron_job;
mod daemon_plan;
mod daemon_set;
mod deployment;
mod discovery;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod endpointslice_mirroring;
mod ephemeral_volume;
mod garbage_collector;
mod horizontal_pod_autoscaler;
mod job;
mod job_indexes;
mod job_plan;
mod job_policy;
mod list;
mod local_path;
mod moment;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod node_view;
mod pod_gc;
pub mod pods;
mod pv_binder;
mod pv_protection;
mod pvc_protection;
mod replica_set;
mod replicas;
mod replication_controller;
mod resource_quota;
mod revisions;
mod rollout;
mod root_ca;
mod service_account;
mod service_cidrs;
mod slices;
mod stateful_plan;
mod stateful_set;
mod taint_eviction;
mod tally;
mod token_cleaner;
mod token_secrets;
mod ttl;
mod ttl_after_finished;
mod vac_protection;
mod validating_admission_policy_status;
mod volume_match;

/// Configuration of the controllers.
#[derive(Clone)]
pub struct Config {
    /// Range that nodes get their pod ranges from; `None` allocates none.
    pub cluster_cidr: Option<IpNet>,
    /// Length of a node's pod range.
    pub node_cidr_mask: u8,
    /// Names of controllers that shall not run.
    pub disabled: Vec<String>,
    /// PEM of the certificate authority that is published to every namespace.
    pub root_ca: String,
    /// Signs the tokens that Secrets hold; `None` leaves such Secrets empty.
    pub tokens: Option<Arc<pki::TokenAuthority>>,
    /// Signs certificate requests; `None` leaves them alone.
    pub signer: Option<Arc<dyn Signer>>,
    /// Time without a heartbeat after which a node is unknown.
    pub node_monitor_grace: std::time::Duration,
    /// Folder for volumes of the class `local-path`, the same on all nodes; `None` makes none.
    pub local_path_dir: Option<std::path::PathBuf>,
}

/// Signs certificate requests; the keys stay with whoever implements it.
pub trait Signer: Send + Sync {
    /// Signs a PKCS#10 request in PEM for a signer name, usages and seconds of life; the answer is a PEM chain.
    ///
    /// # Errors
    /// A text for the condition `Failed`.
    fn sign(&self, request_pem: &str, signer_name: &str, usages: &[String], seconds: Option<i32>) -> Result<String, String>;
}

/// What the controllers work with.
pub struct Deps {
    /// Lists and watches as `system:kube-controller-manager`.
    pub client: Client,
    /// A client that acts as `system:serviceaccount:kube-system:<name>`.
    pub client_as: Arc<dyn Fn(&str) -> Client + Send + Sync>,
    /// Where the controllers show their numbers.
    pub metrics: client::metrics::Sources,
}

/// Account of controllers that act as the controller manager itself, as a few do upstream.
const ROOT: &str = "";

/// One controller with the service account that it acts as.
pub struct Entry {
    /// Service account in `kube-system`, or [`ROOT`].
    pub account: &'static str,
    /// The controller.
    pub controller: Arc<dyn Controller>,
}

/// Names of all controllers.
pub fn names() -> Vec<&'static str> {
    let config = Config {
        cluster_cidr: None,
        node_cidr_mask: 24,
        disabled: Vec::new(),
        root_ca: String::new(),
        tokens: None,
        signer: None,
        node_monitor_grace: std::time::Duration::ZERO,
        local_path_dir: None,
    };
    list::all(&config).iter().map(|entry| entry.controller.name()).collect()
}

/// Runs all controllers until the future is dropped.
///
/// # Errors
/// None yet; a controller that panics is started again by its loop.
pub async fn run(config: Config, deps: Deps) -> anyhow::Result<()> {
    let caches = Caches::new(deps.client.clone());
    let mut tasks = JoinSet::new();
    let mut counted = Vec::new();
    for entry in list::all(&config) {
        let name = entry.controller.name();
        if config.disabled.iter().any(|disabled| disabled == name) {
            continue;
        }
        let client = if entry.account == ROOT { deps.client.clone() } else { (deps.client_as)(entry.account) };
        let recorder = Recorder::new(client.clone(), name, "");
        let context = Context::new(client, caches.clone(), recorder);
        let metrics: Arc<Metrics> = Arc::default();
        counted.push((name, metrics.clone()));
        tasks.spawn(reconcile::run(entry.controller, context, metrics));
    }
    deps.metrics.set("controllers", move |out| reconcile::metrics::render(&counted, out));
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller ended");
        }
    }
    Ok(())
}
