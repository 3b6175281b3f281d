//! The checks of the levels `baseline` and `restricted`, in the order in which messages name them.

use serde_json::Value;

/// How strict a namespace is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Everything goes.
    Privileged,
    /// No known ways to more rights.
    Baseline,
    /// Hardened.
    Restricted,
}

impl Level {
    /// Reads a label; anything unknown is the strictest, nothing is no restriction.
    pub fn parse(text: &str) -> Level {
        match text {
            "" | "privileged" => Level::Privileged,
            "baseline" => Level::Baseline,
            _ => Level::Restricted,
        }
    }

    /// As in labels.
    pub fn text(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// A pod's template under the checks.
struct Pod<'a> {
    meta: &'a Value,
    spec: &'a Value,
    containers: Vec<(&'a str, &'a Value)>,
}

type Check = fn(&Pod<'_>) -> Option<String>;

const BASELINE: &[Check] = &[
    app_armor,
    baseline_capabilities,
    host_namespaces,
    host_path_volumes,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    baseline_seccomp,
    sysctls,
    host_process,
];

const RESTRICTED: &[Check] = &[
    app_armor,
    host_namespaces,
    host_path_volumes,
    host_ports,
    host_probes,
    privileged,
    proc_mount,
    se_linux,
    sysctls,
    host_process,
    privilege_escalation,
    restricted_capabilities,
    restricted_volumes,
    run_as_non_root,
    run_as_user,
    restricted_seccomp,
];

/// Everything about a pod (or template) that a level does not allow.
pub fn violations(pod: &Value, level: Level) -> Vec<String> {
    let checks = match level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => BASELINE,
        Level::Restricted => RESTRICTED,
    };
    let spec = &pod["spec"];
    let containers = ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|field| spec[*field].as_array().into_iter().flatten())
        .map(|container| (container["name"].as_str().unwrap_or(""), container))
        .collect();
    let pod = Pod { meta: &pod["metadata"], spec, containers };
    checks.iter().filter_map(|check| check(&pod)).collect()
}

impl<'a> Pod<'a> {
    /// Names of containers for which something holds.
    fn those(&self, test: impl Fn(&Value) -> bool) -> Vec<&'a str> {
        self.containers.iter().filter(|(_, container)| test(container)).map(|(name, _)| *name).collect()
    }

    fn is_windows(&self) -> bool {
        self.spec["os"]["name"] == "windows"
    }
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

/// `container "a"` or `containers "a", "b"`.
fn containers(names: &[&str]) -> String {
    format!("container{} {}", if names.len() == 1 { "" } else { "s" }, quoted(names))
}

fn found(names: &[&str], what: &str, detail: &str) -> Option<String> {
    (!names.is_empty()).then(|| format!("{what} ({} {detail})", containers(names)))
}

fn app_armor(pod: &Pod<'_>) -> Option<String> {
    let bad = |context: &Value| matches!(context["appArmorProfile"]["type"].as_str(), Some("Unconfined"));
    let annotations = pod.meta["annotations"].as_object();
    let annotated = annotations.into_iter().flatten().any(|(key, value)| {
        let text = value.as_str().unwrap_or("");
        key.starts_with("container.apparmor.security.beta.kubernetes.io/")
            && !(text.is_empty() || text == "runtime/default" || text.starts_with("localhost/"))
    });
    let names = pod.those(|container| bad(&container["securityContext"]));
    if !names.is_empty() || annotated || bad(&pod.spec["securityContext"]) {
        return Some("forbidden AppArmor profile (appArmorProfile must not be Unconfined)".to_owned());
    }
    None
}

const BASELINE_CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

