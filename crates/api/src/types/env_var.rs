//! Environment of a container: single variables and whole sources.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::names;
use crate::path::Path;
use crate::read::{Read, as_map};
use crate::types::volume;

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields of a pod that files may show.
pub const FILE_FIELDS: [&str; 5] = ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const ENV_RESOURCES: [&str; 6] =
    ["limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"];

/// Validates `env`.
pub fn validate(variables: &[Value], path: &Path, causes: &mut Causes) {
    for (index, variable) in variables.iter().map(as_map).enumerate() {
        let at = path.index(index);
        if causes.need_text(variable, "name", &at) {
            let name = variable.text("name");
            causes.each(&at.field("name"), name, names::env_name_errors(name));
        }
        if let Some(source) = variable.object("valueFrom") {
            validate_source(source, !variable.text("value").is_empty(), &at.field("valueFrom"), causes);
        }
    }
}

fn validate_source(source: &Map<String, Value>, has_value: bool, path: &Path, causes: &mut Causes) {
    let mut count = 0;
    if let Some(field) = source.object("fieldRef") {
        count += 1;
        validate_field_ref(field, &ENV_FIELDS, true, &path.field("fieldRef"), causes);
    }
    if let Some(field) = source.object("resourceFieldRef") {
        count += 1;
        validate_resource_ref(field, &path.field("resourceFieldRef"), causes);
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if let Some(reference) = source.object(kind) {
            count += 1;
            let at = path.field(kind);
            causes.each(&at.field("name"), reference.text("name"), names::subdomain_errors(reference.text("name")));
            if causes.need_text(reference, "key", &at) {
                let key = reference.text("key");
                causes.each(&at.field("key"), key, names::config_key_errors(key));
            }
        }
    }
    if let Some(file) = source.object("fileKeyRef") {
        count += 1;
        let at = path.field("fileKeyRef");
        let (key, volume) = (file.text("key"), file.text("volumeName"));
        if causes.need_text(file, "key", &at) {
            causes.each(&at.field("key"), key, names::env_name_errors(key));
        }
        if causes.need_text(file, "volumeName", &at) {
            causes.each(&at.field("volumeName"), volume, names::label_errors(volume));
        }
        causes.need_text(file, "path", &at);
        volume::no_way_up(file.text("path"), &at.field("path"), causes);
    }
    if has_value {
        if count > 0 {
            causes.bad(path, "", "may not be specified when `value` is not empty");
        }
    } else if count == 0 {
        causes.bad(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if count > 1 {
        causes.bad(path, "", "may not have more than one field specified at a time");
    }
}

/// Validates that files which variables are taken from lie in volumes that a container of the pod may have written.
pub fn validate_files(variables: &[Value], volumes: &[&Map<String, Value>], path: &Path, causes: &mut Causes) {
    for (index, variable) in variables.iter().map(as_map).enumerate() {
        let Some(file) = variable.object("valueFrom").and_then(|source| source.object("fileKeyRef")) else { continue };
        let (at, name) = (path.index(index), file.text("volumeName"));
        let at = at.field("valueFrom");
        let at = at.field("fileKeyRef");
        let at = at.field("volumeName");
        match volumes.iter().find(|volume| volume.text("name") == name) {
            None => causes.not_found(&at.text(), &name.into()),
            Some(volume) if !volume.has("emptyDir") => causes.bad(&at, name, "referenced volume must be of type emptyDir"),
            Some(_) => {}
        }
    }
}

/// Validates a reference to a field of the pod.
pub fn validate_field_ref(field: &Map<String, Value>, supported: &[&str], subscripts: bool, path: &Path, causes: &mut Causes) {
    if !causes.need_text(field, "apiVersion", path) || !causes.need_text(field, "fieldPath", path) {
        return;
    }
    let (at, text) = (path.field("fieldPath"), field.text("fieldPath"));
    let known = ENV_FIELDS.contains(&text) || FILE_FIELDS.contains(&text);
    if let Some((stem, key)) = text.strip_suffix("']").and_then(|text| text.split_once("['")) {
        match stem {
            "metadata.annotations" if subscripts => causes.each(path, key, names::qualified_name_errors(&key.to_lowercase())),
            "metadata.labels" if subscripts => causes.each(path, key, names::qualified_name_errors(key)),
            _ => causes.bad(&at, text, &format!("error converting fieldPath: field label does not support subscript: {text}")),
        }
    } else if !known {
        causes.bad(&at, text, &format!("error converting fieldPath: field label not supported: {text}"));
    } else if !supported.contains(&text) {
        causes.unsupported(&at, text, supported);
    }
}

/// Validates a reference to a resource of a container.
pub fn validate_resource_ref(field: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if causes.need_text(field, "resource", path) {
        let resource = field.text("resource");
        let huge = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
        if !ENV_RESOURCES.contains(&resource) && !huge {
            causes.unsupported(&path.field("resource"), resource, &ENV_RESOURCES);
        }
    }
}

/// Validates `envFrom`.
pub fn validate_from(sources: &[Value], path: &Path, causes: &mut Causes) {
    for (index, source) in sources.iter().map(as_map).enumerate() {
        let at = path.index(index);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            causes.each(&at.field("prefix"), prefix, names::env_name_errors(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if let Some(reference) = source.object(kind) {
                count += 1;
                let name_path = at.field(kind);
                if causes.need_text(reference, "name", &name_path) {
                    causes.each(&name_path.field("name"), reference.text("name"), names::subdomain_errors(reference.text("name")));
                }
            }
        }
        if count == 0 {
            causes.bad(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            causes.bad(path, "", "may not have more than one field specified at a time");
        }
    }
}
