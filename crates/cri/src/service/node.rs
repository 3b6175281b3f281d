//! Calls about the runtime as a whole.

use super::Service;
use crate::messages::*;
use grpc::{Code, Failure};

impl Service {
    pub(super) async fn version(&self, _: VersionRequest) -> Result<VersionResponse, Failure> {
        Ok(VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "knarr".into(),
            runtime_version: self.version.clone(),
            runtime_api_version: "v1".into(),
        })
    }

    pub(super) async fn status(&self, request: StatusRequest) -> Result<StatusResponse, Failure> {
        let ready = self.network.is_ready();
        let runtime = RuntimeCondition { kind: "RuntimeReady".into(), status: true, ..RuntimeCondition::default() };
        let network = RuntimeCondition {
            kind: "NetworkReady".into(),
            status: ready,
            reason: if ready { String::new() } else { "NetworkPluginNotReady".into() },
            message: if ready { String::new() } else { "the node has no pod address range yet".into() },
        };
        let mut info = Map::new();
        if request.verbose {
            info.insert("config".into(), format!("{{\"cgroupDriver\":\"cgroupfs\",\"version\":{:?}}}", self.version));
        }
        let features = RuntimeHandlerFeatures { recursive_read_only_mounts: true, user_namespaces: true };
        Ok(StatusResponse {
            status: Some(RuntimeStatus { conditions: vec![runtime, network] }),
            info,
            runtime_handlers: vec![RuntimeHandler { name: String::new(), features: Some(features) }],
            features: Some(RuntimeFeatures { supplemental_groups_policy: true, user_namespaces_host_network: false }),
        })
    }

    pub(super) async fn runtime_config(&self, _: RuntimeConfigRequest) -> Result<RuntimeConfigResponse, Failure> {
        Ok(RuntimeConfigResponse { linux: Some(LinuxRuntimeConfiguration { cgroup_driver: cgroup_driver::CGROUPFS }) })
    }

    pub(super) async fn update_runtime_config(&self, request: UpdateRuntimeConfigRequest) -> Result<UpdateRuntimeConfigResponse, Failure> {
        let given = request.runtime_config.and_then(|config| config.network_config).unwrap_or_default().pod_cidr;
        // A node of two families has two; ours gives addresses of the first.
        let Some(first) = given.split(',').next().filter(|range| !range.is_empty()) else {
            return Ok(UpdateRuntimeConfigResponse {});
        };
        let range = first.parse().map_err(|_| Failure::new(Code::InvalidArgument, format!("{first:?} is no range of addresses")))?;
        self.network.set_range(range).map_err(|error| Failure::internal(&error))?;
        if self.records.range() != Some(range) {
            self.records.keep_range(range).map_err(|error| Failure::internal(&error))?;
        }
        Ok(UpdateRuntimeConfigResponse {})
    }
}
