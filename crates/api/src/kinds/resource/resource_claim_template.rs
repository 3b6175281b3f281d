//! Templates of resource claims.

use crate::check;
use crate::kind::Kind;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate: |object, causes| super::resource_claim::validate_spec(object.map("spec").map("spec"), &SPEC.field("spec"), causes),
        validate_update: |new, old, causes| check::immutable(new.get("spec"), old.get("spec"), &SPEC, causes),
        columns: Some(print::name_and_age),
        ..Kind::plain("resource.k8s.io", "ResourceClaimTemplate")
    }
}
