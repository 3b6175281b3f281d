//! `pid.available`: processes and threads that the kernel can still number.

use api::quantity::Format;

use super::{Condition, Observation, Order, Signal};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal {
        name: "pid.available",
        resource: "pids",
        condition: Condition::Processes,
        order: Order::Processes,
        images_help: false,
        observe,
    }
}

fn observe(_: &Kubelet) -> Option<Observation> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?.min(number("/proc/sys/kernel/threads-max")?);
    let running = running(&std::fs::read_to_string("/proc/loadavg").ok()?)?;
    Some(Observation { available: (most - running).max(0), capacity: most, format: Format::DecimalSI })
}

/// The fourth field is `runnable/existing`.
fn running(loadavg: &str) -> Option<i64> {
    loadavg.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn existing_processes_are_counted() {
        assert_eq!(super::running("0.20 0.18 0.12 1/80 11206\n"), Some(80));
        assert_eq!(super::running("0.20"), None);
    }
}
