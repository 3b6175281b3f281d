//! How often agents may ask: an agent that asks in a circle must not cost the node its processors.

use std::time::Instant;

/// Calls a second.
const RATE: f64 = 100.0;
/// Calls at once.
const BURST: f64 = 10.0;

/// What is left of the calls.
#[derive(Debug)]
pub struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    /// Nobody has asked yet.
    pub fn new(now: Instant) -> Pace {
        Pace { left: BURST, at: now }
    }

    /// Whether a call is answered.
    pub fn allows(&mut self, now: Instant) -> bool {
        self.left = (self.left + now.saturating_duration_since(self.at).as_secs_f64() * RATE).min(BURST);
        self.at = now;
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ten_calls_at_once_and_a_hundred_a_second() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut allowed = |after: u64, tries: usize| {
            let now = start + Duration::from_millis(after);
            (0..tries).filter(|_| pace.allows(now)).count()
        };
        assert_eq!((allowed(0, 20), allowed(5, 3), allowed(10, 3), allowed(45, 9), allowed(60_000, 100)), (10, 0, 1, 3, 10));
    }
}
