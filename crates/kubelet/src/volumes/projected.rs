//! `projected`: several sources in one directory, with the service account token that is renewed in place.

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{ServiceAccountTokenProjection, VolumeProjection};

use super::config_map::object_files;
use super::content::{File, Files};
use super::downward_api;
use super::{Mounted, SetUp, VolumeError, VolumeType, atomic, ownership};
use crate::clock::now_ms;
use crate::objects::ObjectKind;
use crate::pods::model;
use crate::tokens::Request;

const DIRECTORY: &str = "kubernetes.io~projected";

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "projected",
        directory: DIRECTORY,
        is: |volume| volume.projected.is_some(),
        set_up,
        tear_down: super::nothing,
        live: true,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.projected.clone().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(0o644);
        let mut files = Files::new();
        for projection in source.sources.iter().flatten() {
            files.extend(project(order, projection, mode).await?);
        }
        let path = order.kubelet.memory_dir(model::uid(order.pod)).join(DIRECTORY).join(&order.volume.name);
        atomic::write(&path, &files, ownership::group(order.pod)).map_err(|source| VolumeError::io("write", &path, source))?;
        Ok(Mounted::Path { path, read_only: true })
    })
}

async fn project(order: &SetUp<'_>, projection: &VolumeProjection, mode: i32) -> Result<Files, VolumeError> {
    if let Some(source) = &projection.config_map {
        return object_files(order, ObjectKind::ConfigMap, &source.name, source.items.as_deref(), mode, source.optional == Some(true))
            .await;
    }
    if let Some(source) = &projection.secret {
        return object_files(order, ObjectKind::Secret, &source.name, source.items.as_deref(), mode, source.optional == Some(true)).await;
    }
    if let Some(source) = &projection.downward_api {
        return downward_api::files(order.kubelet, order.pod, order.pod_ips, source.items.as_deref().unwrap_or_default(), mode);
    }
    if let Some(source) = &projection.service_account_token {
        return token(order, source, mode).await;
    }
    Err(VolumeError::Refused("this projected source is not supported on this node".into()))
}

async fn token(order: &SetUp<'_>, source: &ServiceAccountTokenProjection, mode: i32) -> Result<Files, VolumeError> {
    let account = order.pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let request = Request {
        namespace: model::namespace(order.pod),
        account,
        pod_name: model::name(order.pod),
        pod_uid: model::uid(order.pod),
        audience: source.audience.as_deref().unwrap_or(""),
        seconds: source.expiration_seconds.unwrap_or(3600),
    };
    let token = order.kubelet.tokens.get(&request).await?;
    order.kubelet.poke_at(model::uid(order.pod), token.renew_at.max(now_ms() + 1_000));
    let (mode, owner) = access(order, mode);
    Ok(Files::from([(source.path.clone(), File { data: token.text.into_bytes(), mode, owner })]))
}

/// A token is readable by the pod's group, or by the one user that all containers run as, and by nobody else.
fn access(order: &SetUp<'_>, mode: i32) -> (u32, Option<u32>) {
    if ownership::group(order.pod).is_some() {
        return (0o600, None);
    }
    let Some(spec) = &order.pod.spec else {
        return (mode as u32, None);
    };
    let default = spec.security_context.as_ref().and_then(|security| security.run_as_user);
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut users: Vec<Option<i64>> =
        containers.map(|container| container.security_context.as_ref().and_then(|security| security.run_as_user).or(default)).collect();
    users.dedup();
    match users.as_slice() {
        [Some(user)] => (0o600, u32::try_from(*user).ok()),
        _ => (mode as u32, None),
    }
}
