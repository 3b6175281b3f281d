//! Calls about pod sandboxes.

use std::net::IpAddr;
use std::path::Path;

use net::HostPort;
use net::dataplane::Protocol;
use runtime::{ContainerState, IdMapping, NameSpace, NetNs, Sandbox, SandboxSpec, UserNs};

use super::records::{EndRecord, PodRecord};
use super::{Pod, Service, disk_failed, find, new_id, now, sandbox_id, shown};
use crate::messages::*;
use grpc::{Code, Failure};

impl Service {
    pub(super) async fn run_pod_sandbox(&self, request: RunPodSandboxRequest) -> Result<RunPodSandboxResponse, Failure> {
        let config = request.config.ok_or_else(|| Failure::new(Code::InvalidArgument, "the sandbox has no configuration"))?;
        if !request.runtime_handler.is_empty() {
            let text = format!("no runtime for {:?} is configured", request.runtime_handler);
            return Err(Failure::new(Code::InvalidArgument, text));
        }
        let metadata = config.metadata.clone().unwrap_or_default();
        let taken = |pod: &Pod| pod.record.config.as_ref().and_then(|config| config.metadata.as_ref()) == Some(&metadata);
        if let Some(pod) = self.state.lock().pods.values().find(|pod| taken(pod)) {
            let text = format!("a sandbox of this name, uid and attempt exists already: {:?}", pod.record.id);
            return Err(Failure::new(Code::AlreadyExists, text));
        }
        let id = new_id();
        let spec = sandbox_spec(&id, &config)?;
        let mut record = PodRecord { id: id.clone(), config: Some(config.clone()), created_at: now(), ..PodRecord::default() };
        let dir = self.records.pod_dir(&id);
        self.records.keep_pod(&record).map_err(disk_failed(&dir))?;
        let outcome = async {
            write_files(&dir.join("etc"), &config).map_err(disk_failed(&dir))?;
            let own_network = spec.net == NetNs::New;
            let sandbox = self.runtime.create_sandbox(spec).await.map_err(|error| Failure::internal(&error))?;
            if own_network {
                let attached = self.network.attach(&id, &sandbox.netns_path(), |address| host_ports(&config, address)).await;
                match attached {
                    Ok(addresses) => record.addresses = addresses,
                    Err(error) => {
                        super::discard(sandbox).await;
                        let text = format!("failed to setup network for sandbox {id:?}: {}", Failure::internal(&error));
                        return Err(Failure::new(Code::Unknown, text));
                    }
                }
            }
            self.records.keep_pod(&record).map_err(disk_failed(&dir))?;
            Ok(sandbox)
        };
        let sandbox = match outcome.await {
            Ok(sandbox) => sandbox,
            Err(failure) => {
                if let Err(error) = self.records.forget_pod(&id) {
                    tracing::warn!(%error, "the record of a sandbox that failed stays");
                }
                return Err(failure);
            }
        };
        let pod = Pod { record, sandbox: Some(sandbox), turn: std::sync::Arc::default() };
        self.state.lock().pods.insert(id.clone(), pod);
        self.tell(&id, &id, event::CREATED);
        self.tell(&id, &id, event::STARTED);
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    pub(super) async fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse, Failure> {
        let Ok(pod) = self.pod(&request.pod_sandbox_id) else { return Ok(StopPodSandboxResponse {}) };
        let _turn = pod.turn.lock().await;
        self.stop_pod(&pod.record.id).await?;
        Ok(StopPodSandboxResponse {})
    }

    /// Ends everything that runs of a pod. The caller has the pod's turn.
    async fn stop_pod(&self, id: &str) -> Result<(), Failure> {
        let pod = self.pod(id)?;
        if let Some(sandbox) = pod.sandbox.clone() {
            self.end_containers(&sandbox).await?;
            self.network.detach(id);
            sandbox.destroy().await.map_err(|error| Failure::internal(&error))?;
        }
        self.close(id)
    }

    /// Kills what runs, and notes how everything ended.
    async fn end_containers(&self, sandbox: &Sandbox) -> Result<(), Failure> {
        for status in sandbox.status().await.map_err(|error| Failure::internal(&error))? {
            if status.state == ContainerState::Running
                && let Err(error) = sandbox.stop(&status.id, 9, std::time::Duration::ZERO).await
            {
                tracing::debug!(container = %status.id, %error, "stop with its sandbox");
            }
        }
        for status in sandbox.status().await.map_err(|error| Failure::internal(&error))? {
            self.observe(status);
        }
        Ok(())
    }

    /// The pod has no sandbox any more; containers that never ran to an end have none to come.
    pub(super) fn close(&self, id: &str) -> Result<(), Failure> {
        let mut ended = Vec::new();
        let newly = {
            let mut state = self.state.lock();
            let Some(pod) = state.pods.get_mut(id) else { return Ok(()) };
            pod.sandbox = None;
            let newly = !std::mem::replace(&mut pod.record.stopped, true);
            let record = pod.record.clone();
            for container in state.containers.values_mut().filter(|container| container.record.pod == id && container.record.end.is_none())
            {
                let end = EndRecord::unknown(now());
                container.status = end.status(container.status.id.clone(), container.record.created_at);
                container.record.end = Some(end);
                ended.push(container.record.clone());
            }
            if newly {
                self.records.keep_pod(&record).map_err(disk_failed(&self.records.pod_dir(id)))?;
            }
            newly
        };
        for record in &ended {
            self.records.keep_container(record).map_err(disk_failed(&self.records.pod_dir(id)))?;
        }
        if newly {
            self.tell(id, id, event::STOPPED);
        }
        Ok(())
    }

    pub(super) async fn remove_pod_sandbox(&self, request: RemovePodSandboxRequest) -> Result<RemovePodSandboxResponse, Failure> {
        let Ok(pod) = self.pod(&request.pod_sandbox_id) else { return Ok(RemovePodSandboxResponse {}) };
        let _turn = pod.turn.lock().await;
        let id = &pod.record.id;
        if self.pod(id).is_err() {
            return Ok(RemovePodSandboxResponse {});
        }
        self.stop_pod(id).await?;
        let containers: Vec<_> = {
            let state = self.state.lock();
            state.containers.values().filter(|container| container.record.pod == *id).map(|container| container.record.clone()).collect()
        };
        for record in containers {
            self.forget(record).await?;
        }
        self.tell(id, id, event::DELETED);
        self.state.lock().pods.remove(id);
        self.records.forget_pod(id).map_err(disk_failed(&self.records.pod_dir(id)))?;
        Ok(RemovePodSandboxResponse {})
    }

    pub(super) async fn pod_sandbox_status(&self, request: PodSandboxStatusRequest) -> Result<PodSandboxStatusResponse, Failure> {
        let state = self.state.lock();
        let id = &request.pod_sandbox_id;
        let pod = find(&state.pods, id).ok_or_else(|| super::not_found("sandbox", id))?;
        let mut info = Map::new();
        if let Some(sandbox) = pod.sandbox.as_ref().filter(|_| request.verbose) {
            info.insert("info".into(), format!("{{\"pid\":{}}}", sandbox.pid()));
        }
        let containers_statuses = shown::statuses(&state, &pod.record.id);
        Ok(PodSandboxStatusResponse { status: Some(shown::pod_status(pod)), info, containers_statuses, timestamp: now() })
    }

    pub(super) async fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse, Failure> {
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock();
        let matching = state.pods.values().map(shown::pod).filter(|pod| {
            (filter.id.is_empty() || pod.id.starts_with(&filter.id))
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == pod.state)
                && shown::selects(&filter.label_selector, &pod.labels)
        });
        Ok(ListPodSandboxResponse { items: matching.collect() })
    }

