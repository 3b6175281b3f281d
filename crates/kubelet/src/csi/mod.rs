//! CSI on the node: drivers that registered, and volumes that they stage, publish, expand and measure.
//!
//! ```text
//! plugins_registry --> register --> Drivers, CSINode, labels of the node
//! volumes of pods  --> volume (what is asked) --> mount | block --> driver
//! pod directories  --> release --> driver                (found again on disk after a restart)
//! ```
//!
//! What is mounted where stands on disk, in `vol_data.json` beside each mount as the real kubelet writes it: nothing has to
//! be remembered, and whatever was left by a killed process is found and given back.

pub mod block;
pub mod data;
pub mod expand;
pub mod messages;
pub mod mount;
pub mod register;
pub mod release;
pub mod stats;
pub mod volume;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use grpc::client::Channel;
use grpc::wire::Message;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::volumes::VolumeError;

/// How long a call to a driver may take.
const CALL: Duration = Duration::from_secs(120);

/// What a driver's node service can do, by its number in the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Ability {
    /// Volumes are staged before they are published.
    Stage = 1,
    /// Volumes can be measured.
    Stats = 2,
    /// Volumes grow on the node.
    Expand = 3,
    /// Access modes of one node are told apart.
    SingleNodeModes = 5,
    /// The driver gives volumes to a group.
    MountGroup = 6,
}

/// A driver that has registered.
#[derive(Debug)]
pub struct Driver {
    /// Its name.
    pub name: String,
    channel: Channel,
    abilities: HashSet<i32>,
}

impl Driver {
    /// Whether it can do something.
    pub fn can(&self, ability: Ability) -> bool {
        self.abilities.contains(&(ability as i32))
    }

    /// Calls its node service.
    ///
    /// # Errors
    /// What the driver says.
    pub async fn call<M: Message>(&self, method: &str, request: &impl Message) -> Result<M, VolumeError> {
        self.channel.call(&format!("/csi.v1.Node/{method}"), request, Some(CALL)).await.map_err(VolumeError::Driver)
    }
}

/// The drivers of this node, and what their volumes need between calls.
#[derive(Default)]
pub struct Drivers {
    known: Mutex<HashMap<String, Arc<Driver>>>,
    /// This node's object has changed: an attachment may have come.
    pub node_changed: Notify,
    /// One call at a time for each volume.
    locks: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    /// Attachable volumes that the node uses or is about to use, by the name that the node's status gives them.
    /// With the pods for which it does.
    in_use: Mutex<BTreeMap<String, HashSet<String>>>,
    /// Volumes that were staged by this process.
    staged: Mutex<HashSet<String>>,
    /// Directories of volumes, by the pod's UID and the name that it gives them.
    places: Mutex<HashMap<(String, String), PathBuf>>,
    /// The node's status is written by one at a time, so that what is in use never vanishes from it.
    pub status_turn: tokio::sync::Mutex<()>,
    /// Pods that will look at their volumes again.
    waking: Mutex<HashSet<String>>,
}

impl Drivers {
    /// A driver by name.
    ///
    /// # Errors
    /// It has not registered.
    pub fn get(&self, name: &str) -> Result<Arc<Driver>, VolumeError> {
        let missing = || VolumeError::Refused(format!("driver name {name} not found in the list of registered CSI drivers"));
        self.known.lock().get(name).cloned().ok_or_else(missing)
    }

    /// Waits for the turn of a volume.
    pub async fn turn(&self, driver: &str, handle: &str) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock();
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(unique_name(driver, handle)).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Notes which directory belongs to a volume of a pod, for its statistics.
    pub fn note(&self, uid: &str, volume: &str, directory: PathBuf) {
        self.places.lock().insert((uid.to_owned(), volume.to_owned()), directory);
    }

    /// Notes that a pod uses an attachable volume; whether that was not known.
    pub fn use_for(&self, uid: &str, name: &str) -> bool {
        self.in_use.lock().entry(name.to_owned()).or_default().insert(uid.to_owned())
    }

    /// Forgets a pod that has no volumes any more; whether volumes are no longer in use now.
    pub fn forget(&self, uid: &str) -> bool {
        self.places.lock().retain(|(known, _), _| known != uid);
        let mut in_use = self.in_use.lock();
        let before = in_use.len();
        in_use.retain(|_, pods| {
            pods.remove(uid);
            !pods.is_empty()
        });
        in_use.len() < before
    }

    /// What `volumesInUse` of the node's status says.
    pub fn volumes_in_use(&self) -> Vec<String> {
        self.in_use.lock().keys().cloned().collect()
    }
}

/// The name of a volume in the node's status.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// SHA-256 of a text as lower-case hexadecimal digits.
pub fn hex(text: &str) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A map of the API as the protocol has it.
fn map(of: Option<&BTreeMap<String, String>>) -> BTreeMap<String, String> {
    of.cloned().unwrap_or_default()
}
