//! CSI storage capacities: how much a driver can still make in a topology.

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::Kind;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(print::plain), ..Kind::plain("storage.k8s.io", "CSIStorageCapacity") }
}

fn validate(capacity: &Object, causes: &mut Causes) {
    if let Some(selector) = capacity.object("nodeTopology") {
        check::label_selector(selector, &Path::root("nodeTopology"), causes);
    }
    let class = capacity.text("storageClassName");
    causes.each(&Path::root("storageClassName"), class, names::subdomain_errors(class));
    for field in ["capacity", "maximumVolumeSize"] {
        if let Some(amount) = capacity.quantity(field) {
            check::quantity_non_negative(amount, &Path::root(field), causes);
        }
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    for field in ["nodeTopology", "storageClassName"] {
        check::immutable(new.get(field), old.get(field), &Path::root(field), causes);
    }
}
