//! The container runtime of a kubelet: our own in its process, or another one behind its socket. One of two, chosen once;
//! a call to our own costs a look at which it is.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Group, Limits, Stats};
use http::{Request, Response};
use hyper::body::Incoming;
use image::{GcPolicy, GcReport, Hold, Image, ImageStore, PullError, RegistryAuth, StoreUsage};
use runtime::{
    ContainerError, ContainerEvent, ContainerId, ContainerStatus, CreateContainerError, ExecError, ExecOutput, Runtime, SandboxError,
    SandboxId, StartError, StopOutcome,
};
use stream::{Body, PortForwardOptions, RemoteCommandOptions, accept_port_forward, accept_remote_command};
use tokio::sync::broadcast;

use crate::cdi;
use crate::client::{Given, Pod, Remote};
use crate::session;
use grpc::{Code, Failure};

/// Runs pods.
#[derive(Clone)]
pub enum Engine {
    /// Our own runtime.
    Own(Runtime),
    /// Another one, with the group below which pods' groups lie.
    Other(Arc<Remote>, Group),
}

impl From<Runtime> for Engine {
    fn from(runtime: Runtime) -> Engine {
        Engine::Own(runtime)
    }
}

impl Engine {
    /// Events of all pods. A receiver that lags must read the states again.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        match self {
            Engine::Own(runtime) => runtime.events(),
            Engine::Other(remote, _) => remote.events(),
        }
    }

    /// The group that all paths of pods' groups are relative to.
    pub fn cgroup_root(&self) -> &Group {
        match self {
            Engine::Own(runtime) => runtime.cgroup_root(),
            Engine::Other(_, group) => group,
        }
    }

    /// The pods that an earlier run of ours left.
    pub async fn recover(&self) -> Recovered {
        match self {
            Engine::Own(runtime) => {
                let found = runtime.recover().await;
                let lost = found.lost.into_iter().map(|lost| (lost.spec.id.to_string(), lost.containers));
                Recovered { sandboxes: found.sandboxes.into_iter().map(Sandbox::Own).collect(), lost: lost.collect() }
            }
            Engine::Other(remote, _) => match remote.recover().await {
                Ok(pods) => Recovered { sandboxes: pods.into_iter().map(Sandbox::Other).collect(), lost: HashMap::new() },
                Err(failure) => {
                    tracing::error!("what an earlier run left is not known: {failure}");
                    Recovered::default()
                }
            },
        }
    }

    /// The other runtime, where it is one.
    pub fn other(&self) -> Option<&Arc<Remote>> {
        match self {
            Engine::Own(_) => None,
            Engine::Other(remote, _) => Some(remote),
        }
    }

    /// What the next pod needs first is made ahead, for when there is time: the first container of the one before runs.
    pub fn make_ahead(&self) {
        if let Engine::Own(runtime) = self {
            runtime.make_ahead();
        }
    }

    /// Scheme of container ids in statuses.
    pub fn name(&self) -> &str {
        self.other().map_or("knarr", |remote| remote.name())
    }
}

/// A pod's sandbox. Cheap to clone.
#[derive(Clone)]
pub enum Sandbox {
    /// Of our own runtime.
    Own(runtime::Sandbox),
    /// Of another one.
    Other(Pod),
}

impl From<runtime::Sandbox> for Sandbox {
    fn from(sandbox: runtime::Sandbox) -> Sandbox {
        Sandbox::Own(sandbox)
    }
}

/// What an earlier run of ours left.
#[derive(Default)]
pub struct Recovered {
    /// Pods whose containers may still run.
    pub sandboxes: Vec<Sandbox>,
    /// The last words of containers whose sandboxes are gone, by the name of the sandbox. Another runtime tells none.
    pub lost: HashMap<String, Vec<ContainerStatus>>,
}

fn broken(failure: Failure) -> SandboxError {
    SandboxError::Refused(failure.message)
}

fn container_error(id: &ContainerId, failure: Failure) -> ContainerError {
    if failure.code == Code::NotFound { ContainerError::NotFound(id.to_string()) } else { ContainerError::Failed(failure.message) }
}

impl Sandbox {
    /// Its name, the pod's UID.
    pub fn id(&self) -> &SandboxId {
        match self {
            Sandbox::Own(sandbox) => sandbox.id(),
            Sandbox::Other(pod) => pod.id(),
        }
    }

    /// Whether it has gone by itself.
    pub fn is_lost(&self) -> bool {
        match self {
            Sandbox::Own(sandbox) => sandbox.is_lost(),
            Sandbox::Other(pod) => pod.is_lost(),
        }
    }

