//! The server as a whole: what its parts share, and the ways into it.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api::Status;
use client::metrics::Sources;
use pki::TokenAuthority;
use store::Store;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admission::Chain;
use crate::allocate::Allocators;
use crate::audit::Audit;
use crate::authenticate::{Issuers, StaticTokens, TokenWebhook, Trust};
use crate::authorize::{Authorizers, NodeGraph, Rbac};
use crate::catalog::{Catalog, Catalogs, Served};
use crate::config::{Config, Deps};
use crate::fairness::Fairness;
use crate::follow::Follow;
use crate::metrics::Metrics;
use crate::pace::Crowds;
use crate::reload::Reloads;
use crate::transport::in_process::InProcess;
use crate::user::User;
use crate::{bootstrap, pipeline, transport};

/// One API server. In-process clients work as soon as it is made; `serve` lets others in.
pub struct Server {
    pub(crate) config: Config,
    advertised: watch::Sender<IpAddr>,
    pub(crate) deps: Deps,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) catalogs: Catalogs,
    pub(crate) tokens: TokenAuthority,
    pub(crate) static_tokens: StaticTokens,
    pub(crate) issuers: Issuers,
    pub(crate) token_webhook: Option<TokenWebhook>,
    pub(crate) authorizers: Authorizers,
    pub(crate) client_authorities: Trust,
    pub(crate) proxy_authorities: Trust,
    pub(crate) rbac: Follow<Rbac>,
    pub(crate) nodes: Follow<NodeGraph>,
    pub(crate) admission: Chain,
    pub(crate) allocators: Allocators,
    pub(crate) fairness: Fairness,
    pub(crate) metrics: Metrics,
    pub(crate) crowds: Crowds,
    pub(crate) metric_sources: Sources,
    pub(crate) audit: Option<Arc<Audit>>,
    pub(crate) reloads: Arc<Reloads>,
    pub(crate) openapi: crate::endpoints::openapi::Documents,
    pub(crate) checks: client::checks::Checks,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the server stops: ends watches and listeners.
    pub(crate) shutdown: CancellationToken,
    ready: watch::Sender<Readiness>,
}

/// How long giving up the lease may take.
const LEAVING: std::time::Duration = std::time::Duration::from_secs(2);

/// How far the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// The objects that every cluster has are being made.
    Starting,
    /// Everything is served.
    Ready,
    /// No new requests, the running ones are finished.
    Stopping,
}

impl Server {
    /// A server over a store, with the objects that every cluster has made or mended.
    ///
    /// # Errors
    /// When keys are unusable or the store refuses writes.
    pub async fn new(config: Config, deps: Deps) -> anyhow::Result<Arc<Server>> {
        let store = deps.store.clone();
        let (reloads, shutdown) = (Arc::new(Reloads::default()), CancellationToken::new());
        let tokens = TokenAuthority::new(deps.pki.service_account_key.clone(), &config.old_token_keys, &config.issuers)?;
        let server = Arc::new(Server {
            catalogs: Catalogs::new(store.clone()),
            tokens,
            static_tokens: StaticTokens::read(config.token_file.as_deref())?,
            issuers: Issuers::open(&config.security, &config.issuers, &reloads, &shutdown)?,
            token_webhook: TokenWebhook::of(&config.security)?,
            authorizers: Authorizers::open(&config.security, &reloads, &shutdown)?,
            client_authorities: Trust::new(deps.pki.client_ca.cert_pem())?,
            proxy_authorities: Trust::new(deps.pki.request_header_ca.cert_pem())?,
            rbac: Rbac::follow(store.clone()),
            nodes: NodeGraph::follow(store.clone()),
            admission: Chain::new(store.clone()),
            allocators: Allocators::new(store.clone(), &config),
            fairness: Fairness::new(config.max_in_flight, config.request_timeout),
            metrics: Metrics::default(),
            crowds: Crowds::default(),
            metric_sources: Sources::default(),
            audit: Audit::open(&config.security.audit, &reloads, &shutdown)?,
            reloads,
            openapi: crate::endpoints::openapi::Documents::default(),
            checks: client::checks::Checks::default(),
            tasks: TaskTracker::new(),
            shutdown,
            ready: watch::Sender::new(Readiness::Starting),
            store,
            advertised: watch::Sender::new(config.advertise),
            config,
            deps,
        });
        server.catalogs.bind(&server);
        server.follow_encryption();
        bootstrap::ensure(&server).await?;
        crate::fairness::start(&server);
        crate::definitions::start(&server);
        crate::availability::start(&server);
        crate::peers::start(&server).await;
        server.ready.send_replace(Readiness::Ready);
        Ok(server)
    }

