//! `core.v1.Volume`: a volume of a pod; without any source it is an empty directory.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::names;
use crate::path::Path;
use crate::quantity::Quantity;
use crate::read::{Read, as_map};
use crate::types::{Rules, env_var, persistent_volume_claim_spec};

/// Kinds of sources in the order in which they are asked for.
const SOURCES: [&str; 30] = [
    "emptyDir",
    "hostPath",
    "gitRepo",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "secret",
    "nfs",
    "iscsi",
    "glusterfs",
    "flocker",
    "persistentVolumeClaim",
    "rbd",
    "cinder",
    "cephfs",
    "quobyte",
    "downwardAPI",
    "fc",
    "flexVolume",
    "configMap",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "storageos",
    "projected",
    "scaleIO",
    "csi",
    "ephemeral",
    "image",
];

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Volume") }
}

fn default(map: &mut Map<String, Value>) {
    if !map.iter().any(|(field, value)| field != "name" && !value.is_null()) {
        map.insert("emptyDir".into(), Map::new().into());
    }
    if let Some(image) = map.get_mut("image").and_then(Value::as_object_mut)
        && image.text("pullPolicy").is_empty()
    {
        let policy = super::container::pull_policy(image.text("reference"));
        image.insert("pullPolicy".into(), policy.into());
    }
}

/// Validates `volumes` and returns those without fault.
pub fn validate_all<'v>(volumes: &'v [Value], path: &Path, causes: &mut Causes) -> Vec<&'v Map<String, Value>> {
    let mut seen: Vec<&Map<String, Value>> = Vec::new();
    for (index, volume) in volumes.iter().map(as_map).enumerate() {
        let at = path.index(index);
        let before = causes.0.len();
        validate_source(volume, &at, causes);
        let name = volume.text("name");
        if name.is_empty() {
            causes.needed(&at.field("name"), "");
        } else {
            causes.each(&at.field("name"), name, names::label_errors(name));
        }
        if seen.iter().any(|one| one.text("name") == name) {
            causes.twice(&at.field("name"), name);
        }
        if causes.0.len() == before {
            seen.push(volume);
        }
    }
    seen
}

/// Validates that a volume has exactly one source, and that source.
fn validate_source(volume: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut count = 0;
    for kind in SOURCES {
        let Some(source) = volume.some(kind) else { continue };
        count += 1;
        if count > 1 {
            // Two kinds are blamed under names of their own.
            let shown = match kind {
                "cephfs" => "cephFS",
                "downwardAPI" => "downwarAPI",
                kind => kind,
            };
            causes.refused(&path.field(shown), "may not specify more than 1 volume type");
            continue;
        }
        validate_kind(kind, as_map(source), &path.field(kind), causes);
    }
    if count == 0 {
        causes.needed(path, "must specify a volume type");
    }
}

