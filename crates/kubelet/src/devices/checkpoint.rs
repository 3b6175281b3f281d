//! The file in which the kubelet keeps which devices it gave to whom, in the form of the real one.

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grpc::wire::Message;
use serde::{Deserialize, Serialize};

use super::messages::ContainerAllocateResponse;
use super::state::{Share, State};
use crate::placement::checkpoint::{self, Checkpoint, CheckpointError};

/// Name of the file in the plugins' folder.
pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    uid: String,
    #[serde(rename = "ContainerName")]
    container: String,
    #[serde(rename = "ResourceName")]
    resource: String,
    /// Devices by NUMA node; -1 for those near to none.
    #[serde(rename = "DeviceIDs")]
    devices: BTreeMap<i64, Vec<String>>,
    #[serde(rename = "AllocResp")]
    response: String,
}

fn list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

impl Checkpoint for File {
    fn shown(&self) -> String {
        let entry = |entry: &Entry| {
            let devices: Vec<String> = entry.devices.iter().map(|(node, ids)| format!("{node}:{}", list(ids))).collect();
            let bytes = STANDARD.decode(&entry.response).unwrap_or_default();
            let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
            format!(
                "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} DeviceIDs:(checkpoint.DevicesPerNUMA)map[{}] \
                 AllocResp:([]uint8){}}}",
                entry.uid,
                entry.container,
                entry.resource,
                devices.join(" "),
                list(&bytes)
            )
        };
        let entries = match &self.data.pod_device_entries {
            Some(entries) => list(&entries.iter().map(entry).collect::<Vec<_>>()),
            None => "<nil>".to_owned(),
        };
        let resources: Vec<String> = self.data.registered_devices.iter().map(|(name, ids)| format!("{name}:{}", list(ids))).collect();
        format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} RegisteredDevices:(map[string][]string)map[{}]}}",
            resources.join(" ")
        )
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn set_checksum(&mut self, sum: u64) {
        self.checksum = sum;
    }
}

type Given = BTreeMap<String, BTreeMap<String, BTreeMap<String, Share>>>;

/// What an earlier run gave, and the resources that it knew.
///
/// # Errors
/// The file cannot be read or is not whole.
pub fn read(folder: &Path) -> Result<Option<(Given, Vec<String>)>, CheckpointError> {
    let Some(file) = checkpoint::read::<File>(&folder.join(FILE))? else { return Ok(None) };
    let mut given = Given::new();
    for entry in file.data.pod_device_entries.into_iter().flatten() {
        let bytes = STANDARD.decode(&entry.response).map_err(|_| CheckpointError::Corrupt)?;
        let response = ContainerAllocateResponse::read(bytes.into()).map_err(|_| CheckpointError::Corrupt)?;
        let mut devices: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        for (node, ids) in entry.devices {
            for id in ids {
                devices.entry(id).or_default().extend(u32::try_from(node).ok());
            }
        }
        let containers = given.entry(entry.uid).or_default();
        containers.entry(entry.container).or_default().insert(entry.resource, Share { devices, response });
    }
    Ok(Some((given, file.data.registered_devices.into_keys().collect())))
}

/// Writes what was given.
///
/// # Errors
/// The disk refuses.
pub fn write(folder: &Path, state: &State) -> Result<(), CheckpointError> {
    let mut entries = Vec::new();
    for (uid, containers) in &state.given {
        for (container, shares) in containers {
            for (resource, share) in shares {
                let mut devices: BTreeMap<i64, Vec<String>> = BTreeMap::new();
                for (id, nodes) in &share.devices {
                    let nodes: Vec<i64> = if nodes.is_empty() { vec![-1] } else { nodes.iter().map(|node| i64::from(*node)).collect() };
                    nodes.into_iter().for_each(|node| devices.entry(node).or_default().push(id.clone()));
                }
                let (uid, container, resource) = (uid.clone(), container.clone(), resource.clone());
                entries.push(Entry { uid, container, resource, devices, response: STANDARD.encode(share.response.to_bytes()) });
            }
        }
    }
    let registered = state.resources.iter().map(|(name, devices)| {
        let healthy = devices.iter().filter(|(_, device)| device.healthy);
        (name.clone(), healthy.map(|(id, _)| id.clone()).collect())
    });
    let data = Data { pod_device_entries: Some(entries).filter(|entries| !entries.is_empty()), registered_devices: registered.collect() };
    checkpoint::write(&folder.join(FILE), File { data, checksum: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::state::{Device, Ids};

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read(folder.path()).unwrap().is_none());
        let device = |nodes: &[u32]| Device { healthy: true, nodes: nodes.to_vec() };
        let devices = BTreeMap::from([("d0".to_owned(), device(&[])), ("d1".to_owned(), device(&[0, 1]))]);
        let mut state = State::default();
        state.resources.insert("example.com/r".to_owned(), devices);
        write(folder.path(), &state).unwrap();
        let response = ContainerAllocateResponse { envs: BTreeMap::from([("A".into(), "b".into())]), ..Default::default() };
        state.give("u", "c", "example.com/r", &Ids::from(["d0".into(), "d1".into()]), response);
        write(folder.path(), &state).unwrap();
        assert_eq!(read(folder.path()).unwrap(), Some((state.given, vec!["example.com/r".to_owned()])));
        let text = std::fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(text.contains(r#""DeviceIDs":{"-1":["d0"],"0":["d1"],"1":["d1"]},"AllocResp":"CgYKAUESAWI=""#), "{text}");
        std::fs::write(folder.path().join(FILE), text.replace("d1", "d2")).unwrap();
        assert!(matches!(read(folder.path()), Err(CheckpointError::Corrupt)));
    }
}
