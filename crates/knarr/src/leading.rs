//! Parts of which only one may work in a cluster of several servers: they work while they hold a Lease.

use std::time::Duration;

use anyhow::{Result, bail};
use client::Client;
use reconcile::{LeaseConfig, lead};

/// A name that no other process has.
pub fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{:032x}", rand::random::<u128>())
}

/// Does the work while holding the lease of this name, or at once where the server is the only one.
///
/// # Errors
/// What the work ends with, and the loss of the lease.
pub async fn alone(is_only: bool, name: &str, client: &Client, work: impl Future<Output = Result<()>>) -> Result<()> {
    if is_only {
        return work.await;
    }
    let config = LeaseConfig {
        namespace: "kube-system".to_owned(),
        name: name.to_owned(),
        identity: identity(),
        duration: Duration::from_secs(15),
        renew: Duration::from_secs(10),
        retry: Duration::from_secs(2),
    };
    let work = async {
        tracing::info!(lease = name, "this server leads");
        work.await
    };
    match lead(client, &config, work).await {
        Some(ended) => ended,
        None => bail!("the lease {name} was lost"),
    }
}
