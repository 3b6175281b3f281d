//! Gives back what a pod held: sandbox, network, volumes, control group, directories. Logs stay until the object is gone.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cgroup::Group;
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::Pod;

use super::limits;
use super::model;
use crate::Kubelet;
use crate::csi;
use crate::volumes::{self, TearDown, sub_path};

/// Folder of a pod for parts of volumes that other runtimes take by path.
pub const SUB_PATHS: &str = "volume-subpaths";
/// How long processes of a control group may take to vanish.
const PATIENCE: Duration = Duration::from_secs(5);
/// Shortest and longest time until a volume that was not torn down is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// Releases everything. A pod whose volumes cannot be torn down is not over.
pub async fn release(kubelet: &Arc<Kubelet>, pod: &Pod, sandbox: Option<Sandbox>) {
    let uid = model::uid(pod);
    if let Some(sandbox) = sandbox {
        if let Err(error) = sandbox.destroy().await {
            tracing::warn!(pod = model::name(pod), %error, "sandbox was not destroyed");
        }
    }
    if let Some(network) = &kubelet.network {
        network.detach(uid);
    }
    let mut wait = RETRY.0;
    while !remove_directories(kubelet, uid).await {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY.1);
    }
    let class = limits::class(pod.status.as_ref().and_then(|status| status.qos_class.as_deref()));
    if let Ok(group) = Group::new(kubelet.cgroups.clone(), &kubelet.pod_group(class, uid)) {
        let removed = tokio::task::spawn_blocking(move || group.remove(PATIENCE)).await;
        if let Ok(Err(error)) = removed {
            tracing::debug!(pod = model::name(pod), %error, "control group stays");
        }
    }
    kubelet.placement.release(uid);
    kubelet.objects.release(uid);
    kubelet.tokens.release(uid);
    if kubelet.csi.forget(uid) {
        kubelet.status_changed.notify_one();
    }
    kubelet.release_images(uid);
}

/// Tears down volumes and removes the pod's directory. False while a volume cannot be torn down: the pod is not over then.
pub async fn remove_directories(kubelet: &Arc<Kubelet>, uid: &str) -> bool {
    let directory = kubelet.pod_dir(uid);
    for kind in children(&directory.join("volumes")) {
        let Some(kind) = volumes::find_directory(&kind) else {
            continue;
        };
        let kind_directory = directory.join("volumes").join(kind.directory);
        for volume in children(&kind_directory) {
            let path = kind_directory.join(&volume);
            let tear_down = TearDown { kubelet, pod_uid: uid, volume: &volume, directory: &path };
            if let Err(error) = (kind.tear_down)(&tear_down).await {
                tracing::warn!(volume, error = super::prepare::chain(&error), "volume was not torn down");
                // What is still mounted must not be deleted.
                return false;
            }
        }
    }
    if let Err(error) = csi::release::devices(kubelet, uid).await {
        tracing::warn!(uid, error = super::prepare::chain(&error), "a device was not given back");
        return false;
    }
    if let Err(error) = sub_path::unbind_all(&directory.join(SUB_PATHS)) {
        tracing::warn!(directory = %directory.display(), %error, "parts of volumes are still bound");
        return true;
    }
    for directory in [kubelet.memory_dir(uid), directory] {
        if let Err(error) = std::fs::remove_dir_all(&directory)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(directory = %directory.display(), %error, "pod directory stays");
            return true;
        }
    }
    kubelet.user_ids.release(uid);
    true
}

fn children(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
