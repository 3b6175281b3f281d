//! The ground of a pod: its directories, volumes, control group, sandbox and address. Idempotent; tried again as a whole.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use cgroup::Group;
use cri::engine::Engine;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::node::v1::RuntimeClass;
use runtime::{NameSpace, NetNs, Runtime, Sandbox, SandboxId, SandboxSpec, UserNs};

use super::files::{self, Resolver};
use super::foreign;
use super::huge_pages;
use super::limits::{self, Class};
use super::message::{Prepared, Trouble};
use super::model;
use super::wiring::{self, Wiring};
use crate::Kubelet;
use crate::metrics::Phase;
use crate::network::host_ports;
use crate::volumes::{self, Mounted, SetUp, VolumeError};

/// What the kernel takes for a host name.
const LONGEST_HOST_NAME: usize = 64;

/// Makes everything that containers need before they can start.
///
/// # Errors
/// What did not work, as the reason and text of an event.
pub async fn prepare(kubelet: &Arc<Kubelet>, pod: &Arc<Pod>, class: Class) -> Result<Prepared, Trouble> {
    let uid = model::uid(pod);
    let failed = |what: &str| {
        let what = what.to_owned();
        move |error: &dyn std::error::Error| {
            Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {what}: {}", chain(error)))
        }
    };
    let pod_dir = kubelet.pod_dir(uid);
    // Programs of the node look for volumes of pods here, also where there are none.
    for part in ["etc", "volumes", "plugins"] {
        std::fs::create_dir_all(pod_dir.join(part)).map_err(|error| failed("make directories")(&error))?;
    }
    let began = Instant::now();
    let volumes = volumes(kubelet, pod, &[]).await?;
    kubelet.metrics.phase(Phase::Volumes, began.elapsed());
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let group = kubelet.pod_group(class, uid);
    let group = Group::new(kubelet.cgroups.clone(), &group)
        .and_then(|group| group.create().map(|()| group))
        .map_err(|error| failed("make control group")(&error))?;
    let mut limits = limits::pod(spec, class);
    limits.hugepages = huge_pages::of_pod(spec, &kubelet.node.huge_page_sizes());
    limits.pids_limit = kubelet.config.pod_pids_limit;
    if kubelet.placement.has_own_cpus(uid) {
        (limits.cpu_quota, limits.cpu_period) = (None, None);
    }
    group.apply(&limits).map_err(|error| failed("limit control group")(&error))?;
    let began = Instant::now();
    let handler = runtime_handler(kubelet, spec).await?;
    let (runtime, network) = match (&kubelet.runtime, &kubelet.network) {
        // Whoever asks for another kind of runtime relies on what sets it apart.
        (Engine::Own(_), _) if !handler.is_empty() => {
            let text = format!("Failed to create pod sandbox: failed to get sandbox runtime: no runtime for {handler:?} is configured");
            return Err(Trouble::new("FailedCreatePodSandBox", text));
        }
        (Engine::Own(runtime), Some(network)) => (runtime, network),
        (Engine::Other(remote, _), _) => {
            let (sandbox, addresses) = foreign::run(kubelet, remote, pod, spec, class, handler).await?;
            kubelet.metrics.phase(Phase::Sandbox, began.elapsed());
            write_files(kubelet, pod, &pod_dir, &addresses).map_err(|error| failed("write files")(&error))?;
            return Ok(Prepared { volumes, sandbox, addresses, wiring: None });
        }
        (Engine::Own(_), None) => return Err(Trouble::new("FailedCreatePodSandBox", "the pod network is not open")),
    };
    let address = match spec.host_network {
        Some(true) => None,
        _ => Some(network.reserve(uid).await.map_err(|error| failed("set up network")(&error))?),
    };
    let addresses = address.map_or_else(|| kubelet.host_ips(), |address| vec![address.to_string()]);
    // The keeper needs a while to become the sandbox.
    let written = async { write_files(kubelet, pod, &pod_dir, &addresses).map_err(|error| failed("write files")(&error)) };
    let (sandbox, written) = tokio::join!(sandbox(kubelet, runtime, pod, spec, class), written);
    kubelet.metrics.phase(Phase::Sandbox, began.elapsed());
    let sandbox = match (sandbox, written) {
        (Ok(sandbox), Ok(())) => sandbox,
        (Ok(sandbox), Err(trouble)) => {
            wiring::discard(sandbox.into()).await;
            network.detach(uid);
            return Err(trouble);
        }
        (Err(trouble), _) => {
            network.detach(uid);
            return Err(trouble);
        }
    };
    let wiring = address.map(|address| Wiring { netns: sandbox.netns_path(), address, host_ports: host_ports(spec, address) });
    Ok(Prepared { volumes, sandbox: sandbox.into(), addresses, wiring })
}

