//! Decides when to take a snapshot, and has it written while the committer goes on.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::dir::Dir;
use super::log::{AppendError, Log};
use super::snapshot;
use crate::{Cipher, Metrics, Mvcc};

/// A log smaller than this is not worth a snapshot.
const SMALLEST: u64 = 16 << 20;
/// Behind this much log, starting takes too long, however large the state is.
const LARGEST: u64 = 64 << 20;

/// Part of the committer.
pub(super) struct Snapshotter {
    pub(super) dir: Dir,
    pub(super) writer: String,
    pub(super) cipher: Arc<dyn Cipher>,
    pub(super) metrics: Arc<Metrics>,
    /// Fixed threshold, if one was asked for.
    pub(super) after: Option<u64>,
    /// The snapshot that is being written.
    pub(super) running: Option<JoinHandle<()>>,
}

impl Snapshotter {
    /// Begins a snapshot if it is time: the log ends here, and the state up to here is written.
    pub(super) fn after_batch(&mut self, log: &mut Log, mvcc: &Arc<Mvcc>) -> Result<(), String> {
        if log.size() < self.threshold(mvcc) {
            return Ok(());
        }
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        let revision = mvcc.revision();
        match log.rotate(revision) {
            Ok(()) => {}
            // The log can still grow into the space that is reserved.
            Err(AppendError::Full) => return Ok(()),
            Err(AppendError::Broken(why)) => return Err(why),
        }
        // Nobody but this thread commits, so this is the state at which the log was split.
        let (_, kinds) = mvcc.everything();
        let (dir, writer, cipher) = (self.dir.clone(), self.writer.clone(), self.cipher.clone());
        let metrics = self.metrics.clone();
        let write = move || match snapshot::write(&dir, &writer, &*cipher, revision, &kinds) {
            Ok(size) => {
                tracing::info!("wrote a snapshot of revision {revision}, {size} bytes");
                metrics.snapshots.add(1);
                if let Err(error) = dir.prune(1) {
                    tracing::warn!("cannot remove old files of the store: {error}");
                }
            }
            Err(error) => {
                tracing::warn!("cannot write a snapshot of revision {revision}: {error}");
                metrics.snapshot_failures.add(1);
            }
        };
        match thread::Builder::new().name("store-snapshot".into()).spawn(write) {
            Ok(thread) => self.running = Some(thread),
            Err(error) => tracing::warn!("cannot begin a snapshot of revision {revision}: {error}"),
        }
        Ok(())
    }

    fn threshold(&self, mvcc: &Mvcc) -> u64 {
        let follow = || {
            let live = mvcc.live_bytes() as u64;
            (4 * live).clamp(SMALLEST, LARGEST.max(live))
        };
        self.after.unwrap_or_else(follow)
    }
}

impl Drop for Snapshotter {
    fn drop(&mut self) {
        // The directory stays locked until its last writer is done. A panic was reported by the thread.
        if let Some(running) = self.running.take() {
            let _ = running.join();
        }
    }
}
