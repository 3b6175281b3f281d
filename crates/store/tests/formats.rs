//! A data directory of every format that was ever released can be opened.
//!
//! `tests/data/format-N` was written by the program of that time and is never written again. For a new
//! format: `cargo test -p store --test formats -- --ignored` and commit what it makes.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use store::embedded::{Embedded, Options};
use store::{Store, suite};
use support::{content, delete, put};

const CURRENT: &str = "format-1";

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

#[test]
fn every_format_opens() {
    let mut formats = 0;
    for format in fs::read_dir(data()).unwrap() {
        let format = format.unwrap().path();
        let dir = tempfile::tempdir().unwrap();
        for file in fs::read_dir(&format).unwrap() {
            let file = file.unwrap().path();
            fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
        }
        let expected = fs::read_to_string(format.join("content.txt")).unwrap();
        let store = Embedded::open(Options::new(dir.path(), suite::stamp(), "test")).unwrap();
        assert_eq!(content(&store).join("\n"), expected, "{}", format.display());
        formats += 1;
    }
    assert!(formats > 0);
}

#[tokio::test]
#[ignore = "writes the example of the current format"]
async fn write_the_current_format() {
    let dir = data().join(CURRENT);
    assert!(!dir.exists(), "a released format does not change");
    let mut options = Options::new(&dir, suite::stamp(), "v1.36.3+knarr.1");
    options.snapshot_after = Some(3000);
    let store = Embedded::open(options).unwrap();
    let mut round = 0;
    while store.metrics().snapshots.get() < 2 || round % 20 != 5 {
        store.commit(put(&format!("default/{}", round % 30), &format!("node={round}"))).await.unwrap();
        round += 1;
    }
    store.commit(delete("default/3")).await.unwrap();
    store.commit(put("default/lease", "x").with_ttl(std::time::Duration::from_secs(1 << 33))).await.unwrap();
    let content = content(&store);
    drop(store);
    fs::write(dir.join("content.txt"), content.join("\n")).unwrap();
    fs::remove_file(dir.join("lock")).unwrap();
}
