//! CSI nodes: which drivers run on a node.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(columns), ..Kind::plain("storage.k8s.io", "CSINode") }
}

fn validate(node: &Object, causes: &mut Causes) {
    let list = SPEC.field("drivers");
    let mut seen: Vec<&str> = Vec::new();
    for (index, driver) in node.map("spec").maps("drivers").enumerate() {
        let (at, name) = (list.index(index), driver.text("name"));
        if causes.need_text(driver, "name", &at) {
            causes.each(&at.field("name"), name, names::subdomain_errors(&name.to_lowercase()));
        }
        causes.need_text(driver, "nodeID", &at);
        if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
        let mut keys: Vec<&str> = Vec::new();
        for key in driver.texts("topologyKeys") {
            causes.each(&at, key, names::qualified_name_errors(key));
            if keys.contains(&key) {
                causes.twice(&at, key);
            }
            keys.push(key);
        }
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    let list = SPEC.field("drivers");
    for before in old.map("spec").maps("drivers") {
        let now = new.map("spec").maps("drivers").find(|one| one.text("name") == before.text("name"));
        let bare = |driver: &serde_json::Map<String, Value>| {
            let mut driver = driver.clone();
            driver.remove("allocatable");
            driver
        };
        if let Some(now) = now.filter(|now| bare(now) != bare(before)) {
            causes.bad(&list, Value::Object(now.clone()), crate::check::IMMUTABLE);
        }
    }
}

fn columns(node: &Object, clock: &Clock) -> Vec<Value> {
    vec![node.name().into(), node.map("spec").list("drivers").len().into(), print::age(node, clock)]
}
