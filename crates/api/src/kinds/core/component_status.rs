//! Component statuses: answers of the server about itself, never stored.

use serde_json::Value;

use crate::kind::{Clock, Kind};
use crate::object::Object;
use crate::read::Read;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        columns: Some(columns),
        warnings: |_| vec!["v1 ComponentStatus is deprecated in v1.19+".to_owned()],
        ..Kind::plain("", "ComponentStatus")
    }
}

fn columns(object: &Object, _clock: &Clock) -> Vec<Value> {
    let healthy = object.maps("conditions").find(|one| one.text("type") == "Healthy");
    let (status, message, error) = match healthy {
        Some(one) if one.text("status") == "True" => ("Healthy", one.text("message"), one.text("error")),
        Some(one) => ("Unhealthy", one.text("message"), one.text("error")),
        None => ("Unknown", "", ""),
    };
    vec![object.name().into(), status.into(), message.into(), error.into()]
}