    /// All containers, ended ones included until they are removed.
    ///
    /// # Errors
    /// The runtime does not say.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>, SandboxError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.status().await,
            Sandbox::Other(pod) => pod.status().await.map_err(broken),
        }
    }

    /// Sets a container up. What `given` says beyond the description is for runtimes that read images themselves.
    ///
    /// # Errors
    /// The runtime refuses.
    pub async fn create_container(&self, given: Given<'_>) -> Result<(), CreateContainerError> {
        match self {
            Sandbox::Own(sandbox) => {
                let mut spec = given.spec;
                let annotated = cdi::annotated(&spec.annotations);
                let names: Vec<String> = given.cdi_devices.iter().cloned().chain(annotated).collect();
                cdi::inject(&mut spec, &names).map_err(|error| CreateContainerError::Invalid(error.to_string()))?;
                sandbox.create_container(spec).await.map(drop)
            }
            Sandbox::Other(pod) => pod.create_container(&given).await.map_err(|failure| CreateContainerError::Invalid(failure.message)),
        }
    }

    /// Starts the program of a created container.
    ///
    /// # Errors
    /// The runtime refuses, or the program cannot be executed.
    pub async fn start(&self, id: &ContainerId) -> Result<(), StartError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.start(id).await.map(drop),
            Sandbox::Other(pod) => pod.start(id).await.map_err(|failure| StartError::Exec(failure.message)),
        }
    }

    /// Sends the signal, waits for the end, and kills after the grace. Other runtimes know the signal from the creation.
    ///
    /// # Errors
    /// The runtime fails.
    pub async fn stop(&self, id: &ContainerId, signal: i32, grace: Duration) -> Result<Option<StopOutcome>, ContainerError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.stop(id, signal, grace).await.map(Some),
            Sandbox::Other(pod) => pod.stop(id, grace).await.map(|()| None).map_err(|failure| container_error(id, failure)),
        }
    }

    /// Removes a container that has ended.
    ///
    /// # Errors
    /// The runtime fails.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), ContainerError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.remove(id).await,
            Sandbox::Other(pod) => pod.remove(id).await.map_err(|failure| container_error(id, failure)),
        }
    }

    /// Runs a command and collects its output.
    ///
    /// # Errors
    /// It did not run, or not end in time.
    pub async fn exec_sync(
        &self,
        id: &ContainerId,
        argv: Vec<String>,
        timeout: Option<Duration>,
        max_output: usize,
    ) -> Result<ExecOutput, ExecError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.exec_sync(id, argv, timeout, max_output).await,
            Sandbox::Other(pod) => {
                let command = argv.join(" ");
                let mut output = pod.exec_sync(id, argv, timeout).await.map_err(|failure| match failure.code {
                    Code::DeadlineExceeded => ExecError::Timeout { command },
                    Code::NotFound | Code::FailedPrecondition => ExecError::NotRunning(id.to_string()),
                    Code::Unavailable => ExecError::Sandbox(broken(failure)),
                    _ => ExecError::Start(failure.message),
                })?;
                output.stdout.truncate(max_output);
                output.stderr.truncate(max_output);
                Ok(output)
            }
        }
    }

    /// Opens a container's log anew after someone has moved it away.
    ///
    /// # Errors
    /// The runtime fails.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), ContainerError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.reopen_log(id).await,
            Sandbox::Other(pod) => pod.reopen_log(id).await.map_err(|failure| container_error(id, failure)),
        }
    }

    /// What a container uses.
    ///
    /// # Errors
    /// The runtime does not say.
    pub async fn stats(&self, id: &ContainerId) -> Result<Stats, ContainerError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.stats(id),
            Sandbox::Other(pod) => pod.stats(id).await.map_err(|failure| container_error(id, failure)),
        }
    }

    /// Changes what a container may use; absent values stay.
    ///
    /// # Errors
    /// The runtime refuses.
    pub async fn update_resources(&self, id: &ContainerId, limits: Limits) -> Result<(), ContainerError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.update_resources(id, limits).await,
            Sandbox::Other(pod) => pod.update_resources(id, &limits).await.map_err(|failure| container_error(id, failure)),
        }
    }

    /// Kills what runs and removes every trace but logs and, with our own runtime, writable layers.
    ///
    /// # Errors
    /// The runtime fails.
    pub async fn destroy(self) -> Result<(), SandboxError> {
        match self {
            Sandbox::Own(sandbox) => sandbox.destroy().await,
            Sandbox::Other(pod) => pod.destroy().await.map_err(broken),
        }
    }

    /// Serves a caller's exec.
    pub async fn exec(
        &self,
        id: ContainerId,
        argv: Vec<String>,
        options: RemoteCommandOptions,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let sandbox = match self {
            Sandbox::Own(sandbox) => sandbox.clone(),
            Sandbox::Other(pod) => return pod.exec(&id, argv, &options, request).await,
        };
        let tty = options.tty;
        let (response, pending) = match accept_remote_command(request, options) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection,
        };
        tokio::spawn(async move {
            if let Ok(command) = pending.await {
                session::exec(&sandbox, &id, argv, tty, command).await;
            }
        });
        response
    }

    /// Serves a caller's attach.
    pub async fn attach(&self, id: ContainerId, options: RemoteCommandOptions, request: Request<Incoming>) -> Response<Body> {
        let sandbox = match self {
            Sandbox::Own(sandbox) => sandbox.clone(),
            Sandbox::Other(pod) => return pod.attach(&id, &options, request).await,
        };
        let (response, pending) = match accept_remote_command(request, options) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection,
        };
        tokio::spawn(async move {
            if let Ok(command) = pending.await {
                session::attach(&sandbox, &id, command).await;
            }
        });
        response
    }

    /// Serves a caller's port-forward.
    pub async fn port_forward(&self, options: PortForwardOptions, request: Request<Incoming>) -> Response<Body> {
        let sandbox = match self {
            Sandbox::Own(sandbox) => sandbox.clone(),
            Sandbox::Other(pod) => return pod.port_forward(request).await,
        };
        let (response, pending) = match accept_port_forward(request, options) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection,
        };
        tokio::spawn(async move {
            let Ok(mut session) = pending.await else { return };
            while let Some(forward) = session.next().await {
                tokio::spawn(session::forward(sandbox.clone(), forward));
            }
        });
        response
    }
}

