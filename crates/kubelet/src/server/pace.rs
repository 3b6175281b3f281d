//! How fast processors are used: the kernel counts time only, so that the pace is what lies between two questions. Nothing is
//! measured unless somebody asks.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A pace over less time than this says little.
const LEAST: Duration = Duration::from_secs(3);
/// Over more than this, it says nothing of now.
const MOST: Duration = Duration::from_secs(120);
/// How long to wait for a second reading where the first is needed now.
pub const BETWEEN: Duration = Duration::from_millis(250);

/// What was read of one group.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Instant,
    used_ns: u64,
    /// What the two readings before made.
    pace: Option<u64>,
}

/// The last readings, by what they are of.
#[derive(Debug, Default)]
pub struct Paces {
    readings: Mutex<HashMap<String, Reading>>,
}

impl Paces {
    /// Whether nothing of a group was read lately, so that there is nothing to compare with.
    pub fn lacks(&self, name: &str, now: Instant) -> bool {
        self.readings.lock().get(name).is_none_or(|last| now.duration_since(last.at) > MOST)
    }

    /// Takes a reading of the time used: the pace in nanoseconds a second since the reading before. Where that was a moment ago,
    /// it stays the one to compare with, and the pace is the one before where there is one.
    pub fn read(&self, name: &str, now: Instant, used_ns: u64) -> Option<u64> {
        let mut readings = self.readings.lock();
        let Some(last) = readings.get_mut(name) else {
            readings.insert(name.to_owned(), Reading { at: now, used_ns, pace: None });
            return None;
        };
        let between = now.duration_since(last.at);
        // A counter that went back is that of another group.
        if between > MOST || used_ns < last.used_ns {
            *last = Reading { at: now, used_ns, pace: None };
            return None;
        }
        if between < LEAST && (last.pace.is_some() || between < BETWEEN) {
            return last.pace;
        }
        let pace = u128::from(used_ns - last.used_ns) * 1_000_000_000 / between.as_nanos().max(1);
        *last = Reading { at: now, used_ns, pace: u64::try_from(pace).ok() };
        last.pace
    }

    /// Forgets what is not there any more.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.readings.lock().retain(|name, _| keep(name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_lies_between_two_questions() {
        let (paces, start) = (Paces::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(paces.lacks("a", at(0)));
        let second = 1_000_000_000;
        for (ms, used, wanted) in [
            (0, 0, None),
            (100, second, None),
            // The first pace is had as soon as there is any, the others after some seconds.
            (250, second / 4, Some(second)),
            (1_000, second / 4, Some(second)),
            (5_250, second / 4 + 10 * second, Some(2 * second)),
            // Another group of the same name, and one that nobody asked about for long.
            (9_000, 5, None),
            (19_000, 5, Some(0)),
            (400_000, 5, None),
        ] {
            assert_eq!(paces.read("a", at(ms), used), wanted, "{ms}");
        }
        assert!(!paces.lacks("a", at(400_000)) && paces.lacks("a", at(600_000)));
        paces.retain(|name| name != "a");
        assert!(paces.lacks("a", at(400_000)));
    }
}
