//! What a controller's queue and loop count, under the names that upstream gives to work queues.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use client::metrics::{Unit, escape, head, histogram, sample};
use store::metrics::Histogram;

/// Upper bounds of the durations, in microseconds: upstream's, but for those that no reconcile is short enough for.
const BOUNDS: [u64; 7] = [10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000];

/// Counters of one controller.
#[derive(Debug)]
pub struct Metrics {
    /// Reconciles that ended well.
    pub succeeded: AtomicU64,
    /// Reconciles that failed and run again.
    pub failed: AtomicU64,
    /// Keys that wait.
    pub depth: AtomicU64,
    /// Keys that began to wait.
    pub adds: AtomicU64,
    /// Keys that were put off, after a failure or by their controller.
    pub retries: AtomicU64,
    /// From taking a key to being through with it.
    pub work: Histogram,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics {
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            depth: AtomicU64::new(0),
            adds: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            work: Histogram::new(&BOUNDS),
        }
    }
}

/// Appends the numbers of all controllers of a process, given by name.
pub fn render(controllers: &[(&str, Arc<Metrics>)], out: &mut String) {
    type Number = fn(&Metrics) -> &AtomicU64;
    let numbers: [(&str, &str, &str, Number); 3] = [
        ("workqueue_depth", "gauge", "Keys that wait in the queue of a controller.", |one| &one.depth),
        ("workqueue_adds_total", "counter", "Keys that began to wait in the queue of a controller.", |one| &one.adds),
        ("workqueue_retries_total", "counter", "Keys of a controller that were put off.", |one| &one.retries),
    ];
    for (name, kind, help, number) in numbers {
        head(out, name, kind, help);
        for (controller, metrics) in controllers {
            sample(out, name, &format!("name=\"{}\"", escape(controller)), number(metrics).load(Ordering::Relaxed));
        }
    }
    head(out, "workqueue_work_duration_seconds", "histogram", "Time that a controller takes for a key.");
    for (controller, metrics) in controllers {
        histogram(out, "workqueue_work_duration_seconds", &format!("name=\"{}\"", escape(controller)), &metrics.work, Unit::Micros);
    }
    head(out, "knarr_reconciles_total", "counter", "Reconciles of a controller by how they ended.");
    for (controller, metrics) in controllers {
        for (result, count) in [("success", &metrics.succeeded), ("error", &metrics.failed)] {
            sample(
                out,
                "knarr_reconciles_total",
                &format!("name=\"{}\",result=\"{result}\"", escape(controller)),
                count.load(Ordering::Relaxed),
            );
        }
    }
}
