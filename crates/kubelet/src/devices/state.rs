//! Which devices there are and who has which: what can be decided without asking a plugin.

use std::collections::{BTreeMap, BTreeSet};

use super::messages::ContainerAllocateResponse;
use crate::placement::claim::{Claim, PodClaim};
use crate::placement::hints::{Hint, Hints};
use crate::placement::mask::Mask;

/// Devices by name.
pub type Ids = BTreeSet<String>;

/// A device as its plugin last told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// It can be given.
    pub healthy: bool,
    /// The NUMA nodes it is near to; empty where its plugin says nothing.
    pub nodes: Vec<u32>,
}

/// What a container has of one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Share {
    /// The devices with the nodes that they were near to.
    pub devices: BTreeMap<String, Vec<u32>>,
    /// What the plugin wants to be done for the container.
    pub response: ContainerAllocateResponse,
}

/// Shares by resource, by container, by pod.
type Given = BTreeMap<String, BTreeMap<String, BTreeMap<String, Share>>>;

/// Devices cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum DeviceRefusal {
    /// The container has others than it asks for.
    #[error("pod {0:?} container {1:?} changed request for resource {2:?} from {3} to {4}")]
    Changed(String, String, String, usize, usize),
    /// None is in order.
    #[error("no healthy devices present; cannot allocate unhealthy devices {0}")]
    NoneHealthy(String),
    /// Those that the container has are not in order.
    #[error("previously allocated devices are no longer healthy; cannot allocate unhealthy devices {0}")]
    NoLongerHealthy(String),
    /// Not so many are free.
    #[error("requested number of devices unavailable for {resource}. Requested: {requested}, Available: {available}")]
    Unavailable {
        /// Of which resource.
        resource: String,
        /// So many are missing.
        requested: usize,
        /// So many are free.
        available: usize,
    },
    /// The plugin is gone.
    #[error("unknown Device Plugin {0}")]
    NoPlugin(String),
    /// The plugin refuses.
    #[error("rpc error: code = {:?} desc = {}", .0.code, .0.message)]
    Plugin(grpc::Failure),
    /// The plugin says nothing.
    #[error("no containers return in allocation response")]
    NoResponse,
    /// The file.
    #[error(transparent)]
    Checkpoint(#[from] crate::placement::checkpoint::CheckpointError),
}

impl From<grpc::Failure> for DeviceRefusal {
    fn from(failure: grpc::Failure) -> DeviceRefusal {
        DeviceRefusal::Plugin(failure)
    }
}

/// All devices and shares.
#[derive(Debug, Default)]
pub struct State {
    /// Devices by resource; a resource whose plugin is gone for good has none.
    pub resources: BTreeMap<String, BTreeMap<String, Device>>,
    /// Who has what.
    pub given: Given,
    /// What init containers of the pod that is being placed leave for its other containers.
    reusable: (String, BTreeMap<String, Ids>),
}

/// Which devices a container may get, the better ones first.
#[derive(Debug, PartialEq, Eq)]
pub struct Choice {
    /// Those that it gets in any case: left by the pod's init containers.
    pub taken: Ids,
    /// How many more it needs.
    pub missing: usize,
    /// Free ones in groups: on the nodes that were picked, on others, near to none. Taken from in this order.
    pub groups: [Ids; 3],
}

impl Choice {
    /// The devices among which the plugin may say what it prefers: those on the picked nodes if they do, else all.
    pub fn preferable(&self) -> Ids {
        if self.missing < self.groups[0].len() { self.groups[0].clone() } else { self.groups.iter().flatten().cloned().collect() }
    }

    /// The devices that it gets, with what the plugin prefers.
    pub fn decide(mut self, preferred: &Ids) -> Ids {
        let preferable = self.preferable();
        let all_near = self.missing >= self.groups[0].len();
        let near = if all_near { self.groups[0].clone() } else { Ids::new() };
        let preferred = preferred.intersection(&preferable).cloned();
        let order = near.into_iter().chain(preferred).chain(self.groups.iter().flatten().cloned()).collect::<Vec<_>>();
        for id in order {
            if self.missing > 0 && self.taken.insert(id) {
                self.missing -= 1;
            }
        }
        self.taken
    }
}

