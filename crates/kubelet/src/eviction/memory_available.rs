//! `memory.available`: the machine's memory without what is in use; file pages that nobody used lately count as free.

use api::quantity::Format;
use cgroup::Group;

use super::{Condition, Observation, Order, Signal};
use crate::Kubelet;

/// The signal.
pub const fn signal() -> Signal {
    Signal { name: "memory.available", resource: "memory", condition: Condition::Memory, order: Order::Memory, images_help: false, observe }
}

/// The figures are the machine's own even where the node says to have less: what runs out is real memory.
fn observe(kubelet: &Kubelet) -> Option<Observation> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let root = Group::new(kubelet.cgroups.clone(), "").ok()?;
    // Version 1 accounts for its root; version 2 does not, and what is not free is in use there.
    let accounted = root.dir("memory").is_some_and(|dir| dir.join("memory.usage_in_bytes").exists());
    let used = if accounted { root.memory_stats().ok().map(|memory| memory.working_set as i64) } else { None };
    from_text(&text, used)
}

fn from_text(text: &str, used: Option<i64>) -> Option<Observation> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok()).map(|kib| kib * 1024)
    };
    let capacity = field("MemTotal")?;
    let used = match used {
        Some(used) => used,
        None => capacity - field("MemFree")? - field("Inactive(file)")?,
    };
    Some(Observation { available: (capacity - used).max(0), capacity, format: Format::BinarySI })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_file_pages_are_free() {
        let text = "MemTotal:  1000 kB\nMemFree:  300 kB\nMemAvailable:  1 kB\nInactive(anon):  7 kB\nInactive(file):  50 kB\n";
        let seen = |used| from_text(text, used).unwrap().available / 1024;
        assert_eq!(seen(None), 350);
        assert_eq!(seen(Some(900 * 1024)), 100);
        assert_eq!(seen(Some(2000 * 1024)), 0);
        assert_eq!(from_text("MemTotal: 5 kB\n", None), None);
    }
}
