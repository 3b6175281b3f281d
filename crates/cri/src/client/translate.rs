//! From what our kubelet would have our own runtime start to CRI's words, and back from its statuses.

use cgroup::Limits;
use runtime::{
    Bind, ContainerId, ContainerSpec, ContainerState, ContainerStatus, ExitStatus, Mount as RuntimeMount, PidMode, Propagation,
    ResolvedUser, Seccomp, Source, SupplementalGroups, UserRef,
};

use crate::messages::{self, *};
use grpc::{Code, Failure};

/// What a container is made from.
pub struct Given<'a> {
    /// As our own runtime would get it; program and files are the image's where they are not given here.
    pub spec: ContainerSpec,
    /// Name in the pod.
    pub name: &'a str,
    /// Which attempt.
    pub attempt: u32,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    /// The image as the runtime knows it.
    pub image_id: &'a str,
    /// The image as it was asked for.
    pub image: &'a str,
    /// CDI devices that it gets, by name.
    pub cdi_devices: &'a [String],
    /// The pod.
    pub sandbox: &'a PodSandboxConfig,
}

fn unsupported(text: impl Into<String>) -> Failure {
    Failure::new(Code::Unimplemented, text)
}

/// The configuration of a container.
///
/// # Errors
/// Something that cannot be said in these words.
pub fn container(given: &Given) -> Result<ContainerConfig, Failure> {
    let spec = &given.spec;
    let mut labels = spec.labels.clone();
    labels.insert("io.kubernetes.container.name".into(), given.name.to_owned());
    for label in ["io.kubernetes.pod.name", "io.kubernetes.pod.namespace", super::LABEL_UID] {
        labels.extend(given.sandbox.labels.get(label).map(|value| (label.to_owned(), value.clone())));
    }
    let envs = spec
        .env
        .iter()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| KeyValue { key: key.to_owned(), value: value.to_owned().into() });
    let devices = spec.devices.iter().map(|device| Device {
        container_path: device.container_path.to_string_lossy().into_owned(),
        host_path: device.host_path.to_string_lossy().into_owned(),
        permissions: device.permissions.clone(),
    });
    let of_pod = given.sandbox.linux.clone().unwrap_or_default().security_context.unwrap_or_default().namespace_options.unwrap_or_default();
    let users = of_pod.userns_options.unwrap_or_default();
    let log = spec.log.as_ref().map(|log| log.path.strip_prefix(&given.sandbox.log_directory).unwrap_or(&log.path));
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata { name: given.name.to_owned(), attempt: given.attempt }),
        image: Some(ImageSpec { image: given.image_id.to_owned(), user_specified_image: given.image.to_owned(), ..ImageSpec::default() }),
        command: given.command.clone(),
        args: given.args.clone(),
        working_dir: spec.cwd.clone(),
        envs: envs.collect(),
        mounts: spec.mounts.iter().map(|one| mount(one, &users)).collect::<Result<_, _>>()?,
        devices: devices.collect(),
        labels,
        annotations: spec.annotations.clone(),
        log_path: log.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(&spec.limits, spec.oom_score_adj)),
            security_context: Some(security(given)?),
        }),
        cdi_devices: given.cdi_devices.iter().map(|name| CDIDevice { name: name.clone() }).collect(),
        stop_signal: spec.stop_signal.map_or(0, signal_value),
    })
}

