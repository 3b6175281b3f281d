//! What a pod asks for, as far as placement is concerned.

use std::collections::BTreeMap;

use api::Quantity;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::pods::limits::{self, Class};

/// A pod's containers in the order in which they are placed: init containers first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodClaim {
    /// UID of the pod.
    pub uid: String,
    /// Name and namespace.
    pub name: (String, String),
    /// Its containers.
    pub containers: Vec<Claim>,
}

/// What one container asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claim {
    /// Name of the container.
    pub name: String,
    /// Ends before the next one begins.
    pub once: bool,
    /// Starts with the init containers and stays.
    pub sidecar: bool,
    /// Processors of its own; 0 for the shared ones.
    pub cpus: usize,
    /// Memory and huge pages of its own, by resource.
    pub memory: BTreeMap<String, u64>,
    /// Extended resources, by resource.
    pub extended: BTreeMap<String, usize>,
}

impl PodClaim {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> PodClaim {
        let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
        let guaranteed = class == Class::Guaranteed;
        let spec = pod.spec.clone().unwrap_or_default();
        let init = spec.init_containers.iter().flatten().map(|container| {
            let sidecar = container.restart_policy.as_deref() == Some("Always");
            Claim { once: !sidecar, sidecar, ..claim(container, guaranteed) }
        });
        let main = spec.containers.iter().map(|container| claim(container, guaranteed));
        PodClaim {
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            name: (pod.metadata.name.clone().unwrap_or_default(), pod.metadata.namespace.clone().unwrap_or_default()),
            containers: init.chain(main).collect(),
        }
    }

    /// The most that the pod has at one time of something that its containers have so much of.
    pub fn total(&self, of: impl Fn(&Claim) -> u64) -> u64 {
        let (mut early, mut sidecars, mut main) = (0, 0, 0);
        for claim in &self.containers {
            match (claim.once, claim.sidecar) {
                (true, _) => early = early.max(sidecars + of(claim)),
                (_, true) => sidecars += of(claim),
                _ => main += of(claim),
            }
        }
        early.max(sidecars + main)
    }
}

fn claim(container: &Container, guaranteed: bool) -> Claim {
    let resources = container.resources.clone().unwrap_or_default();
    let requests = resources.requests.unwrap_or_default();
    let limits = resources.limits.unwrap_or_default();
    let mut claim = Claim { name: container.name.clone(), ..Claim::default() };
    let amounts = |list: BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>| {
        list.into_iter().filter_map(|(name, amount)| Some((name, Quantity::parse(&amount.0)?)))
    };
    // What has a limit and no request requests its limit; the API server has filled it in unless the pod is a static one.
    let mut asked: BTreeMap<String, Quantity> = amounts(limits).collect();
    claim.extended = asked
        .iter()
        .filter(|(name, amount)| name.contains('/') && amount.value() > 0)
        .map(|(name, amount)| (name.clone(), amount.value() as usize))
        .collect();
    asked.extend(amounts(requests));
    if guaranteed {
        let cpu = asked.get("cpu").copied().unwrap_or_default();
        claim.cpus = if cpu.value().checked_mul(1000) == Some(cpu.milli()) { cpu.value().max(0) as usize } else { 0 };
        let memory = asked.iter().filter(|(name, amount)| (*name == "memory" || name.starts_with("hugepages-")) && amount.value() > 0);
        claim.memory = memory.map(|(name, amount)| (name.clone(), amount.value() as u64)).collect();
    }
    claim
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn whole_processors_of_guaranteed_pods_are_claimed() {
        let claim = |class: &str, cpu: &str| {
            let resources = json!({"limits": {"cpu": cpu, "memory": "1Gi", "example.com/a": "2"}});
            let init = json!([
                {"name": "i", "resources": resources},
                {"name": "s", "restartPolicy": "Always", "resources": resources},
                {"name": "j", "resources": resources},
            ]);
            let pod = json!({
                "metadata": {"uid": "u"}, "status": {"qosClass": class},
                "spec": {"initContainers": init, "containers": [{"name": "c", "resources": resources}, {"name": "d", "resources": resources}]},
            });
            PodClaim::of(&serde_json::from_value(pod).unwrap())
        };
        let whole = claim("Guaranteed", "2");
        let memory = BTreeMap::from([("memory".to_owned(), 1 << 30)]);
        let extended = BTreeMap::from([("example.com/a".to_owned(), 2)]);
        assert_eq!(whole.containers[0], Claim { name: "i".into(), once: true, sidecar: false, cpus: 2, memory, extended });
        assert_eq!(whole.total(|claim| claim.cpus as u64), 6);
        assert_eq!(claim("Guaranteed", "1500m").total(|claim| claim.cpus as u64), 0);
        assert_eq!(claim("Burstable", "2").total(|claim| claim.cpus as u64), 0);
        assert_eq!(claim("Guaranteed", "2000m").containers[4].cpus, 2);
    }
}
