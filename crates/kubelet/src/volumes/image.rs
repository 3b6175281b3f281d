//! `image`: the content of an image as a read-only volume (KEP-4639).

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, VolumeError, VolumeType, nothing};
use crate::pull::{self, Wanted};

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
        let source = order.volume.image.clone().unwrap_or_default();
        let reference = source.reference.unwrap_or_default();
        let images = &order.kubelet.images;
        let policy = source.pull_policy.as_deref().unwrap_or("IfNotPresent");
        let wanted = Wanted { kubelet: order.kubelet, pod: order.pod, container: "", asked: &reference, policy };
        let image = pull::for_volume(&wanted).await.map_err(|trouble| VolumeError::Refused(trouble.message))?;
        order.kubelet.hold_image(crate::pods::model::uid(order.pod), &image.id);
        let mut layers = images.layers(&image);
        layers.reverse();
        Ok(Mounted::Image(layers))
    })
}
