//! Starts one attempt of a container: image, configuration, creation, start, postStart hook. Runs beside the worker
//! and reports once, with what the container waits for on the way.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use client::EventKind;
use cri::client::Given;
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::{Container, Pod, Service};
use runtime::{Bind, ContainerError, ContainerId, ContainerState, ContainerStatus, Mount, Source};
use tokio::sync::mpsc::UnboundedSender;

use super::container::{self, Parts};
use super::env::{self, Sources};
use super::env_file::{self, Unreadable};
use super::hooks;
use super::huge_pages;
use super::limits::Class;
use super::message::{Message, Trouble};
use super::model::{self, Member};
use super::profile;
use super::release::SUB_PATHS;
use super::signals;
use super::wiring::Wired;
use crate::devices::state::DeviceRefusal;
use crate::metrics::Phase;
use crate::objects::ObjectKind;
use crate::volumes::{Mounted, image, sub_path};
use crate::{Kubelet, pull};

/// Reason of a container whose postStart hook failed; its event has been recorded.
const HOOK_FAILED: &str = "PostStartHookError";

/// Reason of a container whose pod's network failed, of which the worker knows already.
pub(super) const NO_NETWORK: &str = "ContainerCreating";

/// What to start.
pub struct Order {
    /// The node.
    pub kubelet: Arc<Kubelet>,
    /// The pod.
    pub pod: Arc<Pod>,
    /// The container.
    pub member: Member,
    /// Which attempt.
    pub attempt: u32,
    /// Where it runs.
    pub sandbox: Sandbox,
    /// Whether the pod has its network yet.
    pub wired: Wired,
    /// Addresses of the pod.
    pub addresses: Vec<String>,
    /// The pod's volumes.
    pub volumes: BTreeMap<String, Mounted>,
    /// The pod's class.
    pub class: Class,
    /// Container whose processes an ephemeral one sees.
    pub target: Option<ContainerId>,
    /// Where to report.
    pub sender: UnboundedSender<Message>,
    /// Earlier attempts; all but the last are removed.
    pub old: Vec<ContainerStatus>,
}

/// Carries out a start and reports.
pub async fn start(order: Order) {
    let result = run(&order).await;
    if let Err(trouble) = &result {
        if ![HOOK_FAILED, NO_NETWORK].contains(&trouble.reason.as_str()) {
            order.event(EventKind::Warning, "Failed", &trouble.event_text());
        }
    }
    let _ = order.sender.send(Message::Started { name: order.member.spec.name.clone(), attempt: order.attempt, result });
}

impl Trouble {
    fn event_text(&self) -> String {
        if self.image { format!("Error: {}", self.reason) } else { format!("Error: {}", self.message) }
    }
}

impl Order {
    fn event(&self, kind: EventKind, reason: &str, message: &str) {
        self.kubelet.event(&self.pod, &self.member.spec.name, kind, reason, message);
    }

    fn name(&self) -> &str {
        &self.member.spec.name
    }
}

