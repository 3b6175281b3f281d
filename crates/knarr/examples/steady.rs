//! A steady load for tests of faults: 200 writes and 100 DNS queries a second for as long as a file is there. Then it
//! proves that every acknowledged write is still there and that every query was answered in time, with nobody asking twice.
//!
//! Usage: `steady KUBECONFIG DNS-ADDRESS FILE`. It ends with success if nothing was lost.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use client::{Client, Connect, HttpTransport, PatchKind, ResourceId};
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use pki::{HotCert, Issued, Kubeconfig, ServerTrust};
use serde_json::{Value, json};
use tokio::net::UdpSocket;
use tokio::time::{MissedTickBehavior, interval};

/// Writers, each of which waits for its answers.
const WRITERS: usize = 40;
/// Time from one write of a writer to the next.
const PACE: Duration = Duration::from_millis(1000 * WRITERS as u64 / 200);
/// Time from one query to the next.
const QUERIES: Duration = Duration::from_millis(10);
/// How long a resolver waits for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::main]
async fn main() -> Result<()> {
    pki::install_provider();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, dns, file] = &arguments[..] else { anyhow::bail!("usage: steady KUBECONFIG DNS-ADDRESS FILE") };
    let client = connect(Path::new(kubeconfig))?;
    let file = PathBuf::from(file);
    let asking = tokio::spawn(ask(dns.parse().context("the address of the DNS")?, file.clone()));
    let writers: Vec<_> = (0..WRITERS).map(|number| tokio::spawn(write(client.clone(), number, file.clone()))).collect();
    let mut acknowledged = Acknowledged::default();
    for writer in writers {
        let (number, mut written) = writer.await??;
        acknowledged.failed += written.failed;
        acknowledged.created.append(&mut written.created);
        acknowledged.last.extend(written.last.get_key_value(&number).map(|(number, value)| (*number, *value)));
        acknowledged.patches += written.patches;
    }
    let missing = acknowledged.missing(&client).await?;
    let heard = asking.await??;
    println!(
        "{} creates and {} patches acknowledged, {} missing ({} calls failed meanwhile); {} queries, {} without an answer in time, slowest {:?}",
        acknowledged.created.len(),
        acknowledged.patches,
        missing.len(),
        acknowledged.failed,
        heard.asked,
        heard.lost,
        heard.slowest
    );
    ensure!(missing.is_empty(), "acknowledged and missing: {missing:?}");
    ensure!(heard.lost == 0, "queries were lost");
    ensure!(!acknowledged.created.is_empty() && heard.asked > 0, "nothing was tried");
    Ok(())
}

fn connect(kubeconfig: &Path) -> Result<Client> {
    let resolved = Kubeconfig::read(kubeconfig)?.resolve(None)?;
    let trust = ServerTrust::Authorities(vec![resolved.ca_pem.clone().context("a certificate authority")?]);
    let source = resolved.client.as_ref().context("a client certificate")?;
    let certificate = HotCert::new(Issued::from_pem(&source.cert_pem, &source.key_pem)?)?;
    let tls = Arc::new(pki::client_config(&trust, Some(&certificate), &["h2"])?);
    Ok(Client::new(Arc::new(HttpTransport::new(Connect { server: resolved.server, tls, token: None })?)))
}

/// What the server said to have done.
#[derive(Default)]
struct Acknowledged {
    created: Vec<String>,
    /// The last value of each writer's counter.
    last: HashMap<usize, u64>,
    patches: usize,
    failed: usize,
}

/// Creates objects and counts in one of its own.
async fn write(client: Client, number: usize, file: PathBuf) -> Result<(usize, Acknowledged)> {
    let mut done = Acknowledged::default();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (config_maps, counter) = (ResourceId::of::<ConfigMap>(), format!("steady-{number}"));
    let mut value = 0u64;
    while file.exists() {
        pace.tick().await;
        value += 1;
        let outcome = if value % 4 == 1 {
            let name = if value == 1 { format!("steady-{number}") } else { format!("steady-{number}-{value}") };
            let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "steady"}}, "data": {"value": "0"}});
            let outcome = client.call(Method::POST, CONFIG_MAPS, &object).await;
            if outcome.is_ok() {
                done.created.push(name);
            }
            outcome
        } else {
            let outcome = client
                .patch(&config_maps, "default", &counter, "", &PatchKind::Merge, &json!({"data": {"value": value.to_string()}}))
                .await;
            if outcome.is_ok() {
                done.last.insert(number, value);
                done.patches += 1;
            }
            outcome
        };
        if outcome.is_err() {
            done.failed += 1;
        }
    }
    Ok((number, done))
}

impl Acknowledged {
    /// What is not as it was acknowledged. A counter may be ahead: a write whose answer was cut off may have been done.
    async fn missing(&self, client: &Client) -> Result<Vec<String>> {
        let list = client.call(Method::GET, &format!("{CONFIG_MAPS}?labelSelector=set%3Dsteady"), &Value::Null).await?;
        let items = list["items"].as_array().context("a list has items")?;
        let values: HashMap<&str, u64> = items
            .iter()
            .filter_map(|item| Some((item["metadata"]["name"].as_str()?, item["data"]["value"].as_str()?.parse().ok()?)))
            .collect();
        let created = self.created.iter().filter(|name| !values.contains_key(name.as_str())).cloned();
        let behind = self.last.iter().filter_map(|(number, last)| {
            let name = format!("steady-{number}");
            let value = values.get(name.as_str()).copied().unwrap_or(0);
            (value < *last).then(|| format!("{name} is at {value}, {last} was acknowledged"))
        });
        Ok(created.chain(behind).collect())
    }
}

struct Heard {
    asked: usize,
    lost: usize,
    slowest: Duration,
}

/// Asks at a fixed pace, each question once.
async fn ask(dns: SocketAddr, file: PathBuf) -> Result<Heard> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(dns).await?;
    let mut pace = interval(QUERIES);
    let mut sent: Vec<Instant> = Vec::new();
    let mut took: HashMap<u16, Duration> = HashMap::new();
    let mut buffer = [0; 512];
    let mut end = None;
    while end.is_none_or(|end| Instant::now() < end && took.len() < sent.len()) {
        tokio::select! {
            _ = pace.tick() => {
                if end.is_none() && (sent.len() == usize::from(u16::MAX) || !file.exists()) {
                    end = Some(Instant::now() + PATIENCE);
                }
                if end.is_none() {
                    socket.send(&question(sent.len() as u16)).await?;
                    sent.push(Instant::now());
                }
            }
            received = socket.recv(&mut buffer) => {
                // An ICMP error in place of an answer is a lost query, which shows in the end.
                let Ok(size) = received else { continue };
                let number = u16::from_be_bytes([buffer[0], buffer[1]]);
                let answers = u16::from_be_bytes([buffer[6], buffer[7]]);
                if let Some(begin) = sent.get(usize::from(number)) && size > 12 && answers > 0 {
                    took.entry(number).or_insert_with(|| begin.elapsed());
                }
            }
        }
    }
    let answered = took.values().filter(|time| **time < PATIENCE).count();
    Ok(Heard { asked: sent.len(), lost: sent.len() - answered, slowest: took.values().max().copied().unwrap_or_default() })
}

/// The address of the API server's Service, asked for under a number.
fn question(number: u16) -> Vec<u8> {
    let mut packet = number.to_be_bytes().to_vec();
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in ["kubernetes", "default", "svc", "cluster", "local"] {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}
