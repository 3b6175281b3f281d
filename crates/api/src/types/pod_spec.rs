//! `core.v1.PodSpec`: a pod as it shall be, in a Pod or in a template.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::names;
use crate::path::Path;
use crate::pods;
use crate::read::{Read, Write};
use crate::types::container::{self, Surroundings};
use crate::types::{Rules, affinity, env_var, object_meta, resources, security_context, volume};

/// Rules of the type.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.PodSpec") }
}

fn default(map: &mut Map<String, Value>) {
    map.default_text("dnsPolicy", "ClusterFirst");
    map.default_text("restartPolicy", "Always");
    map.default("securityContext", Map::new());
    map.default("terminationGracePeriodSeconds", 30);
    map.default_text("schedulerName", "default-scheduler");
    // The older name of the field is kept equal for clients that still read it.
    let account = [map.text("serviceAccountName"), map.text("serviceAccount")].into_iter().find(|name| !name.is_empty()).map(str::to_owned);
    if let Some(account) = account {
        map.insert("serviceAccountName".into(), account.clone().into());
        map.insert("serviceAccount".into(), account.into());
    }
}

/// Whose spec is validated: a few rules differ between pods and templates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A Pod itself.
    Pod,
    /// A template in a workload.
    Template,
}

const MAX_DEADLINE: i64 = i32::MAX as i64;

/// Validates a pod spec.
pub fn validate(spec: &Map<String, Value>, owner: Owner, path: &Path, causes: &mut Causes) {
    let volumes = volume::validate_all(spec.list("volumes"), &path.field("volumes"), causes);
    let claims = validate_claims(spec, &path.field("resourceClaims"), causes);
    let host_users = spec.some("hostUsers").and_then(Value::as_bool).unwrap_or(true);
    let around = Surroundings { volumes: &volumes, claims: &claims, host_users, restart_policy: spec.text("restartPolicy") };
    validate_containers(spec, &around, path, causes);
    for field in ["initContainers", "containers"] {
        let list = path.field(field);
        for (index, container) in spec.maps(field).enumerate() {
            env_var::validate_files(container.list("env"), &volumes, &list.index(index).field("env"), causes);
        }
    }
    if spec.flag("hostNetwork") {
        validate_host_ports(spec, owner, path, causes);
    }
    validate_choices(spec, path, causes);
    object_meta::validate_labels(spec.map("nodeSelector"), &path.field("nodeSelector"), causes);
    security_context::validate_pod(spec, &path.field("securityContext"), causes);
    affinity::validate(spec.map("affinity"), &path.field("affinity"), causes);
    validate_dns(spec, &path.field("dnsConfig"), causes);
    validate_gates(spec, path, causes);
    affinity::validate_spread(spec, &path.field("topologySpreadConstraints"), causes);
    if !host_users {
        for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
            if spec.flag(field) {
                causes.refused(&path.field(shown), "when `hostUsers` is false");
            }
        }
        for field in ["containers", "initContainers"] {
            let list = path.field(field);
            for (index, _) in spec.maps(field).enumerate().filter(|(_, one)| !one.list("volumeDevices").is_empty()) {
                causes.refused(&list.index(index).field("volumeDevices"), "when `hostUsers` is false");
            }
        }
    }
    if let Some(resources) = spec.object("resources") {
        let at = path.field("resources");
        resources::validate_pod(resources, &at, causes);
        if !resources.list("claims").is_empty() {
            causes.refused(&at.field("claims"), "claims may not be set for Resources at pod-level");
        }
        container::validate_claims(resources, &around, &at.field("claims"), causes);
        validate_shares(spec, &at, causes);
    }
    if !spec.map("overhead").is_empty() {
        let overhead: Map<String, Value> = [("limits".to_owned(), spec["overhead"].clone())].into_iter().collect();
        resources::validate(&overhead, &path.field("overhead"), causes);
    }
    if spec.has("hostnameOverride") {
        let name = spec.text("hostnameOverride");
        causes.each(&path.field("hostnameOverride"), name, names::subdomain_errors(name));
        if spec.flag("setHostnameAsFQDN") {
            causes.refused(&path.field("hostnameOverride"), "may not be specified when setHostnameAsFQDN is true");
        }
        if spec.flag("hostNetwork") {
            causes.refused(&path.field("hostnameOverride"), "may not be specified when hostNetwork is true");
        }
    }
    let subdomains = ["serviceAccountName", "nodeName"];
    let labels = ["hostname", "subdomain"];
    for (fields, errors) in [(subdomains, names::subdomain_errors as fn(&str) -> Vec<String>), (labels, names::label_errors)] {
        for field in fields.into_iter().filter(|field| !spec.text(field).is_empty()) {
            causes.each(&path.field(field), spec.text(field), errors(spec.text(field)));
        }
    }
    if let Some(deadline) = spec.int("activeDeadlineSeconds").filter(|deadline| !(1..=MAX_DEADLINE).contains(deadline)) {
        causes.bad(&path.field("activeDeadlineSeconds"), deadline, "must be between 1 and 2147483647, inclusive");
    }
    affinity::validate_tolerations(spec, &path.field("tolerations"), causes);
    let aliases = path.field("hostAliases");
    for (index, alias) in spec.maps("hostAliases").enumerate() {
        let at = aliases.index(index);
        check::ip(alias.text("ip"), &at.field("ip"), causes);
        let list = at.field("hostnames");
        for (index, name) in alias.texts("hostnames").enumerate() {
            causes.each(&list.index(index), name, names::subdomain_errors(name));
        }
    }
    for field in ["priorityClassName", "runtimeClassName"] {
        let name = spec.text(field);
        if !name.is_empty() {
            causes.each(&path.field(field), name, names::subdomain_errors(name));
        }
    }
    if owner == Owner::Pod {
        validate_images(spec, path, causes);
    }
    causes.one_of(spec, "preemptionPolicy", path, &["PreemptLowerPriority", "Never"]);
    if let Some(os) = spec.object("os") {
        let name = os.text("name");
        if name.is_empty() {
            let os = path.field("os");
            causes.needed(&os.field("name"), "");
        } else if !matches!(name, "linux" | "windows") {
            causes.unsupported(&path.field("os"), name, &["linux", "windows"]);
        }
    }
}

