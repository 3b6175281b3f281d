//! A steady load for tests of faults: 200 acknowledged writes and 100 DNS queries a second for as long as a file is there.
//! Then it proves that every acknowledged write is still there and that every query was answered in time, with nobody asking
//! twice.
//!
//! Writes go out at their times, whether or not earlier ones were answered, and none is sent a second time: a second in
//! which the server was away is a second of failures and not counted, and nothing that was missed in it is made up later.
//!
//! Usage: `steady KUBECONFIG DNS-ADDRESS FILE`. It ends with success if nothing was lost.

use std::collections::{BTreeMap, HashMap};
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
use tokio::task::JoinSet;
use tokio::time::interval;

/// Acknowledged writes a second that are to be held while the server is there.
const RATE: u64 = 200;
/// Time from one write to the next, a little shorter than the rate asks for.
const PACE: Duration = Duration::from_micros(1_000_000 / (RATE + 10));
/// A client that did not get a processor sends at most so many at once; what is older is not tried.
const AT_ONCE: u64 = 20;
/// Counters, each of which has one write under way at most.
const COUNTERS: usize = 300;
/// Writes that may be under way; fewer than the server takes.
const UNDER_WAY: usize = 350;
/// Per cent of idle processors below which the machine itself holds up the writes.
const SPARE: u64 = 10;
/// How long a write waits for its answer.
const ANSWER: Duration = Duration::from_secs(30);
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
    let before = processors()?;
    let load = write(&client, &file).await;
    let after = processors()?;
    let idle = 100 * (after.0 - before.0) / (after.1 - before.1).max(1);
    let missing = load.missing(&client).await?;
    let heard = asking.await??;
    let (up, tried, acknowledged) = load.up();
    let mut took: Vec<Duration> = load.took.clone();
    took.sort();
    let slower = |percent: usize| took.get(took.len() * percent / 100).copied().unwrap_or_default();
    println!(
        "{} writes tried, {} acknowledged ({} creates), {} of them missing; {up} s with the server: {tried} tried, {acknowledged} acknowledged, {} a second; p50 {:?}, p99 {:?}",
        load.seconds.values().map(|second| second.tried).sum::<u64>(),
        took.len(),
        load.created.len(),
        missing.len(),
        acknowledged / up.max(1),
        slower(50),
        slower(99),
    );
    println!("processors were idle for {idle} % of the time");
    println!("{} queries, {} without an answer in time, slowest {:?}", heard.asked, heard.lost, heard.slowest);
    for (what, times) in &load.refused {
        println!("refused {times} times: {what}");
    }
    ensure!(missing.is_empty(), "acknowledged and missing: {missing:?}");
    ensure!(heard.lost == 0, "queries were lost");
    // A machine without a processor to spare gives what it has.
    ensure!(up > 0 && (acknowledged / up >= RATE || idle < SPARE), "less than {RATE} writes a second were acknowledged");
    Ok(())
}

/// Time of idle processors so far and of all, in ticks.
fn processors() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    // Idle, and idle while a disk works.
    Ok((ticks.iter().skip(3).take(2).sum(), ticks.iter().sum()))
}

fn connect(kubeconfig: &Path) -> Result<Client> {
    let resolved = Kubeconfig::read(kubeconfig)?.resolve(None)?;
    let trust = ServerTrust::Authorities(vec![resolved.ca_pem.clone().context("a certificate authority")?]);
    let source = resolved.client.as_ref().context("a client certificate")?;
    let certificate = HotCert::new(Issued::from_pem(&source.cert_pem, &source.key_pem)?)?;
    let tls = Arc::new(pki::client_config(&trust, Some(&certificate), &["h2"])?);
    Ok(Client::new(Arc::new(HttpTransport::new(Connect { server: resolved.server, tls, token: None })?)))
}

/// The writes that were due in a second.
#[derive(Default)]
struct Second {
    tried: u64,
    acknowledged: u64,
    /// Those that did not reach the server or lost their answer with it.
    cut_off: u64,
}

/// What was tried, and what the server said to have done.
#[derive(Default)]
struct Load {
    /// By the second in which they were due.
    seconds: BTreeMap<u64, Second>,
    created: Vec<String>,
    /// The last value of each counter.
    last: HashMap<usize, u64>,
    took: Vec<Duration>,
    /// Answers other than success.
    refused: BTreeMap<String, usize>,
}

