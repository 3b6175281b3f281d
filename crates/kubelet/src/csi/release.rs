//! Gives volumes back: unpublished for the pod, and unstaged when no pod of the node has them any more.

use std::path::Path;
use std::sync::Arc;

use super::data::{self, VolumeData};
use super::messages::{Empty, NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};
use super::mount::text;
use super::{Ability, Driver, unique_name};
use crate::Kubelet;
use crate::volumes::{VolumeError, mount};

/// Unpublishes the mount of a pod in this directory, and what only it needed.
///
/// # Errors
/// What the driver says, or that it has not registered; it is tried again.
pub async fn mounted(kubelet: &Arc<Kubelet>, directory: &Path) -> Result<(), VolumeError> {
    let target = directory.join("mount");
    let Some(data) = VolumeData::read(directory) else {
        // Whoever died before the note was written had mounted nothing.
        return data::remove(directory, &target);
    };
    let _turn = kubelet.csi.turn(&data.driver_name, &data.volume_handle).await;
    let driver = kubelet.csi.get(&data.driver_name)?;
    unpublish(&driver, &data, &target).await?;
    if mount::is_mounted(&target) {
        return Err(VolumeError::Refused(format!("the driver left {} mounted", target.display())));
    }
    data::remove(directory, &target)?;
    if !data.is_ephemeral() {
        unstage(kubelet, &driver, &data, &data::staging_dir(kubelet, &data.driver_name, &data.volume_handle)).await?;
    }
    Ok(())
}

/// Takes the devices of a pod back.
///
/// # Errors
/// As [`mounted`].
pub async fn devices(kubelet: &Arc<Kubelet>, uid: &str) -> Result<(), VolumeError> {
    let links = data::pod_devices(kubelet, uid);
    for name in data::children(&links) {
        let target = data::block_target(kubelet, &name, uid);
        let note = data::block_data(kubelet, &name);
        let unlink = || match std::fs::remove_file(links.join(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", &links, error)),
            _ => Ok(()),
        };
        let Some(data) = VolumeData::read(&note) else {
            unlink()?;
            continue;
        };
        let _turn = kubelet.csi.turn(&data.driver_name, &data.volume_handle).await;
        let driver = kubelet.csi.get(&data.driver_name)?;
        unpublish(&driver, &data, &target).await?;
        let _another_pod_may_have_it_too = target.parent().map(std::fs::remove_dir);
        if !is_used(kubelet, &data, uid) {
            unstage(kubelet, &driver, &data, &data::block_staging(kubelet, &name)).await?;
            data::remove(&note, &note.join("dev"))?;
            let _empty_now = note.parent().map(std::fs::remove_dir);
        }
        // The last step: whoever dies before it finds the device again.
        unlink()?;
    }
    Ok(())
}

/// Forgets a device that was never staged for a pod.
///
/// # Errors
/// What the file system said.
pub fn forget_device(kubelet: &Kubelet, uid: &str, name: &str) -> Result<(), VolumeError> {
    let (note, links) = (data::block_data(kubelet, name), data::pod_devices(kubelet, uid));
    if VolumeData::read(&note).is_some_and(|data| !is_used(kubelet, &data, uid)) {
        data::remove(&note, &note.join("dev"))?;
        let _empty_now = note.parent().map(std::fs::remove_dir);
    }
    match std::fs::remove_file(links.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", &links, error)),
        _ => Ok(()),
    }
}

async fn unpublish(driver: &Driver, data: &VolumeData, target: &Path) -> Result<(), VolumeError> {
    let request = NodeUnpublishVolumeRequest { volume_id: data.volume_handle.clone(), target_path: text(target) };
    driver.call("NodeUnpublishVolume", &request).await.map(|Empty {}| ())?;
    // A driver may leave the place, which is empty by now.
    if target.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
        std::fs::remove_file(target).map_err(|error| VolumeError::io("remove", target, error))?;
    }
    Ok(())
}

/// Whether a pod other than this one has the volume on this node.
fn is_used(kubelet: &Kubelet, data: &VolumeData, but: &str) -> bool {
    let same = |other: &VolumeData| other.driver_name == data.driver_name && other.volume_handle == data.volume_handle;
    data::all(kubelet).iter().any(|(uid, other)| uid != but && same(other))
}

/// Unstages what no pod has any more. `place` is the directory of a staged mount, or where a device is staged.
async fn unstage(kubelet: &Arc<Kubelet>, driver: &Driver, data: &VolumeData, place: &Path) -> Result<(), VolumeError> {
    let block = data::block_data(kubelet, &data.spec_name).join("vol_data.json").exists() && !data.spec_name.is_empty();
    let used = !block && is_used(kubelet, data, "");
    if used {
        return Ok(());
    }
    // What is not unstaged whole is no longer staged whole either: the next pod has to ask the driver again.
    kubelet.csi.staged.lock().remove(&unique_name(&data.driver_name, &data.volume_handle));
    if driver.can(Ability::Stage) {
        let staging = if block { place.to_owned() } else { place.join("globalmount") };
        let request = NodeUnstageVolumeRequest { volume_id: data.volume_handle.clone(), staging_path: text(&staging) };
        driver.call("NodeUnstageVolume", &request).await.map(|Empty {}| ())?;
        if mount::is_mounted(&staging) {
            return Err(VolumeError::Refused(format!("the driver left {} mounted", staging.display())));
        }
        if block {
            let _what_the_driver_left_is_its_own = std::fs::remove_dir(&staging);
        } else {
            data::remove(place, &staging)?;
        }
    }
    Ok(())
}

/// Looks at what an earlier run of ours has left staged for nobody, when its driver has come.
pub async fn sweep(kubelet: &Arc<Kubelet>, driver: &Driver) {
    let folder = data::staging_dirs(kubelet, &driver.name);
    for name in data::children(&folder) {
        let place = folder.join(name);
        let Some(data) = VolumeData::read(&place) else { continue };
        let _turn = kubelet.csi.turn(&data.driver_name, &data.volume_handle).await;
        if let Err(error) = unstage(kubelet, driver, &data, &place).await {
            tracing::warn!(volume = data.volume_handle, %error, "a staged volume stays");
        }
    }
}

/// Notes what pods of an earlier run use, before the node's status is written for the first time.
pub fn recover(kubelet: &Kubelet) {
    for (uid, data) in data::all(kubelet).into_iter().filter(|(_, data)| data.attached) {
        kubelet.csi.use_for(&uid, &unique_name(&data.driver_name, &data.volume_handle));
    }
}
