//! Containers without processors of their own run on the shared ones, whatever these are at the time.

use std::collections::HashMap;
use std::sync::Arc;

use cgroup::Limits;
use runtime::ContainerState;

use crate::Kubelet;
use crate::pods::model;

/// Moves containers whenever the shared processors change, until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    // What each container was last given; what is gone is forgotten with the next change.
    let mut applied: HashMap<(String, String), String> = HashMap::new();
    loop {
        let mut now = HashMap::new();
        for (uid, sandbox) in kubelet.pods.sandboxes() {
            let Ok(statuses) = sandbox.status().await else { continue };
            for status in statuses.into_iter().filter(|status| status.state != ContainerState::Exited) {
                let Some(name) = status.labels.get(model::LABEL_NAME) else { continue };
                let place = kubelet.placement.place(&uid, name);
                let Some(cpus) = place.cpus else { continue };
                let key = (uid.clone(), status.id.to_string());
                if applied.get(&key) != Some(&cpus) {
                    let limits = Limits { cpuset_cpus: Some(cpus.clone()), ..Limits::default() };
                    if let Err(error) = sandbox.update_resources(&status.id, limits).await {
                        // One that just ended needs no processors; others are tried with the next change.
                        tracing::debug!(container = %status.id, %error, "processors were not changed");
                        continue;
                    }
                }
                now.insert(key, cpus);
            }
        }
        applied = now;
        kubelet.placement.changed.notified().await;
    }
}
