//! A container runtime behind a CRI socket, as a kubelet of ours uses it.
//!
//! A pod is known to the kubelet by its UID and a container by its name and attempt, as with our own runtime; which names
//! the other side gave them stands here. What the kubelet keeps with a container (labels, annotations) travels along, so
//! that a new run finds everything again by asking.

mod events;
mod images;
mod pod;
mod translate;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use runtime::{ContainerEvent, ContainerState, SandboxId};
use tokio::sync::broadcast;

use crate::messages::*;
use grpc::Failure;
use grpc::client::Channel;
use grpc::wire::Message;

pub use pod::Pod;
pub use translate::Given;

/// How long a call may take that does not wait for anything by its nature.
const CALL: Duration = Duration::from_secs(120);
/// Annotation of a status: the runtime's own name of the container, as `containerd://<id>`.
pub const ANNOTATION_ID: &str = "foreign-id";
/// Label by which pods of a kubelet are known.
const LABEL_UID: &str = "io.kubernetes.pod.uid";

/// The runtime.
pub struct Remote {
    channel: Channel,
    /// `containerd://2.1.0` and the like.
    version: String,
    images_dir: PathBuf,
    network_ready: AtomicBool,
    /// Of its default handler.
    features: Mutex<(Vec<RuntimeHandler>, RuntimeFeatures)>,
    events: broadcast::Sender<ContainerEvent>,
    /// Pods by the other side's name.
    pods: Mutex<HashMap<String, Pod>>,
    /// States of containers that were told, by the other side's name.
    told: Mutex<HashMap<String, ContainerState>>,
}

