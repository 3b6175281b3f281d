//! Definitions of custom resources: names that fit together, exactly one stored version, a schema that is structural.

use serde_json::{Map, Value};

use super::{internal_form, structural_schema};
use crate::causes::{Cause, Causes};
use crate::check::{self, Check};
use crate::kind::{Generation, Kind, keep, keep_spec, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, webhook};

const SPEC: Path<'static> = Path::root("spec");
const TYPE: &str = "apiextensions-apiserver.apiextensions.v1.CustomResourceDefinition";
const APPROVED: &str = "api-approved.kubernetes.io";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update,
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        columns: Some(print::plain),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("apiextensions.k8s.io", "CustomResourceDefinition")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of(TYPE) }
}

fn default(definition: &mut Map<String, Value>) {
    let spec = definition.object_made("spec");
    let names = spec.object_made("names");
    let kind = names.text("kind").to_owned();
    if !kind.is_empty() {
        names.default_text("singular", &kind.to_lowercase());
        names.default_text("listKind", &format!("{kind}List"));
    }
    spec.object_made("conversion").default_text("strategy", "None");
}

fn prepare_create(definition: &mut Object) {
    reset_status_of(definition, TYPE);
    add_stored_version(definition);
}

fn prepare_update(new: &mut Object, old: &Object) {
    keep(new, old, "status");
    add_stored_version(new);
}

/// Every version that ever was the stored one is remembered: objects may still be in it.
fn add_stored_version(definition: &mut Object) {
    let versions = definition.map("spec").maps("versions").filter(|version| version.flag("storage"));
    let names: Vec<String> = versions.map(|version| version.text("name").to_owned()).collect();
    let status = definition.map_at_mut(&["status"]);
    let mut stored = status.list("storedVersions").to_vec();
    for name in names {
        if !stored.contains(&Value::from(name.as_str())) {
            stored.push(name.into());
        }
    }
    if !stored.is_empty() {
        status.insert("storedVersions".into(), stored.into());
    }
}

fn warnings(definition: &Object) -> Vec<String> {
    let mut formats = Vec::new();
    for version in definition.map("spec").maps("versions") {
        structural_schema::unknown_formats(version.map("schema").map("openAPIV3Schema"), &mut formats);
    }
    formats.sort();
    formats.dedup();
    formats.into_iter().map(|format| format!("unrecognized format {format:?}")).collect()
}

