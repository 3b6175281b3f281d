//! Resources of pods and containers as control group limits, and the class of a pod.

use std::collections::BTreeMap;

use api::Quantity;
use cgroup::Limits;
use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

/// Smallest CPU shares that the kernel takes.
const MIN_SHARES: i64 = 2;
/// Largest CPU shares that the kernel takes.
const MAX_SHARES: i64 = 262_144;
/// CPU period in microseconds.
const PERIOD: u64 = 100_000;
/// Smallest CPU quota in microseconds.
const MIN_QUOTA: i64 = 1_000;

/// Quality of service of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Limits equal requests for CPU and memory in every container.
    Guaranteed,
    /// Something is requested.
    Burstable,
    /// Nothing is requested.
    BestEffort,
}

/// The class of a pod as its status says it (the API server computes it).
pub fn class(qos: Option<&str>) -> Class {
    match qos {
        Some("Guaranteed") => Class::Guaranteed,
        Some("Burstable") => Class::Burstable,
        _ => Class::BestEffort,
    }
}

/// The control group of a pod.
pub fn pod_group(class: Class, uid: &str) -> String {
    match class {
        Class::Guaranteed => format!("kubepods/pod{uid}"),
        Class::Burstable => format!("kubepods/burstable/pod{uid}"),
        Class::BestEffort => format!("kubepods/besteffort/pod{uid}"),
    }
}

/// Amounts by resource, as the API has them.
pub type List = BTreeMap<String, ApiQuantity>;

fn amount(list: Option<&List>, resource: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(resource)?.0)
}

/// Shares for thousandths of a CPU.
pub fn shares(milli: i64) -> u64 {
    if milli == 0 { MIN_SHARES as u64 } else { (milli * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES) as u64 }
}

fn quota(milli: i64) -> i64 {
    (milli * PERIOD as i64 / 1000).max(MIN_QUOTA)
}

/// What a pod requests of a resource: CPU in thousandths, everything else in whole units. What the pod says for itself counts
/// before what its containers add up to; its overhead comes on top.
pub fn requested(spec: &PodSpec, resource: &str) -> i64 {
    let of = |list: Option<&List>| {
        let quantity = amount(list, resource);
        quantity.map(|quantity| if resource == "cpu" { quantity.milli() } else { quantity.value() })
    };
    let value = |container: &Container| of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref())).unwrap_or(0);
    let (mut early, mut sidecars) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars += value(container);
        } else {
            early = early.max(sidecars + value(container));
        }
    }
    let lasting = sidecars + spec.containers.iter().map(value).sum::<i64>();
    let own = of(spec.resources.as_ref().and_then(|resources| resources.requests.as_ref()));
    own.unwrap_or(lasting.max(early)) + of(spec.overhead.as_ref()).unwrap_or(0)
}

/// What a list of all containers of a pod comes to: the sum of those that stay, or what one of those before them needs, or
/// what the pod says for all of them.
pub fn sum(spec: &PodSpec, own: impl Fn(&ResourceRequirements) -> Option<List>, list: impl Fn(&Container) -> Option<List>) -> Option<List> {
    let add = |all: &mut BTreeMap<String, Quantity>, more: Option<List>, join: fn(Quantity, Quantity) -> Quantity| {
        for (resource, amount) in more.unwrap_or_default() {
            let Some(amount) = Quantity::parse(&amount.0) else { continue };
            let joined = all.get(&resource).map_or(amount, |known| join(*known, amount));
            all.insert(resource, joined);
        }
    };
    let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
    let mut all = BTreeMap::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar)) {
        add(&mut all, list(container), Quantity::add);
    }
    for container in spec.init_containers.iter().flatten().filter(|container| !sidecar(container)) {
        add(&mut all, list(container), Quantity::max);
    }
    add(&mut all, spec.resources.as_ref().and_then(own), |_, own| own);
    let shown: List = all.into_iter().map(|(resource, amount)| (resource, ApiQuantity(amount.to_string()))).collect();
    (!shown.is_empty()).then_some(shown)
}

