//! Calls about containers.

use std::time::Duration;

use runtime::{ContainerError, ContainerState, ExecError, StartError};

use super::records::{ContainerRecord, EndRecord};
use super::spec::{self, Given};
use super::{Service, container_id, disk_failed, find, new_id, shown};
use crate::messages::*;
use grpc::{Code, Failure};

/// Output of a command that is kept; both streams together fit into a message.
const MAX_OUTPUT: usize = 7 << 20;

impl Service {
    pub(super) async fn create_container(&self, request: CreateContainerRequest) -> Result<CreateContainerResponse, Failure> {
        let config = request.config.ok_or_else(|| Failure::new(Code::InvalidArgument, "the container has no configuration"))?;
        let pod = self.pod(&request.pod_sandbox_id)?;
        let _turn = pod.turn.lock().await;
        let pod = self.pod(&pod.record.id)?;
        let sandbox = pod.sandbox.clone();
        let sandbox =
            sandbox.ok_or_else(|| Failure::new(Code::FailedPrecondition, format!("sandbox {:?} is not running", pod.record.id)))?;
        let asked = config.image.clone().unwrap_or_default();
        let image = self.images.resolve(&asked.image).ok_or_else(|| super::not_found("image", &asked.image))?;
        self.images.mark_used(&image.id);
        let id = new_id();
        let sandbox_config = pod.record.config.clone().unwrap_or_default();
        let writable = self.records.writable(&id);
        let given = Given {
            id: container_id(&id)?,
            config: &config,
            sandbox: &sandbox_config,
            image: &image,
            images: &self.images,
            writable: &writable,
            etc: &self.records.pod_dir(&pod.record.id).join("etc"),
        };
        let spec = spec::container(&given)?;
        let name = if asked.user_specified_image.is_empty() { &asked.image } else { &asked.user_specified_image };
        let record = ContainerRecord {
            id: id.clone(),
            pod: pod.record.id.clone(),
            image_ref: image.image_id_for(name),
            image_id: image.id.clone(),
            created_at: super::now(),
            stop_signal: spec.stop_signal.unwrap_or(runtime::signals::TERM),
            config: Some(config),
            end: None,
        };
        std::fs::create_dir_all(&writable).map_err(disk_failed(&writable))?;
        self.records.keep_container(&record).map_err(disk_failed(&writable))?;
        let hold = self.images.hold(&image.id);
        match sandbox.create_container(spec).await {
            Ok(status) => self.insert(record, status),
            Err(error) => {
                if let Err(error) = self.records.forget_container(&record) {
                    tracing::warn!(%error, "the record of a container that failed stays");
                }
                return Err(Failure::internal(&error));
            }
        }
        drop(hold);
        self.tell(&pod.record.id, &id, event::CREATED);
        Ok(CreateContainerResponse { container_id: id })
    }

    pub(super) async fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse, Failure> {
        let (container, sandbox) = self.living(&request.container_id)?;
        match sandbox.start(&container.status.id).await {
            Ok(status) => {
                self.observe(status);
                self.runtime.make_ahead();
                Ok(StartContainerResponse {})
            }
            Err(error) => {
                if let Ok(status) = sandbox.container(&container.status.id).await {
                    self.observe(status);
                }
                let code = if matches!(error, StartError::NotCreated(_)) { Code::FailedPrecondition } else { Code::Unknown };
                Err(Failure::new(code, error.to_string()))
            }
        }
    }