/// Validates one source; also used for those of persistent volumes.
pub fn validate_kind(kind: &str, source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let needed: &[&str] = match kind {
        "hostPath" => &["path"],
        "gitRepo" => &["repository"],
        "nfs" => &["server", "path"],
        "glusterfs" => &["endpoints", "path"],
        "flocker" => &[],
        "rbd" => &["image"],
        "cinder" | "portworxVolume" => &["volumeID"],
        "awsElasticBlockStore" => &["volumeID"],
        "gcePersistentDisk" => &["pdName"],
        "azureFile" => &["secretName", "shareName"],
        "azureDisk" => &["diskName", "diskURI"],
        "vsphereVolume" => &["volumePath"],
        "persistentVolumeClaim" => &["claimName"],
        "secret" => &["secretName"],
        "configMap" => &["name"],
        "csi" => &["driver"],
        "flexVolume" => &["driver"],
        "iscsi" => &["targetPortal", "iqn"],
        "local" => &["path"],
        "quobyte" => &["registry", "volume"],
        "scaleIO" => &["gateway", "system"],
        _ => &[],
    };
    if matches!(kind, "rbd" | "cephfs") && source.list("monitors").is_empty() {
        causes.needed(&path.field("monitors"), "");
    }
    for field in needed {
        causes.need_text(source, field, path);
    }
    match kind {
        "hostPath" => {
            no_way_up(source.text("path"), &path.field("path"), causes);
            let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
            causes.one_of(source, "type", path, &kinds);
        }
        "nfs" if !source.text("path").starts_with('/') && !source.text("path").is_empty() => {
            causes.bad(&path.field("path"), source.text("path"), "must be an absolute path");
        }
        "local" => no_way_up(source.text("path"), &path.field("path"), causes),
        "emptyDir" if source.quantity("sizeLimit").is_some_and(Quantity::is_negative) => {
            causes.refused(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "iscsi" => {
            let iqn = source.text("iqn");
            if !iqn.is_empty() && !["iqn.", "eui.", "naa."].iter().any(|start| iqn.starts_with(start)) {
                causes.bad(&path.field("iqn"), iqn, "must be valid format starting with iqn, eui, or naa");
            }
            let lun = source.int("lun").unwrap_or(0);
            if !(0..=255).contains(&lun) {
                causes.bad(&path.field("lun"), lun, "must be between 0 and 255, inclusive");
            }
        }
        "secret" | "configMap" => {
            mode(source, "defaultMode", path, causes);
            items(source, path, causes);
        }
        "downwardAPI" => {
            mode(source, "defaultMode", path, causes);
            downward(source, path, causes);
        }
        "projected" => projected(source, path, causes),
        "flocker" if source.text("datasetName").is_empty() == source.text("datasetUUID").is_empty() => {
            if source.text("datasetName").is_empty() {
                causes.needed(path, "one of datasetName and datasetUUID is required");
            } else {
                causes.bad(path, "resource", "datasetName and datasetUUID can not be specified simultaneously");
            }
        }
        "awsElasticBlockStore" | "gcePersistentDisk" => {
            if let Some(partition) = source.int("partition").filter(|partition| !(0..=255).contains(partition)) {
                causes.bad(&path.field("partition"), partition, "must be between 1 and 255, inclusive");
            }
        }
        "fc" => {
            let (names, ids) = (source.list("targetWWNs").len(), source.list("wwids").len());
            if (names == 0) == (ids == 0) {
                causes.needed(&path.field("targetWWNs"), "must specify either targetWWNs or wwids, but not both");
            } else if names > 0 && !source.has("lun") {
                causes.needed(&path.field("lun"), "lun is required if targetWWNs is specified");
            }
        }
        "csi" if source.text("driver").len() > 63 => causes.too_long(&path.field("driver").text(), 63),
        "ephemeral" => {
            let at = path.field("volumeClaimTemplate");
            match source.object("volumeClaimTemplate") {
                Some(template) => {
                    persistent_volume_claim_spec::validate(template.map("spec"), &at.field("spec"), causes);
                }
                None => causes.needed(&at, ""),
            }
        }
        "image" => {
            causes.need_text(source, "reference", path);
            causes.one_of(source, "pullPolicy", path, &["Always", "IfNotPresent", "Never"]);
        }
        _ => {}
    }
}

fn projected(source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    mode(source, "defaultMode", path, causes);
    let list = path.field("sources");
    for (index, one) in source.maps("sources").enumerate() {
        let at = list.index(index);
        let mut count = 0;
        for kind in ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"] {
            let Some(part) = one.some(kind).map(as_map) else { continue };
            count += 1;
            if count > 1 {
                causes.refused(&at, "may not specify more than 1 volume type per source");
                continue;
            }
            let at = at.field(kind);
            match kind {
                "secret" | "configMap" => {
                    causes.need_text(part, "name", &at);
                    items(part, &at, causes);
                }
                "downwardAPI" => downward(part, &at, causes),
                "serviceAccountToken" => {
                    let seconds = part.int("expirationSeconds").unwrap_or(0);
                    if seconds < 600 {
                        causes.bad(&at.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
                    }
                    if seconds > 1 << 32 {
                        causes.bad(&at.field("expirationSeconds"), seconds, "may not specify a duration larger than 2^32 seconds");
                    }
                    match part.text("path") {
                        "" => causes.needed(&path.field("path"), ""),
                        text => non_reserved_path(text, &at.field("path"), causes),
                    }
                }
                _ => {}
            }
        }
    }
}

fn items(source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let list = path.field("items");
    for (index, item) in source.maps("items").enumerate() {
        let at = list.index(index);
        causes.need_text(item, "key", &at);
        if causes.need_text(item, "path", &at) {
            non_reserved_path(item.text("path"), &at.field("path"), causes);
        }
        mode(item, "mode", &at, causes);
    }
}

fn downward(source: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for item in source.maps("items") {
        if causes.need_text(item, "path", path) {
            non_reserved_path(item.text("path"), &path.field("path"), causes);
        }
        match (item.object("fieldRef"), item.object("resourceFieldRef")) {
            (Some(field), other) => {
                env_var::validate_field_ref(field, &env_var::FILE_FIELDS, true, &path.field("fieldRef"), causes);
                if other.is_some() {
                    causes.bad(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
                }
            }
            (None, Some(resource)) => {
                causes.need_text(resource, "containerName", &path.field("resourceFieldRef"));
                env_var::validate_resource_ref(resource, &path.field("resourceFieldRef"), causes);
            }
            (None, None) => causes.needed(path, "one of fieldRef and resourceFieldRef is required"),
        }
        mode(item, "mode", path, causes);
    }
}

fn mode(map: &Map<String, Value>, field: &str, path: &Path, causes: &mut Causes) {
    if let Some(mode) = map.int(field).filter(|mode| !(0..=0o777).contains(mode)) {
        causes.bad(&path.field(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A path that does not climb.
pub fn no_way_up(text: &str, path: &Path, causes: &mut Causes) {
    if text.split('/').any(|part| part == "..") {
        causes.bad(path, text, "must not contain '..'");
    }
}

/// A relative path that does not climb.
pub fn descending_path(text: &str, path: &Path, causes: &mut Causes) {
    if text.starts_with('/') {
        causes.bad(path, text, "must be a relative path");
    }
    no_way_up(text, path, causes);
}

fn non_reserved_path(text: &str, path: &Path, causes: &mut Causes) {
    descending_path(text, path, causes);
    if text.starts_with("..") && !text.starts_with("../") && text != ".." {
        causes.bad(path, text, "must not start with '..'");
    }
}

/// Warnings about sources that are gone or going; `owner` is the volume or the spec of a persistent one.
pub fn warnings(owner: &Map<String, Value>, path: &Path, warnings: &mut Vec<String>) {
    const OLD: [(&str, &str); 9] = [
        ("photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
        ("gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
        ("scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        ("flocker", "deprecated in v1.22, non-functional in v1.25+"),
        ("storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        ("quobyte", "deprecated in v1.22, non-functional in v1.25+"),
        ("glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        ("cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        ("rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ];
    for (kind, text) in OLD {
        if owner.has(if kind == "storageOS" { "storageos" } else { kind }) {
            warnings.push(format!("{}: {text}", path.field(kind)));
        }
    }
    if let Some(claim) = owner.map("ephemeral").object("volumeClaimTemplate") {
        let at = path.field("ephemeral");
        let at = at.field("volumeClaimTemplate");
        let at = at.field("spec");
        let at = at.field("resources");
        let at = at.field("requests");
        super::pod_warnings::fractional(claim.map("spec").map("resources").map("requests"), "storage", &at.key("storage"), warnings);
    }
    if owner.object("projected").is_some_and(|projected| projected.list("sources").is_empty()) {
        warnings.push(format!("volume {:?} (Projected) has no sources provided", owner.text("name")));
    }
}
