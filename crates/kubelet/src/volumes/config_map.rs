//! `configMap`: the data of a ConfigMap as files that follow it.

use futures_util::future::BoxFuture;

use super::content::{Files, data_of, select};
use super::{Mounted, SetUp, VolumeError, VolumeType, atomic, nothing, ownership};
use crate::objects::ObjectKind;
use crate::pods::model;

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "configMap",
        directory: "kubernetes.io~configmap",
        is: |volume| volume.config_map.is_some(),
        set_up,
        tear_down: nothing,
        live: true,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.config_map.clone().unwrap_or_default();
        let mode = source.default_mode.unwrap_or(0o644);
        let files =
            object_files(order, ObjectKind::ConfigMap, &source.name, source.items.as_deref(), mode, source.optional == Some(true)).await?;
        atomic::write(order.directory, &files, ownership::group(order.pod))
            .map_err(|source| VolumeError::io("write", order.directory, source))?;
        Ok(Mounted::Path { path: order.directory.to_owned(), read_only: true })
    })
}

/// The files of one ConfigMap or Secret; none where an optional one is not there.
///
/// # Errors
/// It is not there, lacks a key, or the server could not be asked.
pub async fn object_files(
    order: &SetUp<'_>,
    kind: ObjectKind,
    name: &str,
    items: Option<&[k8s_openapi::api::core::v1::KeyToPath]>,
    mode: i32,
    optional: bool,
) -> Result<Files, VolumeError> {
    let (uid, namespace) = (model::uid(order.pod), model::namespace(order.pod));
    let found = order.kubelet.objects.get(uid, kind, namespace, name).await?;
    let Some(entry) = found else {
        let word = if kind == ObjectKind::ConfigMap { "configmap" } else { "secret" };
        return if optional { Ok(Files::new()) } else { Err(VolumeError::Refused(format!("{word} {name:?} not found"))) };
    };
    let word = if kind == ObjectKind::ConfigMap { "configmap" } else { "secret" };
    select(&data_of(&entry), items, mode, optional).map_err(|why| VolumeError::Refused(format!("{word} {why}")))
}