async fn run(order: &Order) -> Result<(), Trouble> {
    let began = Instant::now();
    let volumes = image::fill(order).await?;
    let image = pull::ensure(order).await?;
    order.kubelet.metrics.phase(Phase::Image, began.elapsed());
    order.kubelet.hold_image(model::uid(&order.pod), &image.id);
    for old in order.old.iter().rev().skip(1) {
        if let Err(error) = order.sandbox.remove(&old.id).await {
            tracing::debug!(container = %old.id, %error, "old attempt stays");
        }
        remove_writable(&order.kubelet.pod_dir(model::uid(&order.pod)), order.name(), model::attempt(old));
    }
    // It was made and never started, from what may be out of date by now.
    if let Some(unstarted) = order.old.last().filter(|old| old.state == ContainerState::Created) {
        let stays = |error: ContainerError| Trouble::new("CreateContainerError", format!("remove what was never started: {error}"));
        order.sandbox.remove(&unstarted.id).await.map_err(stays)?;
        remove_writable(&order.kubelet.pod_dir(model::uid(&order.pod)), order.name(), order.attempt);
    }
    let config_error = |text: String| Trouble::new("CreateContainerConfigError", text);
    let profile = profile::wanted(&order.pod, &order.member.spec, &order.kubelet.config.root_dir);
    let profile = profile.map_err(|text| Trouble::new("CreateContainerError", text))?;
    let env = environment(order).await.map_err(config_error)?;
    let pod_dir = order.kubelet.pod_dir(model::uid(&order.pod));
    let log_dir = order.kubelet.log_dir(&order.pod);
    prepare_files(&pod_dir, order)
        .map_err(|error| Trouble::new("CreateContainerError", format!("prepare files of the container: {error}")))?;
    let (uid, devices) = (model::uid(&order.pod), &order.kubelet.placement.devices);
    let refused = |refusal: DeviceRefusal| Trouble::new("CreateContainerConfigError", refusal.to_string());
    devices.pre_start(uid, order.name()).await.map_err(refused)?;
    let extras = devices.extras(uid, order.name());
    let foreign = order.kubelet.runtime.other().is_some();
    let limit_huge_pages = foreign || order.pod.spec.as_ref().is_some_and(huge_pages::wanted);
    let parts = Parts {
        pod: &order.pod,
        member: &order.member,
        attempt: order.attempt,
        image: &image,
        foreign,
        layers: order.kubelet.images.layers(&image),
        env,
        volumes: &volumes,
        pod_dir: &pod_dir,
        log_dir: &log_dir,
        profile,
        log_max_size: order.kubelet.config.log_max_size,
        log_max_files: order.kubelet.config.log_max_files,
        class: order.class,
        node_memory: order.kubelet.node.memory_bytes(),
        swap: order.kubelet.swap_of(&order.pod, order.class, order.member.spec.resources.as_ref()),
        huge_pages: if limit_huge_pages { order.kubelet.node.huge_page_sizes() } else { Vec::new() },
        extras: &extras,
        place: order.kubelet.placement.place(model::uid(&order.pod), order.name()),
        target: order.target.clone(),
    };
    let spec = container::spec(&parts);
    // Whatever is wrong with a profile only who makes the container finds out.
    let unloaded = |text: String| {
        if text.starts_with("cannot load seccomp") { Trouble::new("CreateContainerError", text) } else { config_error(text) }
    };
    let mut spec = spec.map_err(unloaded)?;
    for (place, mount) in spec.mounts.iter_mut().enumerate() {
        let Mount::Bind(Bind { source, target, .. }) = mount else { continue };
        let Source::Beneath { root, path } = source else { continue };
        let shown = path.display().to_string();
        let failed = |error| {
            let (volume, container) = (volume_at(&order.member.spec, target), order.name());
            tracing::info!(pod = model::name(&order.pod), container, path = shown, %error, "subPath cannot be used");
            Trouble::new(
                "CreateContainerConfigError",
                format!("failed to prepare subPath for volumeMount {volume:?} of container {container:?}"),
            )
        };
        *path = sub_path::ensure(root, path).map_err(failed)?;
        if parts.foreign {
            let bound = pod_dir.join(SUB_PATHS).join(format!("{}-{place}", order.name()));
            sub_path::bind(root, path, &bound).map_err(failed)?;
            *source = Source::Path(bound);
        }
    }
    let id = spec.id.clone();
    let began = Instant::now();
    let asked = order.member.spec.image.clone().unwrap_or_default();
    let ((command, args), config) = match parts.foreign {
        true => (container::command(&parts), super::foreign::config(&order.kubelet, &order.pod, order.class)),
        false => Default::default(),
    };
    let (name, attempt) = (order.name(), order.attempt);
    let given = Given {
        spec,
        name,
        attempt,
        command,
        args,
        image_id: &image.id,
        image: &asked,
        sandbox: &config,
        cdi_devices: &extras.cdi_devices,
    };
    let created = order.sandbox.create_container(given).await;
    let took = began.elapsed();
    // In a sandbox that was given up, the rest does not matter.
    if !order.wired.done().await {
        return Err(Trouble::new(NO_NETWORK, ""));
    }
    created.map_err(|error| Trouble::new("CreateContainerError", error.to_string()))?;
    order.kubelet.metrics.phase(Phase::Create, took);
    let place = order.kubelet.placement.place(model::uid(&order.pod), order.name());
    if place.cpus != parts.place.cpus {
        // The shared processors changed while the container was made.
        order.kubelet.placement.changed.notify_one();
    }
    order.event(EventKind::Normal, "Created", "Container created");
    order.kubelet.link_log(&order.pod, order.name(), order.attempt, &log_dir);
    let began = Instant::now();
    if let Err(error) = order.sandbox.start(&id).await {
        return Err(Trouble::new("RunContainerError", error.to_string()));
    }
    order.kubelet.metrics.phase(Phase::Start, began.elapsed());
    order.event(EventKind::Normal, "Started", "Container started");
    post_start(order, &id).await
}

