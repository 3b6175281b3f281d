//! Persistent volumes: one source that never changes.

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, keep_spec, keep_status};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::quantity::Quantity;
use crate::read::{Read, Write, as_map};
use crate::types::persistent_volume_claim_spec::{self, ACCESS_MODES};
use crate::types::{Rules, affinity, pod_warnings, volume};

const SPEC: Path<'static> = Path::root("spec");
const SOURCES: [&str; 22] = [
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        columns: Some(columns),
        warnings,
        ..Kind::plain("", "PersistentVolume")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.PersistentVolume") }
}

fn default(volume: &mut Map<String, Value>) {
    volume.object_made("status").default_text("phase", "Pending");
    let spec = volume.object_made("spec");
    spec.default_text("persistentVolumeReclaimPolicy", "Retain");
    spec.default("volumeMode", "Filesystem");
}

/// The first phase began when the object was made.
fn prepare_create(volume: &mut Object) {
    let mut status = json!({"phase": "Pending"});
    let created = print::created(volume);
    if !created.is_empty() {
        status["lastPhaseTransitionTime"] = created.into();
    }
    volume.0.insert("status".into(), status);
}

fn validate(volume: &Object, causes: &mut Causes) {
    let spec = volume.map("spec");
    let modes = SPEC.field("accessModes");
    if spec.list("accessModes").is_empty() {
        causes.needed(&modes, "");
    }
    for mode in spec.texts("accessModes").filter(|mode| !ACCESS_MODES.contains(mode)) {
        causes.unsupported(&modes, mode, &ACCESS_MODES);
    }
    persistent_volume_claim_spec::validate_once_pod(spec, &modes, causes);
    let capacity = SPEC.field("capacity");
    if spec.map("capacity").is_empty() {
        causes.needed(&capacity, "");
    }
    let only_storage = spec.map("capacity").len() == 1 && spec.map("capacity").contains_key("storage");
    if !only_storage {
        causes.unsupported_value(&capacity, spec.some("capacity").unwrap_or(&Value::Null), &["storage"]);
    }
    for (name, value) in spec.map("capacity") {
        let (at, amount) = (capacity.key(name), Quantity::from_json(value).unwrap_or_default());
        if amount.is_negative() {
            causes.bad(&at, amount.value(), "must be a valid resource quantity");
        }
        if amount.is_negative() || amount.is_zero() {
            causes.bad(&at, amount.to_string(), "must be greater than zero");
        }
    }
    causes.one_of(spec, "persistentVolumeReclaimPolicy", &SPEC, &["Delete", "Recycle", "Retain"]);
    if let Some(required) = spec.map("nodeAffinity").object("required") {
        let at = SPEC.field("nodeAffinity");
        affinity::validate_node_selector(required, &at.field("required"), causes);
    } else if spec.has("nodeAffinity") {
        let at = SPEC.field("nodeAffinity");
        causes.needed(&at.field("required"), "must specify required node constraints");
    } else if spec.has("local") {
        causes.needed(&SPEC.field("nodeAffinity"), "Local volume requires node affinity");
    }
    let mut count = 0;
    for source in SOURCES {
        let Some(value) = spec.some(source) else { continue };
        count += 1;
        let at = SPEC.field(source);
        if count > 1 {
            let shown = if source == "cephfs" { "cephFS" } else { source };
            causes.refused(&SPEC.field(shown), "may not specify more than 1 volume type");
        } else {
            volume::validate_kind(source, as_map(value), &at, causes);
            if source == "csi" {
                causes.need_text(as_map(value), "volumeHandle", &at);
            }
        }
    }
    if count == 0 {
        causes.needed(&SPEC, "must specify a volume type");
    }
    if spec.map("hostPath").text("path") == "/" && spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        causes.refused(&SPEC.field("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'");
    }
    let class = spec.text("storageClassName");
    if !class.is_empty() {
        causes.each(&SPEC.field("storageClassName"), class, names::subdomain_errors(class));
    }
    causes.one_of(spec, "volumeMode", &SPEC, &["Block", "Filesystem"]);
    if spec.has("volumeAttributesClassName") {
        if !spec.has("csi") {
            causes.needed(&SPEC.field("csi"), "has to be specified when using volumeAttributesClassName");
        }
        let class = spec.text("volumeAttributesClassName");
        if class.is_empty() {
            causes.needed(&SPEC.field("volumeAttributesClassName"), "an empty string is disallowed");
        } else {
            causes.each(&SPEC.field("volumeAttributesClassName"), class, names::subdomain_errors(class));
        }
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    let (spec, before) = (new.map("spec"), old.map("spec"));
    let source = |spec: &Map<String, Value>| SOURCES.iter().map(|name| spec.some(name).cloned()).collect::<Vec<_>>();
    let bare = |spec: &Map<String, Value>| {
        // References to secrets of a CSI source may be added and expanded credentials changed.
        let mut spec = spec.clone();
        if let Some(csi) = spec.object_mut("csi") {
            csi.retain(|field, _| !field.ends_with("SecretRef"));
        }
        spec
    };
    if source(&bare(spec)) != source(&bare(before)) {
        causes.refused(&SPEC.field("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation");
    }
    check::immutable(spec.some("volumeMode"), before.some("volumeMode"), &Path::root("volumeMode"), causes);
    if before.has("nodeAffinity") {
        check::immutable_field(spec, before, "nodeAffinity", &SPEC, causes);
    }
}

fn warnings(volume: &Object) -> Vec<String> {
    let (spec, mut warnings) = (volume.map("spec"), Vec::new());
    if spec.text("persistentVolumeReclaimPolicy") == "Recycle" {
        warnings.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
    }
    let affinity = SPEC.field("nodeAffinity");
    pod_warnings::of_node_selector(spec.map("nodeAffinity").map("required"), &affinity.field("required"), &mut warnings);
    volume::warnings(spec, &SPEC, &mut warnings);
    warnings
}

fn columns(volume: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (volume.map("spec"), volume.map("status"));
    let claim = spec.object("claimRef").map_or_else(String::new, |claim| format!("{}/{}", claim.text("namespace"), claim.text("name")));
    let phase = if volume.deletion_timestamp().is_some() { "Terminating" } else { status.text("phase") };
    let capacity = spec.map("capacity").quantity("storage").unwrap_or_default();
    vec![
        volume.name().into(),
        capacity.to_string().into(),
        print::access_modes(spec).into(),
        spec.text("persistentVolumeReclaimPolicy").into(),
        phase.into(),
        claim.into(),
        class(volume).into(),
        print::or(spec.text("volumeAttributesClassName"), "<unset>"),
        status.text("reason").into(),
        print::age(volume, clock),
        print::or(spec.text("volumeMode"), "<unset>"),
    ]
}

/// The storage class, by the old annotation first.
pub(super) fn class(object: &Object) -> String {
    let annotation = object.annotation("volume.beta.kubernetes.io/storage-class");
    annotation.unwrap_or_else(|| object.map("spec").text("storageClassName")).to_owned()
}
