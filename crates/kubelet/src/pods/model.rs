//! What the worker knows about a pod at one moment: the spec's containers with their roles, what the runtime
//! says about every attempt, and what probes and hooks have found. Plain data; everything that decides reads this.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use runtime::{ContainerState, ContainerStatus};

/// Label of a runtime container: name in the pod.
pub const LABEL_NAME: &str = "name";
/// Label of a runtime container: how many attempts there were before.
pub const LABEL_ATTEMPT: &str = "attempt";
/// Annotation of a runtime container: hash of the part of its spec that makes a restart necessary.
pub const ANNOTATION_HASH: &str = "hash";
/// Annotation of a runtime container: image as asked for.
pub const ANNOTATION_IMAGE: &str = "image";
/// Annotation of a runtime container: image identity as in the status.
pub const ANNOTATION_IMAGE_ID: &str = "image-id";

/// Annotation of a runtime container: id of the image in the node's store.
pub const ANNOTATION_STORED: &str = "stored-image";
/// Annotation of a runtime container: number of the signal that asks it to stop.
pub const ANNOTATION_STOP_SIGNAL: &str = "stop-signal";

/// Priority of pods that the system cannot do without.
pub const SYSTEM_CRITICAL: i32 = 2_000_000_000;

/// What a container is for its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Runs to its end before the next.
    Init,
    /// An init container that keeps running (`restartPolicy: Always`).
    Sidecar,
    /// One of `containers`.
    Main,
    /// Added later for debugging; never restarted.
    Ephemeral,
}

/// A container of the spec with its role.
#[derive(Debug, Clone)]
pub struct Member {
    /// Role.
    pub role: Role,
    /// Spec; ephemeral containers are converted to the same shape.
    pub spec: Container,
    /// `targetContainerName` of an ephemeral container.
    pub target: Option<String>,
}

/// All containers of a pod in the order init, main, ephemeral.
pub fn members(spec: &PodSpec) -> Vec<Member> {
    let init = spec.init_containers.iter().flatten().map(|container| Member {
        role: if container.restart_policy.as_deref() == Some("Always") { Role::Sidecar } else { Role::Init },
        spec: container.clone(),
        target: None,
    });
    let main = spec.containers.iter().map(|container| Member { role: Role::Main, spec: container.clone(), target: None });
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|container| Member {
        role: Role::Ephemeral,
        spec: Container {
            name: container.name.clone(),
            image: container.image.clone(),
            command: container.command.clone(),
            args: container.args.clone(),
            working_dir: container.working_dir.clone(),
            env: container.env.clone(),
            env_from: container.env_from.clone(),
            image_pull_policy: container.image_pull_policy.clone(),
            resources: container.resources.clone(),
            security_context: container.security_context.clone(),
            stdin: container.stdin,
            stdin_once: container.stdin_once,
            tty: container.tty,
            termination_message_path: container.termination_message_path.clone(),
            termination_message_policy: container.termination_message_policy.clone(),
            volume_mounts: container.volume_mounts.clone(),
            volume_devices: container.volume_devices.clone(),
            ..Container::default()
        },
        target: container.target_container_name.clone(),
    });
    init.chain(main).chain(ephemeral).collect()
}

/// What is going on about one container apart from its runtime state.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Why it is not there yet: (reason, message) as in `state.waiting`.
    pub waiting: Option<(String, String)>,
    /// The image is being pulled or the container is being made.
    pub busy: bool,
    /// Not before this time (milliseconds of even time).
    pub not_before: i64,
    /// postStart has run, or there is none.
    pub post_started: bool,
    /// The startup probe passed, or there is none.
    pub started: bool,
    /// The readiness probe's last verdict; true where there is none.
    pub ready: bool,
    /// It is being stopped.
    pub stopping: bool,
    /// A liveness or startup probe gave it up: why, and the grace of the probe.
    pub unhealthy: Option<(String, Option<i64>)>,
}