/// Images of a node.
#[derive(Clone)]
pub enum Images {
    /// Our own store.
    Own(ImageStore),
    /// Those of another runtime.
    Other(Arc<Remote>),
}

impl From<ImageStore> for Images {
    fn from(store: ImageStore) -> Images {
        Images::Own(store)
    }
}

impl Images {
    /// Our own store, where they are in one.
    pub fn store(&self) -> Option<ImageStore> {
        match self {
            Images::Own(store) => Some(store.clone()),
            Images::Other(_) => None,
        }
    }

    /// The image of a name or id, if it is here.
    pub async fn resolve(&self, name: &str) -> Option<Image> {
        match self {
            Images::Own(store) => store.resolve(name),
            Images::Other(remote) => remote.image(name).await.unwrap_or_else(|failure| {
                tracing::warn!(name, "image: {failure}");
                None
            }),
        }
    }

    /// Notes that an image was used.
    pub fn mark_used(&self, id: &str) {
        if let Images::Own(store) = self {
            store.mark_used(id);
        }
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// Why it is not here.
    pub async fn pull(&self, name: &str, auths: &[RegistryAuth]) -> Result<Image, PullError> {
        match self {
            Images::Own(store) => store.pull(name, auths).await,
            Images::Other(remote) => {
                let unavailable = |failure: Failure| PullError::Unavailable { reference: name.to_owned(), reason: failure.message };
                remote.pull(name, auths).await.map_err(unavailable)
            }
        }
    }

    /// Layer directories, topmost first; none where another runtime has them.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        match self {
            Images::Own(store) => store.layers(image),
            Images::Other(_) => Vec::new(),
        }
    }

    /// Keeps an image; other runtimes keep what their containers run from.
    pub fn hold(&self, id: &str) -> Option<Hold> {
        match self {
            Images::Own(store) => store.hold(id),
            Images::Other(_) => None,
        }
    }

    /// All images.
    pub async fn list(&self) -> Vec<Image> {
        match self {
            Images::Own(store) => store.list(),
            Images::Other(remote) => remote.list_images().await.unwrap_or_else(|failure| {
                tracing::warn!("images: {failure}");
                Vec::new()
            }),
        }
    }

    /// Room that they take.
    pub async fn usage(&self) -> StoreUsage {
        match self {
            Images::Own(store) => store.usage(),
            Images::Other(remote) => remote.images_usage().await.unwrap_or_else(|failure| {
                tracing::warn!("room of images: {failure}");
                StoreUsage::default()
            }),
        }
    }

    /// Where they lie.
    pub fn dir(&self) -> &std::path::Path {
        match self {
            Images::Own(store) => store.dir(),
            Images::Other(remote) => remote.images_dir(),
        }
    }

    /// Removes what nobody uses until enough room is free.
    pub async fn collect_garbage(&self, policy: GcPolicy) -> GcReport {
        match self {
            Images::Own(store) => store.collect_garbage(policy).await,
            Images::Other(remote) => remote.collect_images(&policy).await.unwrap_or_else(|failure| {
                tracing::warn!("no images are removed: {failure}");
                GcReport::default()
            }),
        }
    }
}
