//! Messages about containers, and what they are made of. Names, numbers and types are those of CRI v1;
//! what is never read here is left out.

#[allow(clippy::wildcard_imports, reason = "messages refer to one another")]
use super::*;
use grpc::messages;

messages! {
    Mount {
        container_path: String = 1, host_path: String = 2, readonly: bool = 3, selinux_relabel: bool = 4, propagation: i32 = 5,
        uid_mappings: Vec<IDMapping> = 6, gid_mappings: Vec<IDMapping> = 7, recursive_read_only: bool = 8,
        image: Option<ImageSpec> = 9, image_sub_path: String = 10,
    }
    SecurityProfile { profile_type: i32 = 1, localhost_ref: String = 2 }
    KeyValue { key: String = 1, value: Bytes = 2 }
    LinuxContainerResources {
        cpu_period: i64 = 1, cpu_quota: i64 = 2, cpu_shares: i64 = 3, memory_limit_in_bytes: i64 = 4, oom_score_adj: i64 = 5,
        cpuset_cpus: String = 6, cpuset_mems: String = 7, hugepage_limits: Vec<HugepageLimit> = 8, unified: Map = 9,
        memory_swap_limit_in_bytes: i64 = 10,
    }
    HugepageLimit { page_size: String = 1, limit: u64 = 2 }
    Capability { add_capabilities: Vec<String> = 1, drop_capabilities: Vec<String> = 2, add_ambient_capabilities: Vec<String> = 3 }
    LinuxContainerSecurityContext {
        capabilities: Option<Capability> = 1, privileged: bool = 2, namespace_options: Option<NamespaceOption> = 3,
        run_as_user: Option<Int64Value> = 5, run_as_group: Option<Int64Value> = 12, run_as_username: String = 6,
        readonly_rootfs: bool = 7, supplemental_groups: Vec<i64> = 8, supplemental_groups_policy: i32 = 17,
        no_new_privs: bool = 11, masked_paths: Vec<String> = 13, readonly_paths: Vec<String> = 14,
        seccomp: Option<SecurityProfile> = 15, apparmor: Option<SecurityProfile> = 16,
    }
    LinuxContainerConfig { resources: Option<LinuxContainerResources> = 1, security_context: Option<LinuxContainerSecurityContext> = 2 }
    LinuxContainerUser { uid: i64 = 1, gid: i64 = 2, supplemental_groups: Vec<i64> = 3 }
    ContainerMetadata { name: String = 1, attempt: u32 = 2 }
    Device { container_path: String = 1, host_path: String = 2, permissions: String = 3 }
    CDIDevice { name: String = 1 }
    ContainerConfig {
        metadata: Option<ContainerMetadata> = 1, image: Option<ImageSpec> = 2, command: Vec<String> = 3, args: Vec<String> = 4,
        working_dir: String = 5, envs: Vec<KeyValue> = 6, mounts: Vec<Mount> = 7, devices: Vec<Device> = 8, labels: Map = 9,
        annotations: Map = 10, log_path: String = 11, stdin: bool = 12, stdin_once: bool = 13, tty: bool = 14,
        linux: Option<LinuxContainerConfig> = 15, cdi_devices: Vec<CDIDevice> = 17, stop_signal: i32 = 18,
    }
    CreateContainerRequest {
        pod_sandbox_id: String = 1, config: Option<ContainerConfig> = 2, sandbox_config: Option<PodSandboxConfig> = 3,
    }
    CreateContainerResponse { container_id: String = 1 }
    StartContainerRequest { container_id: String = 1 }
    StartContainerResponse {}
    StopContainerRequest { container_id: String = 1, timeout: i64 = 2 }
    StopContainerResponse {}
    RemoveContainerRequest { container_id: String = 1 }
    RemoveContainerResponse {}
    ContainerStateValue { state: i32 = 1 }
    ContainerFilter { id: String = 1, state: Option<ContainerStateValue> = 2, pod_sandbox_id: String = 3, label_selector: Map = 4 }
    ListContainersRequest { filter: Option<ContainerFilter> = 1 }
    Container {
        id: String = 1, pod_sandbox_id: String = 2, metadata: Option<ContainerMetadata> = 3, image: Option<ImageSpec> = 4,
        image_ref: String = 5, state: i32 = 6, created_at: i64 = 7, labels: Map = 8, annotations: Map = 9, image_id: String = 10,
    }
    ListContainersResponse { containers: Vec<Container> = 1 }
    ContainerStatusRequest { container_id: String = 1, verbose: bool = 2 }
    ContainerStatus {
        id: String = 1, metadata: Option<ContainerMetadata> = 2, state: i32 = 3, created_at: i64 = 4, started_at: i64 = 5,
        finished_at: i64 = 6, exit_code: i32 = 7, image: Option<ImageSpec> = 8, image_ref: String = 9, reason: String = 10,
        message: String = 11, labels: Map = 12, annotations: Map = 13, mounts: Vec<Mount> = 14, log_path: String = 15,
        resources: Option<ContainerResources> = 16, image_id: String = 17, user: Option<ContainerUser> = 18,
        stop_signal: i32 = 19,
    }
    ContainerStatusResponse { status: Option<ContainerStatus> = 1, info: Map = 2 }
    ContainerResources { linux: Option<LinuxContainerResources> = 1 }
    ContainerUser { linux: Option<LinuxContainerUser> = 1 }
    UpdateContainerResourcesRequest { container_id: String = 1, linux: Option<LinuxContainerResources> = 2, annotations: Map = 4 }
    UpdateContainerResourcesResponse {}
    ExecSyncRequest { container_id: String = 1, cmd: Vec<String> = 2, timeout: i64 = 3 }
    ExecSyncResponse { stdout: Bytes = 1, stderr: Bytes = 2, exit_code: i32 = 3 }
    ExecRequest { container_id: String = 1, cmd: Vec<String> = 2, tty: bool = 3, stdin: bool = 4, stdout: bool = 5, stderr: bool = 6 }
    ExecResponse { url: String = 1 }
    AttachRequest { container_id: String = 1, stdin: bool = 2, tty: bool = 3, stdout: bool = 4, stderr: bool = 5 }
    AttachResponse { url: String = 1 }
    ContainerAttributes { id: String = 1, metadata: Option<ContainerMetadata> = 2, labels: Map = 3, annotations: Map = 4 }
    SwapUsage { timestamp: i64 = 1, swap_available_bytes: Option<UInt64Value> = 2, swap_usage_bytes: Option<UInt64Value> = 3 }
    ReopenContainerLogRequest { container_id: String = 1 }
    ReopenContainerLogResponse {}
    CheckpointContainerRequest { container_id: String = 1, location: String = 2, timeout: i64 = 3 }
    GetEventsRequest {}
    ContainerEventResponse {
        container_id: String = 1, container_event_type: i32 = 2, created_at: i64 = 3,
        pod_sandbox_status: Option<PodSandboxStatus> = 4, containers_statuses: Vec<ContainerStatus> = 5,
    }
}
