//! Pod templates as objects of their own.

use serde_json::Value;

use crate::kind::{Clock, Generation, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;
use crate::types::{pod_template, pod_warnings};

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate: |object, causes| pod_template::validate(object.map("template"), &Path::root("template"), causes),
        validate_update: |new, _old, causes| pod_template::validate(new.map("template"), &Path::root("template"), causes),
        columns: Some(columns),
        warnings: |object| {
            let mut warnings = Vec::new();
            pod_warnings::of_template(object.map("template"), &Path::root("template"), &mut warnings);
            warnings
        },
        generation: Generation::Spec,
        ..Kind::plain("", "PodTemplate")
    }
}

fn columns(object: &Object, _clock: &Clock) -> Vec<Value> {
    let template = object.map("template");
    let [names, images] = print::containers(template.map("spec"));
    vec![object.name().into(), names, images, print::labels(template.map("metadata").map("labels"))]
}
