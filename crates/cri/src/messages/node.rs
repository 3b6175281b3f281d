//! Messages about the runtime as a whole, and what is used. Names, numbers and types are those of CRI v1;
//! what is never read here is left out.

#[allow(clippy::wildcard_imports, reason = "messages refer to one another")]
use super::*;
use grpc::messages;

messages! {
    VersionRequest { version: String = 1 }
    VersionResponse { version: String = 1, runtime_name: String = 2, runtime_version: String = 3, runtime_api_version: String = 4 }
    Int64Value { value: i64 = 1 }
    PodSandboxStatsRequest { pod_sandbox_id: String = 1 }
    PodSandboxStatsResponse { stats: Option<PodSandboxStats> = 1 }
    PodSandboxStatsFilter { id: String = 1, label_selector: Map = 2 }
    ListPodSandboxStatsRequest { filter: Option<PodSandboxStatsFilter> = 1 }
    ListPodSandboxStatsResponse { stats: Vec<PodSandboxStats> = 1 }
    PodSandboxStats { attributes: Option<PodSandboxAttributes> = 1, linux: Option<LinuxPodSandboxStats> = 2 }
    LinuxPodSandboxStats {
        cpu: Option<CpuUsage> = 1, memory: Option<MemoryUsage> = 2, network: Option<NetworkUsage> = 3,
        process: Option<ProcessUsage> = 4, containers: Vec<ContainerStats> = 5,
    }
    NetworkUsage {
        timestamp: i64 = 1, default_interface: Option<NetworkInterfaceUsage> = 2, interfaces: Vec<NetworkInterfaceUsage> = 3,
    }
    NetworkInterfaceUsage {
        name: String = 1, rx_bytes: Option<UInt64Value> = 2, rx_errors: Option<UInt64Value> = 3,
        tx_bytes: Option<UInt64Value> = 4, tx_errors: Option<UInt64Value> = 5,
    }
    ProcessUsage { timestamp: i64 = 1, process_count: Option<UInt64Value> = 2 }
    NetworkConfig { pod_cidr: String = 1 }
    RuntimeConfig { network_config: Option<NetworkConfig> = 1 }
    UpdateRuntimeConfigRequest { runtime_config: Option<RuntimeConfig> = 1 }
    UpdateRuntimeConfigResponse {}
    RuntimeCondition { kind: String = 1, status: bool = 2, reason: String = 3, message: String = 4 }
    RuntimeStatus { conditions: Vec<RuntimeCondition> = 1 }
    StatusRequest { verbose: bool = 1 }
    RuntimeHandlerFeatures { recursive_read_only_mounts: bool = 1, user_namespaces: bool = 2 }
    RuntimeHandler { name: String = 1, features: Option<RuntimeHandlerFeatures> = 2 }
    RuntimeFeatures { supplemental_groups_policy: bool = 1, user_namespaces_host_network: bool = 2 }
    StatusResponse {
        status: Option<RuntimeStatus> = 1, info: Map = 2, runtime_handlers: Vec<RuntimeHandler> = 3,
        features: Option<RuntimeFeatures> = 4,
    }
    UInt64Value { value: u64 = 1 }
    ContainerStatsRequest { container_id: String = 1 }
    ContainerStatsResponse { stats: Option<ContainerStats> = 1 }
    ContainerStatsFilter { id: String = 1, pod_sandbox_id: String = 2, label_selector: Map = 3 }
    ListContainerStatsRequest { filter: Option<ContainerStatsFilter> = 1 }
    ListContainerStatsResponse { stats: Vec<ContainerStats> = 1 }
    ContainerStats {
        attributes: Option<ContainerAttributes> = 1, cpu: Option<CpuUsage> = 2, memory: Option<MemoryUsage> = 3,
        writable_layer: Option<FilesystemUsage> = 4,
    }
    CpuUsage { timestamp: i64 = 1, usage_core_nano_seconds: Option<UInt64Value> = 2, usage_nano_cores: Option<UInt64Value> = 3 }
    MemoryUsage {
        timestamp: i64 = 1, working_set_bytes: Option<UInt64Value> = 2, available_bytes: Option<UInt64Value> = 3,
        usage_bytes: Option<UInt64Value> = 4, rss_bytes: Option<UInt64Value> = 5, page_faults: Option<UInt64Value> = 6,
        major_page_faults: Option<UInt64Value> = 7,
    }
    ListMetricDescriptorsResponse {}
    ListPodSandboxMetricsResponse {}
    RuntimeConfigRequest {}
    RuntimeConfigResponse { linux: Option<LinuxRuntimeConfiguration> = 1 }
    LinuxRuntimeConfiguration { cgroup_driver: i32 = 1 }
}
