//! `knarr kube-scheduler`.

use std::path::Path;

use anyhow::Result;
use client::metrics::Sources;
use tokio_util::sync::CancellationToken;

use super::access::{Access, reach};
use super::endpoint::Endpoint;
use super::flags::{Flag, Values, only, used};

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("kubeconfig", "Where the API server is, and who the scheduler is there."),
    only("config", &[""]),
    only("master", &[""]),
    only("write-config-to", &[""]),
    only("pod-max-in-unschedulable-pods-duration", &["", "5m", "5m0s"]),
];

/// Runs until it fails or is told to stop.
///
/// # Errors
/// Files that cannot be used, a port that is taken, a lost lease.
pub async fn run(values: &Values, stop: CancellationToken) -> Result<()> {
    let client = Access::open(Path::new(values.needed("kubeconfig")?))?.client()?;
    let metrics = Sources::default();
    crate::process::show(&metrics, "kube-scheduler", None);
    if let Some(endpoint) = Endpoint::open(values, 10259, "kube-scheduler", &client, metrics.clone()).await? {
        tokio::spawn(endpoint.serve());
    }
    if stop.run_until_cancelled(reach(&client)).await.is_none() {
        return Ok(());
    }
    let deps = scheduler::Deps { client: client.clone(), metrics };
    let work = scheduler::run(scheduler::Config { name: "default-scheduler".into() }, deps);
    super::while_leading(values, "kube-scheduler", &client, &stop, work).await
}