async fn post_start(order: &Order, id: &ContainerId) -> Result<(), Trouble> {
    let Some(hook) = order.member.spec.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) else {
        return Ok(());
    };
    // That it runs shows while its hook does.
    let _ = order.sender.send(Message::Look);
    let context = hooks::Context {
        kubelet: &order.kubelet,
        pod: &order.pod,
        container: &order.member.spec,
        id,
        sandbox: &order.sandbox,
        addresses: &order.addresses,
    };
    let Err(error) = hooks::run(&context, hook).await else {
        return Ok(());
    };
    order.event(EventKind::Warning, "FailedPostStartHook", "PostStartHook failed");
    tracing::info!(pod = model::name(&order.pod), container = order.name(), error, "postStart hook failed");
    let grace = order.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
    order.event(EventKind::Normal, "Killing", "FailedPostStartHook");
    if let Err(error) = order.sandbox.stop(id, signals::TERM, std::time::Duration::from_secs(grace.max(0) as u64)).await {
        tracing::debug!(container = %id, %error, "stop after failed hook");
    }
    Err(Trouble::new(HOOK_FAILED, error))
}

/// The environment with everything that it refers to.
async fn environment(order: &Order) -> Result<Vec<(String, String)>, String> {
    let (config_maps, secrets) = env::references(&order.member.spec);
    let namespace = model::namespace(&order.pod);
    let mut sources = Sources::default();
    for (kind, names) in [(ObjectKind::ConfigMap, config_maps), (ObjectKind::Secret, secrets)] {
        for name in names {
            let entry =
                order.kubelet.objects.get(model::uid(&order.pod), kind, namespace, &name).await.map_err(|status| status.to_string())?;
            let data = entry.map(|entry| crate::volumes::data_of(&entry));
            let known = if kind == ObjectKind::ConfigMap { &mut sources.config_maps } else { &mut sources.secrets };
            known.insert(name, data);
        }
    }
    for from in env::file_references(&order.member.spec) {
        let found = match order.volumes.get(&from.volume_name) {
            Some(Mounted::Path { path: volume, .. }) => {
                let (volume, from) = (volume.clone(), from.clone());
                let read = tokio::task::spawn_blocking(move || env_file::read(&volume, &from.path, &from.key));
                read.await.unwrap_or(Err(Unreadable))
            }
            _ => Err(Unreadable),
        };
        sources.files.push((from.clone(), found));
    }
    let links = order.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    order.kubelet.services.synced().await;
    let candidates: Vec<Service> = order
        .kubelet
        .services
        .list_namespace(namespace)
        .iter()
        .chain(order.kubelet.services.get("default", "kubernetes").iter())
        .filter_map(|entry| cache::decode(entry))
        .collect();
    let variables = env::service_variables(&candidates, namespace, links);
    let allocatable = order.kubelet.node.allocatable();
    let host_ips = order.kubelet.host_ips();
    let host = super::downward::Host { host_ips: &host_ips, pod_ips: &order.addresses, allocatable: &allocatable };
    env::environment(&order.pod, &order.member.spec, &host, &variables, &sources)
}

/// The termination message file and directories of this attempt.
fn prepare_files(pod_dir: &Path, order: &Order) -> std::io::Result<()> {
    let directory = pod_dir.join("containers").join(order.name());
    std::fs::create_dir_all(directory.join(order.attempt.to_string()))?;
    let file = container::termination_file(pod_dir, order.name(), order.attempt);
    std::fs::write(&file, b"")?;
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666))
}

/// The volume that a container has at a place.
fn volume_at<'a>(container: &'a Container, place: &Path) -> &'a str {
    let mounts = container.volume_mounts.iter().flatten();
    mounts.into_iter().find(|mount| place.ends_with(mount.mount_path.trim_start_matches('/'))).map_or("", |mount| mount.name.as_str())
}

/// Removes what an attempt has written to its root.
pub(super) fn remove_writable(pod_dir: &Path, name: &str, attempt: u32) {
    let directory = pod_dir.join("containers").join(name).join(attempt.to_string());
    if let Err(error) = std::fs::remove_dir_all(&directory)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(directory = %directory.display(), %error, "writable layer stays");
    }
}
