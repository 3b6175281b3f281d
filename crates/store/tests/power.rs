//! The power goes at every operation on the disk, and what is unsynced survives, is lost or is torn.
//! What was acknowledged or seen must be there afterwards, and nothing may be there by half.

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use store::{Filter, Outcome, Revision, Store};
use support::{MemoryDisk, Unsynced, content, delete, kind, open, options, put, shown};

/// One step of a script: changes that are sent together.
type Step = Vec<(u8, Option<u16>)>;

/// What must hold about a key after the power loss.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The newest acknowledged version.
    acknowledged: Option<String>,
    /// Values that were sent after it and not answered: each of them may have happened. `None` is a deletion.
    possible: Vec<Option<String>>,
}

/// Runs the script until it or the power ends. Returns the newest revision that somebody has seen.
fn run(disk: &MemoryDisk, script: &[Step], known: &mut BTreeMap<String, Known>, snapshots: u64) -> Revision {
    let mut options = options(disk);
    options.snapshot_after = Some(snapshots);
    let Ok(store) = store::embedded::Embedded::open(options) else {
        assert!(!disk.has_power(), "only a power loss may make opening fail");
        return Revision::ZERO;
    };
    // Whoever reads after a restart relies on what is there: nothing is only possible any more.
    let found: BTreeMap<String, String> = by_key(&store);
    for (key, known) in &mut *known {
        *known = Known { acknowledged: found.get(key).cloned(), possible: Vec::new() };
    }
    let mut seen = store.mvcc().revision();
    let mut changes = store.watch(kind().all(), seen, Filter::All).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for step in script {
        let sent: Vec<_> = step.iter().map(|(key, value)| (format!("k{key}"), value.map(|v| format!("v{v}")))).collect();
        let answers = sent.iter().map(|(key, value)| match value {
            Some(value) => store.commit(put(key, value)),
            None => store.commit(delete(key)),
        });
        let answers = runtime.block_on(futures_util::future::join_all(answers));
        for ((key, value), answer) in sent.into_iter().zip(answers) {
            let known = known.entry(key).or_default();
            match answer {
                Ok(Outcome::Committed(entry)) => {
                    seen = seen.max(entry.revision);
                    *known = Known { acknowledged: value.map(|_| shown(&entry)), possible: Vec::new() };
                }
                Ok(Outcome::Lost { current }) => {
                    assert!(current.is_none(), "only deleting nothing loses")
                }
                Err(_) => known.possible.push(value),
            }
        }
        for event in changes.ready(usize::MAX).unwrap() {
            seen = seen.max(event.revision);
        }
    }
    seen
}

fn by_key(store: &dyn Store) -> BTreeMap<String, String> {
    content(store).into_iter().map(|shown| (shown.split_once('=').unwrap().0.to_owned(), shown)).collect()
}

fn check(disk: &MemoryDisk, known: &BTreeMap<String, Known>, seen: Revision) {
    let store = open(disk);
    assert!(store.mvcc().revision() >= seen, "what was seen at {seen} is gone");
    let found = by_key(&store);
    for (key, known) in known {
        let found = found.get(key);
        let acknowledged = found == known.acknowledged.as_ref();
        let possible = known.possible.iter().any(|value| match (value, found) {
            (Some(value), Some(found)) => found.ends_with(&format!("|{value}")),
            (None, None) => true,
            _ => false,
        });
        assert!(acknowledged || possible, "{key} is {found:?}, but {known:?}");
    }
    assert!(found.keys().all(|key| known.contains_key(key)));
}

fn script() -> Vec<Step> {
    let mut script: Vec<Step> = (0..12).map(|round| vec![(round % 5, Some(u16::from(round)))]).collect();
    script.push(vec![(0, None)]);
    script.push((0..8).map(|key| (key, Some(100))).collect());
    script.push(vec![(1, None), (1, Some(200)), (2, None)]);
    script.extend((0..12).map(|round| vec![(round % 7, Some(300 + u16::from(round)))]));
    script
}

#[test]
fn at_every_operation() {
    let whole = MemoryDisk::default();
    run(&whole, &script(), &mut BTreeMap::new(), 600);
    let operations = whole.operations();
    assert!(whole.paths().iter().any(|path| path.to_string_lossy().contains("snapshot-")));
    for cut in 0..=operations {
        let disk = MemoryDisk::default();
        disk.cut_power_after(cut);
        let mut known = BTreeMap::new();
        let seen = run(&disk, &script(), &mut known, 600);
        let seed = cut as u64;
        for unsynced in [Unsynced::Lost, Unsynced::Kept, Unsynced::Torn(seed), Unsynced::Torn(!seed)] {
            check(&disk.after_power_loss(unsynced), &known, seen);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Random changes, with the power going again and again, also while starting.
    #[test]
    fn again_and_again(
        lives in prop::collection::vec(
            (prop::collection::vec(prop::collection::vec((0..6u8, prop::option::of(0..1000u16)), 1..6), 1..15), 0..60usize, any::<u64>()),
            1..6,
        ),
        snapshots in 200..4000u64,
    ) {
        let mut disk = MemoryDisk::default();
        let mut known = BTreeMap::new();
        let mut seen = Revision::ZERO;
        for (script, cut, seed) in lives {
            disk.cut_power_after(cut);
            seen = seen.max(run(&disk, &script, &mut known, snapshots));
            disk = disk.after_power_loss(Unsynced::Torn(seed));
            check(&disk.after_power_loss(Unsynced::Kept), &known, seen);
        }
        check(&disk, &known, seen);
    }
}
