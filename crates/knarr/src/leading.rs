//! Parts of which only one may work in a cluster of several servers: they work while they hold a Lease.

use std::time::Duration;

use anyhow::{Result, bail};
use client::Client;
use reconcile::{LeaseConfig, Led, lead};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A name that no other process has.
pub fn identity() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}_{:032x}", rand::random::<u128>())
}

/// What leads in this process, so that it can be told to stop while the API server still answers.
#[derive(Clone, Default)]
pub struct Leaders {
    stop: CancellationToken,
    at_work: TaskTracker,
}

impl Leaders {
    /// Ends what leads and gives up its leases.
    pub async fn give_up(&self) {
        self.stop.cancel();
        self.at_work.close();
        self.at_work.wait().await;
    }
}

/// Does the work while holding the lease of this name, or at once where the server is the only one. Once the leaders were
/// told to give up, it does not end any more, for whoever runs it would start it again.
///
/// # Errors
/// What the work ends with, and the loss of the lease.
pub async fn alone(is_only: bool, name: &str, client: &Client, leaders: &Leaders, work: impl Future<Output = Result<()>>) -> Result<()> {
    if is_only {
        return work.await;
    }
    let at_work = leaders.at_work.token();
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
    let led = lead(client, &config, leaders.stop.cancelled(), work).await;
    drop(at_work);
    match led {
        Led::Done(ended) => ended,
        Led::Lost => bail!("the lease {name} was lost"),
        Led::Stopped => std::future::pending().await,
    }
}
