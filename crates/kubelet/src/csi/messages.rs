//! Messages of the Container Storage Interface 1 as far as a node speaks it, and of plugin registration: field numbers
//! are those of `csi.proto` and `pluginregistration.proto`.

use std::collections::BTreeMap;

use grpc::messages;

messages! {
    Empty {}

    InfoRequest {}
    PluginInfo { kind: String = 1, name: String = 2, endpoint: String = 3, versions: Vec<String> = 4 }
    RegistrationStatus { registered: bool = 1, error: String = 2 }

    NodeGetInfoResponse { node_id: String = 1, max_volumes: i64 = 2, topology: Option<Topology> = 3 }
    Topology { segments: BTreeMap<String, String> = 1 }
    NodeGetCapabilitiesResponse { capabilities: Vec<NodeCapability> = 1 }
    NodeCapability { rpc: Option<NodeRpc> = 1 }
    NodeRpc { kind: i32 = 1 }

    VolumeCapability { block: Option<BlockVolume> = 1, mount: Option<MountVolume> = 2, access: Option<AccessMode> = 3 }
    BlockVolume {}
    MountVolume { fs_type: String = 1, flags: Vec<String> = 2, group: String = 3 }
    AccessMode { mode: i32 = 1 }

    NodeStageVolumeRequest {
        volume_id: String = 1, publish_context: BTreeMap<String, String> = 2, staging_path: String = 3,
        capability: Option<VolumeCapability> = 4, secrets: BTreeMap<String, String> = 5, context: BTreeMap<String, String> = 6,
    }
    NodeUnstageVolumeRequest { volume_id: String = 1, staging_path: String = 2 }
    NodePublishVolumeRequest {
        volume_id: String = 1, publish_context: BTreeMap<String, String> = 2, staging_path: String = 3, target_path: String = 4,
        capability: Option<VolumeCapability> = 5, read_only: bool = 6, secrets: BTreeMap<String, String> = 7,
        context: BTreeMap<String, String> = 8,
    }
    NodeUnpublishVolumeRequest { volume_id: String = 1, target_path: String = 2 }
    NodeExpandVolumeRequest {
        volume_id: String = 1, volume_path: String = 2, range: Option<CapacityRange> = 3, staging_path: String = 4,
        capability: Option<VolumeCapability> = 5, secrets: BTreeMap<String, String> = 6,
    }
    CapacityRange { required: i64 = 1, limit: i64 = 2 }
    NodeExpandVolumeResponse { capacity: i64 = 1 }
    NodeGetVolumeStatsRequest { volume_id: String = 1, volume_path: String = 2, staging_path: String = 3 }
    NodeGetVolumeStatsResponse { usage: Vec<VolumeUsage> = 1, condition: Option<VolumeCondition> = 2 }
    // Units are bytes (1) and inodes (2).
    VolumeUsage { available: i64 = 1, total: i64 = 2, used: i64 = 3, unit: i32 = 4 }
    VolumeCondition { abnormal: bool = 1, message: String = 2 }
}
