//! `downwardAPI`: values of the pod as files that follow its labels and annotations.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, Pod};

use super::content::{File, Files};
use super::{Mounted, SetUp, VolumeError, VolumeType, atomic, nothing, ownership};
use crate::Kubelet;
use crate::pods::downward::{self, Host};

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "downwardAPI",
        directory: "kubernetes.io~downward-api",
        is: |volume| volume.downward_api.is_some(),
        set_up,
        tear_down: nothing,
        live: true,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.downward_api.clone().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(0o644);
        let files = files(order.kubelet, order.pod, order.pod_ips, source.items.as_deref().unwrap_or_default(), mode)?;
        atomic::write(order.directory, &files, ownership::group(order.pod))
            .map_err(|source| VolumeError::io("write", order.directory, source))?;
        Ok(Mounted::Path { path: order.directory.to_owned(), read_only: true })
    })
}

/// The files of a downward API source.
///
/// # Errors
/// A field or resource that is not known.
pub fn files(
    kubelet: &Arc<Kubelet>,
    pod: &Pod,
    pod_ips: &[String],
    items: &[DownwardAPIVolumeFile],
    mode: i32,
) -> Result<Files, VolumeError> {
    let (host_ips, allocatable) = (kubelet.host_ips(), kubelet.node.allocatable());
    let host = Host { host_ips: &host_ips, pod_ips, allocatable: &allocatable };
    let mut files = Files::new();
    for item in items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => downward::field(pod, &host, selector),
            (None, Some(selector)) => downward::resource(pod, &Container::default(), &host, selector),
            (None, None) => Err(format!("file {:?} has no source", item.path)),
        };
        let data = value.map_err(VolumeError::Refused)?.into_bytes();
        files.insert(item.path.clone(), File { data, mode: item.mode.unwrap_or(mode) as u32, owner: None });
    }
    Ok(files)
}
