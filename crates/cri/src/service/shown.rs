//! Pods and containers in CRI's words.

use runtime::ContainerState;

use super::{Container as Known, Pod, State};
use crate::messages::*;

/// Whether labels have everything that a selector asks for.
pub fn selects(selector: &Map, labels: &Map) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

fn pod_state(pod: &Pod) -> i32 {
    if pod.sandbox.is_some() { sandbox_state::READY } else { sandbox_state::NOT_READY }
}

/// A pod in a list.
pub fn pod(pod: &Pod) -> PodSandbox {
    let config = pod.record.config.clone().unwrap_or_default();
    PodSandbox {
        id: pod.record.id.clone(),
        metadata: config.metadata,
        state: pod_state(pod),
        created_at: pod.record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: pod.record.handler.clone(),
    }
}

/// The whole status of a pod.
pub fn pod_status(pod: &Pod) -> PodSandboxStatus {
    let config = pod.record.config.clone().unwrap_or_default();
    let mut addresses = pod.record.addresses.iter().cloned();
    let options = config.linux.and_then(|linux| linux.security_context).and_then(|security| security.namespace_options);
    PodSandboxStatus {
        id: pod.record.id.clone(),
        metadata: config.metadata,
        state: pod_state(pod),
        created_at: pod.record.created_at,
        network: Some(PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| PodIP { ip }).collect(),
        }),
        linux: Some(LinuxPodSandboxStatus { namespaces: Some(Namespace { options }) }),
        labels: config.labels,
        annotations: config.annotations,
        runtime_handler: pod.record.handler.clone(),
    }
}

/// Statuses of a pod's containers.
pub fn statuses(state: &State, pod: &str) -> Vec<ContainerStatus> {
    let of_pod = state.containers.values().filter(|container| container.record.pod == pod);
    of_pod.map(|container| container_status(state, container)).collect()
}

/// A state in upstream's words.
pub fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "CONTAINER_CREATED",
        ContainerState::Running => "CONTAINER_RUNNING",
        ContainerState::Exited => "CONTAINER_EXITED",
    }
}

fn state_of(container: &Known) -> i32 {
    match container.status.state {
        ContainerState::Created => container_state::CREATED,
        ContainerState::Running => container_state::RUNNING,
        ContainerState::Exited => container_state::EXITED,
    }
}

/// A container in a list.
pub fn container(container: &Known) -> Container {
    let config = container.record.config.clone().unwrap_or_default();
    Container {
        id: container.record.id.clone(),
        pod_sandbox_id: container.record.pod.clone(),
        metadata: config.metadata,
        image: config.image,
        // What kubelets compare with the ids of images in their lists.
        image_ref: container.record.image_id.clone(),
        state: state_of(container),
        created_at: container.record.created_at,
        labels: config.labels,
        annotations: config.annotations,
        image_id: container.record.image_id.clone(),
    }
}

/// The whole status of a container.
pub fn container_status(state: &State, container: &Known) -> ContainerStatus {
    let config = container.record.config.clone().unwrap_or_default();
    let status = &container.status;
    let logs = state.pods.get(&container.record.pod).and_then(|pod| pod.record.config.as_ref()).map(|config| config.log_directory.clone());
    let log_path = std::path::Path::new(&logs.unwrap_or_default()).join(&config.log_path);
    let user = LinuxContainerUser {
        uid: status.user.uid.into(),
        gid: status.user.gid.into(),
        supplemental_groups: status.user.supplemental.iter().map(|gid| i64::from(*gid)).collect(),
    };
    let mut image = config.image.clone().unwrap_or_default();
    if !image.user_specified_image.is_empty() {
        image.image.clone_from(&image.user_specified_image);
    }
    ContainerStatus {
        id: container.record.id.clone(),
        metadata: config.metadata,
        state: state_of(container),
        created_at: container.record.created_at,
        started_at: status.started_at.unwrap_or(0),
        finished_at: status.finished_at.unwrap_or(0),
        exit_code: status.exit.map_or(0, |exit| exit.code),
        image: Some(image),
        image_ref: container.record.image_ref.clone(),
        reason: status.reason.clone(),
        message: status.message.clone(),
        labels: config.labels,
        annotations: config.annotations,
        mounts: config.mounts,
        log_path: log_path.to_string_lossy().into_owned(),
        resources: config.linux.and_then(|linux| linux.resources).map(|linux| ContainerResources { linux: Some(linux) }),
        image_id: container.record.image_id.clone(),
        user: Some(ContainerUser { linux: Some(user) }),
        stop_signal: signal_value(container.record.stop_signal),
    }
}
