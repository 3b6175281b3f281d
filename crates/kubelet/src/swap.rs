//! Swap: whether the node may have it, and what of it a container gets.

use api::Quantity;
use k8s_openapi::api::core::v1::ResourceRequirements;
use serde_json::{Value, json};

use crate::pods::limits::Class;

/// How pods use swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behavior {
    /// Not at all; programs of the node may.
    NoSwap,
    /// Pods of the class Burstable get a share, by the memory that their containers request.
    LimitedSwap,
}

/// What a node is told about swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// How pods use it.
    pub behavior: Behavior,
    /// No node runs where there is any.
    pub fail_on: bool,
}

/// There is swap, and there must be none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false. /proc/swaps contained: {0:?}")]
pub struct SwapIsOn(pub Vec<String>);

/// Refuses a machine with swap where it must not have any.
///
/// # Errors
/// It has some.
pub fn check(config: &Config) -> Result<(), SwapIsOn> {
    let lines = swaps();
    if config.fail_on && lines.len() > 1 { Err(SwapIsOn(lines)) } else { Ok(()) }
}

/// The machine's lines about swap, a heading first; none where the kernel has no swap at all.
fn swaps() -> Vec<String> {
    let text = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    text.lines().map(str::to_owned).filter(|line| !line.is_empty()).collect()
}

/// All swap of the machine and what of it is in use, in bytes.
pub fn of_machine() -> (i64, i64) {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|line| line.split_whitespace().next()?.parse::<i64>().ok()).map_or(0, |kib| kib * 1024)
    };
    let total = field("SwapTotal");
    (total, (total - field("SwapFree")).max(0))
}

/// Whose share is computed.
pub struct Asker<'a> {
    /// Class of its pod.
    pub class: Class,
    /// The cluster cannot do without the pod.
    pub critical: bool,
    /// What the container wants.
    pub resources: Option<&'a ResourceRequirements>,
}

/// Bytes of swap of a container.
pub fn limit(behavior: Behavior, asker: &Asker<'_>, node_memory: i64, node_swap: i64) -> i64 {
    let amount = |list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
        Quantity::parse(&list?.get("memory")?.0).map(Quantity::value)
    };
    let most = amount(asker.resources.and_then(|resources| resources.limits.as_ref()));
    let request = amount(asker.resources.and_then(|resources| resources.requests.as_ref())).or(most).unwrap_or(0);
    let may = behavior == Behavior::LimitedSwap && asker.class == Class::Burstable && !asker.critical;
    // A container with all the memory that it may ever have is not to lose any of it.
    if !may || request == 0 || most == Some(request) || node_memory <= 0 {
        return 0;
    }
    (request as f64 / node_memory as f64 * node_swap as f64) as i64
}

/// Use of swap as statistics show it: what a group may still take of it, and what it has.
pub fn shown(used: u64, limit: Option<i64>, now: &str) -> Value {
    let mut shown = json!({"time": now, "swapUsageBytes": used});
    if let Some(limit) = limit.filter(|limit| *limit >= 0) {
        shown["swapAvailableBytes"] = (limit - i64::try_from(used).unwrap_or(i64::MAX)).max(0).into();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_follow_requests_of_burstable_pods() {
        let check = |behavior, class, critical, resources: Value, expected| {
            let resources: ResourceRequirements = serde_json::from_value(resources).unwrap();
            let asker = Asker { class, critical, resources: Some(&resources) };
            assert_eq!(limit(behavior, &asker, 1000 << 20, 500 << 20), expected, "{class:?} {resources:?}");
        };
        let (limited, burstable) = (Behavior::LimitedSwap, Class::Burstable);
        let request = || json!({"requests": {"memory": "100Mi"}});
        check(limited, burstable, false, request(), 50 << 20);
        check(limited, burstable, false, json!({"requests": {"memory": "100Mi"}, "limits": {"memory": "200Mi"}}), 50 << 20);
        check(limited, burstable, false, json!({"limits": {"memory": "200Mi"}}), 0);
        check(limited, burstable, false, json!({"requests": {"cpu": 1}}), 0);
        check(limited, burstable, true, request(), 0);
        check(limited, Class::Guaranteed, false, request(), 0);
        check(limited, Class::BestEffort, false, json!({}), 0);
        check(Behavior::NoSwap, burstable, false, request(), 0);
        assert_eq!(shown(10, Some(30), "now"), json!({"time": "now", "swapUsageBytes": 10, "swapAvailableBytes": 20}));
        assert_eq!(shown(10, None, "now"), json!({"time": "now", "swapUsageBytes": 10}));
    }

    #[test]
    fn swap_is_refused_only_where_there_is_some() {
        assert_eq!(check(&Config { behavior: Behavior::NoSwap, fail_on: false }), Ok(()));
        assert_eq!(check(&Config { behavior: Behavior::NoSwap, fail_on: true }).is_err(), swaps().len() > 1);
    }
}