    /// Limits of the whole pod are those of its cgroup, which is its kubelet's.
    pub(super) async fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse, Failure> {
        self.pod(&request.pod_sandbox_id)?;
        Ok(UpdatePodSandboxResourcesResponse {})
    }
}

fn sandbox_spec(id: &str, config: &PodSandboxConfig) -> Result<SandboxSpec, Failure> {
    let linux = config.linux.clone().unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    let spaces = security.namespace_options.unwrap_or_default();
    let parent = if linux.cgroup_parent.is_empty() { format!("cri/{id}") } else { absolute(&linux.cgroup_parent) };
    let mut spec = SandboxSpec::new(sandbox_id(id)?, parent);
    let on_host = spaces.network == namespace::NODE;
    spec.hostname = if on_host { String::new() } else { config.hostname.clone() };
    spec.net = if on_host { NetNs::Host } else { NetNs::New };
    spec.uts = if on_host { NameSpace::Host } else { NameSpace::Pod };
    spec.ipc = if spaces.ipc == namespace::NODE { NameSpace::Host } else { NameSpace::Pod };
    spec.sysctls = linux.sysctls;
    if spaces.userns_options.as_ref().is_some_and(|options| ![namespace::POD, namespace::NODE].contains(&options.mode)) {
        return Err(Failure::new(Code::InvalidArgument, "users have a name space of the pod or of the node, of no container"));
    }
    spec.user_ns = spaces.userns_options.as_ref().filter(|options| options.mode == namespace::POD).map(user_ns);
    if spec.user_ns.is_some() && (on_host || spaces.pid == namespace::NODE || spec.ipc == NameSpace::Host) {
        return Err(Failure::new(Code::InvalidArgument, "a user name space for the pod goes with no name space of the node"));
    }
    spec.log_dir = Some(&config.log_directory).filter(|dir| !dir.is_empty()).map(Into::into);
    Ok(spec)
}