fn security(given: &Given) -> Result<LinuxContainerSecurityContext, Failure> {
    let spec = &given.spec;
    let pod = given.sandbox.linux.clone().unwrap_or_default().security_context.unwrap_or_default().namespace_options.unwrap_or_default();
    let pid = match &spec.pid {
        PidMode::Container => namespace::CONTAINER,
        PidMode::Pod => namespace::POD,
        PidMode::Host => namespace::NODE,
        PidMode::Target(_) => return Err(unsupported("targetContainerName is not supported with this container runtime")),
    };
    let capabilities = (!spec.privileged).then(|| Capability {
        add_capabilities: spec.capabilities.permitted.iter().map(|name| name.trim_start_matches("CAP_").to_owned()).collect(),
        drop_capabilities: vec!["ALL".to_owned()],
        ..Capability::default()
    });
    let profile = |profile_type| Some(SecurityProfile { profile_type, localhost_ref: String::new() });
    Ok(LinuxContainerSecurityContext {
        capabilities,
        privileged: spec.privileged,
        namespace_options: Some(NamespaceOption {
            network: pod.network,
            pid,
            ipc: pod.ipc,
            userns_options: pod.userns_options,
            ..NamespaceOption::default()
        }),
        // Names come from the image, which its runtime reads itself.
        run_as_user: match spec.user.user {
            UserRef::Id(uid) => Some(Int64Value { value: uid.into() }),
            UserRef::Root | UserRef::Name(_) => None,
        },
        run_as_group: spec.user.group.map(|gid| Int64Value { value: gid.into() }),
        readonly_rootfs: spec.read_only_root,
        supplemental_groups: spec.user.supplemental.iter().map(|gid| i64::from(*gid)).collect(),
        supplemental_groups_policy: match spec.user.policy {
            SupplementalGroups::Merge => groups_policy::MERGE,
            SupplementalGroups::Strict => groups_policy::STRICT,
        },
        no_new_privs: spec.no_new_privs,
        masked_paths: spec.masked_paths.clone(),
        readonly_paths: spec.read_only_paths.clone(),
        seccomp: match &spec.seccomp {
            Seccomp::RuntimeDefault => profile(profile::RUNTIME_DEFAULT),
            Seccomp::Unconfined => profile(profile::UNCONFINED),
            Seccomp::Custom(_) => return Err(unsupported("seccomp profiles of files are not supported with this container runtime")),
        },
        ..LinuxContainerSecurityContext::default()
    })
}

fn mount(mount: &RuntimeMount, users: &UserNamespace) -> Result<Mount, Failure> {
    let RuntimeMount::Bind(Bind { source, target, read_only, recursive_read_only, propagation, id_mapped }) = mount else {
        return Err(unsupported("image volumes are not supported with this container runtime"));
    };
    let Source::Path(source) = source else {
        return Err(unsupported("subPath is not supported with this container runtime"));
    };
    Ok(Mount {
        container_path: target.to_string_lossy().into_owned(),
        host_path: source.to_string_lossy().into_owned(),
        readonly: *read_only,
        recursive_read_only: *recursive_read_only,
        propagation: match propagation {
            Propagation::Private => messages::propagation::PRIVATE,
            Propagation::Slave => messages::propagation::HOST_TO_CONTAINER,
            Propagation::Shared => messages::propagation::BIDIRECTIONAL,
        },
        uid_mappings: if *id_mapped { users.uids.clone() } else { Vec::new() },
        gid_mappings: if *id_mapped { users.gids.clone() } else { Vec::new() },
        ..Mount::default()
    })
}

/// Limits in CRI's words.
pub fn resources(limits: &Limits, oom_score: Option<i32>) -> LinuxContainerResources {
    let number = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: number(limits.cpu_period),
        cpu_quota: limits.cpu_quota.unwrap_or(0),
        cpu_shares: number(limits.cpu_shares),
        memory_limit_in_bytes: limits.memory_limit.unwrap_or(0),
        memory_swap_limit_in_bytes: limits.swap_limit.unwrap_or(0),
        oom_score_adj: oom_score.unwrap_or(0).into(),
        cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: limits
            .hugepages
            .iter()
            .map(|limit| HugepageLimit { page_size: limit.page_size.clone(), limit: limit.limit })
            .collect(),
        unified: limits.unified.iter().cloned().collect(),
    }
}

/// A status in our runtime's words; none for a container that is not ours.
pub fn status(status: messages::ContainerStatus) -> Option<ContainerStatus> {
    let metadata = status.metadata?;
    let time = |time: i64| Some(time).filter(|time| *time > 0);
    let state = match status.state {
        container_state::CREATED => ContainerState::Created,
        container_state::RUNNING => ContainerState::Running,
        _ => ContainerState::Exited,
    };
    let user = status.user.and_then(|user| user.linux).unwrap_or_default();
    let id = |id: i64| u32::try_from(id).unwrap_or(0);
    Some(ContainerStatus {
        id: ContainerId::new(format!("{}-{}", metadata.name, metadata.attempt)).ok()?,
        state,
        pid: None,
        created_at: status.created_at,
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit: (state == ContainerState::Exited).then_some(ExitStatus { code: status.exit_code, signal: None }),
        oom_killed: status.reason == "OOMKilled",
        reason: status.reason,
        message: status.message,
        user: ResolvedUser { uid: id(user.uid), gid: id(user.gid), supplemental: user.supplemental_groups.into_iter().map(id).collect() },
        log_path: Some(status.log_path.into()),
        labels: status.labels,
        annotations: status.annotations,
    })
}
