//! `image`: the content of an image as a read-only volume (KEP-4639). The image is had when a container that uses the volume
//! starts, as its own is, so that what is wrong with it shows there.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, VolumeError, VolumeType, nothing};
use crate::pods::message::Trouble;
use crate::pods::model;
use crate::pods::start::Order;
use crate::pull;

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "image",
        directory: "kubernetes.io~image",
        is: |volume| volume.image.is_some(),
        set_up,
        tear_down: nothing,
        live: false,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        if order.kubelet.runtime.other().is_some() {
            return Err(VolumeError::Refused("image volumes are not supported with this container runtime".into()));
        }
        Ok(Mounted::Image(Vec::new()))
    })
}

/// The pod's volumes, those of them whole that are images and that this container uses.
///
/// # Errors
/// An image that cannot be had, as for the container's own.
pub async fn fill(order: &Order) -> Result<BTreeMap<String, Mounted>, Trouble> {
    let mut volumes = order.volumes.clone();
    let mounts = order.member.spec.volume_mounts.as_deref().unwrap_or_default();
    let all = order.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    for volume in all.filter(|volume| mounts.iter().any(|mount| mount.name == volume.name)) {
        let Some(source) = &volume.image else { continue };
        let policy = source.pull_policy.as_deref().unwrap_or("IfNotPresent");
        let image = pull::for_volume(order, source.reference.as_deref().unwrap_or_default(), policy).await?;
        order.kubelet.hold_image(model::uid(&order.pod), &image.id);
        let mut layers = order.kubelet.images.layers(&image);
        layers.reverse();
        volumes.insert(volume.name.clone(), Mounted::Image(layers));
    }
    Ok(volumes)
}
