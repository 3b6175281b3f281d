//! Prints how much memory many objects take, and how long it takes to open their data directory, from
//! the log and from a snapshot.
//!
//! `cargo run --release -p store --example open [OBJECTS]`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use store::embedded::{Embedded, Options};
use store::{Change, Header, Kind, Stamp, Store};

const SIZE: usize = 2300;

fn main() {
    let objects: usize = std::env::args().nth(1).map_or(100_000, |count| count.parse().expect("a number"));
    let dir = Path::new("target/open-example");
    // A leftover of an earlier run would be opened.
    let _ = std::fs::remove_dir_all(dir);
    let stamp: Stamp = Arc::new(|key, raw, revision| {
        let body = raw.iter().position(|byte| *byte == b'|').map_or(0, |bar| bar + 1);
        let mut bytes = format!("{revision}|").into_bytes();
        bytes.reserve_exact(raw.len() - body);
        bytes.extend_from_slice(&raw[body..]);
        let header = Header { name: key.name().into(), namespace: key.namespace().into(), ..Header::default() };
        Ok((bytes.into_boxed_slice().into(), header))
    });
    let mut options = Options::new(dir, stamp, "example");
    options.snapshot_after = Some(u64::MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime starts");
    println!("{:<36} {:>8} kB", "empty", memory());
    let store = Embedded::open(options.clone()).expect("the directory opens");
    let kind = Kind::new("/registry/pods/");
    for first in (0..objects).step_by(1000) {
        let changes = (first..first + 1000).map(|place| {
            let raw = Bytes::from(vec![b'x'; SIZE]);
            store.commit(Change::create(kind.key(format!("default/web-{place:08}")), raw))
        });
        for outcome in runtime.block_on(futures_util::future::join_all(changes)) {
            outcome.expect("a commit works");
        }
    }
    let each = |now: u64, before: u64| (now - before) * 1024 / objects as u64;
    let before = memory();
    println!("{:<36} {before:>8} kB, {} bytes each", "written", each(before, 0));
    drop(store);
    for what in ["opened from the log", "opened from a snapshot"] {
        let begun = Instant::now();
        options.snapshot_after = Some(1 << 20);
        let store = Embedded::open(options.clone()).expect("the directory opens");
        println!("{what:<36} {:>8} ms, {} kB", begun.elapsed().as_millis(), memory());
        // The first change takes the snapshot for the second round.
        let change = Change::create(kind.key(what), Bytes::from_static(b"x"));
        runtime.block_on(store.commit(change)).expect("a commit works");
    }
    let _ = std::fs::remove_dir_all(dir);
}

/// Memory of this process that nobody else uses, in kB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let digits = line.map(|line| line.trim().trim_end_matches(" kB"));
    digits.and_then(|digits| digits.parse().ok()).expect("the kernel counts memory")
}