    pub(super) async fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse, Failure> {
        let Ok((container, sandbox)) = self.living(&request.container_id) else { return Ok(StopContainerResponse {}) };
        let id = &container.status.id;
        if container.status.state != ContainerState::Running {
            return Ok(StopContainerResponse {});
        }
        let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or(0));
        match sandbox.stop(id, container.record.stop_signal, grace).await {
            Ok(_) | Err(ContainerError::NotFound(_)) => {}
            Err(error) => return Err(Failure::internal(&error)),
        }
        if let Ok(status) = sandbox.container(id).await {
            self.observe(status);
        }
        Ok(StopContainerResponse {})
    }

    pub(super) async fn remove_container(&self, request: RemoveContainerRequest) -> Result<RemoveContainerResponse, Failure> {
        let Ok(container) = self.container(&request.container_id) else { return Ok(RemoveContainerResponse {}) };
        let pod = self.pod(&container.record.pod)?;
        let _turn = pod.turn.lock().await;
        if let Some(sandbox) = self.pod(&container.record.pod)?.sandbox {
            let id = &container.status.id;
            if sandbox.container(id).await.is_ok_and(|status| status.state == ContainerState::Running) {
                sandbox.stop(id, 9, Duration::ZERO).await.map_err(|error| Failure::internal(&error))?;
            }
            sandbox.remove(id).await.map_err(|error| Failure::internal(&error))?;
        }
        self.forget(container.record).await?;
        Ok(RemoveContainerResponse {})
    }

    /// Forgets a container that the runtime no longer has.
    pub(super) async fn forget(&self, record: ContainerRecord) -> Result<(), Failure> {
        let (records, kept) = (self.records.clone(), record.clone());
        // What a container wrote may be a lot to remove.
        let removed = tokio::task::spawn_blocking(move || records.forget_container(&kept)).await;
        removed.map_err(|error| Failure::internal(&error))?.map_err(disk_failed(&self.records.writable(&record.id)))?;
        self.state.lock().containers.remove(&record.id);
        self.tell(&record.pod, &record.id, event::DELETED);
        Ok(())
    }

    pub(super) async fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock();
        let matching = state.containers.values().map(shown::container).filter(|container| {
            (filter.id.is_empty() || container.id.starts_with(&filter.id))
                && (filter.pod_sandbox_id.is_empty() || container.pod_sandbox_id.starts_with(&filter.pod_sandbox_id))
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == container.state)
                && shown::selects(&filter.label_selector, &container.labels)
        });
        Ok(ListContainersResponse { containers: matching.collect() })
    }

    pub(super) async fn container_status(&self, request: ContainerStatusRequest) -> Result<ContainerStatusResponse, Failure> {
        let state = self.state.lock();
        let id = &request.container_id;
        let container = find(&state.containers, id).ok_or_else(|| super::not_found("container", id))?;
        let mut info = Map::new();
        if let Some(pid) = container.status.pid.filter(|_| request.verbose) {
            info.insert("info".into(), format!("{{\"sandboxID\":\"{}\",\"pid\":{pid}}}", container.record.pod));
        }
        Ok(ContainerStatusResponse { status: Some(shown::container_status(&state, container)), info })
    }

    pub(super) async fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse, Failure> {
        let (container, sandbox) = self.living(&request.container_id)?;
        let Some(resources) = request.linux else { return Ok(UpdateContainerResourcesResponse {}) };
        sandbox.update_resources(&container.status.id, spec::limits(&resources)).await.map_err(|error| Failure::internal(&error))?;
        let record = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(&container.record.id) else { return Ok(UpdateContainerResourcesResponse {}) };
            let linux = container.record.config.get_or_insert_default().linux.get_or_insert_default();
            spec::merge(linux.resources.get_or_insert_default(), resources);
            container.record.clone()
        };
        self.records.keep_container(&record).map_err(disk_failed(&self.records.pod_dir(&record.pod)))?;
        Ok(UpdateContainerResourcesResponse {})
    }

    pub(super) async fn reopen_container_log(&self, request: ReopenContainerLogRequest) -> Result<ReopenContainerLogResponse, Failure> {
        let (container, sandbox) = self.living(&request.container_id)?;
        sandbox.reopen_log(&container.status.id).await.map_err(|error| Failure::internal(&error))?;
        Ok(ReopenContainerLogResponse {})
    }

    pub(super) async fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse, Failure> {
        let (container, sandbox) = self.running(&request.container_id)?;
        let timeout = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let output = sandbox.exec_sync(&container.status.id, request.cmd, timeout, MAX_OUTPUT).await;
        let output = output.map_err(|error| match &error {
            ExecError::Timeout { .. } => {
                let text = format!("failed to exec in container: timeout {}s exceeded: context deadline exceeded", request.timeout);
                Failure::new(Code::DeadlineExceeded, text)
            }
            ExecError::NotRunning(_) => Failure::new(Code::FailedPrecondition, error.to_string()),
            _ => Failure::new(Code::Unknown, format!("failed to exec in container: {error}")),
        })?;
        Ok(ExecSyncResponse { stdout: output.stdout.into(), stderr: output.stderr.into(), exit_code: output.exit.code })
    }

    /// A container that runs, for commands.
    pub(super) fn running(&self, id: &str) -> Result<(super::Container, runtime::Sandbox), Failure> {
        let (container, sandbox) = self.living(id)?;
        if container.status.state == ContainerState::Running {
            Ok((container, sandbox))
        } else {
            let state = shown::state_name(container.status.state);
            Err(Failure::new(Code::FailedPrecondition, format!("container is in {state} state")))
        }
    }

    /// Takes over what the runtime says about a container; what is older than what we know is left.
    pub(super) fn observe(&self, status: runtime::ContainerStatus) {
        let (record, newly) = {
            let mut state = self.state.lock();
            let Some(container) = state.containers.get_mut(status.id.as_str()) else { return };
            if container.record.end.is_some() || status.state < container.status.state {
                return;
            }
            let newly = status.state != container.status.state;
            container.record.end = EndRecord::of(&status);
            container.status = status;
            (container.record.clone(), newly.then_some(container.status.state))
        };
        if record.end.is_some()
            && let Err(error) = self.records.keep_container(&record)
        {
            tracing::error!(container = record.id, %error, "how a container ended was not kept");
        }
        match newly {
            Some(ContainerState::Running) => self.tell(&record.pod, &record.id, event::STARTED),
            Some(ContainerState::Exited) => self.tell(&record.pod, &record.id, event::STOPPED),
            _ => {}
        }
    }
}
