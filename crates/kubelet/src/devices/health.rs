//! How the devices of a pod do, as its status shows it.

use k8s_openapi::api::core::v1::{PodStatus, ResourceHealth, ResourceStatus};

use super::Devices;
use super::state::State;

impl Devices {
    /// Adds to the statuses of a pod's containers how their devices do.
    pub fn show_health(&self, uid: &str, status: &mut PodStatus) {
        let inner = self.inner.lock();
        for container in status.container_statuses.iter_mut().flatten() {
            container.allocated_resources_status = Some(inner.state.health(uid, &container.name)).filter(|list| !list.is_empty());
        }
    }

    /// Pods that have devices.
    pub fn owners(&self) -> Vec<String> {
        self.inner.lock().state.given.keys().cloned().collect()
    }
}

impl State {
    /// How a container's devices do. One that its plugin no longer names is taken to be well, as upstream does.
    pub fn health(&self, uid: &str, container: &str) -> Vec<ResourceStatus> {
        let of = |(resource, share): (&String, &super::state::Share)| {
            let known = self.resources.get(resource);
            let health = |id: &String| {
                let well = known.and_then(|devices| devices.get(id)).is_none_or(|device| device.healthy);
                let word = if well { "Healthy" } else { "Unhealthy" };
                ResourceHealth { resource_id: id.clone(), health: Some(word.into()), ..ResourceHealth::default() }
            };
            ResourceStatus { name: resource.clone(), resources: Some(share.devices.keys().map(health).collect()) }
        };
        self.shares(uid, container).map(of).collect()
    }
}