fn added(container: &Value) -> Vec<&str> {
    container["securityContext"]["capabilities"]["add"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn baseline_capabilities(pod: &Pod<'_>) -> Option<String> {
    let bad = |container: &Value| added(container).iter().any(|one| !BASELINE_CAPABILITIES.contains(one));
    let names = pod.those(bad);
    if names.is_empty() {
        return None;
    }
    let mut capabilities: Vec<&str> =
        pod.containers.iter().flat_map(|(_, container)| added(container)).filter(|one| !BASELINE_CAPABILITIES.contains(one)).collect();
    capabilities.sort_unstable();
    capabilities.dedup();
    found(&names, "non-default capabilities", &format!("must not include {} in securityContext.capabilities.add", quoted(&capabilities)))
}

fn host_namespaces(pod: &Pod<'_>) -> Option<String> {
    let used: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
        .iter()
        .filter(|field| pod.spec[**field] == true)
        .map(|field| format!("{field}=true"))
        .collect();
    (!used.is_empty()).then(|| format!("host namespaces ({})", used.join(", ")))
}

fn host_path_volumes(pod: &Pod<'_>) -> Option<String> {
    let volumes = pod.spec["volumes"].as_array().into_iter().flatten();
    let names: Vec<&str> = volumes.filter(|volume| volume["hostPath"].is_object()).filter_map(|volume| volume["name"].as_str()).collect();
    (!names.is_empty()).then(|| format!("hostPath volumes (volume{} {})", if names.len() == 1 { "" } else { "s" }, quoted(&names)))
}

fn host_ports(pod: &Pod<'_>) -> Option<String> {
    let ports = |container: &Value| -> Vec<String> {
        let list = container["ports"].as_array().into_iter().flatten();
        list.filter_map(|port| port["hostPort"].as_u64().filter(|port| *port != 0)).map(|port| port.to_string()).collect()
    };
    let names = pod.those(|container| !ports(container).is_empty());
    if names.is_empty() {
        return None;
    }
    let mut all: Vec<String> = pod.containers.iter().flat_map(|(_, container)| ports(container)).collect();
    all.sort();
    all.dedup();
    let verb = if names.len() == 1 { "uses" } else { "use" };
    let noun = if all.len() == 1 { "hostPort" } else { "hostPorts" };
    Some(format!("hostPort ({} {verb} {noun} {})", containers(&names), all.join(", ")))
}

fn host_probes(pod: &Pod<'_>) -> Option<String> {
    let has_host = |action: &Value| ["httpGet", "tcpSocket"].iter().any(|kind| !action[*kind]["host"].as_str().unwrap_or("").is_empty());
    let names = pod.those(|container| {
        let probes = ["livenessProbe", "readinessProbe", "startupProbe"].iter().any(|probe| has_host(&container[*probe]));
        probes || ["postStart", "preStop"].iter().any(|hook| has_host(&container["lifecycle"][*hook]))
    });
    found(&names, "probe or lifecycle host", "must not set host in probes and lifecycle handlers")
}

fn privileged(pod: &Pod<'_>) -> Option<String> {
    found(
        &pod.those(|container| container["securityContext"]["privileged"] == true),
        "privileged",
        "must not set securityContext.privileged=true",
    )
}

fn proc_mount(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let bad = |container: &Value| !matches!(container["securityContext"]["procMount"].as_str(), None | Some("" | "Default"));
    found(&pod.those(bad), "procMount", "must not set securityContext.procMount to \"Unmasked\"")
}

fn se_linux(pod: &Pod<'_>) -> Option<String> {
    let bad = |context: &Value| {
        let options = &context["seLinuxOptions"];
        let kind = options["type"].as_str().unwrap_or("");
        let allowed = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
        !allowed.contains(&kind)
            || options["user"].as_str().is_some_and(|user| !user.is_empty())
            || options["role"].as_str().is_some_and(|role| !role.is_empty())
    };
    let any = bad(&pod.spec["securityContext"]) || !pod.those(|container| bad(&container["securityContext"])).is_empty();
    any.then(|| "seLinuxOptions (forbidden securityContext.seLinuxOptions)".to_owned())
}

fn baseline_seccomp(pod: &Pod<'_>) -> Option<String> {
    let bad = |context: &Value| context["seccompProfile"]["type"] == "Unconfined";
    let names = pod.those(|container| bad(&container["securityContext"]));
    if bad(&pod.spec["securityContext"]) {
        return Some("seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")".to_owned());
    }
    found(&names, "seccompProfile", "must not set securityContext.seccompProfile.type to \"Unconfined\"")
}

const SYSCTLS: [&str; 10] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
];

fn sysctls(pod: &Pod<'_>) -> Option<String> {
    let list = pod.spec["securityContext"]["sysctls"].as_array().into_iter().flatten();
    let names: Vec<&str> = list.filter_map(|one| one["name"].as_str()).filter(|name| !SYSCTLS.contains(name)).collect();
    (!names.is_empty()).then(|| format!("forbidden sysctls ({})", names.join(", ")))
}

fn host_process(pod: &Pod<'_>) -> Option<String> {
    let bad = |context: &Value| context["windowsOptions"]["hostProcess"] == true;
    let names = pod.those(|container| bad(&container["securityContext"]));
    if bad(&pod.spec["securityContext"]) {
        return Some("hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)".to_owned());
    }
    found(&names, "hostProcess", "must not set securityContext.windowsOptions.hostProcess=true")
}

fn privilege_escalation(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let names = pod.those(|container| container["securityContext"]["allowPrivilegeEscalation"] != false);
    found(&names, "allowPrivilegeEscalation != false", "must set securityContext.allowPrivilegeEscalation=false")
}

fn restricted_capabilities(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let drops = |container: &Value| {
        container["securityContext"]["capabilities"]["drop"].as_array().is_some_and(|list| list.iter().any(|one| one == "ALL"))
    };
    let without = pod.those(|container| !drops(container));
    let adding = pod.those(|container| added(container).iter().any(|one| *one != "NET_BIND_SERVICE"));
    let mut parts = Vec::new();
    if !without.is_empty() {
        parts.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&without)));
    }
    if !adding.is_empty() {
        let mut all: Vec<&str> =
            pod.containers.iter().flat_map(|(_, container)| added(container)).filter(|one| *one != "NET_BIND_SERVICE").collect();
        all.sort_unstable();
        all.dedup();
        parts.push(format!("{} must not include {} in securityContext.capabilities.add", containers(&adding), quoted(&all)));
    }
    (!parts.is_empty()).then(|| format!("unrestricted capabilities ({})", parts.join("; ")))
}

