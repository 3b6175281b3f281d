//! How many seats a priority level may hold: what its configuration says, and what it borrows from levels that do not
//! need theirs. Pure arithmetic, in upstream's rules (KEP 1040).

use std::time::Duration;

/// How often the limits follow the demand.
pub const PERIOD: Duration = Duration::from_secs(10);
/// How much of the old demand counts after one period: half of it is forgotten in five minutes.
const SMOOTHING: f64 = 0.977;
/// Targets below this would make their level's part of the seats vanish.
const LEAST_TARGET: f64 = 0.001;

/// Watches a number of seats over time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Integrator {
    value: f64,
    since: f64,
    began: f64,
    sum: f64,
    squares: f64,
    max: f64,
}

/// What a number of seats was over a time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observed {
    /// Mean.
    pub average: f64,
    /// Standard deviation.
    pub deviation: f64,
    /// Largest value.
    pub max: f64,
}

impl Integrator {
    /// The value is another one from now (seconds) on.
    pub fn set(&mut self, now: f64, value: f64) {
        self.advance(now);
        self.value = value;
        self.max = self.max.max(value);
    }

    fn advance(&mut self, now: f64) {
        let passed = (now - self.since).max(0.0);
        self.sum += self.value * passed;
        self.squares += self.value * self.value * passed;
        self.since = now;
    }

    /// What was seen since the last time, and begins anew.
    pub fn take(&mut self, now: f64) -> Observed {
        self.advance(now);
        let passed = now - self.began;
        let mut seen = Observed { average: self.value, deviation: 0.0, max: self.max };
        if passed > 0.0 {
            seen.average = self.sum / passed;
            seen.deviation = (self.squares / passed - seen.average * seen.average).max(0.0).sqrt();
        }
        (self.began, self.sum, self.squares, self.max) = (now, 0.0, 0.0, self.value);
        seen
    }
}

/// The demand for a level's seats as the limits see it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Demand {
    /// The last period.
    pub seen: Observed,
    /// Rises at once and falls slowly.
    pub smoothed: f64,
}

impl Demand {
    /// Takes one look that covered so many periods.
    pub fn update(&mut self, seen: Observed, periods: f64) {
        let envelope = seen.average + seen.deviation;
        let kept = SMOOTHING.powf(periods.max(1.0));
        self.smoothed = if self.smoothed > envelope { kept * self.smoothed + (1.0 - kept) * envelope } else { envelope };
        self.seen = seen;
    }
}

/// Seats that a level has by configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Its own.
    pub nominal: u32,
    /// What others cannot borrow.
    pub lower: u32,
    /// With all that it may borrow.
    pub upper: u32,
}

/// What a level's configuration says about seats.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// `nominalConcurrencyShares`.
    pub shares: i64,
    /// `lendablePercent`.
    pub lendable: i64,
    /// `borrowingLimitPercent`; none means no limit.
    pub borrowing: Option<i64>,
}

/// The limits of all levels of a server with this many seats.
pub fn limits(total: u32, levels: &[Share]) -> Vec<Limits> {
    let sum = levels.iter().map(|level| level.shares).sum::<i64>().max(1) as f64;
    let one = |level: &Share| {
        let nominal = (f64::from(total) * level.shares as f64 / sum).ceil();
        let part = |percent: i64| (nominal * percent as f64 / 100.0).round();
        let borrowed = level.borrowing.map_or(f64::from(total), part);
        Limits { nominal: nominal as u32, lower: (nominal - part(level.lendable)) as u32, upper: (nominal + borrowed) as u32 }
    };
    levels.iter().map(one).collect()
}

/// A level whose current limit is to be found.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// By configuration.
    pub limits: Limits,
    /// Its demand.
    pub demand: Demand,
    /// Whether it is exempt: it holds what it needs, and the others share the rest.
    pub exempt: bool,
}

impl Claim {
    /// What the level keeps whatever the others want.
    fn floor(&self) -> u32 {
        self.limits.lower.max(self.limits.nominal.min(self.demand.seen.max.ceil() as u32))
    }

    /// What it should have before the shares are made fair.
    pub fn target(&self) -> f64 {
        f64::from(self.floor()).max(self.demand.smoothed)
    }
}

