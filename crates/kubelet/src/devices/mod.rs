//! Device plugins (`v1beta1`): programs of vendors that know devices, tell of their health, and say what a container needs to
//! use them.
//!
//! ```text
//!  plugin --Register--> serve.rs --> follow (ListAndWatch) --> state.rs (who has what) --> file
//!     ^---- GetPreferredAllocation, Allocate (when a pod comes), PreStartContainer (when a container starts)
//! ```

mod checkpoint;
mod health;
pub mod messages;
mod serve;
pub mod state;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use grpc::Failure;
use grpc::client::Channel;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::placement::checkpoint::CheckpointError;
use crate::placement::claim::{Claim, PodClaim};
use crate::placement::hints::{Hint, Hints};
use messages::*;
pub use serve::{kind, run};
use state::{Choice, Device, DeviceRefusal, Ids, Share, State};

/// How long a plugin that is gone is waited for; then its resource is no longer there.
const GRACE: Duration = Duration::from_secs(300);
/// How long a plugin may take to say what it prefers, and what a container gets. Its pod is refused then.
const ALLOCATE: Duration = Duration::from_secs(10);
/// How long a plugin may take to prepare a container.
const PRE_START: Duration = Duration::from_secs(30);

/// What a container gets to use its devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extras {
    /// Environment.
    pub env: BTreeMap<String, String>,
    /// Mounts.
    pub mounts: Vec<Mount>,
    /// Device nodes.
    pub devices: Vec<DeviceSpec>,
    /// Annotations for the runtime.
    pub annotations: BTreeMap<String, String>,
    /// CDI devices by full name.
    pub cdi_devices: Vec<String>,
}

/// A share of a container as others see it: the resource, and devices with their nodes.
pub type Shown = (String, BTreeMap<String, Vec<u32>>);

/// All plugins and their devices.
pub struct Devices {
    folder: PathBuf,
    inner: Mutex<Inner>,
    /// What the node has has changed.
    pub changed: Notify,
}

#[derive(Default)]
struct Inner {
    state: State,
    plugins: BTreeMap<String, Plugin>,
    /// Distinguishes a plugin from an earlier one of the same resource.
    last: u64,
}

/// A plugin that has registered, or is remembered.
struct Plugin {
    number: u64,
    options: DevicePluginOptions,
    /// None once it is gone.
    channel: Option<Arc<Channel>>,
    follower: Option<AbortHandle>,
}

impl Devices {
    /// Takes over what an earlier run gave. Resources have no devices until their plugins come again.
    ///
    /// # Errors
    /// The file cannot be read or is not whole.
    pub fn open(root: &Path) -> Result<Arc<Devices>, CheckpointError> {
        let folder = root.join("device-plugins");
        let mut inner = Inner::default();
        if let Some((given, resources)) = checkpoint::read(&folder)? {
            inner.state.given = given;
            for resource in resources {
                inner.state.resources.insert(resource.clone(), BTreeMap::new());
                inner.plugins.insert(resource, Plugin::remembered());
            }
        }
        Ok(Arc::new(Devices { folder, inner: Mutex::new(inner), changed: Notify::new() }))
    }

    /// A plugin serves a resource behind this socket. An earlier one of the same resource is left.
    pub fn add(self: &Arc<Devices>, resource: &str, socket: &Path, options: DevicePluginOptions) {
        let mut inner = self.inner.lock();
        inner.last += 1;
        let (number, channel) = (inner.last, Arc::new(Channel::new(socket)));
        let (devices, name) = (self.clone(), resource.to_owned());
        let followed = channel.clone();
        let follower = tokio::spawn(async move {
            let ended = devices.follow(&name, number, &followed).await;
            tracing::info!(resource = name, "device plugin ended: {}", ended.err().map(|failure| failure.message).unwrap_or_default());
            devices.ended(&name, number);
            tokio::time::sleep(GRACE).await;
            devices.expired(&name, number);
        });
        let plugin = Plugin { number, options, channel: Some(channel), follower: Some(follower.abort_handle()) };
        if let Some(old) = inner.plugins.insert(resource.to_owned(), plugin) {
            old.follower.iter().for_each(AbortHandle::abort);
        }
        inner.state.resources.entry(resource.to_owned()).or_default();
        tracing::info!(resource, socket = %socket.display(), "device plugin registered");
    }

