//! Pods: phase and quality of service on create, what may change later, and the columns of `kubectl get pods`.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Generation, Kind, Selectable, keep};
use crate::object::Object;
use crate::path::Path;
use crate::pods;
use crate::quantity::Quantity;
use crate::read::{Read, Write};
use crate::types::{Rules, pod_spec, pod_warnings};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update: |new, old| keep(new, old, "status"),
        prepare_status_update,
        validate,
        validate_update,
        validate_status_update,
        selectable: SELECTABLE,
        columns: Some(super::pod_columns::columns),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("", "Pod")
    }
}

/// Defaults of a pod beyond those of its spec.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Pod") }
}

const OLD_ANNOTATIONS: [&str; 4] = [
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-container-statuses",
    "pod.beta.kubernetes.io/init-container-statuses",
];

const SELECTABLE: &[Selectable] = &[
    Selectable { field: "spec.nodeName", value: |pod| pod.text_at(&["spec", "nodeName"]).into() },
    Selectable { field: "spec.restartPolicy", value: |pod| pod.text_at(&["spec", "restartPolicy"]).into() },
    Selectable { field: "spec.schedulerName", value: |pod| pod.text_at(&["spec", "schedulerName"]).into() },
    Selectable { field: "spec.serviceAccountName", value: |pod| pod.text_at(&["spec", "serviceAccountName"]).into() },
    Selectable { field: "spec.hostNetwork", value: |pod| if pod.map("spec").flag("hostNetwork") { "true".into() } else { "false".into() } },
    Selectable { field: "status.phase", value: |pod| pod.text_at(&["status", "phase"]).into() },
    Selectable { field: "status.podIP", value: pod_ip },
    Selectable { field: "status.podIPs", value: pod_ip },
    Selectable { field: "status.nominatedNodeName", value: |pod| pod.text_at(&["status", "nominatedNodeName"]).into() },
];

fn pod_ip(pod: &Object) -> Cow<'_, str> {
    pod.map("status").maps("podIPs").next().map_or("", |ip| ip.text("ip")).into()
}

fn default(pod: &mut Map<String, Value>) {
    // Old forms of init containers are not carried on.
    if let Some(annotations) = pod.object_mut("metadata").and_then(|meta| meta.object_mut("annotations")) {
        annotations.retain(|key, _| !OLD_ANNOTATIONS.contains(&key.as_str()));
    }
    let Some(spec) = pod.object_mut("spec") else { return };
    spec.default("enableServiceLinks", true);
    let host_network = spec.flag("hostNetwork");
    for field in ["containers", "initContainers"] {
        for container in spec.maps_mut(field) {
            if let Some(resources) = container.object_mut("resources") {
                requests_from_limits(resources);
            }
            if host_network {
                for port in container.maps_mut("ports") {
                    let number = port.int("containerPort").unwrap_or(0);
                    port.default_number("hostPort", number);
                }
            }
        }
    }
    default_pod_resources(spec);
}

/// A limit without a request asks for as much.
fn requests_from_limits(resources: &mut Map<String, Value>) {
    let limits = resources.map("limits").clone();
    if limits.is_empty() {
        return;
    }
    let requests = resources.object_made("requests");
    for (name, amount) in limits {
        requests.entry(name).or_insert(amount);
    }
}

/// Resources of the whole pod: a missing request is what the containers ask for together, or else the limit.
fn default_pod_resources(spec: &mut Map<String, Value>) {
    let Some(resources) = spec.object("resources") else { return };
    let limits = resources.map("limits").clone();
    let mut without = spec.clone();
    for field in ["resources", "overhead"] {
        without.remove(field);
    }
    let asked = pods::requests(&without);
    let requests = spec.object_made("resources").object_made("requests");
    for (name, limit) in limits {
        let amount = asked.get(&name).filter(|amount| !amount.is_zero());
        let amount = amount.map_or(limit, |amount: &Quantity| amount.to_string().into());
        requests.entry(name).or_insert(amount);
    }
}

