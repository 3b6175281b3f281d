//! Thresholds: how much of something must be left. Written as upstream's flag has them: `memory.available<100Mi,nodefs.available<10%`.

use std::collections::BTreeMap;
use std::time::Duration;

use api::Quantity;
use api::quantity::Format;

use super::{Observation, find};

/// Upstream's thresholds where none are given.
pub const DEFAULT_HARD: &str =
    "memory.available<100Mi,nodefs.available<10%,nodefs.inodesFree<5%,imagefs.available<15%,imagefs.inodesFree<5%";

/// Less than this may not be left.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Threshold {
    /// Name of the signal.
    pub signal: &'static str,
    /// The amount.
    pub amount: Amount,
}

/// An amount or a share of the capacity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Amount {
    /// So much.
    Value(Quantity),
    /// So much of what there is, between 0 and 1.
    Share(f64),
}

/// Why a text is no list of thresholds.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseError {
    /// Not `signal<amount`.
    #[error("invalid eviction threshold {0:?}, it must be signal<amount")]
    Form(String),
    /// No such signal.
    #[error("unsupported eviction signal {0:?}")]
    Signal(String),
    /// No quantity and no share, or a negative one.
    #[error("invalid amount of eviction threshold {0:?}")]
    Amount(String),
    /// A soft threshold needs a time.
    #[error("grace period must be specified for the soft eviction threshold {0}")]
    Grace(String),
    /// Twice the same signal.
    #[error("duplicate eviction threshold for {0:?}")]
    Twice(String),
}

impl Threshold {
    /// The amount that must be left of a capacity.
    pub fn quantity(&self, capacity: i64) -> Quantity {
        self.amount.quantity(capacity)
    }

    /// Whether too little is left, with so much beyond the threshold.
    pub fn is_met(&self, seen: &Observation, beyond: i64) -> bool {
        seen.available < self.quantity(seen.capacity).value().saturating_add(beyond)
    }
}

/// Reads a list; an empty text is an empty one. A threshold of 0 or 100 % turns its signal off, as upstream has it.
///
/// # Errors
/// The first part that is no threshold.
pub fn parse(text: &str) -> Result<Vec<Threshold>, ParseError> {
    let mut all: Vec<Threshold> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (name, amount) = part.split_once('<').ok_or_else(|| ParseError::Form(part.to_owned()))?;
        if !is_known(name.trim()) {
            return Err(ParseError::Signal(name.trim().to_owned()));
        }
        let Some(signal) = find(name.trim()).map(|signal| signal.name) else { continue };
        let wrong = || ParseError::Amount(part.to_owned());
        if all.iter().any(|known| known.signal == signal) {
            return Err(ParseError::Twice(name.trim().to_owned()));
        }
        let amount = amount.trim();
        if matches!(amount, "0%" | "100%") {
            continue;
        }
        let amount = self::amount(amount).ok_or_else(wrong)?;
        all.push(Threshold { signal, amount });
    }
    Ok(all)
}

/// Thresholds that have to be met for a while, and how pods are evicted for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Thresholds with the time for which each must be met.
    pub soft: Vec<(Threshold, Duration)>,
    /// By signal, what must be left beyond a threshold once pods were evicted for it.
    pub minimum_reclaim: Vec<(&'static str, Amount)>,
    /// Seconds that a pod has at most to stop when it is evicted for a soft threshold.
    pub max_pod_grace: i64,
    /// How long a condition of the node outlasts its reason.
    pub transition: Duration,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy { soft: Vec::new(), minimum_reclaim: Vec::new(), max_pod_grace: 0, transition: super::pressure::TRANSITION }
    }
}

impl Policy {
    /// Reads thresholds with their grace periods, both by signal.
    ///
    /// # Errors
    /// The first that is none, or that has no grace period.
    pub fn soft(text: &str, grace: &BTreeMap<String, Duration>) -> Result<Vec<(Threshold, Duration)>, ParseError> {
        if let Some(unknown) = grace.keys().find(|signal| !is_known(signal)) {
            return Err(ParseError::Signal(unknown.clone()));
        }
        let with_grace = |threshold: Threshold| {
            let grace = grace.get(threshold.signal).copied().filter(|grace| !grace.is_zero());
            Ok((threshold, grace.ok_or_else(|| ParseError::Grace(threshold.signal.to_owned()))?))
        };
        parse(text)?.into_iter().map(with_grace).collect()
    }

    /// Reads what must be left beyond thresholds, by signal.
    ///
    /// # Errors
    /// The first that is no amount.
    pub fn reclaim(amounts: &BTreeMap<String, String>) -> Result<Vec<(&'static str, Amount)>, ParseError> {
        let mut all = Vec::new();
        for (signal, amount) in amounts {
            if !is_known(signal) {
                return Err(ParseError::Signal(signal.clone()));
            }
            if let Some(signal) = find(signal) {
                all.push((signal.name, self::amount(amount).ok_or_else(|| ParseError::Amount(amount.clone()))?));
            }
        }
        Ok(all)
    }

