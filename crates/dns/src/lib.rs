//! Cluster DNS in process.
//!
//! Names of Services and their endpoints are answered from an index in memory, on a thread of their own, so that a busy
//! process does not slow them down; everything else is asked of the node's own name servers. Every node answers for
//! itself: no pod has to be running for names to work.

mod engine;
mod facts;
mod feed;
mod index;
mod memory;
mod sockets;
mod upstream;
mod wire;
mod zone;

pub use engine::Stats;
pub use sockets::Sockets;
pub use upstream::Upstream;

use anyhow::Context;
use cache::Caches;
use client::Client;
use engine::Engine;
use feed::Feed;
use index::Index;
use parking_lot::RwLock;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use upstream::Forwarder;
use zone::Zone;

/// How long queries wait in the sockets for the first complete index. Later ones about the cluster fail until it is
/// there, while all others are served.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is fixed at the start.
pub struct Config {
    /// The cluster's domain, `cluster.local`.
    pub domain: String,
    /// Where to listen; with `sockets` given this stays empty.
    pub listen: Vec<SocketAddr>,
    /// Sockets that somebody else has opened.
    pub sockets: Sockets,
    /// Addresses of the Service `kube-dns`: the answer to `ns.dns.<domain>`.
    pub own_addresses: Vec<IpAddr>,
    /// Where to ask about other names.
    pub upstream: Upstream,
    /// Lifetime of the cluster's records, in seconds; 5 is usual.
    pub ttl: u32,
    /// How many answers of upstream are remembered.
    pub remembered: usize,
}

/// What the component needs of the process.
pub struct Deps {
    /// Lists and watches namespaces, services and endpoint slices.
    pub client: Client,
    /// Becomes true when queries are answered from a complete index.
    pub ready: watch::Sender<bool>,
    /// Where queries are counted.
    pub stats: Arc<Stats>,
}

/// Answers queries until the future is dropped.
///
/// # Errors
/// A bad domain, an address that cannot be listened on, a socket that breaks.
pub async fn run(config: Config, deps: Deps) -> anyhow::Result<()> {
    let mut sockets = Sockets::open(&config.listen).context("cannot listen for DNS queries")?;
    sockets.extend(config.sockets);
    let index = Arc::new(RwLock::new(Index::default()));
    let zone = Zone::new(&config.domain, config.ttl, config.own_addresses).context("bad cluster domain")?;
    let forwarder = Forwarder::new(config.upstream, sockets.addresses(), config.remembered);
    let turn = AtomicUsize::new(0);
    let engine = Arc::new(Engine { zone, index: index.clone(), forwarder, stats: deps.stats, turn });
    let caches = Caches::new(deps.client);
    let feed = Feed::start(&caches, &index);
    let early = tokio::time::timeout(PATIENCE, feed.complete()).await.is_ok();
    let stop = CancellationToken::new();
    let _stop_on_drop = stop.clone().drop_guard();
    let mut serving = serve_on_own_thread(engine, sockets, stop)?;
    if !early {
        tracing::warn!("names of the cluster are not known yet, serving the others meanwhile");
        tokio::select! {
            () = feed.complete() => {}
            outcome = &mut serving => return outcome.context("the DNS thread panicked")?,
        }
    }
    deps.ready.send_replace(true);
    let outcome = serving.await;
    deps.ready.send_replace(false);
    outcome.context("the DNS thread panicked")?
}

/// Starts the thread; the receiver gets its end.
fn serve_on_own_thread(
    engine: Arc<Engine>,
    sockets: Sockets,
    stop: CancellationToken,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<()>>> {
    let (sender, receiver) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime for DNS")?;
    std::thread::Builder::new()
        .name("dns".into())
        .spawn(move || {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    outcome = sockets::serve(engine, sockets) => outcome.context("DNS sockets"),
                    () = stop.cancelled() => Ok(()),
                }
            });
            // Nobody waits any more when the component was dropped.
            let _ = sender.send(outcome);
        })
        .context("no thread for DNS")?;
    Ok(receiver)
}