fn prepare_create(pod: &mut Object) {
    if pod.map("spec").int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        pod.map_at_mut(&["spec"]).insert("terminationGracePeriodSeconds".into(), 1.into());
    }
    profiles_from_annotations(pod);
    let spec = pod.map("spec");
    let mut status = json!({"phase": "Pending", "qosClass": pods::qos_class(spec)});
    if !spec.list("schedulingGates").is_empty() {
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates",
            "lastProbeTime": null, "lastTransitionTime": match crate::print::created(pod) {
                "" => Value::Null,
                created => created.into(),
            },
        }]);
    }
    pod.0.insert("status".into(), status);
}

/// AppArmor profiles of the old annotations become fields.
fn profiles_from_annotations(pod: &mut Object) {
    let annotations = pod.metadata().map(|meta| meta.map("annotations").clone()).unwrap_or_default();
    let spec = pod.map_at_mut(&["spec"]);
    if spec.map("securityContext").has("appArmorProfile") {
        return;
    }
    for field in ["containers", "initContainers"] {
        for container in spec.maps_mut(field) {
            let key = format!("container.apparmor.security.beta.kubernetes.io/{}", container.text("name"));
            let profile = match annotations.text(&key) {
                "unconfined" => json!({"type": "Unconfined"}),
                "runtime/default" => json!({"type": "RuntimeDefault"}),
                text => match text.strip_prefix("localhost/") {
                    Some(name) => json!({"type": "Localhost", "localhostProfile": name}),
                    None => continue,
                },
            };
            container.object_made("securityContext").default("appArmorProfile", profile);
        }
    }
}

fn prepare_status_update(new: &mut Object, old: &Object) {
    keep(new, old, "spec");
    let owners = old.metadata().and_then(|meta| meta.some("ownerReferences")).cloned();
    match owners {
        Some(owners) => new.set_meta("ownerReferences", owners),
        None => drop(new.metadata_mut().remove("ownerReferences")),
    }
    let qos = old.text_at(&["status", "qosClass"]).to_owned();
    let status = new.map_at_mut(&["status"]);
    if !qos.is_empty() {
        status.default_text("qosClass", &qos);
    }
}

