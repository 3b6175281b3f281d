//! `knarr agent`: a further node that joins a cluster by its token.
//!
//! The first contact proves both sides: the token pins the authority of the server and shows who may join. From then on
//! the node acts with its own certificate; token and facts are not needed for a restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::{Reason, Status};
use client::{Client, Connect, HttpTransport};
use http::{Method, Request};
use ipnet::IpNet;
use pki::{HotCert, ServerToken, ServerTrust};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::credentials::{Wanted, follow_address};
use super::facts::Facts;
use super::{Access, Machine};
use crate::flags::AgentFlags;
use crate::supervise::Supervisor;
use crate::{admin, logging, threads};

/// Longest wait between two attempts to reach the server.
const LONGEST: Duration = Duration::from_secs(10);
/// How long a restart waits for fresh facts before it takes the stored ones.
const FRESH: Duration = Duration::from_secs(5);
const MAGIC: &str = "knarr-agent";
const FORMAT: u32 = 1;

/// What an agent remembers of its cluster.
#[derive(Serialize, Deserialize)]
struct Remembered {
    magic: String,
    format: u32,
    facts: Facts,
}

/// Runs an agent until it is told to stop. Containers go on running.
///
/// # Errors
/// The token is none, pins another cluster or is refused; missing rights or a data directory in use.
pub fn run(flags: AgentFlags) -> Result<()> {
    let levels = logging::start(&flags.node.log_level, flags.node.log_format == "json")?;
    let runtime = threads::start(2)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        let supervisor = Supervisor::new(CancellationToken::new());
        let ended = tokio::select! {
            ended = serve(flags, levels, supervisor.clone()) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        };
        supervisor.shut_down().await;
        ended
    })
}

async fn serve(flags: AgentFlags, levels: logging::Levels, supervisor: Supervisor) -> Result<()> {
    flags.node.check()?;
    let token = token(&flags)?;
    let name = super::node_name(&flags.node)?;
    let dir = flags.node.data_dir.join("agent");
    std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
    let wanted = Wanted::client(&name, &dir);
    // A machine that the cluster does not let in stays as it was.
    let joined = join(&flags.server, token.as_ref(), &wanted, &dir).await?;
    let machine = Machine::open(&flags.node).await?;
    let transport = Arc::new(transport(&flags.server, &joined.trust, Some(&joined.cert), None)?);
    let client = Client::new(transport.clone());
    let facts = joined.facts(&client).await?;
    let cluster = facts.cluster()?;
    let serving_wanted = Wanted::serving(&machine.name, &machine.ips, &dir);
    let serving = serving_wanted.obtain(&client).await.context("get the kubelet's serving certificate")?;
    if flags.node.node_ip.is_empty() {
        follow_uplink(transport.clone(), &supervisor);
    }
    keep_renewed("certificate client", wanted, joined.cert.clone(), &client, &supervisor, move || transport.reconnect());
    if flags.node.node_ip.is_empty() {
        keep_serving(&machine.name, &dir, serving_wanted, serving.clone(), &client, &supervisor);
    } else {
        keep_renewed("certificate serving", serving_wanted, serving.clone(), &client, &supervisor, || ());
    }
    let metrics = client::metrics::Sources::default();
    crate::process::show(&metrics, "agent", Some(machine.runtime.cgroup_root()));
    let access = Access { node: client.clone(), proxy: client.clone(), serving, client_ca: facts.client_ca, metrics };
    let ready = super::start(&flags.node, &cluster, &machine, access, |_| false, &supervisor)?;
    let state = admin::State {
        levels,
        supervisor: supervisor.clone(),
        images: machine.images.store(),
        ready: Some(Arc::new(ready)),
        client: Some(client),
        files: Arc::default(),
        node: Some(machine.name.clone()),
    };
    let socket = flags.node.run_dir.join("knarr.sock");
    supervisor.run("admin", move || Box::pin(admin::run(socket.clone(), state.clone())));
    tracing::info!(version = api::VERSION, server = flags.server, node = machine.name, "knarr agent is running");
    std::future::pending().await
}

/// Connections die with the address that they were made from, and nobody tells; what runs goes on over new ones at once. An address
/// that comes to others costs nothing but a new connection for the next call.
pub fn follow_uplink(transport: Arc<HttpTransport>, supervisor: &Supervisor) {
    supervisor.run("uplink", move || {
        let transport = transport.clone();
        Box::pin(async move {
            let (mut addresses, mut before) = net::AddressWatch::open()?;
            loop {
                let now = addresses.changed().await?;
                let held = |address: &IpNet| now.iter().any(|now| now.addresses.contains(address));
                if before.iter().flat_map(|before| &before.addresses).all(held) {
                    transport.reconnect();
                } else {
                    transport.abandon();
                }
                before = now;
            }
        })
    });
}

/// The serving certificate names the node's address.
fn keep_serving(name: &str, dir: &Path, wanted: Wanted, cert: Arc<HotCert>, client: &Client, supervisor: &Supervisor) {
    let (name, dir, client) = (name.to_owned(), dir.to_owned(), client.clone());
    supervisor.run("certificate serving", move || {
        Box::pin(follow_address(name.clone(), dir.clone(), cert.clone(), client.clone(), wanted.clone()))
    });
}

fn keep_renewed(
    name: &str,
    wanted: Wanted,
    cert: Arc<HotCert>,
    client: &Client,
    supervisor: &Supervisor,
    replaced: impl Fn() + Clone + Send + Sync + 'static,
) {
    let client = client.clone();
    supervisor.run(name, move || Box::pin(wanted.clone().keep_renewed(cert.clone(), client.clone(), replaced.clone())));
}

