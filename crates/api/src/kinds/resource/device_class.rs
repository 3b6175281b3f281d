//! Device classes.

use crate::causes::Causes;
use crate::check;
use crate::kind::{Generation, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(print::name_and_age),
        generation: Generation::Spec,
        ..Kind::plain("resource.k8s.io", "DeviceClass")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    check::spec_by_table(object, "resource.v1.DeviceClassSpec", &Path::root("spec"), causes);
}
