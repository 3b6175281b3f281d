//! Volumes with a file system: attached, staged once for the node, published for each pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::attachment_name;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::data::{self, VolumeData};
use super::messages::{Empty, NodePublishVolumeRequest, NodeStageVolumeRequest};
use super::volume::Wanted;
use super::{Ability, Driver, expand, unique_name};
use crate::Kubelet;
use crate::clock::now_ms;
use crate::node::register;
use crate::pods::model;
use crate::volumes::{Mounted, VolumeError, mount, ownership};

/// How long an attachment is waited for before the pod hears of it; it is waited for again then.
const ATTACH: Duration = Duration::from_secs(30);
/// How often a pod that waits for an attachment looks whether it shall still wait.
const LOOK: Duration = Duration::from_secs(1);
/// How often volumes whose content may change are published again, and claims are asked whether they have grown.
const AGAIN: Duration = Duration::from_secs(60);

/// Makes a volume ready.
///
/// # Errors
/// What the driver says, or what is missing.
pub async fn set_up(kubelet: &Arc<Kubelet>, wanted: &Wanted<'_>) -> Result<Mounted, VolumeError> {
    let uid = model::uid(wanted.pod);
    let directory = data::pod_mounts(kubelet, uid).join(&wanted.spec_name);
    let target = directory.join("mount");
    let _turn = kubelet.csi.turn(&wanted.driver, &wanted.handle).await;
    let there = mount::is_mounted(&target);
    if there && !wanted.is_republished() {
        // The driver may not have come back yet after a restart of ours, and is not needed.
        if let Ok(driver) = kubelet.csi.get(&wanted.driver) {
            look_again(kubelet, wanted, &driver);
            expand::expand(wanted, &driver, &target, &staged_at(kubelet, wanted)).await?;
        }
        return Ok(Mounted::Path { path: target, read_only: wanted.read_only });
    }
    let driver = kubelet.csi.get(&wanted.driver)?;
    refuse_second_pod(kubelet, wanted)?;
    let publish_context = attach(kubelet, wanted).await?;
    let note = |attached| VolumeData::new(kubelet, &wanted.driver, &wanted.handle, &wanted.spec_name, wanted.ephemeral, attached);
    note(wanted.needs_attachment()).write(&directory)?;
    let staging = staged_at(kubelet, wanted);
    let stages = driver.can(Ability::Stage) && !wanted.ephemeral;
    if stages {
        let place = data::staging_dir(kubelet, &wanted.driver, &wanted.handle);
        let note = VolumeData { driver_name: wanted.driver.clone(), volume_handle: wanted.handle.clone(), ..VolumeData::default() };
        note.write(&place)?;
        if let Err(error) = stage(wanted, &driver, false, &publish_context, &staging).await {
            if error.is_final() {
                // Nothing is staged, so nothing has to be given back; what is mounted for another pod stays.
                let _kept_if_mounted = data::remove(&place, &staging).and(data::remove(&directory, &target));
            }
            return Err(error);
        }
        expand::expand(wanted, &driver, &staging, &staging).await?;
    }
    publish(wanted, &driver, false, publish_context, stages.then_some(&*staging), &target).await?;
    if !stages {
        expand::expand(wanted, &driver, &target, &staging).await?;
    }
    if let (Some(group), false) = (wanted.group(&driver), there) {
        let (path, mismatch) = (target.clone(), ownership::only_on_mismatch(wanted.pod));
        let given = tokio::task::spawn_blocking(move || ownership::give(&path, group, mismatch)).await;
        given
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))
            .map_err(|error| VolumeError::io("give to the group", &target, error))?;
    }
    look_again(kubelet, wanted, &driver);
    Ok(Mounted::Path { path: target, read_only: wanted.read_only })
}

/// Has the driver stage a volume, unless it has done so for this process.
///
/// # Errors
/// What the driver says.
pub async fn stage(
    wanted: &Wanted<'_>,
    driver: &Driver,
    block: bool,
    publish_context: &BTreeMap<String, String>,
    staging: &Path,
) -> Result<(), VolumeError> {
    let (name, staged) = (unique_name(&wanted.driver, &wanted.handle), &wanted.kubelet.csi.staged);
    if staged.lock().contains(&name) {
        return Ok(());
    }
    std::fs::create_dir_all(staging).map_err(|error| VolumeError::io("make", staging, error))?;
    let request = NodeStageVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context: publish_context.clone(),
        staging_path: text(staging),
        capability: Some(wanted.capability(driver, block)),
        secrets: wanted.stage_secrets().await?,
        context: wanted.stage_context(),
    };
    driver.call("NodeStageVolume", &request).await.map(|Empty {}| ())?;
    staged.lock().insert(name);
    Ok(())
}

