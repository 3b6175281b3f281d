//! `persistentVolumeClaim`: the volume that a claim is bound to, paths of this node and volumes of drivers.

use std::path::Path;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::{Mounted, SetUp, VolumeError, VolumeType, csi, host_path, nothing, ownership};
use crate::csi::volume::Wanted;
use crate::csi::{block, mount};
use crate::pods::model;

/// The volume type.
pub const fn volume() -> VolumeType {
    VolumeType {
        name: "persistentVolumeClaim",
        directory: "kubernetes.io~local-volume",
        is: |volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some(),
        set_up,
        tear_down: nothing,
        live: false,
    }
}

fn set_up<'a>(order: &'a SetUp<'a>) -> BoxFuture<'a, Result<Mounted, VolumeError>> {
    Box::pin(async move {
        let source = order.volume.persistent_volume_claim.as_ref();
        let name = source.map_or_else(|| format!("{}-{}", model::name(order.pod), order.volume.name), |source| source.claim_name.clone());
        let client = &order.kubelet.client;
        let namespace = model::namespace(order.pod);
        let unknown =
            |status: api::Status| VolumeError::Claim(format!("{namespace}/{name}: failed to fetch PVC from API server: {status}"));
        let claim: PersistentVolumeClaim = client.get(namespace, &name).await.map_err(unknown)?;
        if source.is_none() {
            let ours =
                |owner: &OwnerReference| owner.controller == Some(true) && Some(owner.uid.as_str()) == order.pod.metadata.uid.as_deref();
            if !claim.metadata.owner_references.iter().flatten().any(ours) {
                return Err(VolumeError::Refused(format!("PVC {name:?} was not created for the pod (pod is not owner)")));
            }
        }
        let bound = claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let bound = bound.ok_or_else(|| VolumeError::Refused(format!("claim {name:?} is not bound yet")))?;
        let volume: PersistentVolume = client.get("", &bound).await?;
        let read_only = source.and_then(|source| source.read_only) == Some(true);
        let spec = volume.spec.clone().unwrap_or_default();
        if let Some(driver) = &spec.csi {
            let block = spec.volume_mode.as_deref() == Some("Block");
            let wanted = Wanted::persistent(order.kubelet, order.pod, read_only, (claim, volume), driver).await?;
            if block {
                return block::set_up(order.kubelet, &wanted).await;
            }
            let mounted = mount::set_up(order.kubelet, &wanted).await?;
            csi::note(order, &wanted.spec_name);
            return Ok(mounted);
        }
        let mounted = match (&spec.host_path, &spec.local) {
            (Some(host), _) => host_path::check(Path::new(&host.path), host.type_.as_deref().unwrap_or(""))?,
            (None, Some(local)) if spec.volume_mode.as_deref() == Some("Block") => Mounted::Device(local.path.clone().into()),
            (None, Some(local)) => {
                let path = Path::new(&local.path);
                if !path.exists() {
                    return Err(VolumeError::Refused(format!("path {:?} does not exist", local.path)));
                }
                Mounted::Path { path: path.to_owned(), read_only: false }
            }
            (None, None) => return Err(VolumeError::Refused(format!("the source of volume {bound:?} is not supported on this node"))),
        };
        let Mounted::Path { path, .. } = mounted else {
            return Ok(mounted);
        };
        if let (Some(group), true, false) = (ownership::group(order.pod), spec.local.is_some(), read_only) {
            ownership::give(&path, group, ownership::only_on_mismatch(order.pod))
                .map_err(|source| VolumeError::io("give to the group", &path, source))?;
        }
        Ok(Mounted::Path { path, read_only })
    })
}