/// What containers have must fit into what the pod as a whole has.
fn validate_shares(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let resources = spec.map("resources");
    let asked = pods::container_requests(spec);
    let list = path.field("requests");
    for name in resources.map("requests").keys() {
        let own = resources.map("requests").quantity(name).unwrap_or_default();
        if let Some(sum) = asked.get(name).filter(|sum| **sum > own) {
            let detail = format!("must be greater than or equal to aggregate container requests of {sum}");
            causes.bad(&list.key(name), own.to_string(), &detail);
        }
    }
    let list = path.field("containers");
    for (index, container) in spec.maps("containers").enumerate() {
        let limits = container.map("resources").map("limits");
        for name in limits.keys() {
            let own = limits.quantity(name).unwrap_or_default();
            if let Some(limit) = resources.map("limits").quantity(name).filter(|limit| own > *limit) {
                let at = list.index(index);
                let at = at.key(name);
                causes.bad(&at.field("limits"), own.to_string(), &format!("must be less than or equal to pod limits of {limit}"));
            }
        }
    }
}

fn validate_containers(spec: &Map<String, Value>, around: &Surroundings, path: &Path, causes: &mut Causes) {
    let grace = spec.int("terminationGracePeriodSeconds").unwrap_or(30);
    let mut seen: Vec<&str> = Vec::new();
    let list = path.field("containers");
    if spec.list("containers").is_empty() {
        causes.needed(&list, "");
    }
    for (index, one) in spec.maps("containers").enumerate() {
        let at = list.index(index);
        container::validate(one, around, &mut seen, &at, causes);
        container::validate_life(one, grace, &at, causes);
        container::validate_restart_rules(one, &at, causes);
        causes.one_of(one, "restartPolicy", &at, &["Always", "Never", "OnFailure"]);
    }
    validate_port_conflicts(spec, "containers", &list, causes);
    let list = path.field("initContainers");
    for (index, one) in spec.maps("initContainers").enumerate() {
        let at = list.index(index);
        container::validate(one, around, &mut seen, &at, causes);
        container::validate_restart_rules(one, &at, causes);
        if crate::pods::is_sidecar(one) {
            container::validate_life(one, grace, &at, causes);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if one.has(field) {
                    causes.refused(&at.field(field), "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
        causes.one_of(one, "restartPolicy", &at, &["Always", "Never", "OnFailure"]);
    }
    let list = path.field("ephemeralContainers");
    for (index, one) in spec.maps("ephemeralContainers").enumerate() {
        let at = list.index(index);
        container::validate(one, around, &mut seen, &at, causes);
        let target = one.text("targetContainerName");
        let known = ["containers", "initContainers"].iter().any(|field| spec.maps(field).any(|one| one.text("name") == target));
        if !target.is_empty() && !known {
            causes.not_found(&at.field("targetContainerName").text(), &target.into());
        }
        for field in
            ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "restartPolicy", "restartPolicyRules", "resizePolicy"]
        {
            if one.has(field) {
                causes.refused(&at.field(field), "cannot be set for an Ephemeral Container");
            }
        }
        if !one.map("resources").is_empty() {
            causes.refused(&at.field("resources"), "cannot be set for an Ephemeral Container");
        }
        let mounts = at.field("volumeMounts");
        for (index, mount) in one.maps("volumeMounts").enumerate() {
            for field in ["subPath", "subPathExpr"].into_iter().filter(|field| !mount.text(field).is_empty()) {
                causes.refused(&mounts.index(index).field(field), "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// In templates images may still be filled in, in pods they must be clean.
fn validate_images(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    for field in ["containers", "initContainers"] {
        let list = path.field(field);
        for (index, one) in spec.maps(field).enumerate() {
            let image = one.text("image");
            if image.trim() != image {
                causes.bad(&list.index(index).field("image"), image, "must not have leading or trailing whitespace");
            }
        }
    }
}

/// The same host port twice in one list of containers.
fn validate_port_conflicts(spec: &Map<String, Value>, field: &str, path: &Path, causes: &mut Causes) {
    let mut seen: Vec<(i64, &str, &str)> = Vec::new();
    for (index, container) in spec.maps(field).enumerate() {
        let at = path.index(index);
        let ports = at.field("ports");
        for (index, port) in container.maps("ports").enumerate() {
            let number = port.int("hostPort").unwrap_or(0);
            if number == 0 {
                continue;
            }
            let ip = port.text("hostIP");
            let key = (number, port.text("protocol"), ip);
            if seen.contains(&key) {
                causes.twice(&ports.index(index).field("hostPort"), format!("{}/{ip}/{number}", key.1));
            }
            seen.push(key);
        }
    }
}

fn validate_host_ports(spec: &Map<String, Value>, owner: Owner, path: &Path, causes: &mut Causes) {
    for field in ["containers", "initContainers"] {
        let list = path.field(field);
        for (index, container) in spec.maps(field).enumerate() {
            let at = list.index(index);
            let ports = at.field("ports");
            for (index, port) in container.maps("ports").enumerate() {
                let (host, inner) = (port.int("hostPort").unwrap_or(0), port.int("containerPort").unwrap_or(0));
                if (owner == Owner::Pod || host != 0) && host != inner {
                    causes.bad(&ports.index(index).field("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
                }
            }
        }
    }
}

fn validate_choices(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    causes.need_one_of(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"]);
    causes.need_one_of(spec, "dnsPolicy", path, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
}

fn validate_claims<'s>(spec: &'s Map<String, Value>, path: &Path, causes: &mut Causes) -> Vec<&'s str> {
    let mut seen = Vec::new();
    for (index, claim) in spec.maps("resourceClaims").enumerate() {
        let at = path.index(index);
        let name = claim.text("name");
        if causes.need_text(claim, "name", &at) {
            causes.each(&at.field("name"), name, names::label_errors(name));
        }
        if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
        for field in ["resourceClaimName", "resourceClaimTemplateName"] {
            if claim.has(field) {
                causes.each(&at.field(field), claim.text(field), names::subdomain_errors(claim.text(field)));
            }
        }
        let both = claim.has("resourceClaimName") && claim.has("resourceClaimTemplateName");
        let neither = !claim.has("resourceClaimName") && !claim.has("resourceClaimTemplateName");
        if both {
            causes.bad(
                &at,
                Value::Object(claim.clone()),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            );
        } else if neither {
            causes.bad(&at, Value::Object(claim.clone()), "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`");
        }
    }
    seen
}

fn validate_dns(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let config = spec.map("dnsConfig");
    if spec.text("dnsPolicy") == "None" && !spec.has("dnsConfig") {
        causes.needed(path, "must provide `dnsConfig` when `dnsPolicy` is None");
        return;
    }
    if spec.text("dnsPolicy") == "None" && config.list("nameservers").is_empty() {
        causes.needed(&path.field("nameservers"), "must provide at least one DNS nameserver when `dnsPolicy` is None");
    }
    let (servers, searches, options) = (path.field("nameservers"), path.field("searches"), path.field("options"));
    if config.list("nameservers").len() > 3 {
        causes.bad(&servers, config.list("nameservers").to_vec(), "must not have more than 3 nameservers");
    }
    for (index, server) in config.texts("nameservers").enumerate() {
        check::ip(server, &servers.index(index), causes);
    }
    if config.list("searches").len() > 32 {
        causes.bad(&searches, config.list("searches").to_vec(), "must not have more than 32 search paths");
    }
    for (index, search) in config.texts("searches").enumerate() {
        let bare = search.strip_suffix('.').unwrap_or(search);
        if search != "." {
            causes.each(&searches.index(index), search, names::search_path_errors(bare));
        }
    }
    for (index, option) in config.maps("options").enumerate() {
        if option.text("name").is_empty() {
            causes.needed(&options.index(index), "must not be empty");
        }
    }
}

fn validate_gates(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let list = path.field("readinessGates");
    for (index, gate) in spec.maps("readinessGates").enumerate() {
        let name = gate.text("conditionType");
        causes.each(&list.index(index).field("conditionType"), name, names::qualified_name_errors(name));
    }
    let mut seen: Vec<&str> = Vec::new();
    let list = path.field("schedulingGates");
    for (index, gate) in spec.maps("schedulingGates").enumerate() {
        let (at, name) = (list.index(index), gate.text("name"));
        causes.each(&at, name, names::qualified_name_errors(name));
        if seen.contains(&name) {
            causes.twice(&at, name);
        }
        seen.push(name);
    }
}
