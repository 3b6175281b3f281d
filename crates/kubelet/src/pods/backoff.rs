//! Back-off of restarts and pulls: nothing at first, then 10 s doubling to 5 minutes; forgotten after 10 quiet minutes.

/// First wait in milliseconds.
const FIRST: i64 = 10_000;
/// Longest wait in milliseconds.
const LONGEST: i64 = 300_000;

/// Back-off of one container or image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    wait: i64,
    last: i64,
}

impl Backoff {
    /// Notes a failure (or end) at a time in milliseconds; the time before which it may not run again.
    pub fn failed(&mut self, at: i64) -> i64 {
        if at - self.last > 2 * LONGEST {
            self.wait = 0;
        }
        let until = at + self.wait;
        self.wait = (self.wait * 2).clamp(FIRST, LONGEST);
        self.last = until;
        until
    }

    /// The wait that the last failure led to, in milliseconds.
    pub fn current(&self) -> i64 {
        match self.wait {
            FIRST => 0,
            wait => (wait / 2).max(FIRST),
        }
    }
}
