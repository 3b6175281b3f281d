//! The arithmetic of autoscaling: from measured metrics to a number of replicas, within limits and at a bounded pace.

use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// Deviation from the target that is left alone.
const TOLERANCE: f64 = 0.1;

/// A pod as far as its metric goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sample {
    /// Measured value.
    Measured(i64),
    /// No value although the pod runs.
    Missing,
    /// Not ready yet; it counts as using nothing when scaling up.
    Unready,
}

/// Replicas by the ratio of the mean value to the target of a pod. `ready` is how many pods are ready and measured.
pub(crate) fn replicas(current: i32, samples: &[Sample], target: i64) -> Option<i32> {
    let measured: Vec<i64> =
        samples.iter().filter_map(|sample| if let Sample::Measured(value) = sample { Some(*value) } else { None }).collect();
    if measured.is_empty() || target <= 0 {
        return None;
    }
    let mean = |values: &[i64]| values.iter().sum::<i64>() as f64 / values.len() as f64;
    let ratio = mean(&measured) / target as f64;
    let others = samples.len() - measured.len();
    if others == 0 {
        return Some(if within(ratio) { current } else { up(ratio * measured.len() as f64) });
    }
    // What is unknown is assumed to speak against scaling.
    let mut assumed = measured.clone();
    for sample in samples {
        match sample {
            Sample::Missing if ratio < 1.0 => assumed.push(target),
            Sample::Missing if ratio > 1.0 => assumed.push(0),
            Sample::Unready if ratio > 1.0 => assumed.push(0),
            _ => {}
        }
    }
    let careful = mean(&assumed) / target as f64;
    let turned = (ratio < 1.0 && careful > 1.0) || (ratio > 1.0 && careful < 1.0);
    if within(careful) || turned {
        return Some(current);
    }
    let wanted = up(careful * assumed.len() as f64);
    let backwards = (careful < 1.0 && wanted > current) || (careful > 1.0 && wanted < current);
    Some(if backwards { current } else { wanted })
}

fn within(ratio: f64) -> bool {
    (ratio - 1.0).abs() <= TOLERANCE + 1e-9
}

fn up(value: f64) -> i32 {
    (value - 1e-9).ceil().max(0.0) as i32
}

/// A recommendation or a change at a time, in seconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) at: i64,
    /// Replicas recommended, or the difference that a change made.
    pub(crate) value: i32,
}

/// What an autoscaler remembers; may be lost at any time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    pub(crate) recommendations: Vec<Event>,
    pub(crate) changes: Vec<Event>,
}

/// Why the wish was not followed as it is: reason and message of `ScalingLimited`.
pub(crate) type Limit = Option<(&'static str, &'static str)>;

