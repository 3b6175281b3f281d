//! What the node is short of, as its conditions show it: a shortage holds on for five minutes, so that the scheduler does not
//! send pods back at once.

use std::collections::{BTreeMap, BTreeSet};

/// How long a condition outlasts its reason, in milliseconds.
const TRANSITION: i64 = 300_000;

/// A condition of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    /// `MemoryPressure`.
    Memory,
    /// `DiskPressure`.
    Disk,
    /// `PIDPressure`.
    Processes,
}

/// All of them, in the order of a node's status.
pub const CONDITIONS: [Condition; 3] = [Condition::Memory, Condition::Disk, Condition::Processes];

impl Condition {
    /// Type of the condition.
    pub fn name(self) -> &'static str {
        match self {
            Condition::Memory => "MemoryPressure",
            Condition::Disk => "DiskPressure",
            Condition::Processes => "PIDPressure",
        }
    }

    /// Reason and message of the condition.
    pub fn says(self, holds: bool) -> (&'static str, &'static str) {
        match (self, holds) {
            (Condition::Memory, true) => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
            (Condition::Memory, false) => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            (Condition::Disk, true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
            (Condition::Disk, false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            (Condition::Processes, true) => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
            (Condition::Processes, false) => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        }
    }

    /// Reason of the event about a change.
    pub fn event(self, holds: bool) -> &'static str {
        match (self, holds) {
            (Condition::Memory, true) => "NodeHasInsufficientMemory",
            (Condition::Memory, false) => "NodeHasSufficientMemory",
            (Condition::Disk, true) => "NodeHasDiskPressure",
            (Condition::Disk, false) => "NodeHasNoDiskPressure",
            (Condition::Processes, true) => "NodeHasInsufficientPID",
            (Condition::Processes, false) => "NodeHasSufficientPID",
        }
    }
}

/// What the node is short of, or was lately.
#[derive(Debug, Default)]
pub struct Pressure {
    /// When a threshold of the condition was last met, in milliseconds since the epoch.
    met: BTreeMap<Condition, i64>,
    holds: BTreeSet<Condition>,
}

impl Pressure {
    /// The conditions that hold.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        self.holds.clone()
    }

    /// Notes what is short now, and gives the conditions that changed with what they are now. A clock that jumped back
    /// ends nothing early and prolongs nothing.
    pub(super) fn note(&mut self, short: &BTreeSet<Condition>, now: i64) -> Vec<(Condition, bool)> {
        self.met.extend(short.iter().map(|condition| (*condition, now)));
        self.met.values_mut().for_each(|at| *at = (*at).min(now));
        self.met.retain(|_, at| now - *at < TRANSITION);
        let before = std::mem::replace(&mut self.holds, self.met.keys().copied().collect());
        before.symmetric_difference(&self.holds).map(|condition| (*condition, self.holds.contains(condition))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_holds_on_for_five_minutes() {
        let mut pressure = Pressure::default();
        let (none, disk) = (BTreeSet::new(), BTreeSet::from([Condition::Disk]));
        assert_eq!(pressure.note(&none, 0), []);
        assert_eq!(pressure.note(&disk, 1_000), [(Condition::Disk, true)]);
        assert_eq!(pressure.note(&disk, 2_000), []);
        assert_eq!(pressure.note(&none, 301_999), []);
        assert_eq!(pressure.conditions(), disk);
        assert_eq!(pressure.note(&none, 302_000), [(Condition::Disk, false)]);
        assert_eq!(pressure.conditions(), none);
    }

    #[test]
    fn a_clock_that_jumped_back_prolongs_nothing() {
        let mut pressure = Pressure::default();
        pressure.note(&BTreeSet::from([Condition::Memory]), 10_000_000);
        assert_eq!(pressure.note(&BTreeSet::new(), 1_000), []);
        assert_eq!(pressure.note(&BTreeSet::new(), 301_000), [(Condition::Memory, false)]);
    }
}
