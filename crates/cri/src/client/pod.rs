//! One pod at another runtime.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cgroup::{Limits, MemoryStats, Stats};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use runtime::{ContainerId, ContainerState, ContainerStatus, ExecOutput, ExitStatus, SandboxId};
use stream::{Body, RemoteCommandOptions, full_body, proxy_upgrade};
use tokio::net::TcpStream;

use super::{Given, Remote, translate};
use crate::messages::{
    AttachRequest, AttachResponse, ContainerFilter, ContainerStatsRequest, ContainerStatsResponse, ContainerStatusRequest,
    ContainerStatusResponse, CreateContainerRequest, CreateContainerResponse, ExecRequest, ExecResponse, ExecSyncRequest, ExecSyncResponse,
    ListContainersRequest, ListContainersResponse, PodSandboxStatusRequest, PodSandboxStatusResponse, PortForwardRequest,
    PortForwardResponse, RemoveContainerRequest, RemoveContainerResponse, RemovePodSandboxRequest, RemovePodSandboxResponse,
    ReopenContainerLogRequest, ReopenContainerLogResponse, StartContainerRequest, StartContainerResponse, StopContainerRequest,
    StopContainerResponse, StopPodSandboxRequest, StopPodSandboxResponse, UInt64Value, UpdateContainerResourcesRequest,
    UpdateContainerResourcesResponse,
};
use grpc::{Code, Failure};

/// A pod. Cheap to clone.
#[derive(Clone)]
pub struct Pod {
    inner: Arc<Inner>,
}

struct Inner {
    remote: Arc<Remote>,
    uid: SandboxId,
    id: String,
    /// The other side's names of containers.
    names: Mutex<HashMap<ContainerId, String>>,
    lost: AtomicBool,
}

impl Pod {
    pub(super) fn new(remote: Arc<Remote>, uid: SandboxId, id: String) -> Pod {
        Pod { inner: Arc::new(Inner { remote, uid, id, names: Mutex::default(), lost: AtomicBool::new(false) }) }
    }

    /// The UID of the pod.
    pub fn id(&self) -> &SandboxId {
        &self.inner.uid
    }

    /// Whether the runtime has lost or stopped it.
    pub fn is_lost(&self) -> bool {
        self.inner.lost.load(Ordering::Relaxed)
    }

    pub(super) fn set_lost(&self) -> bool {
        !self.inner.lost.swap(true, Ordering::Relaxed)
    }