    /// The transport of a component in this process, which acts as this user.
    pub fn in_process(self: &Arc<Self>, user: User) -> Arc<InProcess> {
        Arc::new(InProcess::new(self.clone(), user))
    }

    /// Typed calls of a component in this process.
    pub fn client(self: &Arc<Self>, user: User) -> client::Client {
        client::Client::new(self.in_process(user))
    }

    /// Serves TLS connections until `stop` is called, then finishes the running requests.
    ///
    /// # Errors
    /// When the listener cannot be used.
    pub async fn serve(self: &Arc<Self>, listener: tokio::net::TcpListener) -> anyhow::Result<()> {
        transport::listen::serve(self, listener).await
    }

    /// Ends in order: first the server says that it is not ready and is none of the cluster's endpoints, and goes on serving
    /// for as long as `delay`, so that those who ask first learn it; then it takes nothing new, watches end, and what runs is
    /// finished.
    pub async fn shut_down(self: &Arc<Self>, delay: std::time::Duration) {
        self.ready.send_replace(Readiness::Stopping);
        let leaving = tokio::time::timeout(LEAVING, crate::peers::leave(self)).await;
        if leaving.is_err() {
            tracing::warn!("the store does not answer; the server's lease ends by itself");
        }
        tokio::time::sleep(delay).await;
        self.shutdown.cancel();
    }

    /// Tells everyone to finish: watches end, listeners close.
    pub fn stop(&self) {
        self.ready.send_replace(Readiness::Stopping);
        self.shutdown.cancel();
    }

    /// Where others reach this server.
    pub fn advertised(&self) -> IpAddr {
        *self.advertised.borrow()
    }

    /// From now on others reach this server at another address, which the endpoints of the Service `kubernetes` tell.
    pub async fn advertise(self: &Arc<Self>, address: IpAddr) {
        let before = self.advertised.send_replace(address);
        if before != address {
            crate::peers::moved(self, before).await;
        }
    }

    /// Where the other components of this process add themselves to what `/metrics` shows.
    pub fn metric_sources(&self) -> Sources {
        self.metric_sources.clone()
    }

    /// What became of the configuration files that are read again when they change.
    pub fn reloads(&self) -> Arc<Reloads> {
        self.reloads.clone()
    }

    fn follow_encryption(&self) {
        let Some(encryption) = self.config.security.encryption.clone() else { return };
        let (store, path, content) = (self.store.clone(), encryption.path().to_owned(), encryption.content().to_vec());
        self.reloads.follow("encryption", &path, &content, self.shutdown.clone(), move |content| {
            encryption.reload(content, store.mvcc().revision())
        });
    }

    /// Whether a stored object has to be written again, for the encryption that is in force or the version that is stored.
    pub(crate) fn is_stale(&self, served: &Served, entry: &store::Entry) -> bool {
        crate::steps::convert::is_stored_otherwise(served, entry)
            || self.config.security.encryption.as_ref().is_some_and(|encryption| encryption.is_stale(entry, self.store.mvcc().revision()))
    }

    /// How far the server is, now and later.
    pub fn readiness(&self) -> watch::Receiver<Readiness> {
        self.ready.subscribe()
    }

    /// Mints and verifies service account tokens.
    pub fn tokens(&self) -> &TokenAuthority {
        &self.tokens
    }

    /// What is served now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalogs.current()
    }

    /// One call of a user in this process, answered like any other.
    ///
    /// # Errors
    /// The Status of the answer.
    pub async fn call(
        self: &Arc<Self>,
        user: &Arc<User>,
        request: http::Request<bytes::Bytes>,
    ) -> Result<http::Response<bytes::Bytes>, Status> {
        pipeline::call_in_process(self, user, request).await
    }
}

/// Runs a server until `stop` is cancelled. `ready` gets the address that it listens on.
///
/// # Errors
/// When it cannot start or listen.
pub async fn run(config: Config, deps: Deps, stop: CancellationToken, ready: impl FnOnce(SocketAddr) + Send) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(config.listen).await?;
    let address = listener.local_addr()?;
    let server = Server::new(config, deps).await?;
    ready(address);
    let serving = server.serve(listener);
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => return result,
        () = async {
            stop.cancelled().await;
            server.shut_down(std::time::Duration::ZERO).await;
        } => {}
    }
    serving.await
}
