//! Volumes without a file system: the driver shows a device at a place of the node, and containers get its node.

use std::path::Path;
use std::sync::Arc;

use super::data::{self, VolumeData};
use super::mount::{attach, publish, refuse_second_pod, stage};
use super::volume::Wanted;
use super::{Ability, expand, release};
use crate::Kubelet;
use crate::pods::model;
use crate::volumes::{Mounted, VolumeError};

/// Makes a device ready.
///
/// # Errors
/// What the driver says, or what is missing.
pub async fn set_up(kubelet: &Arc<Kubelet>, wanted: &Wanted<'_>) -> Result<Mounted, VolumeError> {
    let uid = model::uid(wanted.pod);
    let target = data::block_target(kubelet, &wanted.spec_name, uid);
    let staging = data::block_staging(kubelet, &wanted.spec_name);
    let _turn = kubelet.csi.turn(&wanted.driver, &wanted.handle).await;
    if is_device(&target) {
        if let Ok(driver) = kubelet.csi.get(&wanted.driver) {
            expand::expand(wanted, &driver, &target, &staging).await?;
        }
        return Ok(Mounted::Device(target));
    }
    let driver = kubelet.csi.get(&wanted.driver)?;
    refuse_second_pod(kubelet, wanted)?;
    let publish_context = attach(kubelet, wanted).await?;
    let note = VolumeData::new(kubelet, &wanted.driver, &wanted.handle, &wanted.spec_name, false, wanted.needs_attachment());
    note.write(&data::block_data(kubelet, &wanted.spec_name))?;
    link(&data::pod_devices(kubelet, uid), &wanted.spec_name, &target)?;
    let stages = driver.can(Ability::Stage);
    if stages {
        if let Err(error) = stage(wanted, &driver, true, &publish_context, &staging).await {
            if error.is_final() {
                release::forget_device(kubelet, uid, &wanted.spec_name)?;
            }
            return Err(error);
        }
    }
    if let Some(parent) = target.parent() {
        std::fs::create_dir_all(parent).map_err(|error| VolumeError::io("make", parent, error))?;
    }
    publish(wanted, &driver, true, publish_context, stages.then_some(&*staging), &target).await?;
    if !is_device(&target) {
        return Err(VolumeError::Refused(format!("the driver showed no block device at {}", target.display())));
    }
    expand::expand(wanted, &driver, &target, &staging).await?;
    Ok(Mounted::Device(target))
}

/// Notes that a pod has the device, where its release will look.
fn link(directory: &Path, name: &str, target: &Path) -> Result<(), VolumeError> {
    let failed = |error| VolumeError::io("link", directory, error);
    std::fs::create_dir_all(directory).map_err(failed)?;
    match std::os::unix::fs::symlink(target, directory.join(name)) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(error)),
        _ => Ok(()),
    }
}

fn is_device(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    path.metadata().is_ok_and(|metadata| metadata.file_type().is_block_device())
}