/// The token as given, if any: a restarted agent needs none.
fn token(flags: &AgentFlags) -> Result<Option<ServerToken>> {
    let text = match (&flags.token, &flags.token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) => std::fs::read_to_string(file).with_context(|| format!("read token {}", file.display()))?,
        (None, None) => return Ok(None),
    };
    Ok(Some(ServerToken::parse(&text)?))
}

/// A node that the cluster knows.
pub(super) struct Joined {
    /// Whom to believe as the server.
    pub(super) trust: ServerTrust,
    /// The node's own certificate.
    pub(super) cert: Arc<HotCert>,
    file: PathBuf,
    remembered: Option<Facts>,
}

impl Joined {
    /// Fresh facts, or those of the last start while the server is away.
    pub(super) async fn facts(&self, client: &Client) -> Result<Facts> {
        let asked = async { Facts::read(&client.call(Method::GET, Facts::PATH, &Value::Null).await?) };
        let facts = match (tokio::time::timeout(FRESH, asked).await, &self.remembered) {
            (Ok(Ok(facts)), _) => facts,
            (_, Some(remembered)) => {
                tracing::warn!("the server is away, going on with what is known of the cluster");
                return Ok(remembered.clone());
            }
            (Ok(Err(error)), None) => return Err(error.context("read the facts of the cluster")),
            (Err(_), None) => bail!("the server did not tell the facts of the cluster in {FRESH:?}"),
        };
        remember(&self.file, &facts)?;
        Ok(facts)
    }
}

/// Uses what is stored if it still fits the token, else shows the token and asks for a certificate.
pub(super) async fn join(server: &str, token: Option<&ServerToken>, wanted: &Wanted, dir: &Path) -> Result<Joined> {
    let file = dir.join("cluster.json");
    let remembered = remembered(&file)?.filter(|facts| token.is_none_or(|token| token.accepts(&facts.server_ca)));
    if let (Some(facts), Some(issued)) = (&remembered, wanted.load()) {
        let trust = ServerTrust::Authorities(vec![facts.server_ca.clone()]);
        return Ok(Joined { trust, cert: HotCert::new(issued)?, file, remembered });
    }
    let Some(token) = token else { bail!("this machine has not joined yet: give the token of the cluster with --token or --token-file") };
    let authority = persist("fetch the server's authority", || authority(server)).await?;
    let trust = match &token.ca_hash {
        Some(hash) => ServerTrust::Pinned { ca_pem: authority, hash: hash.clone() },
        None => {
            tracing::warn!("the token pins no authority: whoever answers at {server} is believed");
            ServerTrust::Authorities(vec![authority])
        }
    };
    let credential = token.credential.clone();
    let client = Client::new(Arc::new(transport(server, &trust, None, Some(credential))?));
    // Everything the first start needs comes before the certificate, so that a stored certificate means a whole join.
    let facts = persist("read the facts of the cluster", || async { client.call(Method::GET, Facts::PATH, &Value::Null).await }).await?;
    let facts = Facts::read(&facts)?;
    remember(&file, &facts)?;
    let cert = HotCert::new(wanted.request(&client).await.context("get the node's certificate")?)?;
    Ok(Joined { trust, cert, file, remembered: Some(facts) })
}

/// The bundle that the server says to be signed by; the token decides whether to believe it.
async fn authority(server: &str) -> Result<String, Status> {
    let transport = transport(server, &ServerTrust::Anybody, None, None).map_err(|error| Status::bad_request(format!("{error:#}")))?;
    let request = Request::get("/cacerts").body(bytes::Bytes::new()).map_err(|error| Status::bad_request(error.to_string()))?;
    let answer = client::Transport::call(&transport, request).await?;
    String::from_utf8(answer.into_body().to_vec()).map_err(|error| Status::bad_request(error.to_string()))
}

/// Tries as long as the server is away; what it refuses it would refuse again.
async fn persist<T, F: Future<Output = Result<T, Status>>>(what: &str, attempt: impl Fn() -> F) -> Result<T> {
    let mut wait = Duration::from_millis(200);
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(status)
                if matches!(
                    status.reason,
                    Reason::ServiceUnavailable | Reason::TooManyRequests | Reason::Timeout | Reason::ServerTimeout
                ) =>
            {
                tracing::warn!(why = status.message, "cannot {what} yet");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
            Err(status) if status.code == 401 => bail!("the server refuses the token"),
            Err(status) => return Err(anyhow::Error::from(status).context(what.to_owned())),
        }
    }
}

pub(super) fn transport(
    server: &str,
    trust: &ServerTrust,
    cert: Option<&Arc<HotCert>>,
    credential: Option<String>,
) -> Result<HttpTransport> {
    let tls = pki::client_config(trust, cert, &["h2"])?;
    let token = credential.map(|credential| -> client::Token { Arc::new(move || credential.clone()) });
    Ok(HttpTransport::new(Connect { server: server.to_owned(), tls: Arc::new(tls), token })?)
}

fn remember(file: &Path, facts: &Facts) -> Result<()> {
    let remembered = Remembered { magic: MAGIC.into(), format: FORMAT, facts: facts.clone() };
    Ok(pki::write_private(file, &serde_json::to_vec_pretty(&remembered)?)?)
}

fn remembered(file: &Path) -> Result<Option<Facts>> {
    let text = match std::fs::read(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
    };
    let header: Value = serde_json::from_slice(&text).with_context(|| format!("{} is no JSON", file.display()))?;
    if header["magic"] != MAGIC {
        bail!("{} was not written by an agent", file.display());
    }
    if header["format"].as_u64().is_none_or(|format| format > u64::from(FORMAT)) {
        bail!("{} has format {}, this version knows up to {FORMAT}", file.display(), header["format"]);
    }
    let remembered: Remembered = serde_json::from_slice(&text).with_context(|| format!("read {}", file.display()))?;
    Ok(Some(remembered.facts))
}
