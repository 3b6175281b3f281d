//! Thresholds: how much of something must be left. Written as upstream's flag has them: `memory.available<100Mi,nodefs.available<10%`.

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
    /// Twice the same signal.
    #[error("duplicate eviction threshold for {0:?}")]
    Twice(String),
}

impl Threshold {
    /// The amount that must be left of a capacity.
    pub fn quantity(&self, capacity: i64) -> Quantity {
        match self.amount {
            Amount::Value(quantity) => quantity,
            Amount::Share(share) => Quantity::from_value((capacity as f64 * share) as i64, Format::BinarySI),
        }
    }

    /// Whether too little is left.
    pub fn is_met(&self, seen: &Observation) -> bool {
        seen.available < self.quantity(seen.capacity).value()
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
        let signal = find(name.trim()).ok_or_else(|| ParseError::Signal(name.trim().to_owned()))?.name;
        let wrong = || ParseError::Amount(part.to_owned());
        if all.iter().any(|known| known.signal == signal) {
            return Err(ParseError::Twice(name.trim().to_owned()));
        }
        let amount = amount.trim();
        let amount = match amount.strip_suffix('%') {
            Some("0" | "100") => continue,
            Some(share) => {
                let share: f64 = share.parse().map_err(|_| wrong())?;
                Amount::Share(Some(share / 100.0).filter(|share| (0.0..1.0).contains(share)).ok_or_else(wrong)?)
            }
            None => Amount::Value(Quantity::parse(amount).filter(|amount| !amount.is_negative()).ok_or_else(wrong)?),
        };
        all.push(Threshold { signal, amount });
    }
    Ok(all)
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
    fn a_threshold_is_met_below_it() {
        let seen = |available| Observation { available, capacity: 1000, format: Format::BinarySI };
        let one = parse("nodefs.available<10%").unwrap()[0];
        assert!(one.is_met(&seen(99)) && !one.is_met(&seen(100)));
    }
}