/// Whether a resource is limited for the whole pod: by itself, or in every container that stays.
pub fn all_limited(spec: &PodSpec, resource: &str) -> bool {
    let limited = |resources: Option<&ResourceRequirements>| amount(resources.and_then(|own| own.limits.as_ref()), resource).is_some();
    limited(spec.resources.as_ref()) || spec.containers.iter().all(|container| limited(container.resources.as_ref()))
}

/// Limits of a container.
pub fn container(resources: Option<&ResourceRequirements>) -> Limits {
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let limits = resources.and_then(|resources| resources.limits.as_ref());
    let cpu_limit = amount(limits, "cpu").map(Quantity::milli);
    let cpu_request = amount(requests, "cpu").map(Quantity::milli).or(cpu_limit).unwrap_or(0);
    Limits {
        cpu_shares: Some(shares(cpu_request)),
        cpu_quota: cpu_limit.map(quota),
        cpu_period: cpu_limit.map(|_| PERIOD),
        memory_limit: amount(limits, "memory").map(Quantity::value).filter(|bytes| *bytes > 0),
        ..Limits::default()
    }
}

/// Limits of a pod's group: sums over containers where every container sets one, or the pod's own resources.
pub fn pod(spec: &PodSpec, class: Class) -> Limits {
    let own = spec.resources.as_ref();
    let sum = |list: fn(&ResourceRequirements) -> Option<&List>, resource: &str| -> (i64, bool) {
        if let Some(quantity) = own.and_then(list).and_then(|list| amount(Some(list), resource)) {
            return (if resource == "cpu" { quantity.milli() } else { quantity.value() }, true);
        }
        let value = |resources: Option<&ResourceRequirements>| {
            let quantity = amount(resources.and_then(list), resource)?;
            Some(if resource == "cpu" { quantity.milli() } else { quantity.value() })
        };
        let sidecar = |container: &&Container| container.restart_policy.as_deref() == Some("Always");
        let lasting = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
        let values: Vec<Option<i64>> = lasting.map(|container| value(container.resources.as_ref())).collect();
        let once = spec
            .init_containers
            .iter()
            .flatten()
            .filter(|container| !sidecar(container))
            .map(|container| value(container.resources.as_ref()));
        let complete = values.iter().all(Option::is_some);
        let total: i64 = values.into_iter().flatten().sum();
        (total.max(once.flatten().max().unwrap_or(0)), complete)
    };
    let (cpu_request, _) = sum(|resources| resources.requests.as_ref(), "cpu");
    let (cpu_limit, cpu_limited) = sum(|resources| resources.limits.as_ref(), "cpu");
    let (memory_limit, memory_limited) = sum(|resources| resources.limits.as_ref(), "memory");
    Limits {
        cpu_shares: Some(if class == Class::BestEffort { MIN_SHARES as u64 } else { shares(cpu_request) }),
        cpu_quota: (cpu_limited && cpu_limit > 0).then(|| quota(cpu_limit)),
        cpu_period: (cpu_limited && cpu_limit > 0).then_some(PERIOD),
        memory_limit: (memory_limited && memory_limit > 0).then_some(memory_limit),
        ..Limits::default()
    }
}

/// How much the kernel likes to kill a container's processes for want of memory.
pub fn oom_score(class: Class, resources: Option<&ResourceRequirements>, node_memory: i64, critical: bool) -> i32 {
    if critical {
        return -997;
    }
    match class {
        Class::Guaranteed => -997,
        Class::BestEffort => 1000,
        Class::Burstable => {
            let requests = resources.and_then(|resources| resources.requests.as_ref());
            let request = amount(requests, "memory").map_or(0, Quantity::value);
            let score = 1000 - (1000 * request) / node_memory.max(1);
            score.clamp(3, 999) as i32
        }
    }
}
