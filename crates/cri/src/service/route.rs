//! Which function answers which method.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;

use super::Service;
use crate::messages::{ListMetricDescriptorsResponse, ListPodSandboxMetricsResponse};
use grpc::server::Reply;
use grpc::wire::Message;
use grpc::{Code, Failure};

/// Path of the runtime service's methods.
pub const RUNTIME: &str = "/runtime.v1.RuntimeService/";
/// Path of the image service's methods.
pub const IMAGES: &str = "/runtime.v1.ImageService/";

/// Methods that answer with a list in pieces, and those that answer in one.
const LISTS_IN_PIECES: &[(&str, &str)] = &[
    ("/StreamPodSandboxes", "/ListPodSandbox"),
    ("/StreamContainers", "/ListContainers"),
    ("/StreamContainerStats", "/ListContainerStats"),
    ("/StreamPodSandboxStats", "/ListPodSandboxStats"),
    ("/StreamPodSandboxMetrics", "/ListPodSandboxMetrics"),
    ("/StreamImages", "/ListImages"),
];

fn read<M: Message>(message: Bytes) -> Result<M, Failure> {
    M::read(message).map_err(|error| Failure::new(Code::InvalidArgument, error.to_string()))
}

/// Answers a call.
///
/// # Errors
/// The status of a call that fails.
pub async fn answer(service: Arc<Service>, path: String, message: Bytes) -> Result<Reply, Failure> {
    macro_rules! methods {
        ($given:expr; $($name:literal => $function:ident),* $(,)?) => {
            match $given {
                $($name => Some(service.$function(read(message)?).await?.to_bytes()),)*
                _ => None,
            }
        };
    }
    let unknown = || Failure::new(Code::Unimplemented, "unknown method");
    // A list in pieces is the list in one piece: the messages have the same fields.
    let pieces = LISTS_IN_PIECES.iter().find(|(name, _)| path.ends_with(name));
    let path = pieces.map_or(path.clone(), |(name, whole)| path.replace(name, whole));
    let answer = if let Some(method) = path.strip_prefix(IMAGES) {
        methods!(method;
            "ListImages" => list_images,
            "ImageStatus" => image_status,
            "PullImage" => pull_image,
            "RemoveImage" => remove_image,
            "ImageFsInfo" => image_fs_info,
        )
    } else {
        match path.strip_prefix(RUNTIME).ok_or_else(unknown)? {
            "GetContainerEvents" => return Ok(Reply::Many(service.listen())),
            "CheckpointContainer" => {
                return Err(Failure::new(Code::Unimplemented, "checkpoint/restore support is not available"));
            }
            // Nobody counts anything in these words.
            "ListMetricDescriptors" => Some(ListMetricDescriptorsResponse {}.to_bytes()),
            "ListPodSandboxMetrics" => Some(ListPodSandboxMetricsResponse {}.to_bytes()),
            method => methods!(method;
                "Version" => version,
                "Status" => status,
                "RuntimeConfig" => runtime_config,
                "UpdateRuntimeConfig" => update_runtime_config,
                "RunPodSandbox" => run_pod_sandbox,
                "StopPodSandbox" => stop_pod_sandbox,
                "RemovePodSandbox" => remove_pod_sandbox,
                "PodSandboxStatus" => pod_sandbox_status,
                "ListPodSandbox" => list_pod_sandbox,
                "UpdatePodSandboxResources" => update_pod_sandbox_resources,
                "PodSandboxStats" => pod_sandbox_stats,
                "ListPodSandboxStats" => list_pod_sandbox_stats,
                "CreateContainer" => create_container,
                "StartContainer" => start_container,
                "StopContainer" => stop_container,
                "RemoveContainer" => remove_container,
                "ListContainers" => list_containers,
                "ContainerStatus" => container_status,
                "UpdateContainerResources" => update_container_resources,
                "ReopenContainerLog" => reopen_container_log,
                "ContainerStats" => container_stats,
                "ListContainerStats" => list_container_stats,
                "ExecSync" => exec_sync,
                "Exec" => exec,
                "Attach" => attach,
                "PortForward" => port_forward,
            ),
        }
    };
    let answer = answer.ok_or_else(unknown)?;
    if pieces.is_some() {
        return Ok(Reply::Many(stream::once(async { answer }).boxed()));
    }
    Ok(Reply::One(answer))
}
