//! Security contexts of pods and containers.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::path::Path;
use crate::read::Read;

const ID_RANGE: &str = "must be between 0 and 2147483647, inclusive";

fn ids(context: &Map<String, Value>, fields: &[&str], path: &Path, causes: &mut Causes) {
    for field in fields {
        if let Some(id) = context.int(field).filter(|id| !(0..=i64::from(i32::MAX)).contains(id)) {
            causes.bad(&path.field(field), id, ID_RANGE);
        }
    }
}

fn profile(context: &Map<String, Value>, field: &str, word: &str, path: &Path, causes: &mut Causes) {
    let Some(profile) = context.object(field) else { return };
    let at = path.field(field);
    let (kind, local) = (profile.text("type"), profile.text("localhostProfile"));
    match kind {
        "Localhost" | "RuntimeDefault" | "Unconfined" => {}
        "" => causes.needed(&at.field("type"), &format!("type is required when {field} is set")),
        other => causes.unsupported(&at.field("type"), other, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
    let place = at.field("localhostProfile");
    if kind != "Localhost" {
        if profile.has("localhostProfile") {
            let value = if word == "seccomp" { Value::Object(profile.clone()) } else { local.into() };
            causes.bad(&place, value, &format!("can only be set when {word} type is Localhost"));
        }
    } else if local.is_empty() {
        causes.needed(&place, &format!("must be set when {word} type is Localhost"));
    } else if word == "seccomp" {
        super::volume::descending_path(local, &place, causes);
    }
}

/// Validates `securityContext` of a pod.
pub fn validate_pod(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let context = spec.map("securityContext");
    ids(context, &["fsGroup", "runAsUser", "runAsGroup"], path, causes);
    let groups = path.field("supplementalGroups");
    for (index, group) in context.list("supplementalGroups").iter().enumerate() {
        if group.as_i64().is_some_and(|id| !(0..=i64::from(i32::MAX)).contains(&id)) {
            causes.bad(&groups.index(index), group.clone(), ID_RANGE);
        }
    }
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        causes.bad(&path.field("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let mut seen: Vec<&str> = Vec::new();
    let sysctls = path.field("sysctls");
    for (index, sysctl) in context.maps("sysctls").enumerate() {
        let at = sysctls.index(index);
        let name = sysctl.text("name");
        if name.is_empty() {
            causes.needed(&at.field("name"), "");
        } else if !is_sysctl(name) {
            causes.bad(
                &at.field("name"),
                name,
                "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
            );
        } else if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
        if spec.flag("hostNetwork") && name.starts_with("net.") {
            causes.bad(&at.field("name"), name, "may not be specified when 'hostNetwork' is true");
        }
    }
    causes.one_of(context, "fsGroupChangePolicy", path, &["Always", "OnRootMismatch"]);
    causes.one_of(context, "seLinuxChangePolicy", path, &["Recursive"]);
    causes.one_of(context, "supplementalGroupsPolicy", path, &["Merge", "Strict"]);
    profile(context, "seccompProfile", "seccomp", path, causes);
    profile(context, "appArmorProfile", "AppArmor", path, causes);
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        part.bytes().all(inner) && edge(part.bytes().next()) && edge(part.bytes().next_back())
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}

/// Validates `securityContext` of a container.
pub fn validate_container(context: &Map<String, Value>, host_users: bool, path: &Path, causes: &mut Causes) {
    ids(context, &["runAsUser", "runAsGroup"], path, causes);
    let proc_mount = context.text("procMount");
    if context.has("procMount") && !matches!(proc_mount, "Default" | "Unmasked") {
        causes.unsupported(&path.field("procMount"), proc_mount, &["Default", "Unmasked"]);
    }
    if host_users && proc_mount == "Unmasked" {
        causes.bad(&path.field("procMount"), proc_mount, "`hostUsers` must be false to use `Unmasked`");
    }
    profile(context, "seccompProfile", "seccomp", path, causes);
    profile(context, "appArmorProfile", "AppArmor", path, causes);
    if context.some("allowPrivilegeEscalation").and_then(Value::as_bool) == Some(false) {
        let whole = || Value::Object(context.clone());
        if context.flag("privileged") {
            causes.bad_struct(
                path,
                "core.SecurityContext",
                &whole(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        if context.map("capabilities").texts("add").any(|one| one == "CAP_SYS_ADMIN") {
            causes.bad_struct(
                path,
                "core.SecurityContext",
                &whole(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}
