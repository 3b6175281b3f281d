//! `knarr coredns`: the cluster's DNS alone, told by a Corefile, as a process of a node or in CoreDNS's own pod.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use client::metrics::Sources;
use tokio::sync::watch;

use super::access::{Access, reach};
use super::corefile::Corefile;
use super::endpoint::Plain;
use super::flags::{Flag, Values, harmless, harmless_switch, used};

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("conf", "Corefile to load; ./Corefile where absent."),
    used("dns.port", "Port of servers that name none."),
    used("p", "The same."),
    harmless("pidfile"),
    harmless_switch("quiet"),
];

/// Answers that are remembered of other servers.
const REMEMBERED: usize = 4096;

/// Runs until it fails.
///
/// # Errors
/// A Corefile that asks for what is not here, an address that is taken.
pub async fn run(values: &Values) -> Result<()> {
    let path = values.text("conf").unwrap_or("Corefile");
    let text = std::fs::read_to_string(path).with_context(|| format!("loading Caddyfile {path}"))?;
    let file = Corefile::parse(&text, values.parsed("dns.port", values.parsed("p", 53)?)?).with_context(|| path.to_owned())?;
    let access = match &file.kubeconfig {
        Some(file) => Access::open(Path::new(file))?,
        None => Access::in_cluster()?,
    };
    let addresses = if file.bind.is_empty() { vec![IpAddr::from(Ipv4Addr::UNSPECIFIED)] } else { file.bind.clone() };
    let config = dns::Config {
        domain: file.domain.clone(),
        listen: addresses.into_iter().map(|ip| SocketAddr::new(ip, file.port)).collect(),
        sockets: dns::Sockets::default(),
        own_addresses: Vec::new(),
        upstream: file.upstream()?,
        ttl: file.ttl,
        remembered: REMEMBERED,
    };
    let client = access.client()?;
    let ready = watch::Sender::new(false);
    let metrics = Sources::default();
    crate::process::show(&metrics, "coredns", None);
    for (address, answers) in
        [(&file.health, ("/health", None)), (&file.ready, ("/ready", Some(ready.subscribe()))), (&file.prometheus, ("", None))]
    {
        if let Some(plain) = Plain::open(address.as_deref().unwrap_or_default(), metrics.clone()).await? {
            tokio::spawn(plain.also(answers.0, answers.1).serve());
        }
    }
    reach(&client).await;
    tracing::info!(domain = file.domain, port = file.port, "knarr coredns is running");
    dns::run(config, dns::Deps { client, ready, stats: Arc::default() }).await
}