/// The pod as the runtime and the probes show it.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Attempts by container name, oldest first.
    pub attempts: BTreeMap<String, Vec<ContainerStatus>>,
    /// Ended attempts of earlier sandboxes by container name, oldest first.
    pub past: BTreeMap<String, Vec<ContainerStatus>>,
    /// Progress by container name.
    pub progress: BTreeMap<String, Progress>,
    /// The sandbox is up.
    pub sandbox: bool,
    /// Addresses of the pod, the first is `podIP`.
    pub addresses: Vec<String>,
    /// Resources in force by container name, and those of the pod as a whole, see [`super::resize::WHOLE`].
    pub applied: BTreeMap<String, k8s_openapi::api::core::v1::ResourceRequirements>,
    /// Resources that the node has given, by the same names: what the spec asks for, unless there is no room for that.
    pub allocated: BTreeMap<String, k8s_openapi::api::core::v1::ResourceRequirements>,
    /// Why other resources that the spec asks for by now cannot be had here: reason and message.
    pub resize_refused: Option<(&'static str, String)>,
    /// Why what was given is not in force yet.
    pub resize_failed: Option<String>,
}

impl Observed {
    /// The newest attempt in this sandbox or an earlier one.
    pub fn latest(&self, name: &str) -> Option<&ContainerStatus> {
        self.all(name).next_back()
    }

    /// The newest attempt in this sandbox.
    pub fn here(&self, name: &str) -> Option<&ContainerStatus> {
        self.attempts.get(name)?.last()
    }

    /// The attempt before the newest.
    pub fn previous(&self, name: &str) -> Option<&ContainerStatus> {
        self.all(name).nth_back(1)
    }

    /// All attempts that are known. What was heard of those of this sandbox before is out of date.
    fn all(&self, name: &str) -> impl DoubleEndedIterator<Item = &ContainerStatus> {
        let here = self.attempts.get(name).map(Vec::as_slice).unwrap_or_default();
        let past = self.past.get(name).map(Vec::as_slice).unwrap_or_default();
        let first = here.first().map_or(u32::MAX, attempt);
        past.iter().filter(move |status| attempt(status) < first).chain(here)
    }

    /// Whether the newest attempt runs.
    pub fn is_running(&self, name: &str) -> bool {
        self.latest(name).is_some_and(|status| status.state == ContainerState::Running)
    }

    /// Exit code of the newest attempt if it has ended.
    pub fn exit_code(&self, name: &str) -> Option<i32> {
        let status = self.latest(name)?;
        (status.state == ContainerState::Exited).then(|| status.exit.map_or(255, |exit| exit.code))
    }

    /// Progress of a container; nothing known reads as the default.
    pub fn of(&self, name: &str) -> Progress {
        self.progress.get(name).cloned().unwrap_or_default()
    }

    /// Whether anything runs.
    pub fn any_running(&self) -> bool {
        self.attempts.keys().any(|name| self.is_running(name))
    }

    /// Whether a container is being started, and nothing keeps it from that.
    pub fn any_starting(&self) -> bool {
        self.progress.values().any(|progress| progress.busy && progress.waiting.is_none())
    }
}

/// Which attempt a runtime container is.
pub fn attempt(status: &ContainerStatus) -> u32 {
    status.labels.get(LABEL_ATTEMPT).and_then(|attempt| attempt.parse().ok()).unwrap_or(0)
}

/// The signal that asks an attempt to stop.
pub fn stop_signal(status: &ContainerStatus) -> i32 {
    let given = status.annotations.get(ANNOTATION_STOP_SIGNAL).and_then(|signal| signal.parse().ok());
    given.unwrap_or(super::signals::TERM)
}

/// Groups runtime containers by name, oldest attempt first.
pub fn group(statuses: Vec<ContainerStatus>) -> BTreeMap<String, Vec<ContainerStatus>> {
    let mut groups: BTreeMap<String, Vec<ContainerStatus>> = BTreeMap::new();
    for status in statuses {
        if let Some(name) = status.labels.get(LABEL_NAME) {
            groups.entry(name.clone()).or_default().push(status);
        }
    }
    groups.values_mut().for_each(|attempts| attempts.sort_by_key(attempt));
    groups
}

/// Whether the node must not throw the pod out: it is the node's own, or as important as the system.
pub fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0);
    super::statics::is_static(pod) || super::statics::is_mirror(pod) || priority >= SYSTEM_CRITICAL
}

/// UID of a pod, empty if it has none.
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or("")
}

/// Namespace of a pod.
pub fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or("")
}

/// Name of a pod.
pub fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or("")
}
