//! `csi`: volumes that a driver makes, inline ones that go with their pod and those of claims.

use futures_util::future::BoxFuture;

use super::{Mounted, SetUp, TearDown, VolumeError, VolumeType};
use crate::csi::volume::Wanted;
use crate::csi::{data, mount, release};
use crate::pods::model;

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType { name: "csi", directory: data::DIRECTORY, is: |volume| volume.csi.is_some(), set_up, tear_down, live: false }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let Some(source) = &order.volume.csi else {
            return Err(VolumeError::Refused("the volume names no driver".into()));
        };
        let wanted = Wanted::inline(order.kubelet, order.pod, &order.volume.name, source).await?;
        let mounted = mount::set_up(order.kubelet, &wanted).await?;
        note(order, &wanted.spec_name);
        Ok(mounted)
    })
}

/// Remembers which directory belongs to a volume of the pod, for its statistics.
pub(super) fn note(order: &SetUp, spec_name: &str) {
    let uid = model::uid(order.pod);
    order.kubelet.csi.note(uid, &order.volume.name, data::pod_mounts(order.kubelet, uid).join(spec_name));
}

fn tear_down<'a>(order: &'a TearDown<'a>) -> BoxFuture<'a, Result<(), VolumeError>> {
    Box::pin(release::mounted(order.kubelet, order.directory))
}
