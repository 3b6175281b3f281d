//! Resource slices: devices that a driver offers.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, Selectable};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, old, causes| {
            validate(new, causes);
            for field in ["driver", "nodeName"] {
                check::immutable_field(new.map("spec"), old.map("spec"), field, &SPEC, causes);
            }
        },
        selectable: &[
            Selectable { field: "spec.driver", value: |object| object.text_at(&["spec", "driver"]).into() },
            Selectable { field: "spec.nodeName", value: |object| object.text_at(&["spec", "nodeName"]).into() },
        ],
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("resource.k8s.io", "ResourceSlice")
    }
}

fn validate(slice: &Object, causes: &mut Causes) {
    let spec = slice.map("spec");
    causes.need_text(spec, "driver", &SPEC);
    causes.need_text(spec.map("pool"), "name", &SPEC.field("pool"));
    if spec.map("pool").int("resourceSliceCount").unwrap_or(0) <= 0 {
        let pool = SPEC.field("pool");
        causes.bad(&pool.field("resourceSliceCount"), spec.map("pool").int("resourceSliceCount").unwrap_or(0), "must be greater than zero");
    }
    let mut places: Vec<&str> = ["nodeName", "nodeSelector"].into_iter().filter(|field| spec.has(field)).collect();
    places.extend(["allNodes", "perDeviceNodeSelection"].into_iter().filter(|field| spec.flag(field)));
    match places.len() {
        0 => causes.needed(&SPEC, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"),
        1 => {}
        _ => causes.bad(
            &SPEC,
            format!("{{`{}`}}", places.join("`, `")),
            "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ),
    }
}

fn columns(slice: &Object, clock: &Clock) -> Vec<Value> {
    let spec = slice.map("spec");
    vec![
        slice.name().into(),
        spec.text("nodeName").into(),
        spec.text("driver").into(),
        spec.map("pool").text("name").into(),
        print::age(slice, clock),
    ]
}
