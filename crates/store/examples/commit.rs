//! Prints how many changes a second the embedded store commits, and how long one takes.
//!
//! `cargo run --release -p store --example commit [DIR]`; the directory should be on the disk in question.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use store::embedded::{Embedded, Options};
use store::{Change, Expect, Header, Kind, Op, Stamp, Store};

const SIZE: usize = 1024;
const RUN: Duration = Duration::from_secs(3);

fn main() {
    let dir = std::env::args().nth(1).map_or_else(|| PathBuf::from("target/commit-example"), PathBuf::from);
    println!("{:>8} {:>10} {:>9} {:>9} {:>12} {:>7}", "clients", "commits/s", "p50 us", "p99 us", "cpu us each", "batch");
    for clients in [1, 8, 32, 64] {
        // A leftover of an earlier run would be opened.
        let _ = std::fs::remove_dir_all(&dir);
        run(&dir, clients);
    }
    let _ = std::fs::remove_dir_all(&dir);
}

fn run(dir: &std::path::Path, clients: usize) {
    let stamp: Stamp = Arc::new(|_, raw, revision| {
        let mut bytes = Vec::with_capacity(raw.len() + 24);
        bytes.extend_from_slice(revision.to_string().as_bytes());
        bytes.extend_from_slice(&raw);
        Ok((bytes.into(), Header::default()))
    });
    let store = Arc::new(Embedded::open(Options::new(dir, stamp, "example")).expect("the directory opens"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("a runtime starts");
    let cpu = cpu_time();
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients).map(|client| runtime.spawn(client_loop(store.clone(), client))).collect();
    let mut latencies: Vec<Duration> = Vec::new();
    for task in tasks {
        latencies.extend(runtime.block_on(task).expect("a client ends"));
    }
    let elapsed = begun.elapsed();
    let cpu = cpu_time() - cpu;
    latencies.sort();
    let count = latencies.len();
    let batch = store.metrics().batch.values();
    println!(
        "{clients:>8} {:>10.0} {:>9} {:>9} {:>12.1} {:>7.1}",
        count as f64 / elapsed.as_secs_f64(),
        latencies[count / 2].as_micros(),
        latencies[count * 99 / 100].as_micros(),
        cpu.as_secs_f64() * 1e6 / count as f64,
        batch.sum as f64 / batch.count as f64,
    );
}

async fn client_loop(store: Arc<Embedded>, client: usize) -> Vec<Duration> {
    let kind = Kind::new("/registry/configmaps/");
    let raw = Bytes::from(vec![b'x'; SIZE]);
    let begun = Instant::now();
    let mut latencies = Vec::new();
    let mut round = 0;
    while begun.elapsed() < RUN {
        let key = kind.key(format!("default/c{client}-{}", round % 500));
        let sent = Instant::now();
        let change = Change { key, expect: Expect::Any, op: Op::Put { raw: raw.clone(), ttl: None } };
        store.commit(change).await.expect("a commit works");
        latencies.push(sent.elapsed());
        round += 1;
    }
    latencies
}

/// Processor time of this process.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
