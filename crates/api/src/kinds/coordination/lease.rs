//! Leases.

use serde_json::Value;

use crate::causes::Causes;
use crate::check;
use crate::kind::{Clock, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: drop_election,
        prepare_update: |new, _old| drop_election(new),
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        ..Kind::plain("coordination.k8s.io", "Lease")
    }
}

/// Coordinated election is off by default, and with it its fields.
fn drop_election(lease: &mut Object) {
    for field in ["strategy", "preferredHolder"] {
        lease.remove_at(&["spec", field]);
    }
}

fn validate(lease: &Object, causes: &mut Causes) {
    check::positive_field(lease.map("spec"), "leaseDurationSeconds", &SPEC, causes);
    check::non_negative_field(lease.map("spec"), "leaseTransitions", &SPEC, causes);
}

fn columns(lease: &Object, clock: &Clock) -> Vec<Value> {
    vec![lease.name().into(), lease.map("spec").text("holderIdentity").into(), print::age(lease, clock)]
}
