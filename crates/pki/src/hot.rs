//! A certificate that is swapped while connections use it, and the task that renews it.

use crate::{IssueError, Issued, WallWake, sleep_until};
use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The shortest pause between two renewals.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two attempts to renew.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// Makes the next pair; given by whoever issued the first.
pub(crate) type Renew = Box<dyn Fn() -> Result<Issued, RenewError> + Send + Sync>;

/// The current certificate and key of one name. Readers always see a whole pair; replacing it needs no restart.
pub struct HotCert {
    current: ArcSwap<Pair>,
    replaced: watch::Sender<u64>,
    renew: ArcSwap<Option<Renew>>,
}

struct Pair {
    issued: Arc<Issued>,
    certified: Arc<CertifiedKey>,
}

impl Pair {
    fn new(issued: Issued) -> Result<Self, IssueError> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(issued.chain.clone(), issued.key_der(), &provider)
            .map_err(|error| IssueError::Parse(error.to_string()))?;
        Ok(Self { issued: Arc::new(issued), certified: Arc::new(certified) })
    }
}

impl HotCert {
    /// Starts with a pair that somebody else renews through `replace` (a kubelet by CSR).
    pub fn new(issued: Issued) -> Result<Arc<Self>, IssueError> {
        Self::with_renewal(issued, None)
    }

    pub(crate) fn with_renewal(issued: Issued, renew: Option<Renew>) -> Result<Arc<Self>, IssueError> {
        let current = ArcSwap::from_pointee(Pair::new(issued)?);
        Ok(Arc::new(Self { current, replaced: watch::Sender::new(0), renew: ArcSwap::from_pointee(renew) }))
    }

    /// The current pair.
    pub fn current(&self) -> Arc<Issued> {
        self.current.load().issued.clone()
    }

    /// Puts a new pair in place.
    pub fn replace(&self, issued: Issued) -> Result<(), IssueError> {
        self.current.store(Arc::new(Pair::new(issued)?));
        self.replaced.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Puts a pair of other names in place, which is renewed as those.
    pub(crate) fn replace_with_renewal(&self, issued: Issued, renew: Renew) -> Result<(), IssueError> {
        self.renew.store(Arc::new(Some(renew)));
        self.replace(issued)
    }

    /// Wakes after each replacement.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.replaced.subscribe()
    }

    /// For `rustls::ServerConfig`.
    pub fn server_resolver(self: &Arc<Self>) -> Arc<dyn ResolvesServerCert> {
        Arc::new(Resolver(self.clone()))
    }

    /// For `rustls::ClientConfig`.
    pub fn client_resolver(self: &Arc<Self>) -> Arc<dyn ResolvesClientCert> {
        Arc::new(Resolver(self.clone()))
    }

    /// Waits until the current pair should be renewed (two thirds of its life), through clock jumps and replacements.
    pub async fn renewal_due(&self) {
        let mut replaced = self.subscribe();
        loop {
            replaced.mark_unchanged();
            let due = self.current().renew_at();
            tokio::select! {
                wake = sleep_until(due) => match wake {
                    Ok(WallWake::Reached) => return,
                    Ok(WallWake::ClockJumped) => {}
                    Err(error) => {
                        // Without a kernel timer the monotonic clock has to do; it is only wrong when the clock is set.
                        tracing::warn!(%error, "no wall clock timer, sleeping by the monotonic clock");
                        let rest = due.duration_since(Timestamp::now()).max(SignedDuration::ZERO);
                        tokio::time::sleep(rest.unsigned_abs()).await;
                        return;
                    }
                },
                // The sender lives in `self`, so a change is the only thing that can happen.
                _ = replaced.changed() => {}
            }
        }
    }

    /// Renews for ever with what the certificate was made by (`ClusterPki`); returns only for pairs from `new`.
    /// A failed renewal is logged and tried again after a growing pause of at most an hour.
    pub async fn keep_renewed(self: Arc<Self>) {
        let mut pause = Duration::from_secs(10);
        while self.renew.load().is_some() {
            self.renewal_due().await;
            let renew = self.renew.load_full();
            let Some(renew) = &*renew else { return };
            let outcome = renew().and_then(|issued| {
                let until = issued.not_after;
                self.replace(issued).map_err(|error| RenewError(error.to_string())).map(|()| until)
            });
            match outcome {
                Ok(until) => {
                    tracing::info!(%until, "certificate renewed");
                    pause = Duration::from_secs(10);
                    // Near the authority's own end even a new certificate is due at once; do not spin on it.
                    tokio::time::sleep(SHORTEST_PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, "certificate not renewed, trying again in {pause:?}");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

struct Resolver(Arc<HotCert>);

impl fmt::Debug for Resolver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HotCert")
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.current.load().certified.clone())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _issuers: &[&[u8]], schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let certified = self.0.current.load().certified.clone();
        certified.key.choose_scheme(schemes).is_some().then_some(certified)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Why a renewal failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot renew the certificate: {0}")]
pub struct RenewError(pub String);