async fn sandbox(kubelet: &Arc<Kubelet>, runtime: &Runtime, pod: &Pod, spec: &PodSpec, class: Class) -> Result<Sandbox, Trouble> {
    let uid = model::uid(pod);
    let host_network = spec.host_network == Some(true);
    let id = SandboxId::new(uid).map_err(|error| Trouble::new("FailedCreatePodSandBox", error.to_string()))?;
    let mut order = SandboxSpec::new(id, limits::pod_group(class, uid));
    order.hostname = if host_network { String::new() } else { host_name(pod, &kubelet.config, spec)? };
    order.net = if host_network { NetNs::Host } else { NetNs::New };
    order.ipc = if spec.host_ipc == Some(true) { NameSpace::Host } else { NameSpace::Pod };
    order.uts = if host_network { NameSpace::Host } else { NameSpace::Pod };
    order.log_dir = Some(kubelet.log_dir(pod));
    order.sysctls = sysctls(spec)?;
    order.user_ns = users(kubelet, uid, spec)?;
    order.labels = BTreeMap::from([
        ("namespace".to_owned(), model::namespace(pod).to_owned()),
        ("name".to_owned(), model::name(pod).to_owned()),
        ("class".to_owned(), format!("{class:?}")),
    ]);
    let made = runtime.create_sandbox(order).await;
    made.map_err(|error| Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {}", chain(&error))))
}

/// The runtime's name for the kind of pods that a pod's RuntimeClass stands for; empty for the default kind (KEP-585).
///
/// # Errors
/// No such class, as the reason of an event.
async fn runtime_handler(kubelet: &Kubelet, spec: &PodSpec) -> Result<String, Trouble> {
    let Some(name) = spec.runtime_class_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(String::new());
    };
    let unknown = |text: String| Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {text}"));
    match kubelet.client.find::<RuntimeClass>("", name).await {
        Ok(Some(class)) => Ok(class.handler),
        Ok(None) => Err(unknown(format!("runtimeclass.node.k8s.io {name:?} not found"))),
        Err(status) => Err(unknown(format!("failed to lookup RuntimeClass {name}: {status}"))),
    }
}

