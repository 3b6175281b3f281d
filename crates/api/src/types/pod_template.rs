//! Pod templates of workloads: labels, annotations and a pod spec that has no running parts.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::path::Path;
use crate::read::Read;
use crate::types::{object_meta, pod_spec, pod_warnings};

/// Validates a template.
pub fn validate(template: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    object_meta::validate_template_meta(template.map("metadata"), path, causes);
    let spec = path.field("spec");
    pod_spec::validate(template.map("spec"), pod_spec::Owner::Template, &spec, causes);
    if !template.map("spec").list("ephemeralContainers").is_empty() {
        causes.refused(&spec.field("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
}

/// Validates the template of a workload whose pods must restart always and not end by a deadline.
pub fn validate_always(template: &Map<String, Value>, path: &Path, kind: &str, causes: &mut Causes) {
    validate(template, path, causes);
    always(template, path, kind, causes);
}

/// Pods of the workload restart always and have no deadline.
fn always(template: &Map<String, Value>, path: &Path, kind: &str, causes: &mut Causes) {
    let (spec, at) = (template.map("spec"), path.field("spec"));
    if spec.text("restartPolicy") != "Always" {
        causes.unsupported(&at.field("restartPolicy"), spec.text("restartPolicy"), &["Always"]);
    }
    if spec.has("activeDeadlineSeconds") {
        causes.refused(&at.field("activeDeadlineSeconds"), &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// Whether the labels of a template match a selector.
pub fn matches(selector: &Value, template: &Map<String, Value>) -> bool {
    let labels = template.map("metadata").map("labels");
    let selector = crate::label_selector::LabelSelector::from_value(selector);
    selector.is_ok_and(|selector| selector.matches(|key| labels.get(key).and_then(Value::as_str)))
}

/// Validates selector and template of a workload whose pods restart always; `word` names it in the text about an
/// empty selector, `kind` in that about deadlines.
pub fn validate_workload(spec: &Map<String, Value>, path: &Path, word: &str, kind: &str, causes: &mut Causes) {
    let before = causes.0.len();
    validate_selector(spec, path, word, causes);
    let selector = spec.object("selector");
    if causes.0.len() > before && selector.is_some_and(|selector| !check::selector_is_empty(selector)) {
        let text = if kind == "StatefulSet" { "" } else { "invalid label selector" };
        causes.bad(&path.field("selector"), spec["selector"].clone(), text);
        return;
    }
    validate_match(spec, path, causes);
    validate_always(spec.map("template"), &path.field("template"), kind, causes);
}

/// Validates the selector of a workload.
fn validate_selector(spec: &Map<String, Value>, path: &Path, word: &str, causes: &mut Causes) {
    let at = path.field("selector");
    match spec.object("selector") {
        None => causes.needed(&at, ""),
        Some(selector) => {
            check::label_selector(selector, &at, causes);
            if check::selector_is_empty(selector) {
                causes.bad(&at, Value::Object(selector.clone()), &format!("empty selector is invalid for {word}"));
            }
        }
    }
}

/// Validates that a workload selects the pods of its own template.
pub fn validate_match(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let template = spec.map("template");
    let selector = spec.get("selector").cloned().unwrap_or_default();
    let nothing_asked = spec.object("selector").is_some_and(check::selector_is_empty);
    if !nothing_asked && !matches(&selector, template) {
        let (at, labels) = (path.field("template"), template.map("metadata").some("labels").cloned().unwrap_or(Value::Null));
        let metadata = at.field("metadata");
        causes.bad(&metadata.field("labels"), labels, "`selector` does not match template `labels`");
    }
}

/// Warnings about the pod spec of `spec.template`.
pub fn warnings(object: &crate::Object) -> Vec<String> {
    const TEMPLATE: Path<'static> = Path::root("spec.template");
    let mut warnings = Vec::new();
    pod_warnings::of_template(object.map("spec").map("template"), &TEMPLATE, &mut warnings);
    warnings
}

/// The same for workloads whose name becomes part of pod names.
pub fn named_warnings(object: &crate::Object) -> Vec<String> {
    let mut named = Vec::new();
    pod_warnings::of_workload_name(object.name(), &mut named);
    named.extend(warnings(object));
    named
}