    /// What must be left beyond a threshold of a signal.
    pub(super) fn reclaim_of(&self, signal: &str, capacity: i64) -> i64 {
        let amount = self.minimum_reclaim.iter().find(|(known, _)| *known == signal);
        amount.map_or(0, |(_, amount)| amount.quantity(capacity).value())
    }
}

/// Signals of a file system for containers alone are those of images or of the node here, whatever is said about them.
fn is_known(signal: &str) -> bool {
    find(signal).is_some() || matches!(signal, "containerfs.available" | "containerfs.inodesFree")
}

fn amount(text: &str) -> Option<Amount> {
    match text.strip_suffix('%') {
        Some(share) => {
            let share: f64 = share.parse().ok()?;
            Some(share / 100.0).filter(|share| (0.0..1.0).contains(share)).map(Amount::Share)
        }
        None => Quantity::parse(text).filter(|amount| !amount.is_negative()).map(Amount::Value),
    }
}

impl Amount {
    /// So much of a capacity.
    pub fn quantity(self, capacity: i64) -> Quantity {
        match self {
            Amount::Value(quantity) => quantity,
            Amount::Share(share) => Quantity::from_value((capacity as f64 * share) as i64, Format::BinarySI),
        }
    }
}

/// The thresholds in force: pods together are held to the same as the machine.
pub(super) fn in_force(given: &[Threshold]) -> Vec<Threshold> {
    let memory = given.iter().find(|threshold| threshold.signal == "memory.available").copied();
    let pods = memory.map(|memory| Threshold { signal: "allocatableMemory.available", ..memory });
    let pods = pods.filter(|pods| given.iter().all(|known| known.signal != pods.signal));
    given.iter().copied().chain(pods).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_read_as_upstream_writes_them() {
        let all = parse(DEFAULT_HARD).unwrap();
        let shown: Vec<String> = all.iter().map(|one| format!("{} {}", one.signal, one.quantity(1 << 30))).collect();
        assert_eq!(
            shown,
            [
                "memory.available 100Mi",
                "nodefs.available 107374182",
                "nodefs.inodesFree 53687091",
                "imagefs.available 161061273",
                "imagefs.inodesFree 53687091"
            ]
        );
        assert_eq!(parse("").unwrap(), []);
        assert_eq!(parse("memory.available<0%, nodefs.available<1%").unwrap().len(), 1);
        assert_eq!(in_force(&all).len(), all.len() + 1);
        for (text, error) in [
            ("memory.available", ParseError::Form("memory.available".into())),
            ("tea<1", ParseError::Signal("tea".into())),
            ("memory.available<-1", ParseError::Amount("memory.available<-1".into())),
            ("memory.available<101%", ParseError::Amount("memory.available<101%".into())),
            ("pid.available<1,pid.available<2", ParseError::Twice("pid.available".into())),
        ] {
            assert_eq!(parse(text), Err(error));
        }
    }

    #[test]
    fn soft_thresholds_need_a_time() {
        let second = Duration::from_secs(1);
        let grace = BTreeMap::from([("memory.available".to_owned(), 90 * second)]);
        let soft = Policy::soft("memory.available<1Gi,containerfs.available<5%", &grace).unwrap();
        assert_eq!(soft.iter().map(|(one, grace)| (one.signal, *grace)).collect::<Vec<_>>(), [("memory.available", 90 * second)]);
        assert_eq!(Policy::soft("pid.available<10", &grace), Err(ParseError::Grace("pid.available".into())));
        assert_eq!(Policy::soft("", &[("tea".to_owned(), second)].into()), Err(ParseError::Signal("tea".into())));
        let reclaim =
            BTreeMap::from([("nodefs.available".to_owned(), "10%".to_owned()), ("memory.available".to_owned(), "1Ki".to_owned())]);
        let policy = Policy { minimum_reclaim: Policy::reclaim(&reclaim).unwrap(), ..Policy::default() };
        let of = |signal| policy.reclaim_of(signal, 1000);
        assert_eq!([of("nodefs.available"), of("memory.available"), of("pid.available")], [100, 1024, 0]);
    }

    #[test]
    fn a_threshold_is_met_below_it() {
        let seen = |available| Observation { available, capacity: 1000, format: Format::BinarySI };
        let one = parse("nodefs.available<10%").unwrap()[0];
        assert!(one.is_met(&seen(99), 0) && !one.is_met(&seen(100), 0) && one.is_met(&seen(109), 10) && !one.is_met(&seen(110), 10));
    }
}
