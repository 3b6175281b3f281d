//! Time that nobody can set. Waits, back-offs and the ends of tokens are counted on it, so that a machine whose clock jumps (a
//! first look at a time server, an operator's mistake) neither waits for hours nor gives up what is healthy.
//!
//! It shows the machine's clock as of the start of the process and goes on evenly from there, also while the machine sleeps.
//! Moments that others wrote down by the machine's clock are put on it by their age.

use std::sync::LazyLock;

use k8s_openapi::jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// What is to be added to the time since the machine's start.
static OFFSET: LazyLock<i64> = LazyLock::new(|| wall_ms() - since_start());

fn since_start() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec * 1000 + time.tv_nsec / 1_000_000
}

fn wall_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The even time in milliseconds.
pub fn now_ms() -> i64 {
    *OFFSET + since_start()
}

/// The even time of a moment of the machine's clock, both in milliseconds. What seems to lie ahead is now.
pub fn even_ms(wall: i64) -> i64 {
    now_ms() - age(wall, wall_ms())
}

fn age(wall: i64, now: i64) -> i64 {
    now.saturating_sub(wall).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_placed_by_their_age() {
        for (wall, now, expected) in [(1_000, 4_000, 3_000), (4_000, 1_000, 0), (0, 5, 5), (i64::MIN, 0, i64::MAX)] {
            assert_eq!(age(wall, now), expected);
        }
        let hour = 3_600_000;
        let (early, late) = (now_ms(), even_ms(wall_ms() + hour));
        assert!((0..60_000).contains(&(late - early)));
        assert!((now_ms() - even_ms(wall_ms() - hour) - hour).abs() < 60_000);
    }
}
