//! Directories of the store: what an interrupted process left is cleaned away, what is unused is removed.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::index::Index;

/// Downloads that nobody went on with for so long are given up.
const STALE_DOWNLOAD: Duration = Duration::from_secs(24 * 3600);

/// Makes disk and index agree: half-made layers go, images that miss a layer go.
pub(super) fn clean(directory: &Path, index: &mut Index) -> io::Result<()> {
    let layers = directory.join("layers");
    let mut present = HashSet::new();
    let mut gone = Vec::new();
    let unused: HashSet<String> = index.layers.keys().filter(|key| !index.uses(key)).cloned().collect();
    for entry in std::fs::read_dir(&layers)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if index.layers.contains_key(&name) && !unused.contains(&name) {
            present.insert(name);
        } else {
            gone.push(entry.path());
        }
    }
    index.layers.retain(|key, _| present.contains(key));
    index.images.retain(|id, record| {
        let complete = record.layers.iter().all(|key| present.contains(key));
        if !complete {
            tracing::warn!(image = id, names = ?record.names, "image dropped, since a layer of it is missing on disk");
        }
        complete
    });
    remove_directories(&gone);
    for entry in std::fs::read_dir(directory.join("ingest"))? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("spool-") {
            std::fs::remove_file(entry.path())?;
        }
    }
    remove_stale_downloads(directory, STALE_DOWNLOAD);
    Ok(())
}

pub(super) fn remove_stale_downloads(directory: &Path, age: Duration) {
    let Ok(entries) = std::fs::read_dir(directory.join("ingest")) else {
        return;
    };
    for entry in entries.flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let stale = modified.is_ok_and(|time| time.elapsed().is_ok_and(|elapsed| elapsed > age));
        if stale && let Err(error) = std::fs::remove_file(entry.path()) {
            tracing::warn!(path = %entry.path().display(), %error, "stale download not removed");
        }
    }
}

/// What cannot be removed now is removed when the store is opened again.
pub(super) fn remove_directories(paths: &[PathBuf]) {
    for path in paths {
        if let Err(error) = std::fs::remove_dir_all(path) {
            tracing::warn!(path = %path.display(), %error, "layer directory not removed");
        }
    }
}
