//! `metadata` of every object: names, labels, annotations, owners and finalizers, and what may not change.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::NameRule;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::read::{Read, empty};

const META: Path<'static> = Path::root("metadata");
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// What is wrong with a name by the rule of its kind.
pub fn name_errors(rule: NameRule, name: &str) -> Vec<String> {
    match rule {
        NameRule::Subdomain => names::subdomain_errors(name),
        NameRule::Label => names::label_errors(name),
        NameRule::Label1035 => names::label_1035_errors(name),
        NameRule::PathSegment => names::path_segment_errors(name),
        NameRule::IpAddress => check::ip_errors(name),
    }
}

/// Validates the metadata of a new object.
pub fn validate_meta(object: &Object, rule: NameRule, namespaced: bool, causes: &mut Causes) {
    let meta = object.metadata().unwrap_or(empty());
    validate_nested(meta, rule, knows_finalizers(object), causes, |causes| {
        let namespace = meta.text("namespace");
        let path = META.field("namespace");
        if !namespaced {
            if !namespace.is_empty() {
                causes.forbidden(&path.text(), "not allowed on this type");
            }
        } else if namespace.is_empty() {
            causes.required(&path.text(), "");
        } else {
            causes.each(&path, namespace, names::label_errors(namespace));
        }
    });
}

/// Validates metadata of a template: everything but the name and namespace.
pub fn validate_template_meta(meta: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    validate_labels(meta.map("labels"), &path.field("labels"), causes);
    validate_annotations(meta.map("annotations"), &path.field("annotations"), causes);
}

fn validate_nested(
    meta: &Map<String, Value>,
    rule: NameRule,
    known_finalizers: bool,
    causes: &mut Causes,
    namespace: impl Fn(&mut Causes),
) {
    let path = &META;
    let (name, prefix) = (meta.text("name"), meta.text("generateName"));
    if !prefix.is_empty() {
        let masked = prefix.strip_suffix('-').map(|stem| format!("{stem}a"));
        causes.each(&path.field("generateName"), prefix, name_errors(rule, masked.as_deref().unwrap_or(prefix)));
    }
    if name.is_empty() {
        causes.required(&path.field("name").text(), "name or generateName is required");
    } else {
        causes.each(&path.field("name"), name, name_errors(rule, name));
    }
    namespace(causes);
    let generation = meta.int("generation").unwrap_or(0);
    check::non_negative(generation, &path.field("generation"), causes);
    validate_rest(meta, known_finalizers, path, causes);
}

/// Kinds of extension groups take any qualified name as a finalizer.
fn knows_finalizers(object: &Object) -> bool {
    let group = object.api_version().split_once('/').map_or("", |(group, _)| group);
    !matches!(group, "admissionregistration.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io")
        && (group.is_empty() || group.ends_with(".k8s.io") || !group.contains('.'))
}

fn validate_rest(meta: &Map<String, Value>, known_finalizers: bool, path: &Path, causes: &mut Causes) {
    validate_labels(meta.map("labels"), &path.field("labels"), causes);
    validate_annotations(meta.map("annotations"), &path.field("annotations"), causes);
    validate_owners(meta, &path.field("ownerReferences"), causes);
    validate_finalizers(meta, known_finalizers, &path.field("finalizers"), causes);
}

/// Validates a map of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for (key, value) in labels {
        causes.each(path, key, names::qualified_name_errors(key));
        let value = value.as_str().unwrap_or("");
        causes.each(path, value, names::label_value_errors(value));
    }
}

/// Validates annotations: keys and total size.
pub fn validate_annotations(annotations: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut size = 0;
    for (key, value) in annotations {
        if !names::is_qualified_name(key) {
            causes.each(path, key, names::qualified_name_errors(&key.to_lowercase()));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > MAX_ANNOTATIONS {
        causes.too_long(&path.text(), MAX_ANNOTATIONS);
    }
}

fn validate_owners(meta: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut controller: Option<String> = None;
    for owner in meta.maps("ownerReferences") {
        let api_version = owner.text("apiVersion");
        if api_version.rsplit('/').next().unwrap_or("").is_empty() {
            causes.invalid(&path.field("apiVersion").text(), &api_version.into(), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                causes.invalid(&path.field(field).text(), &"".into(), "must not be empty");
            }
        }
        if owner.text("kind") == "Event" && matches!(api_version, "v1" | "events.k8s.io/v1") {
            let group = if api_version.contains('/') { "" } else { "/" };
            let text = format!("{group}{api_version}, Kind=Event is disallowed from being an owner");
            causes.invalid(&path.text(), &Value::Object(owner.clone()), &text);
        }
        if owner.flag("controller") {
            if let Some(first) = &controller {
                let text = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {}",
                    format_args!("{}/{}", owner.text("kind"), owner.text("name"))
                );
                let all: Vec<String> =
                    meta.list("ownerReferences").iter().map(|one| crate::shown::internal("meta.OwnerReference", one)).collect();
                causes.invalid_text(&path.text(), &format!("[{}]", all.join(",")), &text);
            }
            controller = Some(format!("{}/{}", owner.text("kind"), owner.text("name")));
        }
    }
}

fn validate_finalizers(meta: &Map<String, Value>, checked: bool, path: &Path, causes: &mut Causes) {
    let (mut orphan, mut foreground) = (false, false);
    for (index, finalizer) in meta.texts("finalizers").enumerate() {
        let errors = names::qualified_name_errors(finalizer);
        let standard = matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if checked && !finalizer.contains('/') && !standard {
            causes.bad(&path.index(index), finalizer, "name is neither a standard finalizer name nor is it fully qualified");
        }
        causes.each(path, finalizer, errors);
        orphan |= finalizer == "orphan";
        foreground |= finalizer == "foregroundDeletion";
    }
    if orphan && foreground {
        let all = meta.some("finalizers").unwrap_or(&Value::Null);
        causes.invalid(&path.text(), all, "finalizer orphan and foregroundDeletion cannot be both set");
    }
}

/// Validates a change of metadata.
pub fn validate_meta_update(new: &Object, old: &Object, causes: &mut Causes) {
    let known_finalizers = knows_finalizers(new);
    let (new, old) = (new.metadata().unwrap_or(empty()), old.metadata().unwrap_or(empty()));
    if old.has("deletionTimestamp") {
        let known: Vec<&str> = old.texts("finalizers").collect();
        let added: Vec<&str> = new.texts("finalizers").filter(|one| !known.contains(one)).collect();
        if !added.is_empty() {
            let added = format!("{added:?}").replace('[', "{").replace(']', "}");
            let text = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{added}");
            causes.forbidden(&META.field("finalizers").text(), &text);
        }
    }
    for field in ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        check::immutable(new.some(field), old.some(field), &META.field(field), causes);
    }
    validate_rest(new, known_finalizers, &META, causes);
}