impl State {
    /// What a container has of a resource.
    pub fn share(&self, uid: &str, container: &str, resource: &str) -> Option<&Share> {
        self.given.get(uid)?.get(container)?.get(resource)
    }

    /// Everything that a container has.
    pub fn shares(&self, uid: &str, container: &str) -> impl Iterator<Item = (&String, &Share)> {
        self.given.get(uid).and_then(|containers| containers.get(container)).into_iter().flatten()
    }

    /// Devices that containers have.
    pub fn in_use(&self, resource: &str) -> Ids {
        let shares = self.given.values().flat_map(BTreeMap::values).filter_map(|shares| shares.get(resource));
        shares.flat_map(|share| share.devices.keys().cloned()).collect()
    }

    fn healthy(&self, resource: &str) -> Ids {
        let devices = self.resources.get(resource).into_iter().flatten();
        devices.filter(|(_, device)| device.healthy).map(|(id, _)| id.clone()).collect()
    }

    fn free(&self, resource: &str) -> Ids {
        self.healthy(resource).difference(&self.in_use(resource)).cloned().collect()
    }

    fn reusable(&self, uid: &str, resource: &str) -> Ids {
        if self.reusable.0 == uid { self.reusable.1.get(resource).cloned().unwrap_or_default() } else { Ids::new() }
    }

    fn nodes(&self, resource: &str, id: &str) -> &[u32] {
        self.resources.get(resource).and_then(|devices| devices.get(id)).map_or(&[], |device| device.nodes.as_slice())
    }

    fn has_topology(&self, resource: &str) -> bool {
        self.resources.get(resource).into_iter().flatten().any(|(_, device)| !device.nodes.is_empty())
    }

    /// Which devices a container may get; none if it has what it asks for.
    ///
    /// # Errors
    /// There are not so many.
    pub fn choose(&self, uid: &str, container: &str, resource: &str, wanted: usize, hint: Hint) -> Result<Option<Choice>, DeviceRefusal> {
        let own = self.share(uid, container, resource);
        if let Some(own) = own.filter(|own| own.devices.len() != wanted) {
            let words = [uid, container, resource].map(str::to_owned);
            let [uid, container, resource] = words;
            return Err(DeviceRefusal::Changed(uid, container, resource, own.devices.len(), wanted));
        }
        let healthy = self.healthy(resource);
        if healthy.is_empty() {
            return Err(DeviceRefusal::NoneHealthy(resource.to_owned()));
        }
        if let Some(own) = own {
            let fine = own.devices.keys().all(|id| healthy.contains(id));
            return if fine { Ok(None) } else { Err(DeviceRefusal::NoLongerHealthy(resource.to_owned())) };
        }
        let taken: Ids = self.reusable(uid, resource).into_iter().take(wanted).collect();
        let missing = wanted - taken.len();
        let free = self.free(resource);
        if free.len() < missing {
            return Err(DeviceRefusal::Unavailable { resource: resource.to_owned(), requested: missing, available: free.len() });
        }
        let mut groups = [Ids::new(), Ids::new(), Ids::new()];
        let mask = hint.nodes.filter(|_| self.has_topology(resource));
        for id in free {
            let nodes = self.nodes(resource, &id);
            let group = match mask {
                Some(mask) if mask.has_any(nodes) => 0,
                Some(_) if !nodes.is_empty() => 1,
                _ => 2,
            };
            groups[group].insert(id);
        }
        Ok(Some(Choice { taken, missing, groups }))
    }

    /// Notes what a container has got.
    pub fn give(&mut self, uid: &str, container: &str, resource: &str, ids: &Ids, response: ContainerAllocateResponse) {
        let devices = ids.iter().map(|id| (id.clone(), self.nodes(resource, id).to_vec())).collect();
        let shares = self.given.entry(uid.to_owned()).or_default().entry(container.to_owned()).or_default();
        shares.insert(resource.to_owned(), Share { devices, response });
    }

