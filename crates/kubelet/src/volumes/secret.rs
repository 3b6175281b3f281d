//! `secret`: the data of a Secret as files that follow it, kept in memory only.

use futures_util::future::BoxFuture;

use super::config_map::object_files;
use super::{Mounted, SetUp, VolumeError, VolumeType, atomic, ownership};
use crate::objects::ObjectKind;
use crate::pods::model;

const DIRECTORY: &str = "kubernetes.io~secret";

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType { name: "secret", directory: DIRECTORY, is: |volume| volume.secret.is_some(), set_up, tear_down: super::nothing, live: true }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.secret.clone().unwrap_or_default();
        let name = source.secret_name.unwrap_or_default();
        let mode = source.default_mode.unwrap_or(0o644);
        let files = object_files(order, ObjectKind::Secret, &name, source.items.as_deref(), mode, source.optional == Some(true)).await?;
        let path = order.kubelet.memory_dir(model::uid(order.pod)).join(DIRECTORY).join(&order.volume.name);
        atomic::write(&path, &files, ownership::group(order.pod)).map_err(|source| VolumeError::io("write", &path, source))?;
        Ok(Mounted::Path { path, read_only: true })
    })
}
