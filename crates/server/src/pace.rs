//! How often a watch is written to: changes that many watch are told to each of them in beats once they come in a stream.
//!
//! A write to a watcher costs the same whether it carries one event or ten, and most of that is the kernel's. So where a
//! stream of changes meets a crowd, what has gathered for a watcher goes in one write. Guarantees:
//!
//! * The first changes after a quiet time go out at once, each for itself; so does everything where few watch.
//! * No change waits longer than `LONGEST`.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use store::{Filter, Prefix};
use tokio::time::{Instant, sleep_until};

/// What each watcher of the same adds to the time between two writes.
const SHARE: Duration = Duration::from_micros(200);
/// Shorter waits cost more than they save: timers do not tell them apart.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(10);
/// How many writes may go out at once after a quiet time.
const BURST: u32 = 4;

/// Who watches the same over the network. What watches in this process is told by a function call and counts nowhere.
#[derive(Default)]
pub struct Crowds(Mutex<HashMap<String, Weak<()>>>);

impl Crowds {
    /// One more watcher of this, for as long as the pace lives.
    pub fn join(&self, prefix: &Prefix, filter: &Filter) -> Pace {
        let what = format!("{prefix:?} {filter:?}");
        let mut crowds = self.0.lock();
        let crowd = crowds.get(&what).and_then(Weak::upgrade).unwrap_or_else(|| {
            crowds.retain(|_, crowd| crowd.strong_count() > 0);
            let crowd = Arc::new(());
            crowds.insert(what, Arc::downgrade(&crowd));
            crowd
        });
        Pace::new(crowd)
    }
}

/// The pace of one watch.
pub struct Pace {
    crowd: Arc<()>,
    /// When everything written so far would have been written at an even pace.
    due: Instant,
    /// No write before this.
    free: Option<Instant>,
}

impl Pace {
    fn new(crowd: Arc<()>) -> Pace {
        Pace { crowd, due: Instant::now(), free: None }
    }

    /// Takes note of a write.
    pub fn wrote(&mut self, now: Instant) {
        let company = Arc::strong_count(&self.crowd);
        let share = SHARE.saturating_mul(u32::try_from(company).unwrap_or(u32::MAX)).min(LONGEST);
        if share < SHORTEST {
            self.free = None;
            return;
        }
        self.due = self.due.max(now) + share;
        self.free = Some(self.due - share * (BURST - 1)).filter(|free| *free > now);
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

    fn pods(crowds: &Crowds) -> Pace {
        crowds.join(&store::Kind::new("/registry/pods/").all(), &Filter::All)
    }

    /// How long the last of some writes has to wait when there is always something to write.
    #[track_caller]
    fn check(company: usize, writes: u32, expected: Duration) {
        let crowds = Crowds::default();
        let mut watchers: Vec<Pace> = (0..company).map(|_| pods(&crowds)).collect();
        let pace = &mut watchers[0];
        let (mut now, mut waited) = (Instant::now() + LONGEST, Duration::ZERO);
        for _ in 0..writes {
            waited = pace.free.map_or(Duration::ZERO, |free| free - now);
            now += waited;
            pace.wrote(now);
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
        let crowds = Crowds::default();
        let mut watchers: Vec<Pace> = (0..50).map(|_| pods(&crowds)).collect();
        let (pace, now) = (&mut watchers[0], Instant::now());
        for _ in 0..BURST + 1 {
            pace.wrote(now);
        }
        assert!(pace.free.is_some());
        pace.wrote(now + LONGEST * BURST);
        assert!(pace.free.is_none());
    }

    #[tokio::test]
    async fn only_watchers_of_the_same_are_a_crowd() {
        let crowds = Crowds::default();
        let node = |name: &str| Filter::Field { name: "spec.nodeName".into(), value: name.into() };
        let all = store::Kind::new("/registry/pods/").all();
        let one = crowds.join(&all, &node("a"));
        let others = [crowds.join(&all, &node("b")), pods(&crowds)];
        assert_eq!(Arc::strong_count(&one.crowd), 1);
        drop(others);
        let again = crowds.join(&all, &node("a"));
        assert_eq!((Arc::strong_count(&one.crowd), Arc::strong_count(&again.crowd)), (2, 2));
    }
}
