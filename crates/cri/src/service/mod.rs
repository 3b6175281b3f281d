//! The runtime service and the image service on top of our own runtime, image store and pod network.
//!
//! Every call is one function: it finds what it is about in the state, does its work, and notes the outcome. Calls about
//! the same pod that change it wait for one another; reading never waits for them. States of containers follow the
//! runtime's events, so that lists ask nobody.

mod containers;
mod events;
mod images;
mod node;
mod pods;
mod records;
mod route;
mod shown;
mod spec;
mod stats;
mod streaming;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use image::ImageStore;
use net::NodeNetwork;
use parking_lot::Mutex;
use rand::Rng;
use runtime::{ContainerId, ContainerStatus, Runtime, Sandbox, SandboxId};
use tokio::net::UnixListener;
use tokio::sync::broadcast;

use crate::messages::ContainerEventResponse;
use grpc::{Code, Failure};
use records::{ContainerRecord, EndRecord, PodRecord, Records};
use streaming::Streaming;

/// What the service works with.
pub struct Parts {
    /// Containers.
    pub runtime: Runtime,
    /// Images.
    pub images: ImageStore,
    /// The pods' network.
    pub network: NodeNetwork,
    /// Where records and writable layers lie; they outlive a reboot.
    pub state_dir: PathBuf,
    /// Range of pod addresses, until a kubelet gives another one.
    pub pod_cidr: Option<ipnet::IpNet>,
    /// Version of the program.
    pub version: String,
}