    /// Its addresses.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn addresses(&self) -> Result<Vec<String>, Failure> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: self.inner.id.clone(), verbose: false };
        let answer: PodSandboxStatusResponse = self.inner.remote.call("PodSandboxStatus", &request).await?;
        let network = answer.status.unwrap_or_default().network.unwrap_or_default();
        let all = std::iter::once(network.ip).chain(network.additional_ips.into_iter().map(|further| further.ip));
        Ok(all.filter(|ip| !ip.is_empty()).collect())
    }

    /// All its containers.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn status(&self) -> Result<Vec<ContainerStatus>, Failure> {
        let filter = ContainerFilter { pod_sandbox_id: self.inner.id.clone(), ..ContainerFilter::default() };
        let listed: ListContainersResponse =
            self.inner.remote.call("ListContainers", &ListContainersRequest { filter: Some(filter) }).await?;
        let mut all = Vec::new();
        for container in listed.containers {
            match self.one(container.id).await {
                Ok(status) => all.extend(status),
                // Gone since it was listed.
                Err(failure) if failure.code == Code::NotFound => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(all)
    }

    async fn one(&self, id: String) -> Result<Option<ContainerStatus>, Failure> {
        let request = ContainerStatusRequest { container_id: id, verbose: false };
        let answer: ContainerStatusResponse = self.inner.remote.call("ContainerStatus", &request).await?;
        Ok(answer.status.and_then(|status| self.note(status)))
    }

    /// A status in the runtime's words, its name noted.
    pub(super) fn note(&self, status: crate::messages::ContainerStatus) -> Option<ContainerStatus> {
        let id = status.id.clone();
        let mut status = translate::status(status)?;
        status.annotations.insert(super::ANNOTATION_ID.to_owned(), format!("{}://{id}", self.inner.remote.name()));
        self.inner.names.lock().insert(status.id.clone(), id);
        Some(status)
    }

    async fn name(&self, id: &ContainerId) -> Result<String, Failure> {
        let known = || self.inner.names.lock().get(id).cloned();
        if let Some(name) = known() {
            return Ok(name);
        }
        self.status().await?;
        known().ok_or_else(|| Failure::new(Code::NotFound, format!("container {id} not found")))
    }

    /// Makes a container.
    ///
    /// # Errors
    /// What the runtime says, or that something cannot be said in its words.
    pub async fn create_container(&self, given: &Given<'_>) -> Result<(), Failure> {
        let config = translate::container(given)?;
        let id = given.spec.id.clone();
        let request = CreateContainerRequest {
            pod_sandbox_id: self.inner.id.clone(),
            config: Some(config),
            sandbox_config: Some(given.sandbox.clone()),
        };
        let made: CreateContainerResponse = self.inner.remote.call("CreateContainer", &request).await?;
        self.inner.names.lock().insert(id, made.container_id);
        Ok(())
    }

    /// Starts a container.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn start(&self, id: &ContainerId) -> Result<(), Failure> {
        let request = StartContainerRequest { container_id: self.name(id).await? };
        self.inner.remote.call::<StartContainerResponse>("StartContainer", &request).await.map(drop)
    }

    /// Stops a container, and kills it after the grace.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), Failure> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = StopContainerRequest { container_id: self.name(id).await?, timeout };
        let within = grace + super::CALL;
        let method = "/runtime.v1.RuntimeService/StopContainer";
        self.inner.remote.channel.call::<StopContainerResponse>(method, &request, Some(within)).await.map(drop)
    }

    /// Removes a container that has ended.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn remove(&self, id: &ContainerId) -> Result<(), Failure> {
        let name = self.name(id).await?;
        self.inner
            .remote
            .call::<RemoveContainerResponse>("RemoveContainer", &RemoveContainerRequest { container_id: name.clone() })
            .await?;
        self.inner.names.lock().remove(id);
        self.inner.remote.told.lock().remove(&name);
        Ok(())
    }

    /// Has a container's log opened anew.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<(), Failure> {
        let request = ReopenContainerLogRequest { container_id: self.name(id).await? };
        self.inner.remote.call::<ReopenContainerLogResponse>("ReopenContainerLog", &request).await.map(drop)
    }

    /// Runs a command and collects its output.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn exec_sync(&self, id: &ContainerId, cmd: Vec<String>, timeout: Option<Duration>) -> Result<ExecOutput, Failure> {
        // Nothing is shorter than a second in these words, and zero is for ever.
        let seconds = timeout.map_or(0, |timeout| i64::try_from(timeout.as_secs().max(1)).unwrap_or(0));
        let request = ExecSyncRequest { container_id: self.name(id).await?, cmd, timeout: seconds };
        let within = timeout.map(|timeout| timeout + super::CALL);
        let method = "/runtime.v1.RuntimeService/ExecSync";
        let answer: ExecSyncResponse = self.inner.remote.channel.call(method, &request, within).await?;
        let exit = ExitStatus { code: answer.exit_code, signal: None };
        Ok(ExecOutput { exit, stdout: answer.stdout.into(), stderr: answer.stderr.into() })
    }

    /// What a container uses.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn stats(&self, id: &ContainerId) -> Result<Stats, Failure> {
        let request = ContainerStatsRequest { container_id: self.name(id).await? };
        let answer: ContainerStatsResponse = self.inner.remote.call("ContainerStats", &request).await?;
        let stats = answer.stats.unwrap_or_default();
        let (cpu, memory) = (stats.cpu.unwrap_or_default(), stats.memory.unwrap_or_default());
        let number = |value: Option<UInt64Value>| value.map_or(0, |value| value.value);
        Ok(Stats {
            cpu_usage_ns: number(cpu.usage_core_nano_seconds),
            memory: MemoryStats {
                usage: number(memory.usage_bytes),
                working_set: number(memory.working_set_bytes),
                rss: number(memory.rss_bytes),
                page_faults: number(memory.page_faults),
                major_page_faults: number(memory.major_page_faults),
                ..MemoryStats::default()
            },
            ..Stats::default()
        })
    }

    /// Changes what a container may use.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn update_resources(&self, id: &ContainerId, limits: &Limits) -> Result<(), Failure> {
        let linux = Some(translate::resources(limits, None));
        let request = UpdateContainerResourcesRequest { container_id: self.name(id).await?, linux, ..Default::default() };
        self.inner.remote.call::<UpdateContainerResourcesResponse>("UpdateContainerResources", &request).await.map(drop)
    }

    /// Ends everything and removes every trace but the logs.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn destroy(&self) -> Result<(), Failure> {
        self.set_lost();
        let pod_sandbox_id = self.inner.id.clone();
        let remote = &self.inner.remote;
        remote.call::<StopPodSandboxResponse>("StopPodSandbox", &StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() }).await?;
        let removed = RemovePodSandboxRequest { pod_sandbox_id };
        remote.call::<RemovePodSandboxResponse>("RemovePodSandbox", &removed).await?;
        remote.pods.lock().remove(&self.inner.id);
        let mut told = remote.told.lock();
        for name in self.inner.names.lock().values() {
            told.remove(name);
        }
        Ok(())
    }

    /// Hands a caller's exec through to the runtime's server of streams.
    pub async fn exec(
        &self,
        id: &ContainerId,
        cmd: Vec<String>,
        options: &RemoteCommandOptions,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let url = async {
            let &RemoteCommandOptions { stdin, stdout, stderr, tty, .. } = options;
            let ask = ExecRequest { container_id: self.name(id).await?, cmd, tty, stdin, stdout, stderr: stderr && !tty };
            Ok(self.inner.remote.call::<ExecResponse>("Exec", &ask).await?.url)
        };
        hand_through(url.await, request).await
    }

    /// Hands a caller's attach through to the runtime's server of streams.
    pub async fn attach(&self, id: &ContainerId, options: &RemoteCommandOptions, request: Request<Incoming>) -> Response<Body> {
        let url = async {
            let &RemoteCommandOptions { stdin, stdout, stderr, tty, .. } = options;
            let ask = AttachRequest { container_id: self.name(id).await?, tty, stdin, stdout, stderr: stderr && !tty };
            Ok(self.inner.remote.call::<AttachResponse>("Attach", &ask).await?.url)
        };
        hand_through(url.await, request).await
    }

    /// Hands a caller's port-forward through to the runtime's server of streams.
    pub async fn port_forward(&self, request: Request<Incoming>) -> Response<Body> {
        let ask = PortForwardRequest { pod_sandbox_id: self.inner.id.clone(), port: Vec::new() };
        let url = self.inner.remote.call::<PortForwardResponse>("PortForward", &ask).await.map(|answer| answer.url);
        hand_through(url, request).await
    }

    /// Whether a state was not told before.
    pub(super) fn is_news(&self, id: &ContainerId, state: ContainerState) -> bool {
        let Some(name) = self.inner.names.lock().get(id).cloned() else { return true };
        self.inner.remote.told.lock().insert(name, state) != Some(state)
    }
}

