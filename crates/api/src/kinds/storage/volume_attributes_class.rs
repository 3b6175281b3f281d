//! Volume attributes classes: a recipe for changing volumes.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(columns), ..Kind::plain("storage.k8s.io", "VolumeAttributesClass") }
}

fn validate(class: &Object, causes: &mut Causes) {
    let (driver, at) = (class.text("driverName"), Path::root("driverName"));
    if driver.is_empty() {
        causes.needed(&at, "");
    } else {
        causes.each(&at, driver, names::qualified_name_errors(&driver.to_lowercase()));
    }
    if class.map("parameters").is_empty() {
        causes.required("parameters", "must contain at least one key/value pair");
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    for field in ["driverName", "parameters"] {
        if new.get(field) != old.get(field) {
            causes.forbidden(field, &format!("updates to {field} are forbidden."));
        }
    }
}

fn columns(class: &Object, clock: &Clock) -> Vec<Value> {
    let default = class.annotation("volumeattributesclass.kubernetes.io/is-default-class") == Some("true");
    let name = if default { format!("{} (default)", class.name()) } else { class.name().to_owned() };
    vec![name.into(), class.text("driverName").into(), print::age(class, clock)]
}