fn validate(definition: &Object, causes: &mut Causes) {
    let spec = definition.map("spec");
    let required = format!("{}.{}", spec.map("names").text("plural"), spec.text("group"));
    if definition.name() != required {
        causes.invalid("metadata.name", &definition.name().into(), "must be spec.names.plural+\".\"+spec.group");
    }
    validate_spec(spec, causes);
    let status = Path::root("status");
    if definition.map("status").list("storedVersions").is_empty() {
        causes.bad(&status.field("storedVersions"), Value::Null, "must have at least one stored version");
    } else {
        // A version that stands twice is found once.
        let stored = definition.map("status").list("storedVersions");
        let mut left: Vec<&Value> = stored.iter().collect();
        for version in spec.maps("versions") {
            let found = left.iter().position(|one| **one == version.text("name"));
            if let Some(at) = found {
                left.remove(at);
            } else if version.flag("storage") {
                let why = format!("must have the storage version {}", version.text("name"));
                causes.bad(&status.field("storedVersions"), stored.to_vec(), &why);
            }
        }
    }
    let group = spec.text("group");
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    if protected && definition.annotation(APPROVED).unwrap_or("").is_empty() {
        causes.required(
            &format!("metadata.annotations[{APPROVED}]"),
            &format!(
                "protected groups must have approval annotation {APPROVED:?}, see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        );
    }
}

fn validate_spec(spec: &Map<String, Value>, causes: &mut Causes) {
    let (group, at) = (spec.text("group"), SPEC.field("group"));
    if group.is_empty() {
        causes.needed(&at, "");
    } else {
        causes.each(&at, group, names::subdomain_errors(group));
        if !group.contains('.') {
            causes.bad(&at, group, "should be a domain with at least one dot");
        }
    }
    causes.need_one_of(spec, "scope", &SPEC, &["Cluster", "Namespaced"]);
    // A schema that all versions share is blamed once.
    let schemas: Vec<&Map<String, Value>> = spec.maps("versions").map(|version| version.map("schema")).collect();
    let shared = schemas.windows(2).all(|pair| pair[0] == pair[1]);
    validate_versions(spec, shared, causes);
    let names = spec.map("names");
    validate_names(names, causes);
    if shared && let Some(schema) = schemas.first().and_then(|schema| schema.object("openAPIV3Schema")) {
        let at = SPEC.field("validation");
        structural_schema::validate_root(schema, &at.field("openAPIV3Schema"), causes);
    }
    if !names.text("kind").is_empty() && names.text("kind") == names.text("listKind") {
        let at = SPEC.field("names");
        causes.bad(&at.field("listKind"), names.text("listKind"), "kind and listKind may not be the same");
    }
    validate_conversion(spec.map("conversion"), &SPEC.field("conversion"), causes);
}

fn validate_versions(spec: &Map<String, Value>, shared: bool, causes: &mut Causes) {
    let list = SPEC.field("versions");
    if spec.list("versions").is_empty() {
        causes.bad(&list, Value::Null, "must have exactly one version marked as storage version");
        return;
    }
    // That every version has a schema is asked before anything else.
    for (index, _) in spec.maps("versions").enumerate().filter(|(_, version)| !version.map("schema").has("openAPIV3Schema")) {
        causes.needed(&list.index(index).field("schema").field("openAPIV3Schema"), "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, version) in spec.maps("versions").enumerate() {
        let (at, name) = (list.index(index), version.text("name"));
        causes.each(&at.field("name"), name, names::label_1035_errors(name));
        seen.push(name);
        if version.has("deprecationWarning") && !version.flag("deprecated") {
            causes.bad(&at.field("deprecationWarning"), version.text("deprecationWarning"), "can only be set for deprecated versions");
        }
        let schema_path = at.field("schema");
        match version.map("schema").object("openAPIV3Schema") {
            Some(schema) if !shared => structural_schema::validate_root(schema, &schema_path.field("openAPIV3Schema"), causes),
            _ => {}
        }
        validate_scale(version, &at.field("subresources"), causes);
        let columns = at.field("additionalPrinterColumns");
        for (index, column) in version.maps("additionalPrinterColumns").enumerate() {
            let at = columns.index(index);
            causes.need_text(column, "name", &at);
            if causes.need_text(column, "type", &at) && !matches!(column.text("type"), "boolean" | "date" | "integer" | "number" | "string")
            {
                causes.bad(&at.field("type"), column.text("type"), "must be one of boolean,date,integer,number,string");
            }
            let path = column.text("jsonPath");
            if path.is_empty() {
                causes.needed(&at.field("JSONPath"), "");
            } else if !path.starts_with('.') {
                causes.bad(&at.field("JSONPath"), path, "must be a simple json path starting with .");
            }
        }
    }
    let mut unique = seen.clone();
    unique.sort_unstable();
    unique.dedup();
    if unique.len() != seen.len() {
        blame_versions(spec, shared, "must contain unique version names", causes);
    }
    if spec.maps("versions").filter(|version| version.flag("storage")).count() != 1 {
        blame_versions(spec, shared, "must have exactly one version marked as storage version", causes);
    }
}

fn validate_scale(version: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let Some(scale) = version.map("subresources").object("scale") else { return };
    let at = path.field("scale");
    for (field, start) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let text = scale.text(field);
        if !causes.need_text(scale, field, &at) {
            continue;
        }
        if !text.starts_with('.') {
            causes.bad(&at.field(field), text, "must be a simple json path starting with .");
        } else if !text.starts_with(start) {
            causes.bad(&at.field(field), text, &format!("should be a json path under {}", start.trim_end_matches('.')));
        }
    }
}

/// Blames all versions, printed as the real server's own structs are: in the order of their fields.
fn blame_versions(spec: &Map<String, Value>, shared: bool, detail: &str, causes: &mut Causes) {
    let message = format!("Invalid value: {}: {detail}", internal_form::versions(spec, shared));
    causes.0.push(Cause { reason: "FieldValueInvalid", field: SPEC.field("versions").text(), message });
}

fn validate_names(names: &Map<String, Value>, causes: &mut Causes) {
    let at = SPEC.field("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        causes.need_text(names, field, &at);
    }
    for field in ["plural", "singular"] {
        let name = names.text(field);
        if !name.is_empty() {
            causes.each(&at.field(field), name, names::label_1035_errors(name));
        }
    }
    for field in ["kind", "listKind"] {
        let name = names.text(field);
        if name.is_empty() {
            continue;
        }
        for error in names::label_1035_errors(&name.to_lowercase()) {
            causes.bad(&at.field(field), name, &format!("may have mixed case, but should otherwise match: {error}"));
        }
    }
    for list in ["shortNames", "categories"] {
        let path = at.field(list);
        for (index, name) in names.texts(list).enumerate() {
            causes.each(&path.index(index), name, names::label_1035_errors(name));
        }
    }
}

fn validate_conversion(conversion: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let at = path.field("webhook");
    match (conversion.text("strategy"), conversion.object("webhook")) {
        ("None", Some(_)) => causes.refused(&at, "should not be set when strategy is not set to Webhook"),
        ("None", None) => {}
        ("Webhook", None) => {
            causes.needed(&path.field("webhookClientConfig"), "required when strategy is set to Webhook");
            causes.needed(&path.field("conversionReviewVersions"), "");
        }
        ("Webhook", Some(hook)) => {
            let client = at.field("clientConfig");
            match hook.object("clientConfig") {
                Some(config) => webhook::validate_client(config, &client, causes),
                None => causes.needed(&client, "required when strategy is set to Webhook"),
            }
            let versions = at.field("conversionReviewVersions");
            if hook.list("conversionReviewVersions").is_empty() {
                causes.needed(&versions, "");
            } else if !hook.texts("conversionReviewVersions").any(|version| matches!(version, "v1" | "v1beta1")) {
                causes.bad(&versions, hook["conversionReviewVersions"].clone(), "must include at least one of v1, v1beta1");
            }
        }
        (other, _) => causes.unsupported(&path.field("strategy"), other, &["None", "Webhook"]),
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    let (spec, before) = (new.map("spec"), old.map("spec"));
    if print::condition_true(old.map("status"), "Established") {
        for field in ["group", "scope"] {
            check::immutable_field(spec, before, field, &SPEC, causes);
        }
        let names = SPEC.field("names");
        for field in ["plural", "kind"] {
            check::immutable_field(spec.map("names"), before.map("names"), field, &names, causes);
        }
    }
    let status = Path::root("status");
    let stored = status.field("storedVersions");
    let known = |name: &str| spec.maps("versions").any(|version| version.text("name") == name);
    for (index, version) in new.map("status").texts("storedVersions").enumerate().filter(|(_, version)| !known(version)) {
        let text = format!(
            "missing from spec.versions; {version} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {version} and removes {version} from status.storedVersions"
        );
        causes.bad(&stored.index(index), version, &text);
    }
}