/// Has the driver publish a volume for its pod.
///
/// # Errors
/// What the driver says.
pub async fn publish(
    wanted: &Wanted<'_>,
    driver: &Driver,
    block: bool,
    publish_context: BTreeMap<String, String>,
    staging: Option<&Path>,
    target: &Path,
) -> Result<(), VolumeError> {
    let (context, secrets) = wanted.publish_context().await?;
    let request = NodePublishVolumeRequest {
        volume_id: wanted.handle.clone(),
        publish_context,
        staging_path: staging.map(text).unwrap_or_default(),
        target_path: text(target),
        capability: Some(wanted.capability(driver, block)),
        read_only: wanted.read_only,
        secrets,
        context,
    };
    driver.call("NodePublishVolume", &request).await.map(|Empty {}| ())
}

/// Where a volume is staged.
fn staged_at(kubelet: &Kubelet, wanted: &Wanted) -> PathBuf {
    data::staging_dir(kubelet, &wanted.driver, &wanted.handle).join("globalmount")
}

/// A volume for one pod only is not given to a second one of this node.
///
/// # Errors
/// Another pod has it.
pub fn refuse_second_pod(kubelet: &Kubelet, wanted: &Wanted) -> Result<(), VolumeError> {
    let uid = model::uid(wanted.pod);
    let has =
        |(other, data): (String, VolumeData)| other != uid && data.driver_name == wanted.driver && data.volume_handle == wanted.handle;
    if wanted.is_for_one_pod() && data::all(kubelet).into_iter().any(has) {
        return Err(VolumeError::Refused("volume uses the ReadWriteOncePod access mode and is already in use by another pod".into()));
    }
    Ok(())
}

/// Waits until the volume is attached to this node. Says what the driver has said about it.
///
/// # Errors
/// It is not, after some time.
pub async fn attach(kubelet: &Arc<Kubelet>, wanted: &Wanted<'_>) -> Result<BTreeMap<String, String>, VolumeError> {
    if !wanted.needs_attachment() {
        return Ok(BTreeMap::new());
    }
    let name = unique_name(&wanted.driver, &wanted.handle);
    // Nobody may detach what the status shows as used, so it is shown before it is used.
    kubelet.csi.use_for(model::uid(wanted.pod), &name);
    let old: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
    let shown = old.as_ref().and_then(|node| node.status.as_ref()?.volumes_in_use.as_deref()).unwrap_or_default();
    if !shown.contains(&name) {
        register::write_status(kubelet, old.as_ref()).await?;
    }
    let began = Instant::now();
    loop {
        let mut changed = std::pin::pin!(kubelet.csi.node_changed.notified());
        changed.as_mut().enable();
        let node: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
        let attached = node.and_then(|node| node.status).and_then(|status| status.volumes_attached).unwrap_or_default();
        if attached.iter().any(|one| one.name == name) {
            break;
        }
        let leaving = kubelet
            .assigned
            .get(model::namespace(wanted.pod), model::name(wanted.pod))
            .is_none_or(|entry| entry.header.deletion_timestamp.is_some());
        if began.elapsed() > ATTACH || leaving {
            return Err(VolumeError::Refused(format!("timed out waiting for the volume {name:?} to be attached")));
        }
        let _looks_again_either_way = tokio::time::timeout(LOOK, changed).await;
    }
    let attachment = attachment_name(&wanted.driver, &wanted.handle, &kubelet.config.node_name);
    let found: Option<VolumeAttachment> = kubelet.client.find("", &attachment).await?;
    let status = found.and_then(|found| found.status).filter(|status| status.attached);
    let status = status.ok_or_else(|| VolumeError::Refused(format!("volume attachment {attachment} is not attached")))?;
    Ok(status.attachment_metadata.unwrap_or_default())
}

/// Has the pod look at its volumes later, where something may have changed that nobody tells.
fn look_again(kubelet: &Arc<Kubelet>, wanted: &Wanted, driver: &Driver) {
    let grows = driver.can(Ability::Expand) && wanted.bound.is_some();
    let uid = model::uid(wanted.pod).to_owned();
    if !(wanted.is_republished() || grows) || !kubelet.csi.waking.lock().insert(uid.clone()) {
        return;
    }
    let weak = Arc::downgrade(kubelet);
    tokio::spawn(async move {
        tokio::time::sleep(AGAIN).await;
        if let Some(kubelet) = weak.upgrade() {
            kubelet.csi.waking.lock().remove(&uid);
            kubelet.poke_at(&uid, now_ms());
        }
    });
}

/// A path as drivers get it.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}
