//! What stands on disk beside each mount: enough to give it back without the pod, the claim or the volume.

use std::path::{Path, PathBuf};

use client::attachment_name;
use serde::{Deserialize, Serialize};

use super::hex;
use crate::Kubelet;
use crate::volumes::VolumeError;

/// The file.
const FILE: &str = "vol_data.json";
/// Its next content.
const NEW: &str = ".vol_data.new";
/// Directory of the pods' volumes of drivers.
pub const DIRECTORY: &str = "kubernetes.io~csi";

/// Content of a `vol_data.json`, as the real kubelet writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VolumeData {
    /// Driver.
    pub driver_name: String,
    /// The volume as the driver knows it.
    pub volume_handle: String,
    /// `Persistent` or `Ephemeral`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub volume_lifecycle_mode: String,
    /// Name of the volume in its directory.
    #[serde(rename = "specVolID", skip_serializing_if = "String::is_empty")]
    pub spec_name: String,
    /// The node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node_name: String,
    /// Its attachment, whether it needs one or not.
    #[serde(rename = "attachmentID", skip_serializing_if = "String::is_empty")]
    pub attachment: String,
    /// Whether it waited for its attachment: such volumes are in use as the node's status says.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub attached: bool,
}

impl VolumeData {
    /// Of a volume.
    pub fn new(kubelet: &Kubelet, driver: &str, handle: &str, spec_name: &str, ephemeral: bool, attached: bool) -> VolumeData {
        let node = &kubelet.config.node_name;
        VolumeData {
            driver_name: driver.to_owned(),
            volume_handle: handle.to_owned(),
            volume_lifecycle_mode: if ephemeral { "Ephemeral" } else { "Persistent" }.to_owned(),
            spec_name: spec_name.to_owned(),
            node_name: node.clone(),
            attachment: attachment_name(driver, handle, node),
            attached,
        }
    }

    /// Whether it goes with its pod.
    pub fn is_ephemeral(&self) -> bool {
        self.volume_lifecycle_mode == "Ephemeral"
    }

    /// What stands in a directory, if something readable does.
    pub fn read(directory: &Path) -> Option<VolumeData> {
        serde_json::from_slice(&std::fs::read(directory.join(FILE)).ok()?).ok()
    }

    /// Writes it; it stands before anything is mounted.
    ///
    /// # Errors
    /// What the file system said.
    pub fn write(&self, directory: &Path) -> Result<(), VolumeError> {
        let failed = |error| VolumeError::io("write", directory, error);
        std::fs::create_dir_all(directory).map_err(failed)?;
        let (file, new) = (directory.join(FILE), directory.join(NEW));
        std::fs::write(&new, serde_json::to_vec(self).unwrap_or_default()).map_err(failed)?;
        std::fs::rename(&new, &file).map_err(failed)
    }
}

/// Removes a directory that holds nothing but the file and empty places for mounts. What is still mounted or filled stays.
///
/// # Errors
/// What the file system said.
pub fn remove(directory: &Path, place: &Path) -> Result<(), VolumeError> {
    let gone = |path: &Path, result: std::io::Result<()>| match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(VolumeError::io("remove", path, error)),
        _ => Ok(()),
    };
    let kind = place.symlink_metadata();
    let is_directory = kind.is_ok_and(|metadata| metadata.is_dir());
    gone(place, if is_directory { std::fs::remove_dir(place) } else { std::fs::remove_file(place) })?;
    // Whoever died while it was written has left the new one.
    gone(directory, std::fs::remove_file(directory.join(NEW)))?;
    gone(directory, std::fs::remove_file(directory.join(FILE)))?;
    gone(directory, std::fs::remove_dir(directory))
}

/// Where the node keeps what drivers stage.
fn plugins(kubelet: &Kubelet) -> PathBuf {
    kubelet.config.root_dir.join("plugins/kubernetes.io/csi")
}

/// Directory of a staged volume; the mount is `globalmount` in it.
pub fn staging_dir(kubelet: &Kubelet, driver: &str, handle: &str) -> PathBuf {
    plugins(kubelet).join(driver).join(hex(handle))
}

/// Directory of all staged volumes of a driver.
pub fn staging_dirs(kubelet: &Kubelet, driver: &str) -> PathBuf {
    plugins(kubelet).join(driver)
}

/// Where a block volume is staged.
pub fn block_staging(kubelet: &Kubelet, spec_name: &str) -> PathBuf {
    plugins(kubelet).join("volumeDevices/staging").join(spec_name)
}

/// Where a block volume is published for a pod.
pub fn block_target(kubelet: &Kubelet, spec_name: &str, uid: &str) -> PathBuf {
    plugins(kubelet).join("volumeDevices/publish").join(spec_name).join(uid)
}

/// Where it is noted what a block volume is.
pub fn block_data(kubelet: &Kubelet, spec_name: &str) -> PathBuf {
    plugins(kubelet).join("volumeDevices").join(spec_name).join("data")
}

/// Directory of a pod's mounts of drivers.
pub fn pod_mounts(kubelet: &Kubelet, uid: &str) -> PathBuf {
    kubelet.pod_dir(uid).join("volumes").join(DIRECTORY)
}

/// Directory of a pod's block devices of drivers.
pub fn pod_devices(kubelet: &Kubelet, uid: &str) -> PathBuf {
    kubelet.pod_dir(uid).join("volumeDevices").join(DIRECTORY)
}

/// Every volume of drivers that a pod has on this node, by the pod's UID.
pub fn all(kubelet: &Kubelet) -> Vec<(String, VolumeData)> {
    let mut found = Vec::new();
    for uid in children(&kubelet.config.root_dir.join("pods")) {
        let mounts = pod_mounts(kubelet, &uid);
        let mounted = children(&mounts).into_iter().filter_map(|name| VolumeData::read(&mounts.join(name)));
        let devices = children(&pod_devices(kubelet, &uid)).into_iter().filter_map(|name| VolumeData::read(&block_data(kubelet, &name)));
        found.extend(mounted.chain(devices).map(|data| (uid.clone(), data)));
    }
    found
}

/// Names in a directory.
pub fn children(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