    /// After all resources of a container: what it leaves, or takes from what others left.
    pub fn note_reusable(&mut self, uid: &str, claim: &Claim) {
        if self.reusable.0 != uid {
            self.reusable = (uid.to_owned(), BTreeMap::new());
        }
        let shares: Vec<(String, Ids)> =
            self.shares(uid, &claim.name).map(|(resource, share)| (resource.clone(), share.devices.keys().cloned().collect())).collect();
        for (resource, ids) in shares {
            let left = self.reusable.1.entry(resource).or_default();
            *left = if claim.once { &*left | &ids } else { &*left - &ids };
        }
    }

    /// Takes back what a pod had; true if there was anything.
    pub fn release(&mut self, uid: &str) -> bool {
        if self.reusable.0 == uid {
            self.reusable = Default::default();
        }
        self.given.remove(uid).is_some()
    }

    /// Nodes for a container.
    pub fn hints(&self, nodes: &[u32], uid: &str, claim: &Claim) -> BTreeMap<String, Hints> {
        let own = |resource: &str| self.share(uid, &claim.name, resource).map(|share| share.devices.keys().cloned().collect());
        self.hints_for(nodes, uid, claim.extended.iter().map(|(name, count)| (name.clone(), *count)), own)
    }

    /// Nodes for a whole pod.
    pub fn pod_hints(&self, nodes: &[u32], pod: &PodClaim) -> BTreeMap<String, Hints> {
        let names: BTreeSet<&String> = pod.containers.iter().flat_map(|claim| claim.extended.keys()).collect();
        let total = |name: &String| pod.total(|claim| claim.extended.get(name).copied().unwrap_or(0) as u64) as usize;
        let own = |resource: &str| {
            let shares = pod.containers.iter().filter_map(|claim| self.share(&pod.uid, &claim.name, resource));
            Some(shares.flat_map(|share| share.devices.keys().cloned()).collect::<Ids>()).filter(|ids| !ids.is_empty())
        };
        self.hints_for(nodes, &pod.uid, names.into_iter().map(|name| (name.clone(), total(name))), own)
    }

    fn hints_for(
        &self,
        nodes: &[u32],
        uid: &str,
        wanted: impl Iterator<Item = (String, usize)>,
        own: impl Fn(&str) -> Option<Ids>,
    ) -> BTreeMap<String, Hints> {
        let known = wanted.filter(|(resource, _)| self.resources.contains_key(resource));
        let hints = |(resource, count): (String, usize)| {
            let hints = match own(&resource) {
                _ if !self.has_topology(&resource) => None,
                Some(own) if own.len() != count => Some(Vec::new()),
                Some(own) => Some(self.suitable(nodes, &resource, &own, &Ids::new(), count)),
                None => Some(self.suitable(nodes, &resource, &self.free(&resource), &self.reusable(uid, &resource), count)),
            };
            (resource, hints)
        };
        known.map(hints).collect()
    }

    fn suitable(&self, nodes: &[u32], resource: &str, available: &Ids, reusable: &Ids, wanted: usize) -> Vec<Hint> {
        let near = |mask: Mask, id: &String| mask.has_any(self.nodes(resource, id));
        let mut fewest = nodes.len();
        let mut found = Vec::new();
        for mask in Mask::combinations(nodes) {
            let all = self.resources.get(resource).map_or(0, |devices| devices.keys().filter(|id| near(mask, id)).count());
            if all >= wanted {
                fewest = fewest.min(mask.count());
            }
            let mut kept = reusable.iter().filter(|id| !self.nodes(resource, id).is_empty());
            let count = reusable.iter().chain(available.difference(reusable)).filter(|id| near(mask, id)).count();
            if kept.all(|id| near(mask, id)) && count >= wanted {
                found.push(mask);
            }
        }
        found.into_iter().map(|mask| Hint { nodes: Some(mask), preferred: mask.count() == fewest }).collect()
    }
}

#[cfg(test)]
#[path = "state_test.rs"]
mod tests;
