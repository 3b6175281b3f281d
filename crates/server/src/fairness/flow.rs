//! What is counted about the requests of one flow schema at one priority level, under upstream's names.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use store::metrics::Histogram;

/// Upper bounds of times, in microseconds.
const TIMES: [u64; 13] =
    [0, 5_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 2_000_000, 5_000_000, 10_000_000, 15_000_000, 30_000_000];
/// Upper bounds of lengths of queues.
const LENGTHS: [u64; 9] = [0, 10, 25, 50, 100, 250, 500, 1_000, 2_500];
/// Upper bounds of widths.
const WIDTHS: [u64; 8] = [1, 2, 4, 8, 16, 32, 64, 100];

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The level has no queues and is full.
    Full,
    /// The queue is full.
    QueueFull,
    /// It waited too long.
    TimedOut,
    /// The caller went away.
    Cancelled,
}

impl Refusal {
    /// All of them, in the order of their counters.
    pub const ALL: [Refusal; 4] = [Refusal::Full, Refusal::QueueFull, Refusal::TimedOut, Refusal::Cancelled];

    /// As the label `reason` has it.
    pub fn text(self) -> &'static str {
        match self {
            Refusal::Full => "concurrency-limit",
            Refusal::QueueFull => "queue-full",
            Refusal::TimedOut => "time-out",
            Refusal::Cancelled => "cancelled",
        }
    }
}

/// Counters of one flow schema at one level. They outlive changes of both.
pub struct Flow {
    /// Name of the schema.
    pub schema: String,
    /// Name of the level.
    pub level: String,
    /// Requests that were let in.
    pub dispatched: AtomicU64,
    /// Requests that were refused, by reason.
    pub refused: [AtomicU64; 4],
    /// Requests that run, and their seats.
    pub running: [AtomicI64; 2],
    /// Requests that wait, and their seats.
    pub waiting: [AtomicI64; 2],
    /// Time in the queue of those let in.
    pub waited: Histogram,
    /// Time in the queue of those refused.
    pub waited_in_vain: Histogram,
    /// Time with a seat; watches hold one until they have begun.
    pub ran: [Histogram; 2],
    /// Length of the queue that a request was put in.
    pub queue_length: Histogram,
    /// Seats by estimate.
    pub width: Histogram,
}

impl Flow {
    /// Counters at zero.
    pub fn new(schema: &str, level: &str) -> Flow {
        Flow {
            schema: schema.to_owned(),
            level: level.to_owned(),
            dispatched: AtomicU64::new(0),
            refused: [const { AtomicU64::new(0) }; 4],
            running: [const { AtomicI64::new(0) }; 2],
            waiting: [const { AtomicI64::new(0) }; 2],
            waited: Histogram::new(&TIMES),
            waited_in_vain: Histogram::new(&TIMES),
            ran: [Histogram::new(&TIMES), Histogram::new(&TIMES)],
            queue_length: Histogram::new(&LENGTHS),
            width: Histogram::new(&WIDTHS),
        }
    }

    /// Counts a refused request.
    pub fn refuse(&self, why: Refusal) {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// Adds so many seats of one request to a pair of gauges.
pub fn enter(pair: &[AtomicI64; 2], seats: u32) {
    pair[0].fetch_add(1, Ordering::Relaxed);
    pair[1].fetch_add(i64::from(seats), Ordering::Relaxed);
}

/// Takes them off again.
pub fn leave(pair: &[AtomicI64; 2], seats: u32) {
    pair[0].fetch_sub(1, Ordering::Relaxed);
    pair[1].fetch_sub(i64::from(seats), Ordering::Relaxed);
}
