//! The recent changes in the order of their revisions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::{Event, Kind, Revision};

/// How much of the past is kept.
#[derive(Clone, Copy, Debug)]
pub struct HistoryLimits {
    /// Changes older than this are forgotten, at the next change.
    pub age: Duration,
    /// Old versions may hold this many bytes together; above it the oldest are forgotten.
    pub bytes: usize,
    /// Changes younger than this are kept up to four times as many bytes, so that a burst of large
    /// writes does not make every client that has just listed list again.
    pub at_least: Duration,
}

impl Default for HistoryLimits {
    fn default() -> HistoryLimits {
        HistoryLimits { age: Duration::from_secs(300), bytes: 32 << 20, at_least: Duration::from_secs(15) }
    }
}

/// All kept changes of all kinds. The floor is the newest forgotten revision: what it left behind is
/// the oldest state that can be restored.
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    floor: Revision,
    limits: HistoryLimits,
}

impl History {
    pub(super) fn new(floor: Revision, limits: HistoryLimits) -> History {
        History { events: VecDeque::new(), bytes: 0, floor, limits }
    }

    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.weight();
        self.events.push_back(event);
    }

    /// Forgets what the limits do not allow, and gives it back to be freed elsewhere.
    pub(super) fn trim(&mut self, now: u64) -> Vec<Arc<Event>> {
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.events.front() {
            let age = Duration::from_millis(now.saturating_sub(oldest.time));
            let allowed = if age < self.limits.at_least { self.limits.bytes.saturating_mul(4) } else { self.limits.bytes };
            // Changes of one revision go together: half a revision can be neither read nor watched.
            if age <= self.limits.age && self.bytes <= allowed && oldest.revision > self.floor {
                break;
            }
            forgotten.extend(self.pop());
        }
        forgotten
    }

    /// Forgets everything up to and including `before`.
    pub(super) fn forget(&mut self, before: Revision) -> Vec<Arc<Event>> {
        let mut forgotten = Vec::new();
        while self.events.front().is_some_and(|oldest| oldest.revision <= before) {
            forgotten.extend(self.pop());
        }
        self.floor = self.floor.max(before);
        forgotten
    }

    fn pop(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_front()?;
        self.bytes -= event.weight();
        self.floor = event.revision;
        Some(event)
    }

    /// The changes of one kind.
    pub(super) fn index(&self, kind: &Kind) -> Index {
        Index(self.events.iter().filter(|event| event.entry.key.kind == *kind).cloned().collect())
    }
}

/// The kept changes of one kind, a part of the history.
pub(super) struct Index(VecDeque<Arc<Event>>);

impl Index {
    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.0.push_back(event);
    }

    pub(super) fn forget(&mut self, revision: Revision) {
        while self.0.front().is_some_and(|oldest| oldest.revision <= revision) {
            self.0.pop_front();
        }
    }

    /// The changes after a revision, oldest first.
    pub(super) fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<Event>> {
        let from = self.0.partition_point(|event| event.revision <= revision);
        self.0.range(from..)
    }
}