/// Why the service did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The records could not be read or written.
    #[error("read the records in {path}")]
    Records {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The server of streams could not listen.
    #[error("listen for streams")]
    Streaming(#[source] std::io::Error),
    /// The pod network could not be made ready.
    #[error("make the pod network ready")]
    Network(#[source] net::NodeNetworkError),
}

/// The service.
pub struct Service {
    runtime: Runtime,
    images: ImageStore,
    network: NodeNetwork,
    records: Records,
    version: String,
    state: Mutex<State>,
    streaming: Streaming,
    events: broadcast::Sender<ContainerEventResponse>,
}

#[derive(Default)]
struct State {
    pods: BTreeMap<String, Pod>,
    containers: BTreeMap<String, Container>,
}

/// A pod as we know it.
#[derive(Clone)]
struct Pod {
    record: PodRecord,
    /// Present from its creation to its stop.
    sandbox: Option<Sandbox>,
    /// Held by calls that change the pod.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// A container as we know it.
#[derive(Clone)]
struct Container {
    record: ContainerRecord,
    status: ContainerStatus,
    /// The image cannot go before the container.
    _image: Option<Arc<image::Hold>>,
}

/// Serves CRI on a socket until the future is dropped.
///
/// # Errors
/// What is needed could not be opened.
pub async fn run(parts: Parts, listener: UnixListener) -> Result<(), StartError> {
    let service = Service::open(parts).await?;
    let (runtime, network) = (service.clone(), service.clone());
    let tasks = [
        tokio::spawn(async move { runtime.follow().await }),
        tokio::spawn(async move { network.keep_rules().await }),
        tokio::spawn(streaming::run(service.clone())),
    ];
    let _guard = Guard(tasks.iter().map(tokio::task::JoinHandle::abort_handle).collect());
    grpc::server::serve(listener, move |path, message| route::answer(service.clone(), path, message)).await;
    Ok(())
}

/// Ends tasks with the service.
struct Guard(Vec<tokio::task::AbortHandle>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

impl Service {
    async fn open(parts: Parts) -> Result<Arc<Service>, StartError> {
        let dir = parts.state_dir.clone();
        let failed = |source| StartError::Records { path: dir.clone(), source };
        let records = Records::open(parts.state_dir).map_err(failed)?;
        let streaming = Streaming::open().await.map_err(StartError::Streaming)?;
        let (events, _) = broadcast::channel(1024);
        let Parts { runtime, images, network, pod_cidr, version, .. } = parts;
        let service = Service { runtime, images, network, records, version, state: Mutex::default(), streaming, events };
        service.take_over().await.map_err(failed)?;
        if let Some(range) = service.records.range().or(pod_cidr) {
            service.network.set_range(range).map_err(StartError::Network)?;
        }
        service.adopt_ports();
        Ok(Arc::new(service))
    }

    /// Joins the records with the keepers that an earlier run has left.
    async fn take_over(&self) -> std::io::Result<()> {
        let recovered = self.runtime.recover().await;
        let mut living: BTreeMap<String, Sandbox> = BTreeMap::new();
        for sandbox in recovered.sandboxes {
            living.insert(sandbox.id().to_string(), sandbox);
        }
        let mut last: BTreeMap<String, ContainerStatus> = BTreeMap::new();
        for lost in recovered.lost {
            last.extend(lost.containers.into_iter().map(|status| (status.id.to_string(), status)));
        }
        for (mut pod, containers) in self.records.read()? {
            let mut sandbox = living.remove(&pod.id);
            if pod.stopped
                && let Some(sandbox) = sandbox.take()
            {
                discard(sandbox).await;
            }
            if let Some(sandbox) = &sandbox {
                last.extend(sandbox.status().await.unwrap_or_default().into_iter().map(|status| (status.id.to_string(), status)));
            } else if !pod.stopped {
                pod.stopped = true;
                self.network.detach(&pod.id);
                self.records.keep_pod(&pod)?;
            }
            for mut record in containers {
                let Ok(id) = ContainerId::new(record.id.clone()) else { continue };
                let known = last.remove(&record.id).filter(|status| sandbox.is_some() || status.exit.is_some());
                if record.end.is_none() {
                    record.end = match &known {
                        Some(status) => EndRecord::of(status),
                        None => Some(EndRecord::unknown(now())),
                    };
                    if record.end.is_some() {
                        self.records.keep_container(&record)?;
                    }
                }
                let status = match (&record.end, known) {
                    (Some(end), _) => end.status(id, record.created_at),
                    (None, Some(status)) => status,
                    (None, None) => continue,
                };
                self.insert(record, status);
            }
            let turn = Arc::default();
            self.state.lock().pods.insert(pod.id.clone(), Pod { record: pod, sandbox, turn });
        }
        for (id, sandbox) in living {
            tracing::warn!(id, "sandbox without a record is ended");
            self.network.detach(&id);
            discard(sandbox).await;
        }
        Ok(())
    }

    fn insert(&self, record: ContainerRecord, status: ContainerStatus) {
        let image = self.images.hold(&record.image_id).map(Arc::new);
        self.state.lock().containers.insert(record.id.clone(), Container { record, status, _image: image });
    }

    /// Host ports of pods that were taken over.
    fn adopt_ports(&self) {
        for pod in self.state.lock().pods.values().filter(|pod| pod.sandbox.is_some()) {
            if let Some(config) = &pod.record.config {
                self.network.adopt(&pod.record.id, |address| pods::host_ports(config, address));
            }
        }
    }

    /// Host ports and masquerading come back when somebody removes the pods' table.
    async fn keep_rules(&self) {
        loop {
            let error = self.network.keep_rules().await;
            tracing::warn!("pod rules: {}", Failure::internal(&error));
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        }
    }

    fn pod(&self, id: &str) -> Result<Pod, Failure> {
        let state = self.state.lock();
        find(&state.pods, id).cloned().ok_or_else(|| not_found("sandbox", id))
    }

    fn container(&self, id: &str) -> Result<Container, Failure> {
        let state = self.state.lock();
        find(&state.containers, id).cloned().ok_or_else(|| not_found("container", id))
    }

    /// A container with the sandbox that it lives in.
    fn living(&self, id: &str) -> Result<(Container, Sandbox), Failure> {
        let container = self.container(id)?;
        let sandbox = self.pod(&container.record.pod)?.sandbox;
        let stopped = || Failure::new(Code::FailedPrecondition, format!("sandbox of container {id:?} is stopped"));
        sandbox.map(|sandbox| (container, sandbox)).ok_or_else(stopped)
    }
}

/// Finds by the whole name, or by the beginning of a single one, as people type it.
fn find<'a, T>(all: &'a BTreeMap<String, T>, id: &str) -> Option<&'a T> {
    if let Some(found) = all.get(id) {
        return Some(found);
    }
    let mut matching = all.range(id.to_owned()..).take_while(|(known, _)| !id.is_empty() && known.starts_with(id));
    let first = matching.next()?;
    matching.next().is_none().then_some(first.1)
}

fn not_found(what: &str, id: &str) -> Failure {
    Failure::new(Code::NotFound, format!("an error occurred when try to find {what} \"{id}\": not found"))
}

async fn discard(sandbox: Sandbox) {
    let id = sandbox.id().clone();
    if let Err(error) = sandbox.destroy().await {
        tracing::warn!(%id, %error, "sandbox was not destroyed");
    }
}

/// A new name for a pod or container.
fn new_id() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sandbox_id(id: &str) -> Result<SandboxId, Failure> {
    SandboxId::new(id).map_err(|error| Failure::internal(&error))
}

fn container_id(id: &str) -> Result<ContainerId, Failure> {
    ContainerId::new(id).map_err(|error| Failure::internal(&error))
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
}

fn disk_failed(path: &Path) -> impl Fn(std::io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::new(Code::Unknown, format!("write {}: {error}", path.display()))
}