/// The users of a pod that has its own.
///
/// # Errors
/// No range of ids, as the reason of an event.
pub fn users(kubelet: &Kubelet, uid: &str, spec: &PodSpec) -> Result<Option<UserNs>, Trouble> {
    if spec.host_users != Some(false) {
        return Ok(None);
    }
    let ids = kubelet.user_ids.of_pod(uid, &kubelet.pod_dir(uid));
    ids.map(Some).map_err(|error| Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: user namespace: {error}")))
}

/// The host name that a pod is given.
///
/// # Errors
/// One that the kernel does not take, as the reason of an event.
pub fn host_name(pod: &Pod, config: &crate::config::Config, spec: &PodSpec) -> Result<String, Trouble> {
    let Some(full) = files::full_hostname(pod, config).filter(|_| spec.set_hostname_as_fqdn == Some(true)) else {
        return Ok(files::hostname(pod));
    };
    if full.len() > LONGEST_HOST_NAME {
        let text = format!(
            "Failed to create pod sandbox: failed to construct FQDN from pod hostname and cluster domain, FQDN {full} is too long ({LONGEST_HOST_NAME} characters is the max, {} characters requested)",
            full.len()
        );
        return Err(Trouble::new("FailedCreatePodSandBox", text));
    }
    Ok(full)
}

/// Kernel parameters of a pod.
///
/// # Errors
/// One that could hurt others, as the reason of an event.
pub fn sysctls(spec: &PodSpec) -> Result<BTreeMap<String, String>, Trouble> {
    let mut known = BTreeMap::new();
    for sysctl in spec.security_context.as_ref().and_then(|security| security.sysctls.as_deref()).unwrap_or_default() {
        if !is_safe(&sysctl.name) {
            return Err(Trouble::new("SysctlForbidden", format!("forbidden sysctl: {:?} not allowlisted", sysctl.name)));
        }
        known.insert(sysctl.name.replace('/', "."), sysctl.value.clone());
    }
    Ok(known)
}

/// Kernel parameters that cannot hurt other pods or the node.
pub fn is_safe(name: &str) -> bool {
    let name = name.replace('/', ".");
    matches!(
        name.as_str(),
        "kernel.shm_rmid_forced"
            | "net.ipv4.ip_local_port_range"
            | "net.ipv4.tcp_syncookies"
            | "net.ipv4.ping_group_range"
            | "net.ipv4.ip_unprivileged_port_start"
            | "net.ipv4.ip_local_reserved_ports"
            | "net.ipv4.tcp_keepalive_time"
            | "net.ipv4.tcp_fin_timeout"
            | "net.ipv4.tcp_keepalive_intvl"
            | "net.ipv4.tcp_keepalive_probes"
            | "net.ipv4.tcp_rmem"
            | "net.ipv4.tcp_wmem"
    )
}

/// Sets up every volume of a pod, or brings them up to date.
///
/// # Errors
/// The first volume that is not ready, as `FailedMount`.
pub async fn volumes(kubelet: &Arc<Kubelet>, pod: &Pod, addresses: &[String]) -> Result<BTreeMap<String, Mounted>, Trouble> {
    let mut ready = BTreeMap::new();
    let directory = kubelet.pod_dir(model::uid(pod)).join("volumes");
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        let failed = |text: String| Trouble::new("FailedMount", format!("MountVolume.SetUp failed for volume {:?} : {text}", volume.name));
        let kind = volumes::find(volume).ok_or_else(|| failed("this volume type is not supported on this node".into()))?;
        let directory = directory.join(kind.directory).join(&volume.name);
        let set_up = SetUp { kubelet, pod, pod_ips: addresses, volume, directory: &directory };
        let mounted = (kind.set_up)(&set_up).await.map_err(|error| match error {
            VolumeError::Claim(_) => {
                let name = &volume.name;
                let text = format!("unmounted volumes=[{name}], unattached volumes=[], failed to process volumes=[{name}]: {error}");
                Trouble::new("FailedMount", format!("Unable to attach or mount volumes: {text}"))
            }
            error => failed(chain(&error)),
        })?;
        ready.insert(volume.name.clone(), mounted);
    }
    Ok(ready)
}

fn write_files(kubelet: &Kubelet, pod: &Pod, pod_dir: &Path, addresses: &[String]) -> std::io::Result<()> {
    let etc = pod_dir.join("etc");
    let host = Resolver::parse(&std::fs::read_to_string(&kubelet.config.resolv_conf).unwrap_or_default());
    write_once(&etc.join("hosts"), &files::hosts(pod, &kubelet.config, addresses))?;
    write_once(&etc.join("resolv.conf"), &files::resolver(pod, &kubelet.config, &host).text())?;
    write_once(&etc.join("hostname"), &format!("{}\n", files::hostname(pod)))
}

/// Files that are bound into containers keep their inode.
fn write_once(path: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(path, text)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
}

/// An error with its causes in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Parameters of the node, and names that would become others on their way (CVE-2022-0811).
    #[test]
    fn kernel_parameters_that_could_hurt_others_are_refused() {
        let ask = |name: &str| {
            let spec = json!({"containers": [], "securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
            sysctls(&serde_json::from_value(spec).unwrap())
        };
        for name in ["net.ipv4.tcp_syncookies", "net/ipv4/tcp_syncookies"] {
            assert_eq!(ask(name).unwrap().keys().collect::<Vec<_>>(), ["net.ipv4.tcp_syncookies"], "{name}");
        }
        for name in [
            "kernel.core_pattern",
            "kernel/core_pattern",
            "kernel.shm_rmid_forced+",
            "kernel.shm_rmid_forced/../core_pattern",
            "net.ipv4.tcp_syncookies/../../../kernel/core_pattern",
            "net.ipv4.ip_forward",
            "net.ipv4.conf.all.route_localnet",
            "fs.mqueue.msg_max",
            "kernel.msgmax",
            "vm.overcommit_memory",
            "",
        ] {
            let refused = ask(name).unwrap_err();
            assert_eq!(refused.reason, "SysctlForbidden", "{name}");
        }
    }
}
