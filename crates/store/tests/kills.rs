//! SIGKILL at any moment, again and again, while eight writers put, delete and snapshot on a real disk.
//!
//! Before the signal everything that is sent and everything that is acknowledged goes through a pipe to the one who kills.
//! Afterwards each object is as it was acknowledged last, or whole as it was sent after that; revisions never come twice, and
//! a watch from before the life has every change of it once and in order.
//! `STORE_TEST_KILLS=1000 cargo test -p store --test kills` is the long run (`make kills`).

mod support;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use store::embedded::{Embedded, Options};
use store::{Change, EventKind, Expect, Filter, Outcome, Revision, Store, suite};
use support::{delete, kind, put};

const DIR: &str = "STORE_TEST_KILLS_DIR";
const WRITERS: u64 = 8;

/// What a round writes: more than a sector now and then, so that a part of it would show.
fn value(key: u64, round: u64) -> String {
    let unit = format!("{key}.{round};");
    unit.repeat(1 + (round * 37 % 200) as usize)
}

/// Every seventh round deletes.
fn deletes(round: u64) -> bool {
    round % 7 == 6
}

fn change(key: u64, round: u64) -> Change {
    let name = key.to_string();
    if deletes(round) { Change { expect: Expect::Any, ..delete(&name) } } else { put(&name, &value(key, round)) }
}

fn options(dir: &Path) -> Options {
    let mut options = Options::new(dir, suite::stamp(), "test");
    options.snapshot_after = Some(60_000);
    options
}

fn say(line: std::fmt::Arguments<'_>) {
    // One write a line, so that a kill cuts no line in two.
    let mut line = line.to_string();
    line.push('\n');
    std::io::stdout().write_all(line.as_bytes()).unwrap();
}

/// Not a test, but the process that is killed.
#[test]
fn writer() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let begin: u64 = std::env::var("STORE_TEST_ROUND").unwrap().parse().unwrap();
    let store = Embedded::open(options(Path::new(&dir))).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(futures_util::future::join_all((0..WRITERS).map(async |key| {
        for round in begin.. {
            say(format_args!("sent {key} {round}"));
            // Only deleting what a kill has deleted already loses.
            if let Outcome::Committed(entry) = store.commit(change(key, round)).await.unwrap() {
                say(format_args!("acknowledged {key} {round} {}", entry.revision));
            }
        }
    })));
}

/// What is known about an object.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Round and revision that were acknowledged, or found, last.
    acknowledged: Option<(u64, Revision)>,
    /// A round that was sent after it.
    sent: Option<u64>,
}

/// Runs the child until it has said so many lines and is dead; returns how many changes were acknowledged.
fn life(dir: &Path, begin: u64, lines: usize, known: &mut [Known]) -> usize {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "writer", "--nocapture"]).env(DIR, dir).env("STORE_TEST_ROUND", begin.to_string());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let (mut count, mut acknowledged) = (0, 0);
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<u64>().unwrap();
        match words[..] {
            ["sent", ..] => known[number(1) as usize].sent = Some(number(2)),
            ["acknowledged", ..] => {
                known[number(1) as usize] = Known { acknowledged: Some((number(2), Revision(number(3)))), sent: None };
                acknowledged += 1;
            }
            // What the test harness says.
            _ => continue,
        }
        count += 1;
        // It goes on writing until the signal arrives; what it still says counts, too.
        if count == lines {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    acknowledged
}

/// Opens what the kill left behind and holds it against what is known, which it then becomes.
fn check(dir: &Path, known: &mut [Known], before: Revision) -> Revision {
    let store = Embedded::open(options(dir)).unwrap();
    let now = store.mvcc().revision();
    let mut revisions = BTreeMap::new();
    for (key, known) in known.iter_mut().enumerate() {
        let found = store.mvcc().get(&kind().key(key.to_string())).value;
        let as_after = |round: u64| match &found {
            Some(entry) => !deletes(round) && suite::value(std::str::from_utf8(&entry.bytes).unwrap()) == value(key as u64, round),
            None => deletes(round),
        };
        let text = || found.as_ref().map(|entry| String::from_utf8_lossy(&entry.bytes).chars().take(60).collect::<String>());
        match (known.acknowledged, known.sent) {
            (_, Some(sent)) if as_after(sent) => known.acknowledged = Some((sent, found.as_ref().map_or(now, |entry| entry.revision))),
            (Some((round, revision)), _) if as_after(round) => {
                assert!(found.as_ref().is_none_or(|entry| entry.revision == revision), "{key} has another revision than {revision}");
            }
            (None, _) if found.is_none() => {}
            _ => panic!("{key} is {:?}, but {known:?}", text()),
        }
        known.sent = None;
        if let Some((_, revision)) = known.acknowledged {
            assert!(revision <= now, "{key} was acknowledged at {revision}, now is {now}");
        }
        if let Some(entry) = &found {
            assert_eq!(revisions.insert(entry.revision, key), None, "a revision is one change");
        }
    }
    // The past may have been forgotten by a snapshot; what is there has no gap.
    if let Ok(mut changes) = store.watch(kind().all(), before, Filter::All) {
        let events = changes.ready(usize::MAX).unwrap();
        assert!(events.iter().map(|event| event.revision.0).eq(before.0 + 1..=now.0), "a gap after {before}");
        for (revision, key) in revisions.range(Revision(before.0 + 1)..) {
            let event = &events[(revision.0 - before.0 - 1) as usize];
            assert_eq!((event.entry.key.rest.to_string(), event.kind), (key.to_string(), EventKind::Put));
        }
    }
    now
}

#[test]
fn killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let kills: usize = std::env::var("STORE_TEST_KILLS").map_or(50, |kills| kills.parse().unwrap());
    let mut known = [Known::default(); WRITERS as usize];
    let mut revision = Embedded::open(options(dir.path())).unwrap().mvcc().revision();
    let (mut acknowledged, mut round, mut lines) = (0, 0, 1);
    for kill in 1..=kills {
        lines = (lines * 7 + kill + 5) % 1500;
        acknowledged += life(dir.path(), round, lines.max(1), &mut known);
        let now = check(dir.path(), &mut known, revision);
        assert!(now >= revision, "revisions never go back");
        revision = now;
        round = known.iter().filter_map(|known| known.acknowledged).map(|(round, _)| round + 1).max().unwrap_or(0);
    }
    println!("{kills} kills, {acknowledged} acknowledged changes, none missing, none by half, revision {revision}");
}
