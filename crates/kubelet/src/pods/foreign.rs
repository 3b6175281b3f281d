//! Pods at another container runtime: what it has to be told about a pod, in CRI's words.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::client::{Pod as ForeignPod, Remote};
use cri::engine::Sandbox;
use cri::messages::{
    DNSConfig, IDMapping, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceOption, PodSandboxConfig, PodSandboxMetadata,
    PortMapping, UserNamespace, namespace, protocol,
};
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use runtime::{IdMapping, SandboxId, UserNs};

use super::files::{self, Resolver};
use super::limits::Class;
use super::message::Trouble;
use super::model;
use crate::Kubelet;

/// Makes the sandbox of a pod; its addresses are its runtime's to give.
///
/// # Errors
/// As an event tells it.
pub async fn run(
    kubelet: &Arc<Kubelet>,
    remote: &Arc<Remote>,
    pod: &Pod,
    spec: &PodSpec,
    class: Class,
    handler: String,
) -> Result<(Sandbox, Vec<String>), Trouble> {
    let failed = |text: String| Trouble::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {text}"));
    let id = SandboxId::new(model::uid(pod)).map_err(|error| failed(error.to_string()))?;
    super::prepare::host_name(pod, &kubelet.config, spec)?;
    let mut config = config(kubelet, pod, class);
    if let Some(linux) = &mut config.linux {
        linux.sysctls = super::prepare::sysctls(spec)?;
        if spec.host_users == Some(false) && !remote.features(&handler).user_namespaces {
            return Err(failed("can't set `spec.hostUsers: false`, runtime does not support user namespaces".into()));
        }
        let users = super::prepare::users(kubelet, model::uid(pod), spec)?;
        linux.security_context.get_or_insert_default().namespace_options.get_or_insert_default().userns_options =
            users.as_ref().map(user_namespace);
    }
    let made: ForeignPod = remote.run_pod(id, handler, config).await.map_err(|failure| failed(failure.message))?;
    if spec.host_network == Some(true) {
        return Ok((Sandbox::Other(made), kubelet.host_ips()));
    }
    match made.addresses().await {
        Ok(addresses) => Ok((Sandbox::Other(made), addresses)),
        Err(failure) => {
            if let Err(failure) = made.destroy().await {
                tracing::warn!("a sandbox without addresses stays: {failure}");
            }
            Err(failed(failure.message))
        }
    }
}

/// The description of a pod, the same whenever it is asked for.
pub fn config(kubelet: &Kubelet, pod: &Pod, class: Class) -> PodSandboxConfig {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let (name, namespace, uid) = (model::name(pod).to_owned(), model::namespace(pod).to_owned(), model::uid(pod).to_owned());
    let host = Resolver::parse(&std::fs::read_to_string(&kubelet.config.resolv_conf).unwrap_or_default());
    let resolver = files::resolver(pod, &kubelet.config, &host);
    let labels = [("io.kubernetes.pod.name", &name), ("io.kubernetes.pod.namespace", &namespace), ("io.kubernetes.pod.uid", &uid)];
    // A name that cannot be was refused when the sandbox was made.
    let host_name = super::prepare::host_name(pod, &kubelet.config, spec).unwrap_or_else(|_| files::hostname(pod));
    let own: BTreeMap<String, String> = pod.metadata.labels.clone().unwrap_or_default();
    PodSandboxConfig {
        labels: own.into_iter().chain(labels.map(|(label, value)| (label.to_owned(), value.clone()))).collect(),
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        hostname: if spec.host_network == Some(true) { String::new() } else { host_name },
        log_directory: kubelet.log_dir(pod).to_string_lossy().into_owned(),
        dns_config: Some(DNSConfig { servers: resolver.servers, searches: resolver.search, options: resolver.options }),
        port_mappings: port_mappings(spec),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("/{}", kubelet.pod_group(class, &uid)),
            security_context: Some(security(spec)),
            ..LinuxPodSandboxConfig::default()
        }),
        metadata: Some(PodSandboxMetadata { name, uid, namespace, attempt: 0 }),
    }
}

fn security(spec: &PodSpec) -> LinuxSandboxSecurityContext {
    let of_node = |asked: Option<bool>, otherwise: i32| if asked == Some(true) { namespace::NODE } else { otherwise };
    let shared = if spec.share_process_namespace == Some(true) { namespace::POD } else { namespace::CONTAINER };
    let privileged = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let privileged = privileged.filter_map(|container| container.security_context.as_ref());
    LinuxSandboxSecurityContext {
        namespace_options: Some(NamespaceOption {
            network: of_node(spec.host_network, namespace::POD),
            pid: of_node(spec.host_pid, shared),
            ipc: of_node(spec.host_ipc, namespace::POD),
            ..NamespaceOption::default()
        }),
        privileged: privileged.map(|security| security.privileged == Some(true)).any(|privileged| privileged),
        ..LinuxSandboxSecurityContext::default()
    }
}

/// The users of a pod in CRI's words.
fn user_namespace(users: &UserNs) -> UserNamespace {
    let ranges = |list: &[IdMapping]| {
        let range = |range: &IdMapping| IDMapping { host_id: range.host_id, container_id: range.container_id, length: range.size };
        list.iter().map(range).collect()
    };
    UserNamespace { mode: namespace::POD, uids: ranges(&users.uids), gids: ranges(&users.gids) }
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let mapping = |port: &k8s_openapi::api::core::v1::ContainerPort| PortMapping {
        protocol: match port.protocol.as_deref() {
            Some("UDP") => protocol::UDP,
            Some("SCTP") => protocol::SCTP,
            _ => protocol::TCP,
        },
        container_port: port.container_port,
        host_port: port.host_port.unwrap_or(0),
        host_ip: port.host_ip.clone().unwrap_or_default(),
    };
    ports.map(mapping).collect()
}
