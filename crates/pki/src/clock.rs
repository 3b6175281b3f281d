//! Waiting for a moment of the wall clock with one kernel timer, which also wakes when somebody sets the clock.
//!
//! A plain sleep counts monotonic time: on a machine that was suspended, or whose clock was corrected by a year at
//! boot, it would renew certificates after they expired.

use jiff::Timestamp;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime};
use tokio::net::unix::pipe::Receiver;

/// Why `sleep_until` came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WallWake {
    /// The moment has come.
    Reached,
    /// The clock was set: recompute and wait again.
    ClockJumped,
}

/// Sleeps until the wall clock shows `moment` or jumps.
pub async fn sleep_until(moment: Timestamp) -> std::io::Result<WallWake> {
    if moment <= Timestamp::now() {
        return Ok(WallWake::Reached);
    }
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let setting = Itimerspec {
        it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
        it_value: Timespec { tv_sec: moment.as_second(), tv_nsec: moment.subsec_nanosecond().into() },
    };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &setting)?;
    // A timer is read as a pipe is: this is the one way to wait for a foreign descriptor that needs no unsafe code.
    let timer = Receiver::from_owned_fd_unchecked(timer)?;
    loop {
        timer.readable().await?;
        let mut count = [0u8; 8];
        match timer.try_read(&mut count) {
            Ok(_) => return Ok(WallWake::Reached),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::CANCELED.raw_os_error()) => {
                return Ok(WallWake::ClockJumped);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[tokio::test]
    async fn wakes_at_the_moment() {
        let moment = Timestamp::now() + SignedDuration::from_millis(30);
        assert_eq!(sleep_until(moment).await.unwrap(), WallWake::Reached);
        assert!(Timestamp::now() >= moment);
        assert_eq!(sleep_until(moment).await.unwrap(), WallWake::Reached);
    }
}
