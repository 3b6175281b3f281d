//! What the node is short of, as its conditions show it: a shortage holds on for a while, so that the scheduler does not
//! send pods back at once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long a condition outlasts its reason where nothing else is said.
pub const TRANSITION: Duration = Duration::from_secs(300);

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
#[derive(Debug)]
pub struct Pressure {
    /// How long a condition outlasts its reason.
    transition: Duration,
    /// Since when each threshold has been met without a break.
    since: HashMap<Key, Instant>,
    /// The thresholds that pods were last evicted for.
    acted: HashSet<Key>,
    /// When a threshold of the condition was last met.
    met: BTreeMap<Condition, Instant>,
    holds: BTreeSet<Condition>,
}

/// A threshold: its signal, and whether it has a grace period.
pub(super) type Key = (&'static str, bool);

impl Pressure {
    /// Short of nothing.
    pub fn new(transition: Duration) -> Pressure {
        Pressure { transition, since: HashMap::new(), acted: HashSet::new(), met: BTreeMap::new(), holds: BTreeSet::new() }
    }

    /// Whether pods were evicted for a threshold when it was last looked at; more must be left then.
    pub(super) fn was_acted_on(&self, key: &Key) -> bool {
        self.acted.contains(key)
    }

    /// Notes the thresholds that are met now, with their grace periods; those that have outlasted theirs are what to act on.
    pub(super) fn due(&mut self, met: &HashMap<Key, Duration>, now: Instant) -> HashSet<Key> {
        self.since.retain(|key, _| met.contains_key(key));
        for key in met.keys() {
            self.since.entry(*key).or_insert(now);
        }
        let lasted = |key: &Key| self.since.get(key).map_or(Duration::ZERO, |since| now.saturating_duration_since(*since));
        self.acted = met.iter().filter(|(key, grace)| lasted(key) >= **grace).map(|(key, _)| *key).collect();
        self.acted.clone()
    }

    /// The conditions that hold.
    pub fn conditions(&self) -> BTreeSet<Condition> {
        self.holds.clone()
    }

    /// Notes what is short now, and gives the conditions that changed with what they are now.
    pub(super) fn note(&mut self, short: &BTreeSet<Condition>, now: Instant) -> Vec<(Condition, bool)> {
        self.met.extend(short.iter().map(|condition| (*condition, now)));
        self.met.retain(|_, at| now.saturating_duration_since(*at) < self.transition);
        let before = std::mem::replace(&mut self.holds, self.met.keys().copied().collect());
        before.symmetric_difference(&self.holds).map(|condition| (*condition, self.holds.contains(condition))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_holds_on_for_five_minutes() {
        let mut pressure = Pressure::new(TRANSITION);
        let (none, disk) = (BTreeSet::new(), BTreeSet::from([Condition::Disk]));
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(pressure.note(&none, at(0)), []);
        assert_eq!(pressure.note(&disk, at(1_000)), [(Condition::Disk, true)]);
        assert_eq!(pressure.note(&disk, at(2_000)), []);
        assert_eq!(pressure.note(&none, at(301_999)), []);
        assert_eq!(pressure.conditions(), disk);
        assert_eq!(pressure.note(&none, at(302_000)), [(Condition::Disk, false)]);
        assert_eq!(pressure.conditions(), none);
    }

    #[test]
    fn a_soft_threshold_waits_and_begins_anew_after_a_break() {
        let mut pressure = Pressure::new(TRANSITION);
        let (soft, hard) = (("memory.available", true), ("nodefs.available", false));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let met = |keys: &[Key]| keys.iter().map(|key| (*key, if key.1 { Duration::from_secs(90) } else { Duration::ZERO })).collect();
        assert_eq!(pressure.due(&met(&[soft, hard]), at(0)), [hard].into());
        assert!(pressure.was_acted_on(&hard) && !pressure.was_acted_on(&soft));
        assert!(pressure.due(&met(&[soft]), at(89)).is_empty() && !pressure.was_acted_on(&hard));
        assert_eq!(pressure.due(&met(&[soft]), at(90)), [soft].into());
        assert!(pressure.due(&met(&[]), at(91)).is_empty());
        assert!(pressure.due(&met(&[soft]), at(92)).is_empty(), "it was not met for a moment");
        assert_eq!(pressure.due(&met(&[soft]), at(182)), [soft].into());
    }
}
