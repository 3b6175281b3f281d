//! Waiting for a moment of the wall clock with one kernel timer, which also wakes when somebody sets the clock.

use jiff::Timestamp;

/// Why `sleep_until` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WallWake {
    /// The moment has come.
    Reached,
    /// The clock was set: recompute and wait again.
    ClockJumped,
}

/// Sleeps until the wall clock shows `moment` or jumps.
pub async fn sleep_until(moment: Timestamp) -> std::io::Result<WallWake> { todo!() }
