//! `core.v1.Container`: a container of a pod, and what its image's tag says about pulling.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::names;
use crate::path::Path;
use crate::read::{Read, Write};
use crate::types::handler::{self, Role};
use crate::types::{Rules, env_var, resources, security_context, volume};

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Container") }
}

pub(super) fn default(map: &mut Map<String, Value>) {
    if map.text("imagePullPolicy").is_empty() {
        let policy = pull_policy(map.text("image"));
        map.insert("imagePullPolicy".into(), policy.into());
    }
    map.default_text("terminationMessagePath", "/dev/termination-log");
    map.default_text("terminationMessagePolicy", "File");
}

/// `latest`, said or meant, is always pulled.
pub fn pull_policy(image: &str) -> &'static str {
    static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
        let host = r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?";
        let part = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*";
        let pattern = format!(
            r"^(?:{host}/)?{part}(?:/{part})*(?::[\w][\w.-]{{0,127}})?(?:@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{{32,}})?$"
        );
        Regex::new(&pattern).expect("the pattern is fixed")
    });

    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_empty() && !name.is_empty(),
    };
    if latest && REFERENCE.is_match(image) { "Always" } else { "IfNotPresent" }
}

/// What the containers of a pod are validated against.
pub struct Surroundings<'a> {
    /// The pod's volumes.
    pub volumes: &'a [&'a Map<String, Value>],
    /// Names of the pod's resource claims.
    pub claims: &'a [&'a str],
    /// Whether the pod uses the host's user name space.
    pub host_users: bool,
    /// The pod's restart policy.
    pub restart_policy: &'a str,
}

/// Validates what all three kinds of containers have in common; `name` was not seen before.
pub fn validate<'c>(
    container: &'c Map<String, Value>,
    around: &Surroundings,
    names_seen: &mut Vec<&'c str>,
    path: &Path,
    causes: &mut Causes,
) {
    let name = container.text("name");
    if causes.need_text(container, "name", path) {
        causes.each(&path.field("name"), name, names::label_errors(name));
    }
    causes.need_text(container, "image", path);
    causes.need_one_of(container, "terminationMessagePolicy", path, &["File", "FallbackToLogsOnError"]);
    validate_ports(container, &path.field("ports"), causes);
    env_var::validate(container.list("env"), &path.field("env"), causes);
    env_var::validate_from(container.list("envFrom"), &path.field("envFrom"), causes);
    validate_mounts(container, around.volumes, path, causes);
    causes.need_one_of(container, "imagePullPolicy", path, &["Always", "IfNotPresent", "Never"]);
    validate_resize(container, around.restart_policy, &path.field("resizePolicy"), causes);
    let resources_path = path.field("resources");
    resources::validate(container.map("resources"), &resources_path, causes);
    validate_claims(container.map("resources"), around, &resources_path.field("claims"), causes);
    if let Some(context) = container.object("securityContext") {
        security_context::validate_container(context, around.host_users, &path.field("securityContext"), causes);
    }
    if names_seen.contains(&name) {
        causes.twice(&path.field("name"), name);
    }
    names_seen.push(name);
}

/// Validates the resource claims that a container or the whole pod uses.
pub fn validate_claims(resources: &Map<String, Value>, around: &Surroundings, path: &Path, causes: &mut Causes) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (index, claim) in resources.maps("claims").enumerate() {
        let (at, name, request) = (path.index(index), claim.text("name"), claim.text("request"));
        if !request.is_empty() {
            causes.each(&at.field("request"), request, names::label_errors(request));
        }
        if name.is_empty() {
            causes.needed(&at, "");
            continue;
        }
        if seen.contains(&(name, request)) {
            causes.twice(&at, name);
        }
        seen.push((name, request));
        if !around.claims.contains(&name) {
            let known = if around.claims.is_empty() { " which is empty".to_owned() } else { format!(": {}", around.claims.join(", ")) };
            let message = format!("Not found: {}: must be one of the names in pod.spec.resourceClaims{known}", Value::from(name));
            causes.0.push(crate::Cause { reason: "FieldValueNotFound", field: at.text(), message });
        }
    }
}

fn validate_resize(container: &Map<String, Value>, restart_policy: &str, path: &Path, causes: &mut Causes) {
    let mut seen: Vec<&str> = Vec::new();
    for policy in container.maps("resizePolicy") {
        let name = policy.text("resourceName");
        if seen.contains(&name) {
            causes.twice(path, name);
        }
        seen.push(name);
        match name {
            "" => causes.needed(path, ""),
            "cpu" | "memory" => {}
            other => causes.unsupported(path, other, &["cpu", "memory"]),
        }
        match policy.text("restartPolicy") {
            "" => causes.needed(path, ""),
            "NotRequired" | "RestartContainer" => {}
            other => causes.unsupported(path, other, &["NotRequired", "RestartContainer"]),
        }
        if restart_policy == "Never" && policy.text("restartPolicy") != "NotRequired" {
            causes.bad(path, policy.text("restartPolicy"), "must be 'NotRequired' when pod `restartPolicy` is 'Never'");
        }
    }
}

