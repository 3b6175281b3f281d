//! Puts load on an API server, knarr's or the Go one, and tells what a client sees: one JSON line a run.
//!
//! `load KUBECONFIG ROW COUNT CLIENTS`. Each client has a connection of its own, HTTP/2 as client-go has. What the server
//! spends is measured outside, by the accounts of its processes (`bench/run.sh`).

mod api;
mod exec;
mod fleet;
mod lists;
mod pods;
mod scale;
mod services;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    pki::install_provider();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, row, count, clients] = arguments.as_slice() else {
        bail!(
            "usage: load KUBECONFIG ROW COUNT CLIENTS; rows: served ready create get patch apply list fanout pod pods exec fill lists lists-protobuf definitions maps restored nodes beats schedule repel services flip listen"
        );
    };
    let load = Load { kubeconfig: kubeconfig.into(), count: count.parse().context("COUNT")?, clients: clients.parse().context("CLIENTS")? };
    let measured = match row.as_str() {
        "create" => api::create(&load).await?,
        "get" => api::get(&load).await?,
        "patch" => api::patch(&load).await?,
        "apply" => api::apply(&load).await?,
        "list" => api::list(&load).await?,
        "fanout" => api::fanout(&load).await?,
        "fill" => lists::fill(&load).await?,
        "lists" => lists::lists(&load, "application/json").await?,
        "lists-protobuf" => lists::lists(&load, "application/vnd.kubernetes.protobuf").await?,
        "definitions" => scale::definitions(&load).await?,
        "maps" => scale::maps(&load).await?,
        "restored" => scale::restored(&load).await?,
        "nodes" => fleet::nodes(&load).await?,
        "beats" => fleet::beats(&load).await?,
        "schedule" => fleet::schedule(&load, false).await?,
        "repel" => fleet::schedule(&load, true).await?,
        "services" => services::create(&load).await?,
        "flip" => services::flip(&load).await?,
        "listen" => services::listen().await?,
        "served" => pods::server_ready(&load).await?,
        "ready" => pods::node_ready(&load).await?,
        "pod" => pods::one_by_one(&load).await?,
        "pods" => pods::at_once(&load).await?,
        "exec" => exec::again_and_again(&load).await?,
        other => bail!("there is no row {other:?}"),
    };
    println!("{}", measured.line());
    Ok(())
}

/// What to do.
pub struct Load {
    kubeconfig: std::path::PathBuf,
    /// How many calls, events or pods.
    pub count: usize,
    /// How many clients share them.
    pub clients: usize,
}

impl Load {
    /// A client with a connection of its own.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub fn client(&self) -> Result<client::Client> {
        Ok(client::Client::new(std::sync::Arc::new(client::HttpTransport::new(self.connect()?)?)))
    }

    /// Where the server is and how to connect.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub fn connect(&self) -> Result<client::Connect> {
        self.connect_by("h2")
    }

    /// The same, for a protocol of TLS' choice (RFC 7301).
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub fn connect_by(&self, protocol: &str) -> Result<client::Connect> {
        let resolved = pki::Kubeconfig::read(&self.kubeconfig)?.resolve(None)?;
        let trust = pki::ServerTrust::Authorities(vec![resolved.ca_pem.context("the kubeconfig has no authority")?]);
        let source = resolved.client.context("the kubeconfig has no client certificate")?;
        let certificate = pki::HotCert::new(pki::Issued::from_pem(&source.cert_pem, &source.key_pem)?)?;
        let tls = pki::client_config(&trust, Some(&certificate), &[protocol])?;
        Ok(client::Connect { server: resolved.server, tls: std::sync::Arc::new(tls), token: None })
    }
}

/// What came out.
pub struct Measured {
    /// Things done: calls, delivered events, pods.
    pub done: usize,
    /// From the first to the last.
    pub wall: Duration,
    /// How long each took.
    pub each: Vec<Duration>,
    /// Bytes read, where they are counted.
    pub bytes: u64,
}

impl Measured {
    /// What came out of calls whose bytes nobody counts.
    pub fn new(done: usize, wall: Duration, each: Vec<Duration>) -> Measured {
        Measured { done, wall, each, bytes: 0 }
    }

    /// Starts measuring.
    pub fn begin() -> Instant {
        Instant::now()
    }

    fn line(mut self) -> Value {
        self.each.sort();
        let at = |part: f64| {
            self.each.get(((self.each.len() as f64 - 1.0) * part).round().max(0.0) as usize).map(|time| time.as_secs_f64() * 1e3)
        };
        json!({"done": self.done, "seconds": self.wall.as_secs_f64(), "p50_ms": at(0.5), "p99_ms": at(0.99), "bytes": self.bytes})
    }
}
