//! The messages of device plugins, `v1beta1`.

use std::collections::BTreeMap;

/// The only version of the interface that there is.
pub const VERSION: &str = "v1beta1";
/// What a device in order says about its health.
pub const HEALTHY: &str = "Healthy";

grpc::messages! {
    Empty {}
    DevicePluginOptions { pre_start_required: bool = 1, get_preferred_allocation_available: bool = 2 }
    RegisterRequest { version: String = 1, endpoint: String = 2, resource_name: String = 3, options: Option<DevicePluginOptions> = 4 }
    ListAndWatchResponse { devices: Vec<Device> = 1 }
    NumaNode { id: i64 = 1 }
    TopologyInfo { nodes: Vec<NumaNode> = 1 }
    Device { id: String = 1, health: String = 2, topology: Option<TopologyInfo> = 3 }
    PreStartContainerRequest { device_ids: Vec<String> = 1 }
    ContainerPreferredAllocationRequest { available: Vec<String> = 1, must_include: Vec<String> = 2, size: i32 = 3 }
    PreferredAllocationRequest { container_requests: Vec<ContainerPreferredAllocationRequest> = 1 }
    ContainerPreferredAllocationResponse { device_ids: Vec<String> = 1 }
    PreferredAllocationResponse { container_responses: Vec<ContainerPreferredAllocationResponse> = 1 }
    ContainerAllocateRequest { device_ids: Vec<String> = 1 }
    AllocateRequest { container_requests: Vec<ContainerAllocateRequest> = 1 }
    CdiDevice { name: String = 1 }
    Mount { container_path: String = 1, host_path: String = 2, read_only: bool = 3 }
    DeviceSpec { container_path: String = 1, host_path: String = 2, permissions: String = 3 }
    ContainerAllocateResponse {
        envs: BTreeMap<String, String> = 1,
        mounts: Vec<Mount> = 2,
        devices: Vec<DeviceSpec> = 3,
        annotations: BTreeMap<String, String> = 4,
        cdi_devices: Vec<CdiDevice> = 5,
    }
    AllocateResponse { container_responses: Vec<ContainerAllocateResponse> = 1 }
}
