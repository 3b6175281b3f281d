//! The work queue: every key at most once waiting and at most once running.
//!
//! `waiting` keys are due in order; `running` keys are being worked on; a key added while it runs is
//! `again` and becomes due when it is done; `later` keys become due at a time, each key at one time only.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::Metrics;

/// Keys to be worked on.
pub struct Queue<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

struct State<K> {
    due: VecDeque<K>,
    waiting: HashSet<K>,
    running: HashSet<K>,
    again: HashSet<K>,
    later: BinaryHeap<Reverse<(Instant, u64)>>,
    later_keys: HashMap<u64, K>,
    /// The one entry of `later` that counts for a key; others are passed over.
    planned: HashMap<K, u64>,
    failures: HashMap<K, u32>,
    sequence: u64,
    metrics: Arc<Metrics>,
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Queue<K> {
        Queue::new(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// An empty queue that counts what comes and goes.
    pub fn new(metrics: Arc<Metrics>) -> Queue<K> {
        Queue {
            state: Mutex::new(State {
                due: VecDeque::new(),
                waiting: HashSet::new(),
                running: HashSet::new(),
                again: HashSet::new(),
                later: BinaryHeap::new(),
                later_keys: HashMap::new(),
                planned: HashMap::new(),
                failures: HashMap::new(),
                sequence: 0,
                metrics,
            }),
            wake: Notify::new(),
        }
    }

    /// Adds a key unless it waits already.
    pub fn add(&self, key: K) {
        if self.state.lock().add(key) {
            self.wake.notify_one();
        }
    }

    /// Adds a key after a while, in place of any later time that it had.
    pub fn add_after(&self, key: K, after: Duration) {
        let mut state = self.state.lock();
        state.metrics.retries.fetch_add(1, Ordering::Relaxed);
        state.cancel(&key);
        state.sequence += 1;
        let sequence = state.sequence;
        state.later.push(Reverse((Instant::now() + after, sequence)));
        state.planned.insert(key.clone(), sequence);
        state.later_keys.insert(sequence, key);
        drop(state);
        self.wake.notify_one();
    }

    /// Takes back the later time of a key.
    pub fn cancel(&self, key: &K) {
        self.state.lock().cancel(key);
    }

    /// Adds a key after a failure: 5 ms, doubling up to 16 minutes.
    pub fn add_failed(&self, key: K) -> Duration {
        let failures = {
            let mut state = self.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            *count
        };
        let delay = Duration::from_millis((5u64 << failures.saturating_sub(1).min(18)).min(1_000_000));
        self.add_after(key, delay);
        delay
    }

    /// Forgets earlier failures of a key.
    pub fn succeeded(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// Waits for a key. The caller says `done` when it is through.
    pub async fn next(&self) -> K {
        loop {
            let woken = self.wake.notified();
            let due = {
                let mut state = self.state.lock();
                let due = state.due_now();
                if let Some(key) = state.take() {
                    if !state.due.is_empty() {
                        self.wake.notify_one();
                    }
                    return key;
                }
                due
            };
            match due {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at.into(), woken).await;
                }
                None => woken.await,
            }
        }
    }

    /// Ends the work on a key; it becomes due again if it was added meanwhile.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.running.remove(key);
        // It was counted when it came.
        if state.again.remove(key) && state.wait(key.clone()) {
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Keys that wait.
    pub fn depth(&self) -> usize {
        self.state.lock().due.len()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn cancel(&mut self, key: &K) {
        if let Some(sequence) = self.planned.remove(key) {
            self.later_keys.remove(&sequence);
        }
        // Entries that nobody waits for any more must not pile up.
        if self.later.len() > 64 && self.later.len() > 2 * self.later_keys.len() {
            let keys = &self.later_keys;
            self.later.retain(|Reverse((_, sequence))| keys.contains_key(sequence));
        }
    }

    fn add(&mut self, key: K) -> bool {
        let runs = self.running.contains(&key);
        let comes = if runs { self.again.insert(key) } else { self.wait(key) };
        if comes {
            self.metrics.adds.fetch_add(1, Ordering::Relaxed);
        }
        comes && !runs
    }

    fn wait(&mut self, key: K) -> bool {
        if !self.waiting.insert(key.clone()) {
            return false;
        }
        self.due.push_back(key);
        self.metrics.depth.store(self.due.len() as u64, Ordering::Relaxed);
        true
    }

    /// Moves keys whose time has come; the time of the next one.
    fn due_now(&mut self) -> Option<Instant> {
        let now = Instant::now();
        while let Some(Reverse((at, sequence))) = self.later.peek().copied() {
            if at > now {
                return Some(at);
            }
            self.later.pop();
            if let Some(key) = self.later_keys.remove(&sequence) {
                self.planned.remove(&key);
                self.add(key);
            }
        }
        None
    }

    fn take(&mut self) -> Option<K> {
        let key = self.due.pop_front()?;
        self.metrics.depth.store(self.due.len() as u64, Ordering::Relaxed);
        self.waiting.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_has_one_later_time() {
        let queue: Queue<&str> = Queue::default();
        for _ in 0..1000 {
            queue.add_after("a", Duration::from_secs(3600));
        }
        assert!(queue.state.lock().later.len() < 100);
        queue.add_after("a", Duration::ZERO);
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        queue.add_after("b", Duration::ZERO);
        queue.cancel(&"b");
        queue.add("c");
        assert_eq!(queue.next().await, "c");
    }

    #[tokio::test]
    async fn what_comes_and_goes_is_counted() {
        let metrics: Arc<Metrics> = Arc::default();
        let queue: Queue<&str> = Queue::new(metrics.clone());
        let counts = || [&metrics.depth, &metrics.adds, &metrics.retries].map(|number| number.load(Ordering::Relaxed));
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(counts(), [2, 2, 0]);
        assert_eq!(queue.next().await, "a");
        assert_eq!(counts(), [1, 2, 0]);
        // A key that comes while it is worked on begins to wait once.
        queue.add("a");
        queue.add("a");
        assert_eq!(counts(), [1, 3, 0]);
        queue.done(&"a");
        assert_eq!(counts(), [2, 3, 0]);
        queue.add_failed("c");
        assert_eq!(counts(), [2, 3, 1]);
    }
}