/// The number that a wish leads to now.
pub(crate) fn settle(
    current: i32,
    wish: i32,
    (least, most): (i32, i32),
    behavior: Option<&HorizontalPodAutoscalerBehavior>,
    memory: &mut Memory,
    now: i64,
) -> (i32, Limit) {
    let up = behavior.and_then(|behavior| behavior.scale_up.as_ref());
    let down = behavior.and_then(|behavior| behavior.scale_down.as_ref());
    let window = |rules: Option<&HPAScalingRules>, default: i64| {
        rules.and_then(|rules| rules.stabilization_window_seconds).map_or(default, i64::from)
    };
    let (up_window, down_window) = (window(up, 0), window(down, 300));
    let longest = up_window.max(down_window);
    memory.recommendations.retain(|one| one.at >= now - longest);
    let seen = |seconds: i64| memory.recommendations.iter().filter(move |one| one.at > now - seconds).map(|one| one.value);
    let floor = seen(up_window).chain([wish]).min().unwrap_or(wish);
    let ceiling = seen(down_window).chain([wish]).max().unwrap_or(wish);
    memory.recommendations.push(Event { at: now, value: wish });
    let steady = current.max(floor).min(ceiling);
    memory.changes.retain(|one| one.at >= now - 1800);
    let highest = pace(current, up, true, &memory.changes, now);
    let lowest = pace(current, down, false, &memory.changes, now);
    if steady > current {
        let top = highest.max(current).min(most);
        if steady > top {
            let limit = if top == most {
                ("TooManyReplicas", "the desired replica count is more than the maximum replica count")
            } else {
                ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate")
            };
            return (top, Some(limit));
        }
    } else if steady < current {
        let bottom = lowest.min(current).max(least);
        if steady < bottom {
            let limit = if bottom == least {
                ("TooFewReplicas", "the desired replica count is less than the minimum replica count")
            } else {
                ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate")
            };
            return (bottom, Some(limit));
        }
    }
    if steady > most {
        return (most, Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count")));
    }
    if steady < least {
        return (least, Some(("TooFewReplicas", "the desired replica count is less than the minimum replica count")));
    }
    (steady, None)
}

/// The furthest that the policies allow in one direction.
fn pace(current: i32, rules: Option<&HPAScalingRules>, up: bool, changes: &[Event], now: i64) -> i32 {
    let select = rules.and_then(|rules| rules.select_policy.as_deref()).unwrap_or("Max");
    if select == "Disabled" {
        return current;
    }
    let given = rules.and_then(|rules| rules.policies.clone()).unwrap_or_default();
    let policies: Vec<(String, i32, i64)> = if !given.is_empty() {
        given.into_iter().map(|policy| (policy.type_, policy.value, i64::from(policy.period_seconds))).collect()
    } else if up {
        vec![("Pods".into(), 4, 15), ("Percent".into(), 100, 15)]
    } else {
        vec![("Percent".into(), 100, 15)]
    };
    let reached = policies.iter().map(|(kind, value, period)| {
        let done: i32 =
            changes.iter().filter(|change| change.at > now - period && (change.value > 0) == up).map(|change| change.value).sum();
        let start = current - done;
        match (kind.as_str(), up) {
            ("Percent", true) => (f64::from(start) * (1.0 + f64::from(*value) / 100.0)).ceil() as i32,
            ("Percent", false) => (f64::from(start) * (1.0 - f64::from(*value) / 100.0)) as i32,
            (_, true) => start + value,
            (_, false) => start - value,
        }
    });
    let furthest = (select == "Max") == up;
    if furthest { reached.max().unwrap_or(current) } else { reached.min().unwrap_or(current) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metrics_become_replicas() {
        use Sample::{Measured, Missing, Unready};
        for (current, samples, target, wanted) in [
            (2, vec![Measured(100), Measured(100)], 50, Some(4)),
            (2, vec![Measured(52), Measured(52)], 50, Some(2)),
            (4, vec![Measured(10); 4], 50, Some(1)),
            (2, vec![Measured(100), Missing], 50, Some(2)),
            (2, vec![Measured(200), Unready], 50, Some(4)),
            (3, vec![Measured(10), Missing, Missing], 50, Some(3)),
            (2, vec![Missing], 50, None),
        ] {
            assert_eq!(replicas(current, &samples, target), wanted, "{samples:?}");
        }
    }

    #[test]
    fn wishes_are_limited_and_steadied() {
        let mut memory = Memory::default();
        assert_eq!(settle(2, 20, (1, 10), None, &mut memory, 1000).0, 6);
        assert_eq!(
            settle(8, 20, (1, 10), None, &mut Memory::default(), 1000),
            (10, Some(("TooManyReplicas", "the desired replica count is more than the maximum replica count")))
        );
        let mut memory = Memory { recommendations: vec![Event { at: 900, value: 7 }], changes: Vec::new() };
        assert_eq!(settle(8, 1, (1, 10), None, &mut memory, 1000).0, 7);
        assert_eq!(settle(8, 1, (1, 10), None, &mut memory, 1201).0, 1);
        let behavior: HorizontalPodAutoscalerBehavior = serde_json::from_value(
            json!({"scaleDown": {"stabilizationWindowSeconds": 0, "policies": [{"type": "Pods", "value": 2, "periodSeconds": 60}]}}),
        )
        .unwrap();
        assert_eq!(settle(8, 1, (1, 10), Some(&behavior), &mut Memory::default(), 1000).0, 6);
    }
}