const VOLUMES: [&str; 8] = ["configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"];

fn restricted_volumes(pod: &Pod<'_>) -> Option<String> {
    let mut names = Vec::new();
    let mut kinds: Vec<&str> = Vec::new();
    for volume in pod.spec["volumes"].as_array().into_iter().flatten() {
        let kind = volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).find(|name| *name != "name");
        if let Some(kind) = kind.filter(|kind| !VOLUMES.contains(kind)) {
            names.push(volume["name"].as_str().unwrap_or(""));
            kinds.push(kind);
        }
    }
    if names.is_empty() {
        return None;
    }
    kinds.sort_unstable();
    kinds.dedup();
    let (volumes, verb) = if names.len() == 1 { ("volume", "uses") } else { ("volumes", "use") };
    let noun = if kinds.len() == 1 { "restricted volume type" } else { "restricted volume types" };
    Some(format!("restricted volume types ({volumes} {} {verb} {noun} {})", quoted(&names), quoted(&kinds)))
}

fn run_as_non_root(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let explicit = pod.those(|container| container["securityContext"]["runAsNonRoot"] == false);
    if !explicit.is_empty() {
        return found(&explicit, "runAsNonRoot != true", "must not set securityContext.runAsNonRoot=false");
    }
    let whole = pod.spec["securityContext"]["runAsNonRoot"] == true;
    let names = pod.those(|container| container["securityContext"]["runAsNonRoot"] != true && !whole);
    if names.is_empty() {
        return None;
    }
    Some(format!("runAsNonRoot != true (pod or {} must set securityContext.runAsNonRoot=true)", containers(&names)))
}

fn run_as_user(pod: &Pod<'_>) -> Option<String> {
    if pod.spec["hostUsers"] == false {
        return None;
    }
    let names = pod.those(|container| container["securityContext"]["runAsUser"] == 0);
    if pod.spec["securityContext"]["runAsUser"] == 0 {
        return Some("runAsUser=0 (pod must not set runAsUser=0)".to_owned());
    }
    found(&names, "runAsUser=0", "must not set runAsUser=0")
}

fn restricted_seccomp(pod: &Pod<'_>) -> Option<String> {
    if pod.is_windows() {
        return None;
    }
    let good = |context: &Value| matches!(context["seccompProfile"]["type"].as_str(), Some("RuntimeDefault" | "Localhost"));
    let whole = good(&pod.spec["securityContext"]);
    let names = pod.those(|container| {
        let own = &container["securityContext"];
        if own["seccompProfile"].is_object() { !good(own) } else { !whole }
    });
    if names.is_empty() {
        return None;
    }
    Some(format!(
        "seccompProfile (pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
        containers(&names)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels() {
        let bare = json!({"spec": {"containers": [{"name": "a"}]}});
        assert!(violations(&bare, Level::Baseline).is_empty());
        assert_eq!(
            violations(&bare, Level::Restricted),
            [
                "allowPrivilegeEscalation != false (container \"a\" must set securityContext.allowPrivilegeEscalation=false)",
                "unrestricted capabilities (container \"a\" must set securityContext.capabilities.drop=[\"ALL\"])",
                "runAsNonRoot != true (pod or container \"a\" must set securityContext.runAsNonRoot=true)",
                "seccompProfile (pod or container \"a\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ]
        );
        let privileged = json!({"spec": {"hostNetwork": true, "containers": [{"name": "a", "securityContext": {"privileged": true}}]}});
        assert_eq!(violations(&privileged, Level::Baseline).len(), 2);
        let good = json!({"spec": {
            "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "a", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
        }});
        assert!(violations(&good, Level::Restricted).is_empty());
    }
}
