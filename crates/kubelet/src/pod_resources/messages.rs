//! The messages of the podresources API, `v1`.

grpc::messages! {
    NumaNode { id: i64 = 1 }
    TopologyInfo { nodes: Vec<NumaNode> = 1 }
    ContainerDevices { resource_name: String = 1, device_ids: Vec<String> = 2, topology: Option<TopologyInfo> = 3 }
    ContainerMemory { memory_type: String = 1, size: u64 = 2, topology: Option<TopologyInfo> = 3 }
    ContainerResources {
        name: String = 1,
        devices: Vec<ContainerDevices> = 2,
        cpu_ids: Vec<i64> = 3,
        memory: Vec<ContainerMemory> = 4,
    }
    PodResources { name: String = 1, namespace: String = 2, containers: Vec<ContainerResources> = 3 }
    ListPodResourcesResponse { pod_resources: Vec<PodResources> = 1 }
    AllocatableResourcesResponse { devices: Vec<ContainerDevices> = 1, cpu_ids: Vec<i64> = 2, memory: Vec<ContainerMemory> = 3 }
    GetPodResourcesRequest { pod_name: String = 1, pod_namespace: String = 2 }
    GetPodResourcesResponse { pod_resources: Option<PodResources> = 1 }
}