/// What a user name space maps.
fn user_ns(options: &UserNamespace) -> UserNs {
    let ranges = |list: &[IDMapping]| {
        let range = |range: &IDMapping| IdMapping { container_id: range.container_id, host_id: range.host_id, size: range.length };
        list.iter().map(range).collect()
    };
    UserNs { uids: ranges(&options.uids), gids: ranges(&options.gids) }
}

/// Groups that callers name lie below the visible root.
fn absolute(group: &str) -> String {
    format!("/{}", group.trim_start_matches('/'))
}

/// What a pod's containers find in `/etc` unless their configuration mounts something there.
fn write_files(etc: &Path, config: &PodSandboxConfig) -> std::io::Result<()> {
    std::fs::create_dir_all(etc)?;
    let of_node = |file: &str| std::fs::read_to_string(Path::new("/etc").join(file)).unwrap_or_default();
    let resolver = match &config.dns_config {
        None => of_node("resolv.conf"),
        Some(dns) => {
            let mut text = String::new();
            if !dns.searches.is_empty() {
                text.push_str(&format!("search {}\n", dns.searches.join(" ")));
            }
            dns.servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
            if !dns.options.is_empty() {
                text.push_str(&format!("options {}\n", dns.options.join(" ")));
            }
            text
        }
    };
    std::fs::write(etc.join("resolv.conf"), resolver)?;
    let hostname = if config.hostname.is_empty() { of_node("hostname") } else { format!("{}\n", config.hostname) };
    std::fs::write(etc.join("hostname"), hostname)?;
    std::fs::write(etc.join("hosts"), of_node("hosts"))
}

/// The host ports of a pod with this address.
pub(super) fn host_ports(config: &PodSandboxConfig, address: IpAddr) -> Vec<HostPort> {
    let ports = config.port_mappings.iter().filter_map(|port| {
        Some(HostPort {
            host_ip: Some(&port.host_ip).filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok()),
            protocol: match port.protocol {
                protocol::UDP => Protocol::Udp,
                protocol::SCTP => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            host_port: u16::try_from(port.host_port).ok().filter(|port| *port > 0)?,
            pod_ip: address,
            pod_port: u16::try_from(port.container_port).ok()?,
        })
    });
    ports.collect()
}
