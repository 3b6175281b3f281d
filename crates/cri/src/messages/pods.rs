//! Messages about pod sandboxes. Names, numbers and types are those of CRI v1;
//! what is never read here is left out.

#[allow(clippy::wildcard_imports, reason = "messages refer to one another")]
use super::*;
use grpc::messages;

messages! {
    DNSConfig { servers: Vec<String> = 1, searches: Vec<String> = 2, options: Vec<String> = 3 }
    PortMapping { protocol: i32 = 1, container_port: i32 = 2, host_port: i32 = 3, host_ip: String = 4 }
    IDMapping { host_id: u32 = 1, container_id: u32 = 2, length: u32 = 3 }
    UserNamespace { mode: i32 = 1, uids: Vec<IDMapping> = 2, gids: Vec<IDMapping> = 3 }
    NamespaceOption { network: i32 = 1, pid: i32 = 2, ipc: i32 = 3, target_id: String = 4, userns_options: Option<UserNamespace> = 5 }
    LinuxSandboxSecurityContext {
        namespace_options: Option<NamespaceOption> = 1, run_as_user: Option<Int64Value> = 3,
        run_as_group: Option<Int64Value> = 8, readonly_rootfs: bool = 4, supplemental_groups: Vec<i64> = 5,
        supplemental_groups_policy: i32 = 11, privileged: bool = 6, seccomp: Option<SecurityProfile> = 9,
        apparmor: Option<SecurityProfile> = 10,
    }
    LinuxPodSandboxConfig {
        cgroup_parent: String = 1, security_context: Option<LinuxSandboxSecurityContext> = 2, sysctls: Map = 3,
        overhead: Option<LinuxContainerResources> = 4, resources: Option<LinuxContainerResources> = 5,
    }
    PodSandboxMetadata { name: String = 1, uid: String = 2, namespace: String = 3, attempt: u32 = 4 }
    PodSandboxConfig {
        metadata: Option<PodSandboxMetadata> = 1, hostname: String = 2, log_directory: String = 3,
        dns_config: Option<DNSConfig> = 4, port_mappings: Vec<PortMapping> = 5, labels: Map = 6, annotations: Map = 7,
        linux: Option<LinuxPodSandboxConfig> = 8,
    }
    RunPodSandboxRequest { config: Option<PodSandboxConfig> = 1, runtime_handler: String = 2 }
    RunPodSandboxResponse { pod_sandbox_id: String = 1 }
    StopPodSandboxRequest { pod_sandbox_id: String = 1 }
    StopPodSandboxResponse {}
    RemovePodSandboxRequest { pod_sandbox_id: String = 1 }
    RemovePodSandboxResponse {}
    PodSandboxStatusRequest { pod_sandbox_id: String = 1, verbose: bool = 2 }
    PodIP { ip: String = 1 }
    PodSandboxNetworkStatus { ip: String = 1, additional_ips: Vec<PodIP> = 2 }
    Namespace { options: Option<NamespaceOption> = 2 }
    LinuxPodSandboxStatus { namespaces: Option<Namespace> = 1 }
    PodSandboxStatus {
        id: String = 1, metadata: Option<PodSandboxMetadata> = 2, state: i32 = 3, created_at: i64 = 4,
        network: Option<PodSandboxNetworkStatus> = 5, linux: Option<LinuxPodSandboxStatus> = 6, labels: Map = 7,
        annotations: Map = 8, runtime_handler: String = 9,
    }
    PodSandboxStatusResponse {
        status: Option<PodSandboxStatus> = 1, info: Map = 2, containers_statuses: Vec<ContainerStatus> = 3, timestamp: i64 = 4,
    }
    PodSandboxStateValue { state: i32 = 1 }
    PodSandboxFilter { id: String = 1, state: Option<PodSandboxStateValue> = 2, label_selector: Map = 3 }
    ListPodSandboxRequest { filter: Option<PodSandboxFilter> = 1 }
    PodSandbox {
        id: String = 1, metadata: Option<PodSandboxMetadata> = 2, state: i32 = 3, created_at: i64 = 4, labels: Map = 5,
        annotations: Map = 6, runtime_handler: String = 7,
    }
    ListPodSandboxResponse { items: Vec<PodSandbox> = 1 }
    PodSandboxAttributes { id: String = 1, metadata: Option<PodSandboxMetadata> = 2, labels: Map = 3, annotations: Map = 4 }
    PortForwardRequest { pod_sandbox_id: String = 1, port: Vec<i32> = 2 }
    PortForwardResponse { url: String = 1 }
    UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: String = 1, overhead: Option<LinuxContainerResources> = 2,
        resources: Option<LinuxContainerResources> = 3,
    }
    UpdatePodSandboxResourcesResponse {}
}