impl Remote {
    /// Finds the runtime behind a socket; waits for one that is about to start.
    ///
    /// # Errors
    /// It does not answer, or speaks another version.
    pub async fn connect(socket: impl Into<PathBuf>) -> Result<Arc<Remote>, Failure> {
        let channel = Channel::new(socket);
        let mut tries = 0;
        let version: VersionResponse = loop {
            let request = VersionRequest { version: "v1".into() };
            match channel.call("/runtime.v1.RuntimeService/Version", &request, Some(Duration::from_secs(10))).await {
                Ok(version) => break version,
                Err(failure) if tries == 30 => return Err(failure),
                Err(failure) => {
                    tries += 1;
                    tracing::warn!(socket = %channel.socket().display(), "container runtime: {failure}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        };
        let info: ImageFsInfoResponse = channel.call("/runtime.v1.ImageService/ImageFsInfo", &ImageFsInfoRequest {}, Some(CALL)).await?;
        let place = info.image_filesystems.into_iter().next().and_then(|usage| usage.fs_id).unwrap_or_default().mountpoint;
        let (events, _) = broadcast::channel(4096);
        let remote = Arc::new(Remote {
            channel,
            version: format!("{}://{}", version.runtime_name, version.runtime_version),
            images_dir: place.into(),
            network_ready: AtomicBool::new(false),
            events,
            features: Mutex::default(),
            pods: Mutex::default(),
            told: Mutex::default(),
        });
        remote.look_at_network().await?;
        tokio::spawn(events::follow(Arc::downgrade(&remote)));
        Ok(remote)
    }

    /// Name and version as a node shows them.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Name of the program, as container ids begin.
    pub fn name(&self) -> &str {
        self.version.split("://").next().unwrap_or_default()
    }

    /// Whether pods can get addresses, as far as known.
    pub fn network_ready(&self) -> bool {
        self.network_ready.load(Ordering::Relaxed)
    }

    /// What the runtime can do for pods by the name of their handler; the default kind has none.
    pub fn handlers(&self) -> Vec<RuntimeHandler> {
        self.features.lock().0.clone()
    }

    /// The same of one handler.
    pub fn features(&self, handler: &str) -> RuntimeHandlerFeatures {
        let known = self.features.lock();
        known.0.iter().find(|known| known.name == handler).and_then(|known| known.features.clone()).unwrap_or_default()
    }

    /// What the runtime can do whatever kind of pods it runs.
    pub fn general_features(&self) -> RuntimeFeatures {
        self.features.lock().1.clone()
    }

    /// Asks whether pods can get addresses.
    ///
    /// # Errors
    /// The runtime does not say.
    pub async fn look_at_network(&self) -> Result<bool, Failure> {
        let status: StatusResponse = self.call("Status", &StatusRequest { verbose: false }).await?;
        *self.features.lock() = (status.runtime_handlers, status.features.unwrap_or_default());
        let conditions = status.status.unwrap_or_default().conditions;
        let ready = conditions.iter().any(|condition| condition.kind == "NetworkReady" && condition.status);
        self.network_ready.store(ready, Ordering::Relaxed);
        Ok(ready)
    }

    /// Tells the range of the node's pods.
    ///
    /// # Errors
    /// The runtime refuses.
    pub async fn set_range(&self, range: String) -> Result<(), Failure> {
        let network_config = Some(NetworkConfig { pod_cidr: range });
        let request = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        self.call::<UpdateRuntimeConfigResponse>("UpdateRuntimeConfig", &request).await.map(drop)
    }

    /// Events of all pods.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.events.subscribe()
    }

    /// Makes a pod of a kind that the runtime knows by the name of a handler, or of the default kind.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn run_pod(self: &Arc<Remote>, uid: SandboxId, handler: String, mut config: PodSandboxConfig) -> Result<Pod, Failure> {
        // Attempts of one pod differ, so that one that is still going away is in nobody's way.
        let known = self.sandboxes(Some(uid.as_str())).await?;
        let attempts = known.iter().filter_map(|pod| pod.metadata.as_ref()).map(|metadata| metadata.attempt + 1).max();
        config.metadata.get_or_insert_default().attempt = attempts.unwrap_or(0);
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler };
        let made: RunPodSandboxResponse = self.call("RunPodSandbox", &request).await?;
        Ok(self.adopt(uid, made.pod_sandbox_id))
    }

    /// The pods that an earlier run of ours left. Those that are over are removed.
    ///
    /// # Errors
    /// The runtime does not say.
    pub async fn recover(self: &Arc<Remote>) -> Result<Vec<Pod>, Failure> {
        let mut pods = Vec::new();
        for sandbox in self.sandboxes(None).await? {
            let Some(uid) = sandbox.labels.get(LABEL_UID).and_then(|uid| SandboxId::new(uid.clone()).ok()) else { continue };
            let pod = self.adopt(uid, sandbox.id);
            if sandbox.state == sandbox_state::READY {
                pods.push(pod);
            } else if let Err(failure) = pod.destroy().await {
                tracing::warn!("a sandbox of an earlier run stays: {failure}");
            }
        }
        Ok(pods)
    }

    fn adopt(self: &Arc<Remote>, uid: SandboxId, id: String) -> Pod {
        let pod = Pod::new(self.clone(), uid, id.clone());
        self.pods.lock().insert(id, pod.clone());
        pod
    }

    async fn sandboxes(&self, uid: Option<&str>) -> Result<Vec<PodSandbox>, Failure> {
        let label_selector = uid.map(|uid| (LABEL_UID.to_owned(), uid.to_owned())).into_iter().collect();
        let filter = PodSandboxFilter { label_selector, ..PodSandboxFilter::default() };
        let found: ListPodSandboxResponse = self.call("ListPodSandbox", &ListPodSandboxRequest { filter: Some(filter) }).await?;
        Ok(found.items)
    }

    async fn call<M: Message>(&self, method: &str, request: &impl Message) -> Result<M, Failure> {
        self.channel.call(&format!("/runtime.v1.RuntimeService/{method}"), request, Some(CALL)).await
    }

    async fn call_images<M: Message>(&self, method: &str, request: &impl Message, within: Option<Duration>) -> Result<M, Failure> {
        self.channel.call(&format!("/runtime.v1.ImageService/{method}"), request, within).await
    }
}