fn validate(pod: &Object, causes: &mut Causes) {
    pod_spec::validate(pod.map("spec"), pod_spec::Owner::Pod, &SPEC, causes);
    let spec = pod.map("spec");
    if !spec.list("ephemeralContainers").is_empty() {
        causes.refused(&SPEC.field("ephemeralContainers"), "cannot be set on create");
    }
    if !spec.text("nodeName").is_empty() && !spec.list("schedulingGates").is_empty() {
        causes.refused(&SPEC.field("nodeName"), "cannot be set until all schedulingGates have been cleared");
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    pod_spec::validate(spec, pod_spec::Owner::Pod, &SPEC, causes);
    for field in ["containers", "initContainers"] {
        if spec.list(field).len() != before.list(field).len() {
            causes.refused(&SPEC.field(field), "pod updates may not add or remove containers");
            return;
        }
    }
    validate_deadline(spec, before, causes);
    let tolerations = spec.list("tolerations");
    let kept = |old: &Value| tolerations.iter().any(|new| same_toleration(new, old));
    if !before.list("tolerations").iter().all(kept) {
        causes.refused(&SPEC.field("tolerations"), "existing toleration can not be modified except its tolerationSeconds");
    }
    let gates = SPEC.field("schedulingGates");
    for (index, gate) in spec.maps("schedulingGates").enumerate() {
        if !before.maps("schedulingGates").any(|one| one.text("name") == gate.text("name")) {
            let text = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.text("name"));
            causes.refused(&gates.index(index).field("name"), &text);
        }
    }
    let kept = |(key, value): (&String, &Value)| spec.map("nodeSelector").get(key) == Some(value);
    if !before.list("schedulingGates").is_empty() && !before.map("nodeSelector").iter().all(kept) {
        let selector = spec.some("nodeSelector").cloned().unwrap_or(Value::Null);
        causes.bad(&SPEC.field("nodeSelector"), selector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    let changed = frozen_changes(spec, before);
    if !changed.is_empty() {
        let text = format!(
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n{changed}"
        );
        causes.refused(&SPEC, &text);
    }
}

fn validate_deadline(spec: &Map<String, Value>, before: &Map<String, Value>, causes: &mut Causes) {
    let at = SPEC.field("activeDeadlineSeconds");
    match (spec.int("activeDeadlineSeconds"), before.int("activeDeadlineSeconds")) {
        (Some(new), Some(old)) if new > old => causes.bad(&at, new, "must be less than or equal to previous value"),
        (None, Some(_)) => causes.bad(&at, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn same_toleration(new: &Value, old: &Value) -> bool {
    ["key", "operator", "value", "effect"].iter().all(|field| new.text(field) == old.text(field))
}

/// Which top-level fields of the spec differ beyond what may change, as a small diff.
fn frozen_changes(spec: &Map<String, Value>, before: &Map<String, Value>) -> String {
    let mut munged = spec.clone();
    for field in ["containers", "initContainers"] {
        let images: Vec<Value> = before.maps(field).map(|one| one.get("image").cloned().unwrap_or(Value::Null)).collect();
        for (container, image) in munged.maps_mut(field).zip(images) {
            container.insert("image".into(), image);
        }
    }
    let mut free = vec!["activeDeadlineSeconds", "tolerations", "schedulingGates"];
    let grace = |spec: &Map<String, Value>| spec.int("terminationGracePeriodSeconds");
    if grace(before).is_some_and(|grace| grace < 0) && grace(spec) == Some(1) {
        free.push("terminationGracePeriodSeconds");
    }
    // A gated pod is not scheduled yet: where it may run can still be narrowed.
    if !before.list("schedulingGates").is_empty() {
        free.extend(["nodeSelector", "affinity"]);
    }
    let mut names: Vec<&String> = munged.keys().chain(before.keys()).collect();
    names.sort();
    names.dedup();
    let mut diff = String::new();
    for name in names.into_iter().filter(|name| !free.contains(&name.as_str())) {
        let (new, old) = (munged.some(name), before.some(name));
        if !check::same(new, old) {
            let shown = |value: Option<&Value>| value.map_or_else(|| "nil".to_owned(), Value::to_string);
            diff += &format!("- \t{name}: {},\n+ \t{name}: {},\n", shown(old), shown(new));
        }
    }
    diff
}

fn validate_status_update(new: &Object, _old: &Object, causes: &mut Causes) {
    let status = Path::root("status");
    let ips = status.field("podIPs");
    for (index, ip) in new.map("status").maps("podIPs").enumerate() {
        check::ip(ip.text("ip"), &ips.index(index), causes);
    }
    let nominated = new.text_at(&["status", "nominatedNodeName"]);
    if !nominated.is_empty() {
        causes.each(&status.field("nominatedNodeName"), nominated, crate::names::subdomain_errors(nominated));
    }
}

fn warnings(pod: &Object) -> Vec<String> {
    let mut warnings = Vec::new();
    pod_warnings::of_pod(pod, &mut warnings);
    warnings
}

/// An update through `pods/ephemeralcontainers` changes nothing else.
pub fn prepare_ephemeral_containers(new: &mut Object, old: &Object) {
    let added = new.remove_at(&["spec", "ephemeralContainers"]);
    keep_all(new, old);
    match added {
        Some(added) => drop(new.map_at_mut(&["spec"]).insert("ephemeralContainers".into(), added)),
        None => drop(new.remove_at(&["spec", "ephemeralContainers"])),
    }
}

/// Takes everything from the old object but the version and the managed fields.
fn keep_all(new: &mut Object, old: &Object) {
    let resource_version = new.resource_version().to_owned();
    let managed = new.metadata_mut().remove("managedFields");
    *new = old.clone();
    new.set_meta("resourceVersion", resource_version);
    if let Some(managed) = managed {
        new.set_meta("managedFields", managed);
    }
}

/// Ephemeral containers may be added, never changed or removed.
pub fn validate_ephemeral_containers(new: &Object, old: &Object, causes: &mut Causes) {
    let spec = new.map("spec");
    pod_spec::validate(spec, pod_spec::Owner::Pod, &SPEC, causes);
    let at = SPEC.field("ephemeralContainers");
    for before in old.map("spec").maps("ephemeralContainers") {
        let name = before.text("name");
        match spec.maps("ephemeralContainers").find(|one| one.text("name") == name) {
            None => causes.refused(&at, &format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(now) if now != before => causes.refused(&at, &format!("existing ephemeral containers {name:?} may not be changed\n")),
            Some(_) => {}
        }
    }
}

/// An update through `pods/resize` changes only resources, of the pod and of containers, and resize policies; all else is dropped.
pub fn prepare_resize(new: &mut Object, old: &Object) {
    let given = new.map("spec").clone();
    keep_all(new, old);
    let spec = new.map_at_mut(&["spec"]);
    match given.get("resources") {
        Some(value) => spec.insert("resources".into(), value.clone()),
        None => spec.remove("resources"),
    };
    for field in ["containers", "initContainers"] {
        for container in spec.maps_mut(field) {
            let Some(wanted) = given.maps(field).find(|one| one.text("name") == container.text("name")) else { continue };
            for part in ["resources", "resizePolicy"] {
                match wanted.get(part) {
                    Some(value) => container.insert(part.into(), value.clone()),
                    None => container.remove(part),
                };
            }
        }
    }
}

/// Whether a resize changes only what may be resized, and not the quality of service.
pub fn validate_resize(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    pod_spec::validate(spec, pod_spec::Owner::Pod, &SPEC, causes);
    let strip = |owner: &mut Map<String, Value>| {
        let resources = owner.object_made("resources");
        for side in ["requests", "limits"] {
            let amounts = resources.object_made(side);
            amounts.remove("cpu");
            amounts.remove("memory");
        }
    };
    let whole = |spec: &Map<String, Value>| {
        let mut own = Map::new();
        own.insert("resources".into(), spec.map("resources").clone().into());
        strip(&mut own);
        own
    };
    let bare = |spec: &Map<String, Value>| {
        let mut spec = spec.clone();
        spec.remove("resources");
        for field in ["containers", "initContainers"] {
            for container in spec.maps_mut(field) {
                container.remove("resizePolicy");
                strip(container);
            }
        }
        spec
    };
    let (own, had) = (spec.map("resources"), before.map("resources"));
    if before.has("resources") && !spec.has("resources") {
        causes.refused(&SPEC.field("resources"), "pod-level resources cannot be removed");
    } else {
        // A request that is not given follows from containers and limits.
        if had.map("limits").keys().any(|name| !own.map("limits").has(name)) {
            causes.refused(&SPEC.field("resources").field("limits"), "pod-level resource limits cannot be removed");
        }
        if whole(spec) != whole(before) {
            causes.refused(&SPEC, "only cpu and memory resources are mutable at pod-level");
        }
    }
    if bare(spec) != bare(before) {
        causes.refused(&SPEC, "only cpu and memory resources are mutable");
    }
    let before_qos = match old.text_at(&["status", "qosClass"]) {
        "" => pods::qos_class(before),
        class => class,
    };
    if pods::qos_class(spec) != before_qos {
        causes.bad(&SPEC, before_qos, "Pod QOS Class may not change as a result of resizing");
    }
    let running = old.map("status").maps("containerStatuses").find(|one| one.map("state").has("running"));
    if running.is_some_and(|one| !one.has("resources")) {
        causes.refused(&SPEC, "Pod running on node without support for resize");
    }
}