/// A write whose answer is awaited.
enum Wrote {
    Created(String),
    Counted { counter: usize, value: u64 },
}

/// How a write ended.
enum End {
    Acknowledged,
    CutOff,
    Refused(String),
}

/// Creates objects and counts in others.
async fn write(client: &Client, file: &Path) -> Load {
    let mut load = Load::default();
    let mut idle: Vec<(usize, u64)> = (0..COUNTERS).map(|counter| (counter, 0)).collect();
    let mut under_way = JoinSet::new();
    let (begin, mut next) = (Instant::now(), 0u64);
    let mut pace = interval(PACE);
    while file.exists() {
        tokio::select! {
            _ = pace.tick() => {
                let due = (begin.elapsed().as_micros() / PACE.as_micros()) as u64;
                for number in next.max(due.saturating_sub(AT_ONCE))..due {
                    let at = PACE * number as u32;
                    load.seconds.entry(at.as_secs()).or_default().tried += 1;
                    if under_way.len() < UNDER_WAY {
                        let wrote = match if number % 4 == 0 { None } else { idle.pop() } {
                            Some((counter, value)) => Wrote::Counted { counter, value: value + 1 },
                            None => Wrote::Created(format!("steady-{number}")),
                        };
                        under_way.spawn(send(client.clone(), at.as_secs(), wrote));
                    }
                }
                next = next.max(due);
            }
            Some(ended) = under_way.join_next() => load.note(ended.expect("no write panics"), &mut idle),
        }
    }
    while let Some(ended) = under_way.join_next().await {
        load.note(ended.expect("no write panics"), &mut idle);
    }
    load
}

async fn send(client: Client, second: u64, wrote: Wrote) -> (u64, Wrote, End, Duration) {
    let begin = Instant::now();
    let object = |name: &str, value: u64| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"set": "steady"}}, "data": {"value": value.to_string()}});
    let call = async {
        match &wrote {
            Wrote::Created(name) => client.call(Method::POST, CONFIG_MAPS, &object(name, 0)).await,
            Wrote::Counted { counter, value: 1 } => client.call(Method::POST, CONFIG_MAPS, &object(&format!("counter-{counter}"), 1)).await,
            Wrote::Counted { counter, value } => {
                let patch = json!({"data": {"value": value.to_string()}});
                client.patch(&ResourceId::of::<ConfigMap>(), "default", &format!("counter-{counter}"), "", &PatchKind::Merge, &patch).await
            }
        }
    };
    let end = match tokio::time::timeout(ANSWER, call).await {
        Ok(Ok(_)) => End::Acknowledged,
        Ok(Err(status)) if status.code != 503 => End::Refused(format!("{}: {status}", status.code)),
        Ok(Err(_)) | Err(_) => End::CutOff,
    };
    (second, wrote, end, begin.elapsed())
}

impl Load {
    fn note(&mut self, (second, wrote, end, took): (u64, Wrote, End, Duration), idle: &mut Vec<(usize, u64)>) {
        let second = self.seconds.entry(second).or_default();
        match end {
            End::Acknowledged => {
                second.acknowledged += 1;
                self.took.push(took);
                match wrote {
                    Wrote::Created(name) => self.created.push(name),
                    Wrote::Counted { counter, value } => {
                        self.last.insert(counter, value);
                        idle.insert(0, (counter, value));
                    }
                }
            }
            // A write that may still happen, or not, would be mistaken for a later one: its counter rests for ever.
            End::CutOff => second.cut_off += 1,
            End::Refused(what) => *self.refused.entry(what).or_default() += 1,
        }
    }

    /// The whole seconds in which the server was there all the time, and what was tried and acknowledged of them.
    fn up(&self) -> (u64, u64, u64) {
        let whole = self.seconds.len().saturating_sub(1);
        let up = self.seconds.values().take(whole).filter(|second| second.cut_off == 0);
        up.fold((0, 0, 0), |(count, tried, acknowledged), second| (count + 1, tried + second.tried, acknowledged + second.acknowledged))
    }

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
            let name = format!("counter-{number}");
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
