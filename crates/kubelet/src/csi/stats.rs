//! How full volumes of drivers are, for `/stats/summary`.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Pod, Volume};
use serde_json::{Value, json};

use super::Ability;
use super::data::{self, VolumeData};
use super::messages::{NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse};
use super::mount::text;
use crate::Kubelet;
use crate::pods::model;

/// A driver that is slower than this is left out of a summary.
const PATIENCE: Duration = Duration::from_secs(2);

/// The volumes of a pod that their drivers can measure. All are asked at once: a driver that hangs is waited for once.
pub async fn of(kubelet: &Arc<Kubelet>, pod: &Pod, now: &str) -> Vec<Value> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    join_all(volumes.map(|volume| one(kubelet, pod, volume, now))).await.into_iter().flatten().collect()
}

async fn one(kubelet: &Arc<Kubelet>, pod: &Pod, volume: &Volume, now: &str) -> Option<Value> {
    let claim = match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", model::name(pod), volume.name)),
        (None, None) if volume.csi.is_some() => None,
        _ => return None,
    };
    let directory = kubelet.csi.places.lock().get(&(model::uid(pod).to_owned(), volume.name.clone())).cloned()?;
    let mut stats = measure(kubelet, &directory, now).await?;
    stats["name"] = volume.name.as_str().into();
    if let Some(claim) = claim {
        stats["pvcRef"] = json!({"name": claim, "namespace": model::namespace(pod)});
    }
    Some(stats)
}

async fn measure(kubelet: &Arc<Kubelet>, directory: &std::path::Path, now: &str) -> Option<Value> {
    let data = VolumeData::read(directory)?;
    let driver = kubelet.csi.get(&data.driver_name).ok().filter(|driver| driver.can(Ability::Stats))?;
    let staging = data::staging_dir(kubelet, &data.driver_name, &data.volume_handle).join("globalmount");
    let request = NodeGetVolumeStatsRequest {
        volume_id: data.volume_handle,
        volume_path: text(&directory.join("mount")),
        staging_path: if driver.can(Ability::Stage) && staging.exists() { text(&staging) } else { String::new() },
    };
    let call = driver.call::<NodeGetVolumeStatsResponse>("NodeGetVolumeStats", &request);
    let answer = tokio::time::timeout(PATIENCE, call).await.ok()?.ok()?;
    let mut stats = json!({"time": now});
    for usage in answer.usage {
        let names = match usage.unit {
            1 => ["availableBytes", "capacityBytes", "usedBytes"],
            2 => ["inodesFree", "inodes", "inodesUsed"],
            _ => continue,
        };
        for (name, value) in names.into_iter().zip([usage.available, usage.total, usage.used]) {
            stats[name] = value.into();
        }
    }
    if let Some(condition) = answer.condition {
        stats["volumeHealthStats"] = json!({"abnormal": condition.abnormal});
    }
    Some(stats)
}
