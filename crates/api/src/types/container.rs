//! `core.v1.Container`: a container of a pod, and what its image's tag says about pulling.

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
    let (name, digest) = image.split_once('@').unwrap_or((image, ""));
    let last = name.rsplit('/').next().unwrap_or(name);
    let latest = match last.split_once(':') {
        Some((_, tag)) => tag == "latest",
        None => digest.is_empty() && !name.is_empty(),
    };
    if latest { "Always" } else { "IfNotPresent" }
}

/// What the containers of a pod are validated against.
pub struct Surroundings<'a> {
    /// The pod's volumes.
    pub volumes: &'a [&'a Map<String, Value>],
    /// Names of the pod's resource claims.
    pub claims: &'a [&'a str],
    /// Whether the pod uses the host's user name space.
    pub host_users: bool,
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
    let resources_path = path.field("resources");
    resources::validate(container.map("resources"), &resources_path, causes);
    let claims = resources_path.field("claims");
    for (index, claim) in container.map("resources").maps("claims").enumerate() {
        let at = claims.index(index);
        if causes.need_text(claim, "name", &at) && !around.claims.contains(&claim.text("name")) {
            causes.not_found(&at.text(), &claim.text("name").into());
        }
    }
    if let Some(context) = container.object("securityContext") {
        security_context::validate_container(context, around.host_users, &path.field("securityContext"), causes);
    }
    if names_seen.contains(&name) {
        causes.twice(&path.field("name"), name);
    }
    names_seen.push(name);
}

/// Validates hooks and probes of a container that may have them.
pub fn validate_life(container: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let lifecycle = path.field("lifecycle");
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = container.map("lifecycle").object(hook) {
            handler::validate_hook(handler, &lifecycle.field(hook), causes);
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
        let privileged = container.map("securityContext").flag("privileged");
        if mount.text("mountPropagation") == "Bidirectional" && !privileged {
            causes.refused(&list.field("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers");
        }
    }
    let list = path.field("volumeDevices");
    for (index, device) in container.maps("volumeDevices").enumerate() {
        let at = list.index(index);
        let name = device.text("name");
        if causes.need_text(device, "name", &at) {
            match volume_of(name) {
                None => causes.not_found(&at.field("name").text(), &name.into()),
                Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                    causes.bad(&at.field("name"), name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode");
                }
                Some(_) => {}
            }
        }
        if used("volumeMounts", name) {
            causes.bad(&at.field("name"), name, "must not already exist in volumeMounts");
        }
        let place = device.text("devicePath");
        causes.need_text(device, "devicePath", &at);
        if seen.contains(&place) {
            causes.bad(&at.field("devicePath"), place, "must be unique");
        }
        seen.push(place);
    }
}