async fn hand_through(url: Result<String, Failure>, mut request: Request<Incoming>) -> Response<Body> {
    let failed = |text: String| {
        let mut response = Response::new(full_body(text));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    };
    let url = match url {
        Ok(url) => url,
        Err(failure) => return failed(failure.to_string()),
    };
    let Some((authority, path)) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')) else {
        return failed(format!("the container runtime serves streams at {url}, which is not understood"));
    };
    // An address of any interface is reached by loopback.
    let target = authority.parse::<SocketAddr>().map_or_else(
        |_| authority.to_owned(),
        |address| if address.ip().is_unspecified() { format!("{}:{}", Ipv4Addr::LOCALHOST, address.port()) } else { authority.to_owned() },
    );
    let (Ok(uri), Ok(host)) = (format!("/{path}").parse(), HeaderValue::from_str(authority)) else {
        return failed(format!("the container runtime serves streams at {url}, which is no address"));
    };
    *request.uri_mut() = uri;
    request.headers_mut().insert(http::header::HOST, host);
    // Who the caller is to the kubelet is nothing for the runtime.
    request.headers_mut().remove(http::header::AUTHORIZATION);
    let outcome = match TcpStream::connect(&target).await {
        Ok(stream) => proxy_upgrade(request, stream).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    outcome.unwrap_or_else(|error| failed(format!("error dialing the container runtime at {target}: {error}")))
}
