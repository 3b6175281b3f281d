//! Volume attachments: a volume that shall be attached to a node.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, keep_all_but_status, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "storage.v1.VolumeAttachment"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update: |new, old, causes| {
            validate(new, causes);
            check::immutable(new.get("spec"), old.get("spec"), &SPEC, causes);
        },
        columns: Some(columns),
        ..Kind::plain("storage.k8s.io", "VolumeAttachment")
    }
}

fn validate(attachment: &Object, causes: &mut Causes) {
    let spec = attachment.map("spec");
    causes.need_text(spec, "attacher", &SPEC);
    let (source, at) = (spec.map("source"), SPEC.field("source"));
    match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
        (true, true) => causes.refused(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        (false, true) => {
            let name = source.text("persistentVolumeName");
            if name.is_empty() {
                causes.needed(&at.field("persistentVolumeName"), "must specify non empty persistentVolumeName");
            } else {
                causes.each(&at.field("persistentVolumeName"), name, crate::names::subdomain_errors(name));
            }
        }
        (false, false) => causes.needed(&at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName"),
        _ => {}
    }
    causes.each(&SPEC.field("nodeName"), spec.text("nodeName"), crate::names::subdomain_errors(spec.text("nodeName")));
}

fn columns(attachment: &Object, clock: &Clock) -> Vec<Value> {
    let spec = attachment.map("spec");
    vec![
        attachment.name().into(),
        spec.text("attacher").into(),
        spec.map("source").text("persistentVolumeName").into(),
        spec.text("nodeName").into(),
        attachment.map("status").flag("attached").into(),
        print::age(attachment, clock),
    ]
}
