//! Service CIDRs: the ranges that cluster addresses come from.

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
        prepare_create: |object| reset_status_of(object, "networking.v1.ServiceCIDR"),
        prepare_update: keep_status,
        prepare_status_update: keep_all_but_status,
        status_keeps: &["spec", "metadata"],
        validate,
        validate_update,
        columns: Some(columns),
        ..Kind::plain("networking.k8s.io", "ServiceCIDR")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let (spec, list) = (object.map("spec"), SPEC.field("cidrs"));
    match spec.list("cidrs").len() {
        0 => causes.needed(&list, "at least one CIDR required"),
        1 | 2 => {}
        _ => causes.bad(&list, spec["cidrs"].clone(), "must only hold up to 2 values"),
    }
    for (index, range) in spec.texts("cidrs").enumerate() {
        check::cidr(range, &list.index(index), causes);
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let list = SPEC.field("cidrs");
    let before = old.map("spec").list("cidrs");
    for (index, range) in new.map("spec").list("cidrs").iter().enumerate() {
        if before.get(index).is_some_and(|old| old != range) {
            causes.bad(&list.index(index), range.clone(), check::IMMUTABLE);
        }
    }
    if new.map("spec").list("cidrs").len() < before.len() {
        causes.bad(&list, new.map("spec").list("cidrs").to_vec(), check::IMMUTABLE);
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let ranges: Vec<&str> = object.map("spec").texts("cidrs").collect();
    vec![object.name().into(), ranges.join(",").into(), print::age(object, clock)]
}