/// The current limits of all levels, and the fraction of its target that each gets.
pub fn allocate(claims: &[Claim]) -> (Vec<u32>, f64) {
    let total: i64 = claims.iter().map(|claim| i64::from(claim.limits.nominal)).sum();
    let exempt: i64 = claims.iter().filter(|claim| claim.exempt).map(|claim| i64::from(claim.floor())).sum();
    let limited = || claims.iter().filter(|claim| !claim.exempt);
    let lowest: i64 = limited().map(|claim| i64::from(claim.limits.lower)).sum();
    let floors: i64 = limited().map(|claim| i64::from(claim.floor())).sum();
    let rest = total - exempt;
    let fraction = if rest > floors { fair_fraction(rest as f64, &limited().copied().collect::<Vec<_>>()) } else { 0.0 };
    let share = if rest <= lowest || floors <= lowest { 0.0 } else { (rest - lowest) as f64 / (floors - lowest) as f64 };
    let current = |claim: &Claim| {
        if claim.exempt {
            claim.floor()
        } else if rest > floors {
            portion(claim, fraction).round() as u32
        } else {
            claim.limits.lower + (share.min(1.0) * f64::from(claim.floor() - claim.limits.lower)).round() as u32
        }
    };
    (claims.iter().map(current).collect(), fraction)
}

fn portion(claim: &Claim, fraction: f64) -> f64 {
    let (low, high) = (f64::from(claim.floor()), f64::from(claim.limits.upper));
    (fraction * claim.target().max(LEAST_TARGET)).clamp(low.min(high), high)
}

/// The fraction at which the portions together are as many as there are seats. The sum rises with the fraction, so it is
/// found by halving.
fn fair_fraction(seats: f64, claims: &[Claim]) -> f64 {
    let sum = |fraction: f64| claims.iter().map(|claim| portion(claim, fraction)).sum::<f64>();
    let (mut low, mut high) = (0.0, 1.0);
    while sum(high) < seats && high < 1e9 {
        high *= 2.0;
    }
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if sum(middle) < seats { low = middle } else { high = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn share(shares: i64, lendable: i64) -> Share {
        Share { shares, lendable, borrowing: None }
    }

    /// catch-all, exempt, global-default, leader-election, node-high, system, workload-high, workload-low.
    const USUAL: [Share; 8] =
        [share(5, 0), share(0, 0), share(20, 50), share(10, 0), share(40, 25), share(30, 33), share(40, 50), share(100, 90)];

    fn claims(demand: impl Fn(usize) -> f64) -> Vec<Claim> {
        let limits = limits(600, &USUAL);
        let claim = |(index, limits): (usize, Limits)| {
            let mut seen = Demand::default();
            seen.update(Observed { average: demand(index), deviation: 0.0, max: demand(index) }, 1.0);
            Claim { limits, demand: seen, exempt: index == 1 }
        };
        limits.into_iter().enumerate().map(claim).collect()
    }

    /// The numbers are those that a fresh server of the real kind shows.
    #[test]
    fn an_idle_server_has_the_limits_of_the_real_one() {
        let limits = limits(600, &USUAL);
        assert_eq!(limits.iter().map(|one| one.nominal).collect::<Vec<_>>(), [13, 0, 49, 25, 98, 74, 98, 245]);
        assert_eq!(limits.iter().map(|one| one.lower).collect::<Vec<_>>(), [13, 0, 24, 25, 73, 50, 49, 24]);
        assert_eq!(limits.iter().map(|one| one.upper).collect::<Vec<_>>(), [613, 600, 649, 625, 698, 674, 698, 845]);
        let (current, fraction) = allocate(&claims(|_| 0.0));
        assert_eq!(current, [30, 0, 56, 58, 170, 117, 114, 56]);
        assert!((fraction - 7.0 / 3.0).abs() < 1e-9, "{fraction}");
    }

    #[test]
    fn a_busy_level_borrows_and_every_other_keeps_what_is_its_own() {
        let (current, _) = allocate(&claims(|index| if index == 6 { 5000.0 } else { 0.0 }));
        assert!(current[6] > 300, "{current:?}");
        for (index, one) in limits(600, &USUAL).iter().enumerate() {
            assert!(current[index] >= one.lower && current[index] <= one.upper, "{index} {current:?}");
        }
        // All want everything: everybody has its own seats.
        let (current, _) = allocate(&claims(|index| if index == 1 { 0.0 } else { 5000.0 }));
        assert_eq!(current, [13, 0, 49, 25, 98, 74, 98, 245]);
    }

    #[test]
    fn demand_rises_at_once_and_falls_slowly() {
        let mut integrator = Integrator::default();
        integrator.set(0.0, 10.0);
        integrator.set(5.0, 0.0);
        let seen = integrator.take(10.0);
        assert_eq!(seen, Observed { average: 5.0, deviation: 5.0, max: 10.0 });
        let mut demand = Demand::default();
        demand.update(seen, 1.0);
        assert_eq!(demand.smoothed, 10.0);
        demand.update(integrator.take(20.0), 1.0);
        assert!((demand.smoothed - 9.77).abs() < 1e-9);
        demand.update(integrator.take(320.0), 30.0);
        assert!(demand.smoothed < 5.0, "half is forgotten in five minutes: {}", demand.smoothed);
    }
}