    /// Takes over what a plugin tells of its devices until it ends.
    async fn follow(&self, resource: &str, number: u64, channel: &Channel) -> Result<(), Failure> {
        let mut told = channel.send("/v1beta1.DevicePlugin/ListAndWatch", &Empty {}).await?;
        while let Some(list) = told.next::<ListAndWatchResponse>().await? {
            let device = |device: messages::Device| {
                let nodes = device.topology.unwrap_or_default().nodes.into_iter().filter_map(|node| u32::try_from(node.id).ok()).collect();
                (device.id, Device { healthy: device.health == HEALTHY, nodes })
            };
            let devices: BTreeMap<String, Device> = list.devices.into_iter().map(device).collect();
            let mut inner = self.inner.lock();
            if inner.plugins.get(resource).is_none_or(|plugin| plugin.number != number) {
                return Ok(());
            }
            // Some plugins tell the same again and again; the disk and the node's status need not hear of it.
            if inner.state.resources.get(resource) == Some(&devices) {
                continue;
            }
            inner.state.resources.insert(resource.to_owned(), devices);
            self.save_or_warn(&inner);
            drop(inner);
            self.changed.notify_one();
        }
        Ok(())
    }

    /// A plugin is gone: what it knew is there and cannot be given.
    fn ended(&self, resource: &str, number: u64) {
        let mut inner = self.inner.lock();
        let Some(plugin) = inner.plugins.get_mut(resource).filter(|plugin| plugin.number == number) else { return };
        plugin.channel = None;
        for device in inner.state.resources.get_mut(resource).into_iter().flat_map(BTreeMap::values_mut) {
            device.healthy = false;
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// A plugin did not come again: its resource has nothing any more.
    fn expired(&self, resource: &str, number: u64) {
        let mut inner = self.inner.lock();
        let gone = inner.plugins.get(resource).is_some_and(|plugin| plugin.number == number && plugin.channel.is_none());
        if gone {
            inner.state.resources.insert(resource.to_owned(), BTreeMap::new());
        }
        drop(inner);
        self.changed.notify_one();
    }

    /// Resources with how many devices there are, and how many of them can be given.
    pub fn amounts(&self) -> BTreeMap<String, (usize, usize)> {
        let inner = self.inner.lock();
        let count = |devices: &BTreeMap<String, Device>| (devices.len(), devices.values().filter(|device| device.healthy).count());
        inner.state.resources.iter().map(|(resource, devices)| (resource.clone(), count(devices))).collect()
    }

    /// Resources with how many devices pods may count on: those that can be given, and at least those that were given.
    pub fn usable(&self) -> BTreeMap<String, usize> {
        let amounts = self.amounts();
        let inner = self.inner.lock();
        amounts.into_iter().map(|(resource, (_, healthy))| (resource.clone(), healthy.max(inner.state.in_use(&resource).len()))).collect()
    }

    /// Nodes for a container.
    pub fn hints(&self, nodes: &[u32], uid: &str, claim: &Claim) -> BTreeMap<String, Hints> {
        self.inner.lock().state.hints(nodes, uid, claim)
    }

    /// Nodes for a whole pod.
    pub fn pod_hints(&self, nodes: &[u32], pod: &PodClaim) -> BTreeMap<String, Hints> {
        self.inner.lock().state.pod_hints(nodes, pod)
    }

    /// Gives a container its devices, asking the plugins. One pod is given at a time.
    ///
    /// # Errors
    /// They cannot be given.
    pub async fn give(&self, uid: &str, claim: &Claim, hint: Hint) -> Result<(), DeviceRefusal> {
        for (resource, wanted) in &claim.extended {
            let choice = {
                let inner = self.inner.lock();
                if !inner.state.resources.contains_key(resource) {
                    continue;
                }
                inner.state.choose(uid, &claim.name, resource, *wanted, hint)?
            };
            if let Some(choice) = choice {
                self.allocate(uid, claim, resource, choice).await?;
            }
        }
        let mut inner = self.inner.lock();
        inner.state.note_reusable(uid, claim);
        if inner.state.shares(uid, &claim.name).next().is_some() {
            self.save(&inner)?;
        }
        Ok(())
    }

    async fn allocate(&self, uid: &str, claim: &Claim, resource: &str, choice: Choice) -> Result<(), DeviceRefusal> {
        let (channel, options) = {
            let inner = self.inner.lock();
            let plugin = inner.plugins.get(resource).ok_or_else(|| DeviceRefusal::NoPlugin(resource.to_owned()))?;
            (plugin.channel.clone().ok_or_else(|| DeviceRefusal::NoPlugin(resource.to_owned()))?, plugin.options.clone())
        };
        let mut preferred = Ids::new();
        if options.get_preferred_allocation_available && choice.missing > 0 {
            let available = choice.preferable().union(&choice.taken).cloned().collect();
            let size = i32::try_from(choice.taken.len() + choice.missing).unwrap_or(i32::MAX);
            let request = ContainerPreferredAllocationRequest { available, must_include: choice.taken.iter().cloned().collect(), size };
            let request = PreferredAllocationRequest { container_requests: vec![request] };
            let answer: PreferredAllocationResponse =
                channel.call("/v1beta1.DevicePlugin/GetPreferredAllocation", &request, Some(ALLOCATE)).await?;
            preferred = answer.container_responses.into_iter().next().unwrap_or_default().device_ids.into_iter().collect();
        }
        let ids = choice.decide(&preferred);
        let request = AllocateRequest { container_requests: vec![ContainerAllocateRequest { device_ids: ids.iter().cloned().collect() }] };
        let answer: AllocateResponse = channel.call("/v1beta1.DevicePlugin/Allocate", &request, Some(ALLOCATE)).await?;
        let response = answer.container_responses.into_iter().next().ok_or(DeviceRefusal::NoResponse)?;
        self.inner.lock().state.give(uid, &claim.name, resource, &ids, response);
        Ok(())
    }

    /// Takes back what a pod had.
    pub fn release(&self, uid: &str) {
        let mut inner = self.inner.lock();
        if inner.state.release(uid) {
            self.save_or_warn(&inner);
        }
    }

    /// Pods that have devices.
    pub fn pods(&self) -> Vec<String> {
        self.inner.lock().state.given.keys().cloned().collect()
    }

    /// Tells the plugins that want to know it that a container is about to start.
    ///
    /// # Errors
    /// What a plugin says, or that it is gone.
    pub async fn pre_start(&self, uid: &str, container: &str) -> Result<(), DeviceRefusal> {
        let calls: Vec<(String, Option<Arc<Channel>>, Vec<String>)> = {
            let inner = self.inner.lock();
            let call = |(resource, share): (&String, &Share)| {
                let plugin = inner.plugins.get(resource).filter(|plugin| plugin.options.pre_start_required)?;
                Some((resource.clone(), plugin.channel.clone(), share.devices.keys().cloned().collect()))
            };
            inner.state.shares(uid, container).filter_map(call).collect()
        };
        for (resource, channel, device_ids) in calls {
            let channel = channel.ok_or(DeviceRefusal::NoPlugin(resource))?;
            let request = PreStartContainerRequest { device_ids };
            let _prepared: Empty = channel.call("/v1beta1.DevicePlugin/PreStartContainer", &request, Some(PRE_START)).await?;
        }
        Ok(())
    }

    /// What a container gets to use its devices. Of two plugins that say the same thing, the first one counts.
    pub fn extras(&self, uid: &str, container: &str) -> Extras {
        let inner = self.inner.lock();
        let mut extras = Extras::default();
        for (_, share) in inner.state.shares(uid, container) {
            let response = share.response.clone();
            extras.env = response.envs.into_iter().chain(extras.env).collect();
            extras.annotations = response.annotations.into_iter().chain(extras.annotations).collect();
            for mount in response.mounts {
                if !extras.mounts.iter().any(|known| known.container_path == mount.container_path) {
                    extras.mounts.push(mount);
                }
            }
            for device in response.devices {
                if !extras.devices.iter().any(|known| known.container_path == device.container_path) {
                    extras.devices.push(device);
                }
            }
            for device in response.cdi_devices {
                if !extras.cdi_devices.contains(&device.name) {
                    extras.cdi_devices.push(device.name);
                }
            }
        }
        extras
    }

    /// What a container has.
    pub fn shown(&self, uid: &str, container: &str) -> Vec<Shown> {
        self.inner.lock().state.shares(uid, container).map(|(resource, share)| (resource.clone(), share.devices.clone())).collect()
    }

    /// All devices that can be given or were.
    pub fn allocatable(&self) -> Vec<Shown> {
        let inner = self.inner.lock();
        let shown = |(resource, devices): (&String, &BTreeMap<String, Device>)| {
            let healthy = devices.iter().filter(|(_, device)| device.healthy);
            (resource.clone(), healthy.map(|(id, device)| (id.clone(), device.nodes.clone())).collect::<BTreeMap<_, _>>())
        };
        inner.state.resources.iter().map(shown).filter(|(_, devices)| !devices.is_empty()).collect()
    }

    fn save(&self, inner: &Inner) -> Result<(), CheckpointError> {
        checkpoint::write(&self.folder, &inner.state)
    }

    fn save_or_warn(&self, inner: &Inner) {
        if let Err(error) = self.save(inner) {
            tracing::warn!("devices were not written: {}", crate::pods::prepare::chain(&error));
        }
    }
}

impl Plugin {
    /// One of an earlier run that has not come again yet.
    fn remembered() -> Plugin {
        Plugin { number: 0, options: DevicePluginOptions::default(), channel: None, follower: None }
    }
}
