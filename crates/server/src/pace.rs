//! How often a watch is written to: changes that many watch are told to each of them in beats once they come in a stream.
//!
//! A write to a watcher costs the same whether it carries one event or ten, and most of that is the kernel's. So where a
//! stream of changes meets a crowd, what has gathered for a watcher goes in one write. Guarantees:
//!
//! * The first changes after a quiet time go out at once, each for itself; so does everything where few watch.
//! * No change waits longer than `LONGEST`.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// What each watcher of the same adds to the time between two writes.
const SHARE: Duration = Duration::from_micros(200);
/// Shorter waits cost more than they save: timers do not tell them apart.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(10);
/// How many writes may go out at once after a quiet time.
const BURST: u32 = 4;

/// The pace of one watch.
pub struct Pace {
    /// When everything written so far would have been written at an even pace.
    due: Instant,
    /// No write before this.
    free: Option<Instant>,
}

impl Pace {
    /// Nothing was written yet.
    pub fn new() -> Pace {
        Pace { due: Instant::now(), free: None }
    }

    /// Takes note of a write to one of so many watchers of the same.
    pub fn wrote(&mut self, company: usize, now: Instant) {
        let share = SHARE.saturating_mul(u32::try_from(company).unwrap_or(u32::MAX)).min(LONGEST);
        if share < SHORTEST {
            self.free = None;
            return;
        }
        self.due = self.due.max(now) + share;
        self.free = Some(self.due - share * BURST).filter(|free| *free > now);
    }

    /// Waits until the next write may go out.
    pub async fn turn(&mut self) {
        if let Some(free) = self.free {
            sleep_until(free).await;
            self.free = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the last of some writes has to wait when there is always something to write.
    #[track_caller]
    fn check(company: usize, writes: u32, expected: Duration) {
        let mut pace = Pace::new();
        let (mut now, mut waited) = (Instant::now() + LONGEST, Duration::ZERO);
        for _ in 0..writes {
            waited = pace.free.map_or(Duration::ZERO, |free| free - now);
            now += waited;
            pace.wrote(company, now);
        }
        assert_eq!(waited, expected, "{company} watchers, {writes} writes");
    }

    #[tokio::test]
    async fn only_a_stream_of_changes_for_a_crowd_waits() {
        check(1, 1000, Duration::ZERO);
        check(4, 1000, Duration::ZERO);
        check(30, BURST, Duration::ZERO);
        check(30, BURST + 1, SHARE * 30);
        check(30, 1000, SHARE * 30);
        check(5000, 1000, LONGEST);
    }

    #[tokio::test]
    async fn a_quiet_time_gives_back_the_burst() {
        let mut pace = Pace::new();
        let now = Instant::now();
        for _ in 0..BURST + 1 {
            pace.wrote(50, now);
        }
        assert!(pace.free.is_some());
        pace.wrote(50, now + LONGEST * BURST);
        assert!(pace.free.is_none());
    }
}
