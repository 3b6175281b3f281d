//! Objects with a time to live, by the moment at which it ends.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{Entry, Key, Revision};

/// Milliseconds since 1970 that never jump: the wall clock at the start plus the time since then.
#[derive(Clone, Copy)]
pub(super) struct Clock {
    start: Instant,
    wall: u64,
}

impl Clock {
    pub(super) fn new() -> Clock {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { start: Instant::now(), wall: millis(wall) }
    }

    pub(super) fn now(&self) -> u64 {
        self.wall + millis(self.start.elapsed())
    }

    /// When that time is.
    pub(super) fn instant(&self, time: u64) -> Instant {
        self.start + Duration::from_millis(time.saturating_sub(self.wall))
    }
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The versions that will be deleted, soonest first. One that was replaced in the meantime stays in
/// here until its time, and then loses the race against the new one.
#[derive(Default)]
pub(super) struct Expiry(BinaryHeap<Reverse<(NonZeroU64, Revision, Key)>>);

impl Expiry {
    pub(super) fn add(&mut self, entry: &Entry) {
        if let Some(expires) = entry.expires {
            self.0.push(Reverse((expires, entry.revision, entry.key.clone())));
        }
    }

    /// Deletes a version that should have gone already at another time.
    pub(super) fn postpone(&mut self, entry: &Entry, to: u64) {
        let to = NonZeroU64::new(to).unwrap_or(NonZeroU64::MAX);
        self.0.push(Reverse((to, entry.revision, entry.key.clone())));
    }

    /// When to look next.
    pub(super) fn next(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((expires, ..))| expires.get())
    }

    /// The versions whose time has come.
    pub(super) fn due(&mut self, now: u64) -> Vec<(Key, Revision)> {
        let mut due = Vec::new();
        while self.next().is_some_and(|expires| expires <= now) {
            let Some(Reverse((_, revision, key))) = self.0.pop() else {
                break;
            };
            due.push((key, revision));
        }
        due
    }
}
