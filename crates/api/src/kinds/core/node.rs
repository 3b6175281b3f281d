//! Nodes: all fields may be set on create, few of the spec may change later.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, Selectable, keep, keep_spec};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, affinity};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: drop_config_source,
        prepare_update: |new, old| {
            keep(new, old, "status");
            drop_config_source(new);
        },
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        selectable: &[Selectable {
            field: "spec.unschedulable",
            value: |node| if node.map("spec").flag("unschedulable") { "true".into() } else { "false".into() },
        }],
        columns: Some(columns),
        warnings,
        ..Kind::plain("", "Node")
    }
}

/// Defaults: without more to say everything that is there can be given away.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Node") }
}

fn default(node: &mut Map<String, Value>) {
    if let Some(status) = node.object_mut("status")
        && let Some(capacity) = status.some("capacity").cloned()
        && !status.has("allocatable")
    {
        status.insert("allocatable".into(), capacity);
    }
    if let Some(spec) = node.object_mut("spec") {
        // The old field and the first of the list are one.
        let first = spec.texts("podCIDRs").next().unwrap_or("").to_owned();
        let old = spec.text("podCIDR").to_owned();
        if old.is_empty() && !first.is_empty() {
            spec.insert("podCIDR".into(), first.into());
        } else if !old.is_empty() && first.is_empty() {
            spec.insert("podCIDRs".into(), vec![old].into());
        }
    }
}

/// Configuration by the API is no more.
fn drop_config_source(node: &mut Object) {
    node.remove_at(&["spec", "configSource"]);
}

fn validate(node: &Object, causes: &mut Causes) {
    let spec = node.map("spec");
    let metadata = Path::root("metadata");
    let taints = metadata.field("taints");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, taint) in spec.maps("taints").enumerate() {
        let at = taints.index(index);
        let (key, effect) = (taint.text("key"), taint.text("effect"));
        causes.each(&at.field("key"), key, names::qualified_name_errors(key));
        causes.each(&at.field("value"), taint.text("value"), names::label_value_errors(taint.text("value")));
        affinity::taint_effect(effect, &at.field("effect"), causes);
        if seen.contains(&(key, effect)) {
            let message = format!(
                "Duplicate value: {}: taints must be unique by key and effect pair",
                crate::shown::internal("core.Taint", &Value::Object(taint.clone()))
            );
            causes.0.push(crate::Cause { reason: "FieldValueDuplicate", field: at.text(), message });
        }
        seen.push((key, effect));
    }
    let ranges = SPEC.field("podCIDRs");
    for (index, range) in spec.texts("podCIDRs").enumerate() {
        check::cidr(range, &ranges.index(index), causes);
    }
    if spec.list("podCIDRs").len() > 2 {
        causes.bad(&ranges, spec["podCIDRs"].clone(), "may specify no more than one CIDR for each IP family");
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    if !before.list("podCIDRs").is_empty() && spec.list("podCIDRs") != before.list("podCIDRs") {
        causes.refused(&SPEC.field("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
    }
    if !before.text("providerID").is_empty() && spec.text("providerID") != before.text("providerID") {
        causes.refused(&SPEC.field("providerID"), "node updates may not change providerID except from \"\" to valid");
    }
    validate(new, causes);
}

fn warnings(node: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    if !node.map("spec").text("externalID").is_empty() {
        warnings.push("spec.externalID: this field is deprecated, and is unused by Kubernetes".to_owned());
    }
    warnings
}

fn columns(node: &Object, clock: &Clock) -> Vec<Value> {
    let (status, spec) = (node.map("status"), node.map("spec"));
    let ready = status.maps("conditions").find(|one| one.text("type") == "Ready").map(|one| one.text("status"));
    let mut state = match ready {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if spec.flag("unschedulable") {
        state += ",SchedulingDisabled";
    }
    let address = |kind: &str| status.maps("addresses").find(|one| one.text("type") == kind).map_or("<none>", |one| one.text("address"));
    let info = status.map("nodeInfo");
    vec![
        node.name().into(),
        state.into(),
        roles(node).into(),
        print::age(node, clock),
        info.text("kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        print::or(info.text("osImage"), "<unknown>"),
        print::or(info.text("kernelVersion"), "<unknown>"),
        print::or(info.text("containerRuntimeVersion"), "<unknown>"),
    ]
}

fn roles(node: &Object) -> String {
    let mut roles: Vec<&str> = node
        .labels()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => (key == "kubernetes.io/role").then_some(value),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".into() } else { roles.join(",") }
}
