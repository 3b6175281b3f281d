//! `image`: the content of an image as a read-only volume (KEP-4639).

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, VolumeError, VolumeType, nothing};

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
        let local = images.resolve(&reference).await;
        let image = match (source.pull_policy.as_deref(), local) {
            (Some("Never") | Some("IfNotPresent") | None, Some(image)) => image,
            (Some("Never"), None) => {
                return Err(VolumeError::Refused(format!("image {reference:?} is not present with pull policy of Never")));
            }
            _ => images.pull(&reference, &[]).await.map_err(|error| VolumeError::Refused(error.to_string()))?,
        };
        order.kubelet.hold_image(crate::pods::model::uid(order.pod), &image.id);
        let mut layers = images.layers(&image);
        layers.reverse();
        Ok(Mounted::Image(layers))
    })
}
