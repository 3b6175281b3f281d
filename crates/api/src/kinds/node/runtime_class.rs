//! Runtime classes.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;
use crate::types::{affinity, object_meta, pod_warnings};

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, old, causes| check::immutable(new.get("handler"), old.get("handler"), &Path::root("handler"), causes),
        columns: Some(columns),
        warnings,
        ..Kind::plain("node.k8s.io", "RuntimeClass")
    }
}

fn validate(class: &Object, causes: &mut Causes) {
    causes.each(&Path::root("handler"), class.text("handler"), names::label_errors(class.text("handler")));
    let scheduling = Path::root("scheduling");
    object_meta::validate_labels(class.map("scheduling").map("nodeSelector"), &scheduling.field("nodeSelector"), causes);
    let list = scheduling.field("tolerations");
    let tolerations = class.map("scheduling").list("tolerations");
    for (index, toleration) in tolerations.iter().enumerate().filter(|(index, toleration)| tolerations[..*index].contains(toleration)) {
        causes.twice(&list.index(index), toleration.clone());
    }
    affinity::validate_tolerations(class.map("scheduling"), &scheduling.field("tolerations"), causes);
}

fn warnings(class: &Object) -> Vec<String> {
    let labels = class.map("scheduling").map("nodeSelector").keys();
    labels.filter_map(|key| pod_warnings::deprecated_label(key)).map(|text| format!("scheduling.nodeSelector: {text}")).collect()
}

fn columns(class: &Object, clock: &Clock) -> Vec<Value> {
    vec![class.name().into(), class.text("handler").into(), print::age(class, clock)]
}
