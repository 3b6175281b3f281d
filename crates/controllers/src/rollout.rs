//! The arithmetic of rollouts: how far old sets may shrink and the new one may grow. Pure, so that it is tested as tables.

use k8s_openapi::api::apps::v1::DeploymentSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// A set's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// `spec.replicas`.
    pub wanted: i32,
    /// `status.replicas`.
    pub exists: i32,
    /// `status.availableReplicas`.
    pub available: i32,
}

/// One scaling: the new set, or an old one by index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Index of the old set, `None` for the new one.
    pub set: Option<usize>,
    /// How many it shall have.
    pub replicas: i32,
}

/// A set for proportional scaling.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    /// `spec.replicas`.
    pub wanted: i32,
    /// Largest total when it was last scaled.
    pub maximum: i32,
    /// When it was made, in seconds since the epoch.
    pub created: i64,
}

/// `maxSurge` (rounded up) and `maxUnavailable` (rounded down) in pods; never both zero.
pub fn fenceposts(spec: &DeploymentSpec, replicas: i32) -> (i32, i32) {
    let strategy = spec.strategy.as_ref();
    if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        return (0, 0);
    }
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.clone()).unwrap_or_default();
    let surge = resolve(rolling.max_surge.as_ref(), replicas, true);
    let unavailable = resolve(rolling.max_unavailable.as_ref(), replicas, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(replicas)) }
}

/// A number or a percentage of a total; absent is 25 %.
pub fn resolve(value: Option<&IntOrString>, total: i32, round_up: bool) -> i32 {
    match value {
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => percent(text, total, round_up),
        None => percent("25%", total, round_up),
    }
}

fn percent(text: &str, total: i32, round_up: bool) -> i32 {
    let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
    let product = i64::from(total) * percent;
    (if round_up { (product + 99) / 100 } else { product / 100 }) as i32
}

/// Recreate: the new set gets everything at once (old pods are gone by then).
pub fn recreate(replicas: i32, new: i32) -> Vec<Step> {
    if new == replicas { Vec::new() } else { vec![Step { set: None, replicas }] }
}

/// One step of a rolling update: grow the new set if it may, else shrink the old ones.
pub fn rolling(replicas: i32, surge: i32, unavailable: i32, new: Scale, old: &[Scale]) -> Vec<Step> {
    let grown = grow(replicas, surge, new, old);
    if grown != new.wanted {
        return vec![Step { set: None, replicas: grown }];
    }
    shrink(replicas, unavailable, new, old)
}

fn grow(replicas: i32, surge: i32, new: Scale, old: &[Scale]) -> i32 {
    if new.wanted > replicas {
        return replicas;
    }
    let total: i32 = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let room = replicas + surge - total;
    if room <= 0 { new.wanted } else { (new.wanted + room).min(replicas) }
}

/// Unhealthy old pods go first; then as many as keep the minimum available.
fn shrink(replicas: i32, unavailable: i32, new: Scale, old: &[Scale]) -> Vec<Step> {
    let total: i32 = new.wanted + old.iter().map(|set| set.wanted).sum::<i32>();
    let minimum = replicas - unavailable;
    let new_unavailable = new.wanted - new.available;
    let mut left = total - minimum - new_unavailable;
    let mut sizes: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    if left > 0 {
        for (index, set) in old.iter().enumerate() {
            let sick = (set.wanted - set.available).max(0).min(left);
            if set.wanted > 0 && set.available < set.wanted {
                sizes[index] -= sick;
                left -= sick;
            }
        }
        let available: i32 = new.available + old.iter().map(|set| set.available).sum::<i32>();
        let mut spare = available - minimum;
        for size in &mut sizes {
            let cut = (*size).min(spare.max(0));
            *size -= cut;
            spare -= cut;
        }
    }
    let changed = sizes.iter().enumerate().filter(|(index, size)| **size != old[*index].wanted);
    changed.map(|(index, size)| Step { set: Some(index), replicas: *size }).collect()
}

/// Spreads a change of the total over sets by their size: larger ones take more, leftovers go to the largest and newest.
pub fn proportions(sets: &[Share], allowed: i32) -> Vec<i32> {
    let total: i32 = sets.iter().map(|set| set.wanted).sum();
    let change = allowed - total;
    let mut order: Vec<usize> = (0..sets.len()).filter(|index| sets[*index].wanted > 0).collect();
    if change >= 0 {
        order.sort_by_key(|index| (std::cmp::Reverse(sets[*index].wanted), std::cmp::Reverse(sets[*index].created)));
    } else {
        order.sort_by_key(|index| (std::cmp::Reverse(sets[*index].wanted), sets[*index].created));
    }
    let mut sizes: Vec<i32> = sets.iter().map(|set| set.wanted).collect();
    let mut added = 0;
    for index in &order {
        let set = sets[*index];
        let fair = f64::from(set.wanted) * f64::from(allowed) / f64::from(set.maximum.max(1));
        let fraction = fair.round() as i32 - set.wanted;
        let left = change - added;
        let part = if change > 0 { fraction.max(0).min(left) } else { fraction.min(0).max(left) };
        sizes[*index] = (set.wanted + part).max(0);
        added += part;
    }
    if let Some(first) = order.first() {
        sizes[*first] = (sizes[*first] + change - added).max(0);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(text: &str) -> Scale {
        let numbers: Vec<i32> = text.split('/').map(|number| number.parse().expect("a number")).collect();
        Scale { wanted: numbers[0], exists: numbers[1], available: numbers[2] }
    }

    /// `replicas surge unavailable new old.. -> steps`, a set as wanted/exists/available.
    fn check(replicas: i32, surge: i32, unavailable: i32, new: &str, old: &[&str], steps: &[(Option<usize>, i32)]) {
        let old: Vec<Scale> = old.iter().map(|text| scale(text)).collect();
        let found: Vec<(Option<usize>, i32)> =
            rolling(replicas, surge, unavailable, scale(new), &old).into_iter().map(|step| (step.set, step.replicas)).collect();
        assert_eq!(found, steps, "new {new} old {old:?}");
    }

    #[test]
    fn rolling_steps() {
        check(10, 2, 2, "0/0/0", &["10/10/10"], &[(None, 2)]);
        check(10, 2, 2, "2/2/0", &["10/10/10"], &[(Some(0), 8)]);
        check(10, 2, 2, "4/4/4", &["8/8/8"], &[(Some(0), 4)]);
        check(3, 1, 0, "1/1/0", &["3/3/3"], &[]);
        check(3, 1, 0, "1/1/1", &["3/3/3"], &[(Some(0), 2)]);
        check(3, 1, 0, "3/3/3", &["0/0/0"], &[]);
        check(10, 0, 2, "0/0/0", &["10/10/5"], &[(Some(0), 8)]);
    }

    #[test]
    fn percentages() {
        assert_eq!(resolve(Some(&IntOrString::String("25%".into())), 10, true), 3);
        assert_eq!(resolve(Some(&IntOrString::String("25%".into())), 10, false), 2);
        assert_eq!(resolve(None, 3, true), 1);
    }

    #[test]
    fn proportional_scaling_keeps_ratios() {
        let share = |wanted, created| Share { wanted, maximum: 13, created };
        assert_eq!(proportions(&[share(8, 1), share(5, 2)], 26).iter().sum::<i32>(), 26);
    }
}
