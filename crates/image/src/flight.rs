//! Work that several ask for at the same time is done once.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use parking_lot::Mutex;

/// One lock per key. Who waited finds the work done and looks before doing it again.
pub(crate) struct KeyedLocks {
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// Releases the key when dropped.
pub(crate) struct KeyGuard<'a> {
    owner: &'a KeyedLocks,
    key: String,
    guard: Option<tokio::sync::OwnedMutexGuard<()>>,
}

impl KeyedLocks {
    pub(crate) fn new() -> KeyedLocks {
        KeyedLocks { locks: Mutex::new(HashMap::new()) }
    }

    pub(crate) async fn lock(&self, key: &str) -> KeyGuard<'_> {
        let lock = self.locks.lock().entry(key.to_string()).or_default().clone();
        let guard = lock.lock_owned().await;
        KeyGuard { owner: self, key: key.to_string(), guard: Some(guard) }
    }
}

impl Drop for KeyGuard<'_> {
    fn drop(&mut self) {
        let mut locks = self.owner.locks.lock();
        drop(self.guard.take());
        // The map's own reference is the last one if nobody waits; waiters take theirs under the same lock.
        if locks.get(&self.key).is_some_and(|lock| Arc::strong_count(lock) == 1) {
            locks.remove(&self.key);
        }
    }
}

/// Calls under the same key that overlap share one run and its result.
pub(crate) struct Flights<K, V: Clone> {
    running: Mutex<HashMap<K, WeakShared<BoxFuture<'static, V>>>>,
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync + 'static> Flights<K, V> {
    pub(crate) fn new() -> Flights<K, V> {
        Flights { running: Mutex::new(HashMap::new()) }
    }

    /// Joins the run under `key` or starts one with `start`. The run goes on while anybody waits for it.
    pub(crate) async fn join(&self, key: K, start: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let flight: Shared<BoxFuture<'static, V>> = {
            let mut running = self.running.lock();
            match running.get(&key).and_then(WeakShared::upgrade) {
                Some(flight) if flight.peek().is_none() => flight,
                _ => {
                    let flight = start().shared();
                    running.retain(|_, other| other.upgrade().is_some_and(|other| other.peek().is_none()));
                    if let Some(weak) = flight.downgrade() {
                        running.insert(key, weak);
                    }
                    flight
                }
            }
        };
        flight.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn overlapping_calls_share_one_run() {
        let flights = Flights::new();
        let runs = Arc::new(AtomicUsize::new(0));
        let gate = Arc::new(tokio::sync::Semaphore::new(0));
        let run = || {
            let (runs, gate) = (runs.clone(), gate.clone());
            flights.join("key", move || {
                async move {
                    gate.acquire().await.expect("the gate is open").forget();
                    runs.fetch_add(1, Ordering::SeqCst)
                }
                .boxed()
            })
        };
        let open = async { gate.add_permits(1) };
        let (a, b, c, ()) = tokio::join!(run(), run(), run(), open);
        assert_eq!((a, b, c), (0, 0, 0));
        gate.add_permits(1);
        assert_eq!(run().await, 1, "a finished run is not joined");
    }

    #[tokio::test]
    async fn a_key_is_held_by_one() {
        let locks = KeyedLocks::new();
        let first = locks.lock("a").await;
        let _other = locks.lock("b").await;
        assert!(locks.lock("a").now_or_never().is_none());
        drop(first);
        drop(locks.lock("a").await);
        drop(_other);
        assert!(locks.locks.lock().is_empty());
    }
}
