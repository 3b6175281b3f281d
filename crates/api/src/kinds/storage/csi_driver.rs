//! CSI drivers: what the kubelet and the controllers may expect of a driver.

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind { prepare_update, validate, validate_update, columns: Some(columns), warnings, ..Kind::plain("storage.k8s.io", "CSIDriver") }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("storage.v1.CSIDriver") }
}

fn default(driver: &mut Map<String, Value>) {
    let spec = driver.object_made("spec");
    spec.default("attachRequired", true);
    for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
        spec.default(field, false);
    }
    spec.default("fsGroupPolicy", "ReadWriteOnceWithFSType");
    if spec.list("volumeLifecycleModes").is_empty() {
        spec.insert("volumeLifecycleModes".into(), json!(["Persistent"]));
    }
}

/// Generations count from the first change.
fn prepare_update(new: &mut Object, old: &Object) {
    if new.get("spec") != old.get("spec") {
        new.set_meta("generation", old.generation() + 1);
    }
}

fn validate(driver: &Object, causes: &mut Causes) {
    let spec = driver.map("spec");
    if driver.name().len() > 63 {
        causes.too_long("metadata.name", 63);
    }
    causes.one_of(spec, "fsGroupPolicy", &SPEC, &["File", "None", "ReadWriteOnceWithFSType"]);
    if spec.has("serviceAccountTokenInSecrets") && spec.list("tokenRequests").is_empty() {
        causes.bad(
            &SPEC.field("serviceAccountTokenInSecrets"),
            spec.flag("serviceAccountTokenInSecrets"),
            "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
        );
    }
    if let Some(seconds) = spec.int("nodeAllocatableUpdatePeriodSeconds").filter(|seconds| *seconds < 10) {
        causes.bad(&SPEC.field("nodeAllocatableUpdatePeriodSeconds"), seconds, "must be greater than or equal to 10 seconds");
    }
    let requests = SPEC.field("tokenRequests");
    let mut seen: Vec<&str> = Vec::new();
    for (index, request) in spec.maps("tokenRequests").enumerate() {
        let at = requests.index(index);
        let audience = request.text("audience");
        if seen.contains(&audience) {
            causes.twice(&at.field("audience"), audience);
            continue;
        }
        seen.push(audience);
        if let Some(seconds) = request.int("expirationSeconds").filter(|seconds| *seconds < 600) {
            causes.bad(&at.field("expirationSeconds"), seconds, "may not specify a duration less than 10 minutes");
        }
    }
    let modes = SPEC.field("volumeLifecycleModes");
    for mode in spec.texts("volumeLifecycleModes").filter(|mode| !matches!(*mode, "Ephemeral" | "Persistent")) {
        causes.unsupported(&modes, mode, &["Persistent", "Ephemeral"]);
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate(new, causes);
    let (spec, before) = (new.map("spec"), old.map("spec"));
    check::immutable(spec.some("attachRequired"), before.some("attachRequired"), &SPEC.field("attachedRequired"), causes);
    check::immutable_field(spec, before, "volumeLifecycleModes", &SPEC, causes);
}

fn warnings(driver: &Object) -> Vec<String> {
    let spec = driver.map("spec");
    let unset = !spec.list("tokenRequests").is_empty() && !spec.has("serviceAccountTokenInSecrets");
    let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes";
    if unset { vec![text.to_owned()] } else { Vec::new() }
}

fn columns(driver: &Object, clock: &Clock) -> Vec<Value> {
    let spec = driver.map("spec");
    let flag = |field: &str, nothing: bool| Value::from(spec.some(field).and_then(Value::as_bool).unwrap_or(nothing));
    let modes: Vec<&str> = spec.texts("volumeLifecycleModes").collect();
    let audiences: Vec<&str> = spec.maps("tokenRequests").map(|one| one.text("audience")).collect();
    vec![
        driver.name().into(),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        print::or(&audiences.join(","), "<unset>"),
        flag("requiresRepublish", false),
        print::or_none(&modes.join(",")),
        print::age(driver, clock),
    ]
}