/// Validates rules that restart a container by its exit code.
pub fn validate_restart_rules(container: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    if !container.list("restartPolicyRules").is_empty() && !container.has("restartPolicy") {
        causes.needed(&path.field("restartPolicy"), "must specify restartPolicy when restart rules are used");
    }
    let list = path.field("restartPolicyRules");
    for (index, rule) in container.maps("restartPolicyRules").enumerate() {
        let at = list.index(index);
        if !matches!(rule.text("action"), "Restart" | "RestartAllContainers") {
            causes.unsupported(&at.field("action"), rule.text("action"), &["Restart", "RestartAllContainers"]);
        }
        let codes_path = at.field("exitCodes");
        match rule.object("exitCodes") {
            None => causes.needed(&codes_path, "must be specified"),
            Some(codes) => {
                if !matches!(codes.text("operator"), "In" | "NotIn") {
                    causes.unsupported(&codes_path.field("operator"), codes.text("operator"), &["In", "NotIn"]);
                }
                if codes.list("values").len() > 255 {
                    causes.too_many(&codes_path.field("values").text(), codes.list("values").len(), 255);
                }
            }
        }
    }
}

/// Validates hooks and probes of a container that may have them.
pub fn validate_life(container: &Map<String, Value>, grace: i64, path: &Path, causes: &mut Causes) {
    let lifecycle = path.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.map("lifecycle").object(hook) {
            handler::validate_hook(handler, grace, &lifecycle.field(hook), causes);
        }
    }
    for (field, role) in [("livenessProbe", Role::Liveness), ("readinessProbe", Role::Readiness), ("startupProbe", Role::Startup)] {
        if let Some(probe) = container.object(field) {
            handler::validate_probe(probe, role, &path.field(field), causes);
        }
    }
}

fn validate_ports(container: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in container.maps("ports").enumerate() {
        let at = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let errors = names::port_name_errors(name);
            if errors.is_empty() && seen.contains(&name) {
                causes.twice(&at.field("name"), name);
            }
            seen.push(name);
            causes.each(&at.field("name"), name, errors);
        }
        match port.int("containerPort").unwrap_or(0) {
            0 => causes.needed(&at.field("containerPort"), ""),
            number => check::port(number, &at.field("containerPort"), causes),
        }
        if let Some(number) = port.int("hostPort").filter(|number| *number != 0) {
            check::port(number, &at.field("hostPort"), causes);
        }
        causes.need_one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
    }
}

fn validate_mounts(container: &Map<String, Value>, volumes: &[&Map<String, Value>], path: &Path, causes: &mut Causes) {
    let mut seen: Vec<&str> = Vec::new();
    let volume_of = |name: &str| volumes.iter().find(|one| one.text("name") == name);
    let used = |field: &str, name: &str| container.maps(field).any(|one| one.text("name") == name);
    let list = path.field("volumeMounts");
    for (index, mount) in container.maps("volumeMounts").enumerate() {
        let at = list.index(index);
        let name = mount.text("name");
        if causes.need_text(mount, "name", &at) && volume_of(name).is_none() {
            causes.not_found(&at.field("name").text(), &name.into());
        }
        let place = mount.text("mountPath");
        causes.need_text(mount, "mountPath", &at);
        if seen.contains(&place) {
            causes.bad(&at.field("mountPath"), place, "must be unique");
        }
        if used("volumeDevices", name) {
            causes.bad(&at.field("name"), name, "must not already exist in volumeDevices");
        }
        seen.push(place);
        for field in ["subPath", "subPathExpr"] {
            volume::descending_path(mount.text(field), &list.field(field), causes);
        }
        if !mount.text("subPath").is_empty() && !mount.text("subPathExpr").is_empty() {
            causes.bad(&at.field("subPathExpr"), mount.text("subPathExpr"), "subPathExpr and subPath are mutually exclusive");
        }
        causes.one_of(mount, "mountPropagation", &list, &["Bidirectional", "HostToContainer", "None"]);
        causes.one_of(mount, "recursiveReadOnly", &list, &["Disabled", "Enabled", "IfPossible"]);
        let privileged = container.map("securityContext").flag("privileged");
        if mount.text("mountPropagation") == "Bidirectional" && !privileged {
            causes.refused(&list.field("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let list = path.field("volumeDevices");
    for (index, device) in container.maps("volumeDevices").enumerate() {
        let at = list.index(index);
        let name = device.text("name");
        causes.need_text(device, "name", &at);
        match volume_of(name) {
            None => causes.not_found(&at.field("name").text(), &name.into()),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                causes.bad(&at.field("name"), name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
            }
            Some(_) => {}
        }
        let place = device.text("devicePath");
        causes.need_text(device, "devicePath", &at);
        if seen.contains(&place) {
            causes.bad(&at.field("devicePath"), place, "must be unique");
        }
        seen.push(place);
        if used("volumeMounts", name) {
            causes.bad(&at.field("name"), name, "must not already exist in volumeMounts");
        }
    }
}
