//! What the scheduler counts about its decisions, under upstream's names.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::metrics::{Unit, escape, head, histogram, sample};
use store::metrics::Histogram;

/// Upper bounds of the duration of an attempt, in microseconds: upstream's, and shorter ones, since most attempts end there.
const BOUNDS: [u64; 17] = [
    100, 250, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 128_000, 256_000, 512_000, 1_024_000, 2_048_000, 4_096_000,
    8_192_000,
];

/// How an attempt to place a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The pod is bound.
    Scheduled,
    /// No node takes the pod.
    Unschedulable,
    /// A node was found, and the binding failed.
    Error,
}

const RESULTS: [(&str, Attempt); 3] =
    [("scheduled", Attempt::Scheduled), ("unschedulable", Attempt::Unschedulable), ("error", Attempt::Error)];

/// Counters of a scheduler.
#[derive(Debug)]
pub struct Metrics {
    attempts: [Histogram; 3],
    pending: [AtomicU64; 3],
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { attempts: std::array::from_fn(|_| Histogram::new(&BOUNDS)), pending: Default::default() }
    }
}

impl Metrics {
    /// Counts an attempt.
    pub fn observe(&self, attempt: Attempt, took: Duration) {
        self.attempts[attempt as usize].observe_duration(took);
    }

    /// Notes how many pods wait, by place in the queue: active, resting, parked.
    pub fn wait(&self, depth: [usize; 3]) {
        for (pending, depth) in self.pending.iter().zip(depth) {
            pending.store(depth as u64, Ordering::Relaxed);
        }
    }

    /// Appends the numbers of the scheduler of a name.
    pub fn render(&self, profile: &str, out: &mut String) {
        let labels = |result: &str| format!("profile=\"{}\",result=\"{result}\"", escape(profile));
        let name = "scheduler_schedule_attempts_total";
        head(out, name, "counter", "Attempts to schedule pods, by result.");
        for (result, attempt) in RESULTS {
            sample(out, name, &labels(result), self.attempts[attempt as usize].values().count);
        }
        let name = "scheduler_scheduling_attempt_duration_seconds";
        head(out, name, "histogram", "Time of an attempt: decision and binding.");
        for (result, attempt) in RESULTS {
            histogram(out, name, &labels(result), &self.attempts[attempt as usize], Unit::Micros);
        }
        let name = "scheduler_pending_pods";
        head(out, name, "gauge", "Pods that wait: due, until their back-off is over, until something happens that may help them.");
        for (queue, pending) in ["active", "backoff", "unschedulable"].into_iter().zip(&self.pending) {
            sample(out, name, &format!("queue=\"{queue}\""), pending.load(Ordering::Relaxed));
        }
    }
}
