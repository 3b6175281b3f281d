//! Which volume fits a claim: pure functions over PersistentVolumes and claims.

use api::Quantity;
use api::label_selector::LabelSelector;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// Old annotation with the name of the class.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// An annotation of an object.
pub(crate) fn annotation<'a>(metadata: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Storage class of a claim, empty for none.
pub(crate) fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&claim.metadata, OLD_CLASS).or(class).unwrap_or("")
}

/// Storage class of a volume, empty for none.
fn class_of_volume(volume: &PersistentVolume) -> &str {
    let class = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_deref());
    annotation(&volume.metadata, OLD_CLASS).or(class).unwrap_or("")
}

/// The claim that a volume is bound to or meant for.
pub(crate) fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether a volume names this claim; without a uid it is meant for any claim of the name.
pub(crate) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|one| {
        one.namespace == claim.metadata.namespace
            && one.name == claim.metadata.name
            && (one.uid.as_deref().unwrap_or("").is_empty() || one.uid == claim.metadata.uid)
    })
}

fn storage(volume: &PersistentVolume) -> Quantity {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|amount| Quantity::parse(&amount.0)).unwrap_or(Quantity::ZERO)
}

fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref()?.get("storage"));
    requests.and_then(|amount| Quantity::parse(&amount.0)).unwrap_or(Quantity::ZERO)
}

/// Why a volume cannot serve a claim that asks for it by name.
pub(crate) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    lacks(volume, claim, true)
}

/// What a volume lacks. One that is meant for the claim may be of another class.
fn lacks(volume: &PersistentVolume, claim: &PersistentVolumeClaim, class_counts: bool) -> Option<&'static str> {
    let spec = claim.spec.clone().unwrap_or_default();
    let offered = volume.spec.clone().unwrap_or_default();
    if storage(volume) < requested(claim) {
        return Some("requested PV is too small");
    }
    if class_counts && class_of_volume(volume) != class_of_claim(claim) {
        return Some("storageClassName does not match");
    }
    let mode = |mode: Option<String>| mode.unwrap_or_else(|| "Filesystem".into());
    if mode(spec.volume_mode) != mode(offered.volume_mode) {
        return Some("incompatible volumeMode");
    }
    if !spec.access_modes.iter().flatten().all(|wanted| offered.access_modes.iter().flatten().any(|one| one == wanted)) {
        return Some("incompatible accessMode");
    }
    if offered.volume_attributes_class_name.filter(|class| !class.is_empty())
        != spec.volume_attributes_class_name.filter(|class| !class.is_empty())
    {
        return Some("volumeAttributesClassName does not match");
    }
    None
}

/// The volume that a claim gets: one that is meant for it, or the smallest that is free. Claims that wait for their first
/// consumer only get volumes that are meant for them.
pub(crate) fn best<'a>(volumes: &'a [PersistentVolume], claim: &PersistentVolumeClaim, only_meant: bool) -> Option<&'a PersistentVolume> {
    let selector = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| LabelSelector::from_value(&serde_json::to_value(selector).ok()?).ok());
    let stays = |volume: &&PersistentVolume| volume.metadata.deletion_timestamp.is_none();
    let own = |volume: &&PersistentVolume| is_for(volume, claim) && lacks(volume, claim, false).is_none();
    if let Some(meant) = volumes.iter().filter(stays).find(own) {
        return Some(meant);
    }
    if only_meant {
        return None;
    }
    let selected = |volume: &&PersistentVolume| {
        selector.as_ref().is_none_or(|selector| {
            let labels: Vec<(String, String)> =
                volume.metadata.labels.iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
            selector.matches_sorted(&labels)
        })
    };
    let free = |volume: &&PersistentVolume| {
        claim_ref(volume).is_none() && volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Available")
    };
    let fits = |volume: &&PersistentVolume| free(volume) && mismatch(volume, claim).is_none();
    volumes.iter().filter(stays).filter(fits).filter(selected).min_by_key(|volume| (storage(volume), volume.metadata.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn volume(name: &str, size: &str, more: Value) -> PersistentVolume {
        let mut value = json!({"metadata": {"name": name, "labels": {"name": name}}, "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"]}, "status": {"phase": "Available"}});
        value["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    fn claim(size: &str, more: Value) -> PersistentVolumeClaim {
        let mut value = json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"}, "spec": {"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"]}});
        value["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn claims_get_the_smallest_that_fits() {
        let meant = json!({"claimRef": {"namespace": "n", "name": "c"}});
        let taken = json!({"claimRef": {"namespace": "n", "name": "c", "uid": "other"}});
        let volumes = [
            volume("big", "10Gi", json!({})),
            volume("small", "2Gi", json!({})),
            volume("classy", "2Gi", json!({"storageClassName": "gold"})),
            volume("taken", "2Gi", taken),
        ];
        let name = |claim: &PersistentVolumeClaim, only: bool| best(&volumes, claim, only).and_then(|volume| volume.metadata.name.clone());
        assert_eq!(name(&claim("1Gi", json!({})), false).as_deref(), Some("small"));
        assert_eq!(name(&claim("1Gi", json!({})), true), None);
        assert_eq!(name(&claim("5Gi", json!({})), false).as_deref(), Some("big"));
        assert_eq!(name(&claim("50Gi", json!({})), false), None);
        assert_eq!(name(&claim("1Gi", json!({"storageClassName": "gold"})), false).as_deref(), Some("classy"));
        assert_eq!(name(&claim("1Gi", json!({"selector": {"matchLabels": {"name": "big"}}})), false).as_deref(), Some("big"));
        assert_eq!(name(&claim("1Gi", json!({"accessModes": ["ReadWriteMany"]})), false), None);
        let volumes = [volume("small", "2Gi", json!({})), volume("meant", "5Gi", meant)];
        for class in ["", "other"] {
            let found = best(&volumes, &claim("1Gi", json!({"storageClassName": class})), true);
            assert_eq!(found.and_then(|volume| volume.metadata.name.as_deref()), Some("meant"), "class {class:?}");
        }
        assert!(best(&volumes, &claim("6Gi", json!({})), true).is_none());
    }
}
