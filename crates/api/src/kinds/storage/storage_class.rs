//! Storage classes: a recipe that never changes.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_warnings};

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(columns), warnings, ..Kind::plain("storage.k8s.io", "StorageClass") }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("storage.v1.StorageClass") }
}

fn default(class: &mut Map<String, Value>) {
    class.default("reclaimPolicy", "Delete");
    class.default("volumeBindingMode", "Immediate");
}

fn validate(class: &Object, causes: &mut Causes) {
    let (provisioner, at) = (class.text("provisioner"), Path::root("provisioner"));
    if provisioner.is_empty() {
        causes.needed(&at, "");
    } else {
        causes.each(&at, provisioner, names::qualified_name_errors(&provisioner.to_lowercase()));
    }
    let parameters = Path::root("parameters");
    let size: usize = class.map("parameters").iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > 256 * 1024 {
        causes.too_long(&parameters.text(), 256 * 1024);
    }
    if class.map("parameters").contains_key("") {
        causes.bad(&parameters, "", "field can not be empty.");
    }
    causes.one_of(&class.0, "reclaimPolicy", &Path::root(""), &["Delete", "Retain"]);
    causes.one_of(&class.0, "volumeBindingMode", &Path::root(""), &["Immediate", "WaitForFirstConsumer"]);
    let topologies = Path::root("allowedTopologies");
    for (index, term) in class.maps("allowedTopologies").enumerate() {
        let at = topologies.index(index);
        let list = at.field("matchLabelExpressions");
        for (index, one) in term.maps("matchLabelExpressions").enumerate() {
            let at = list.index(index);
            if one.list("values").is_empty() {
                causes.needed(&at.field("values"), "");
            }
            causes.each(&at.field("key"), one.text("key"), names::qualified_name_errors(one.text("key")));
        }
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
        check::immutable(new.get(field), old.get(field), &Path::root(field), causes);
    }
}

fn warnings(class: &Object) -> Vec<String> {
    let (list, mut warnings) = (Path::root("allowedTopologies"), Vec::new());
    for (index, term) in class.maps("allowedTopologies").enumerate() {
        let at = list.index(index);
        let expressions = at.field("matchLabelExpressions");
        for (index, one) in term.maps("matchLabelExpressions").enumerate() {
            if let Some(text) = pod_warnings::deprecated_label(one.text("key")) {
                warnings.push(format!("{}: {text}", expressions.index(index).field("key")));
            }
        }
    }
    warnings
}

fn columns(class: &Object, clock: &Clock) -> Vec<Value> {
    let annotated = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let default = annotated.iter().any(|key| class.annotation(key) == Some("true"));
    let name = if default { format!("{} (default)", class.name()) } else { class.name().to_owned() };
    vec![
        name.into(),
        class.text("provisioner").into(),
        print::or(class.text("reclaimPolicy"), "Delete"),
        print::or(class.text("volumeBindingMode"), "Immediate"),
        class.flag("allowVolumeExpansion").into(),
        print::age(class, clock),
    ]
}
