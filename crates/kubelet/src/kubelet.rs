//! The kubelet as a whole: what its parts share, and the loops that feed them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use cache::{Cache, Caches};
use cgroup::Layout;
use client::{Client, EventKind, Recorder, Selection};
use cri::engine::{Engine, Images};
use k8s_openapi::api::core::v1::{Node, Pod, ResourceRequirements, Service};
use net::NodeNetwork;
use parking_lot::Mutex;
use serde_json::json;
use store::Entry;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;

use crate::clock::now_ms;
use crate::config::{Config, Deps};
use crate::credentials::Providers;
use crate::csi::{self, Drivers};
use crate::eviction::{self, Pressure};
use crate::image_access::ImageAccess;
use crate::metrics::Metrics;
use crate::node::facts::Facts;
use crate::node::{addresses, heartbeat, register};
use crate::objects::Objects;
use crate::placement::machine::Machine;
use crate::placement::{self, Placement};
use crate::pods::backoff::Backoff;
use crate::pods::directory;
use crate::pods::limits::{Class, pod_group};
use crate::pods::model;
use crate::pods::registry::Registry;
use crate::pods::statics::Statics;
use crate::pods::status;
use crate::pods::user_ids::UserIds;
use crate::swap;
use crate::tokens::Tokens;

/// What the parts of a kubelet share.
pub struct Kubelet {
    /// Configuration.
    pub config: Config,
    /// Calls as the node's user.
    pub client: Client,
    /// Containers.
    pub runtime: Engine,
    /// Images.
    pub images: Images,
    /// Pod network; none where another runtime makes it.
    pub network: Option<NodeNetwork>,
    /// ConfigMaps and Secrets in use.
    pub(crate) objects: Objects,
    /// Tokens in use.
    pub(crate) tokens: Tokens,
    /// Volume drivers.
    pub csi: Drivers,
    /// Services, for environment variables.
    pub services: Arc<Cache>,
    /// The pods of this node.
    pub assigned: Arc<Cache>,
    /// This node's object.
    pub own_node: Arc<Cache>,
    /// Facts of the machine.
    pub node: Facts,
    /// Who has which processors, memory nodes and devices.
    pub placement: Placement,
    /// Workers.
    pub pods: Registry,
    /// Users of pods that have their own.
    pub user_ids: UserIds,
    /// Interfaces are made one at a time, as the kernel makes them.
    pub wiring: tokio::sync::Mutex<()>,
    /// Control groups.
    pub cgroups: Arc<Layout>,
    /// PEM of the authority whose clients are known.
    pub client_ca: String,
    /// Something that the node's status shows has changed.
    pub status_changed: Notify,
    /// An object that shows a static pod came, changed or went, or such a pod is over.
    pub mirrors_changed: Notify,
    /// Addresses of the node now.
    pub addresses: watch::Sender<Vec<IpAddr>>,
    /// What is counted.
    pub(crate) metrics: Arc<Metrics>,
    /// Who else in this process has numbers.
    pub(crate) sources: client::metrics::Sources,
    /// Programs that know credentials for images.
    pub(crate) credentials: Providers,
    /// Who may use which image.
    pub(crate) image_access: ImageAccess,
    /// The machine goes down.
    pub shutting_down: AtomicBool,
    /// What the node is short of.
    pub pressure: Mutex<Pressure>,
    /// How fast processors were used when somebody asked.
    pub(crate) paces: crate::server::pace::Paces,
    recorder: Recorder,
    /// Images that pods run from, by pod.
    holds: Mutex<HashMap<String, HashMap<String, image::Hold>>>,
    /// Keeps the caches above alive.
    _caches: Arc<Caches>,
    pulls: Mutex<HashMap<(String, String), (Backoff, i64, String)>>,
}

/// Runs a kubelet until the future is dropped. `ready` turns true once the node is registered and follows its pods.
///
/// # Errors
/// The node cannot be prepared.
pub async fn run(config: Config, deps: Deps, ready: watch::Sender<bool>) -> Result<()> {
    for directory in [&config.log_dir, &config.container_log_dir] {
        std::fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    }
    directory::open(&config.root_dir).with_context(|| format!("make {}", config.root_dir.display()))?;
    let serving = deps.serving.clone();
    let kubelet = Kubelet::new(config, deps)?;
    kubelet.mount_memory()?;
    kubelet.image_access.recover(&kubelet.images.list().await);
    csi::release::recover(&kubelet);
    let recovered = kubelet.runtime.recover().await;
    kubelet.pods.recovered(recovered);
    follow_runtime(&kubelet);
    follow_node(&kubelet);
    eviction::look(&kubelet);
    let server = tokio::spawn(crate::server::run(kubelet.clone(), serving));
    register::register(&kubelet).await;
    let heart = tokio::spawn(heartbeat::run(kubelet.clone()));
    kubelet.assigned.synced().await;
    follow_pods(&kubelet);
    let statics = follow_statics(&kubelet);
    kubelet.placement.retain(|uid| kubelet.pods.is_here(uid));
    kubelet.status_changed.notify_one();
    ready.send_replace(true);
    let tasks = [
        tokio::spawn(placement::follow::run(kubelet.clone())),
        tokio::spawn(addresses::follow(kubelet.clone())),
        tokio::spawn(follow_table(kubelet.clone())),
        tokio::spawn(follow_plugins(kubelet.clone())),
        tokio::spawn(serve_devices(kubelet.clone())),
        tokio::spawn(serve_resources(kubelet.clone())),
        tokio::spawn(eviction::run(kubelet.clone())),
        tokio::spawn(crate::shutdown::run(kubelet.clone())),
        tokio::spawn(crate::images::run(kubelet.clone())),
        tokio::spawn(crate::pods::rotate::run(kubelet.clone())),
    ];
    let _guard = Guard([heart].iter().chain(&tasks).chain(&statics).map(JoinHandle::abort_handle).collect());
    server.await.context("kubelet server")?
}

/// Ends tasks with the kubelet.
struct Guard(Vec<tokio::task::AbortHandle>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::AbortHandle::abort);
    }
}

/// Static pods are known before what nobody wants is ended. Where they cannot be read, nobody knows what is wanted.
fn follow_statics(kubelet: &Arc<Kubelet>) -> Option<JoinHandle<()>> {
    let Some(folder) = &kubelet.config.pod_manifests else {
        kubelet.pods.end_strangers(kubelet);
        return None;
    };
    let mut statics = match Statics::open(folder) {
        Ok(statics) => statics,
        Err(error) => {
            tracing::error!("no static pods, and what an earlier run left stays: {error:#}");
            return None;
        }
    };
    statics.apply(kubelet);
    kubelet.pods.end_strangers(kubelet);
    let kubelet = kubelet.clone();
    Some(tokio::spawn(async move {
        if let Err(error) = statics.follow(&kubelet).await {
            tracing::error!("static pods are no longer followed: {error:#}");
        }
    }))
}

/// A folder that cannot be served costs the node its devices, not its pods.
async fn serve_devices(kubelet: Arc<Kubelet>) {
    if let Err(error) = crate::devices::run(&kubelet).await {
        tracing::error!("no device plugins: {error:#}");
    }
}

/// Nor does this one cost more than agents that look for it.
async fn serve_resources(kubelet: Arc<Kubelet>) {
    if let Err(error) = crate::pod_resources::run(&kubelet).await {
        tracing::error!("no podresources: {error:#}");
    }
}

/// Host ports and masquerading come back when somebody removes the pods' table.
async fn follow_table(kubelet: Arc<Kubelet>) {
    loop {
        let Some(network) = &kubelet.network else { return std::future::pending().await };
        let error = network.keep_rules().await;
        tracing::warn!("pod rules: {}", crate::pods::prepare::chain(&error));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Plugins register whenever they come.
async fn follow_plugins(kubelet: Arc<Kubelet>) {
    if let Err(error) = crate::plugins::run(&kubelet).await {
        tracing::error!("plugins are not followed: {error:#}");
    }
}

fn follow_runtime(kubelet: &Arc<Kubelet>) {
    let mut events = kubelet.runtime.events();
    let kubelet = Arc::downgrade(kubelet);
    tokio::spawn(async move {
        loop {
            let event = events.recv().await;
            let Some(kubelet) = kubelet.upgrade() else {
                return;
            };
            match event {
                Ok(event) => kubelet.pods.event(event),
                Err(broadcast::error::RecvError::Lagged(_)) => kubelet.pods.poke_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    });
}

fn follow_pods(kubelet: &Arc<Kubelet>) {
    let weak = Arc::downgrade(kubelet);
    kubelet.assigned.subscribe(Box::new(move |old, new| {
        let Some(kubelet) = weak.upgrade() else {
            return;
        };
        if let Some(old) = old.filter(|old| new.is_none_or(|new| new.header.uid != old.header.uid)) {
            kubelet.pods.gone(&kubelet, &old.header.uid, &old.header.namespace, &old.header.name);
        }
        // Objects that show static pods belong to the node. One that comes, goes or shall go is looked after with its folder.
        let shows = |entry: &Arc<Entry>| entry.header.owners.iter().any(|owner| &*owner.kind == "Node");
        let remarkable = new.zip(old).is_none_or(|(new, old)| new.header.deletion_timestamp.is_some() || new.header.uid != old.header.uid);
        if remarkable && [old, new].into_iter().flatten().any(shows) {
            kubelet.mirrors_changed.notify_one();
        }
        if let Some(new) = new {
            kubelet.pods.put(&kubelet, new);
        }
    }));
}

/// The node's pod range comes with its object.
fn follow_node(kubelet: &Arc<Kubelet>) {
    let weak = Arc::downgrade(kubelet);
    kubelet.own_node.subscribe(Box::new(move |_, new| {
        let (Some(kubelet), Some(node)) = (weak.upgrade(), new.and_then(|entry| cache::decode::<Node>(entry))) else {
            return;
        };
        kubelet.csi.node_changed.notify_waiters();
        if crate::node::status::lacks_extended(&kubelet, &node) {
            kubelet.status_changed.notify_one();
        }
        let range = node.spec.as_ref().and_then(|spec| spec.pod_cidr.as_deref()).and_then(|range| range.parse().ok());
        if let Some(range) = range {
            kubelet.has_range(range);
        }
    }));
}

impl Kubelet {
    fn new(config: Config, deps: Deps) -> Result<Arc<Kubelet>> {
        let Deps { client, runtime, images, journal, client_ca, metrics: sources, .. } = deps;
        let caches = Caches::new(client.clone());
        let name = config.node_name.clone();
        let assigned = caches.get(Selection::of::<Pod>().with_fields(format!("spec.nodeName={name}")));
        let own_node = caches.get(Selection::of::<Node>().with_fields(format!("metadata.name={name}")));
        let services = caches.of::<Service>();
        let own_network = runtime.other().is_none();
        let network = own_network.then(|| NodeNetwork::open(config.pod_mtu, config.cluster_ranges.clone(), journal)).transpose()?;
        let mut node = Facts::read(&config, &config.root_dir);
        if let Some(other) = runtime.other() {
            node.set_runtime(other.version());
        }
        let machine = Machine::read(Path::new("/sys"), u64::try_from(node.memory_bytes()).unwrap_or(0));
        let kept = u64::try_from(node.kept_memory()).unwrap_or(0);
        let placement = Placement::open(&config.placement, machine, kept, &config.root_dir).context("place pods")?;
        let cgroups = runtime.cgroup_root().layout().clone();
        crate::swap::check(&config.swap)?;
        let user_ids = UserIds::open(config.user_ids_per_pod, config.max_pods, &config.root_dir.join("pods"))?;
        let image_access = ImageAccess::open(config.image_access.clone(), &config.root_dir).context("records of image pulls")?;
        let metrics = Arc::new(Metrics::new(&name));
        let shown = metrics.clone();
        sources.set("kubelet", move |out| shown.render(out));
        Ok(Arc::new_cyclic(|weak: &std::sync::Weak<Kubelet>| {
            let weak = weak.clone();
            let changed = Arc::new(move |uid: &str| {
                if let Some(kubelet) = weak.upgrade() {
                    kubelet.pods.poke(uid);
                }
            });
            Kubelet {
                recorder: Recorder::new(client.clone(), "kubelet", &name),
                objects: Objects::new(client.clone(), changed),
                tokens: Tokens::new(client.clone()),
                _caches: caches,
                client,
                runtime,
                images,
                network,
                services,
                assigned,
                own_node,
                node,
                placement,
                pods: Registry::default(),
                user_ids,
                wiring: tokio::sync::Mutex::default(),
                cgroups,
                client_ca,
                metrics,
                sources,
                status_changed: Notify::new(),
                mirrors_changed: Notify::new(),
                addresses: watch::Sender::new(config.node_ips.clone()),
                csi: Drivers::default(),
                credentials: Providers::new(config.credential_providers.clone()),
                image_access,
                shutting_down: AtomicBool::new(false),
                pressure: Mutex::new(Pressure::new(config.eviction.transition)),
                pulls: Mutex::default(),
                holds: Mutex::default(),
                paces: crate::server::pace::Paces::default(),
                config,
            }
        }))
    }

    /// One memory file system for everything that must never touch the disk.
    fn mount_memory(&self) -> Result<()> {
        let path = self.config.root_dir.join("memory");
        std::fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        if !crate::volumes::mount::is_mount_point(&path) {
            crate::volumes::mount::tmpfs(&path, 256 << 20, 0o750, None).with_context(|| format!("mount {}", path.display()))?;
        }
        Ok(())
    }

    /// The node has a range of pod addresses.
    fn has_range(self: &Arc<Kubelet>, range: ipnet::IpNet) {
        let Some(network) = &self.network else {
            let kubelet = self.clone();
            tokio::spawn(async move {
                let Some(other) = kubelet.runtime.other() else { return };
                if let Err(error) = other.set_range(range.to_string()).await {
                    tracing::error!("pod network: {error}");
                }
                // A network plugin may just now have been told what it waited for.
                let _asked_again_later = other.look_at_network().await;
                kubelet.status_changed.notify_one();
            });
            return;
        };
        let before = network.is_ready();
        match network.set_range(range) {
            Ok(()) if !before => self.status_changed.notify_one(),
            Ok(()) => {}
            Err(error) => tracing::error!("pod network: {}", crate::pods::prepare::chain(&error)),
        }
    }

    /// Bytes of swap of a container; none where another runtime decides.
    pub fn swap_of(&self, pod: &Pod, class: Class, resources: Option<&ResourceRequirements>) -> Option<i64> {
        let asker = swap::Asker { class, critical: model::is_critical(pod), resources };
        // In pieces of version 1 swap belongs to memory, and no share of it can be given.
        let behavior = if self.cgroups.is_v1("memory") { swap::Behavior::NoSwap } else { self.config.swap.behavior };
        let all = if behavior == swap::Behavior::NoSwap { 0 } else { swap::of_machine().0 };
        self.runtime.other().is_none().then(|| swap::limit(behavior, &asker, self.node.memory_bytes(), all))
    }

    /// Whether pods can get addresses.
    pub fn network_is_ready(&self) -> bool {
        let other = || self.runtime.other().is_some_and(|other| other.network_ready());
        self.network.as_ref().map_or_else(other, NodeNetwork::is_ready)
    }

    /// Directory of a pod on this node.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.root_dir.join("pods").join(uid)
    }

    /// Directory of a pod's volumes that live in memory.
    pub fn memory_dir(&self, uid: &str) -> PathBuf {
        self.config.root_dir.join("memory").join(uid)
    }

    /// Directory of a pod's logs.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.log_dir_of(model::namespace(pod), model::name(pod), model::uid(pod))
    }

    fn log_dir_of(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.config.log_dir.join(format!("{namespace}_{name}_{uid}"))
    }

    /// Control group of a pod below the visible root.
    pub fn pod_group(&self, class: Class, uid: &str) -> String {
        let root = self.runtime.cgroup_root().path();
        let group = pod_group(class, uid);
        if root.is_empty() { group } else { format!("{root}/{group}") }
    }

    /// Control group of all pods below the visible root.
    pub fn pods_group(&self) -> String {
        let root = self.runtime.cgroup_root().path();
        if root.is_empty() { "kubepods".to_owned() } else { format!("{root}/kubepods") }
    }

    /// Addresses of the node as text.
    pub fn host_ips(&self) -> Vec<String> {
        self.addresses.borrow().iter().map(IpAddr::to_string).collect()
    }

    /// Whether the API still has the pod.
    pub fn in_api(&self, namespace: &str, name: &str, uid: &str) -> bool {
        self.assigned.get(namespace, name).is_some_and(|entry| &*entry.header.uid == uid)
    }

    /// Records an event about a pod, or about one of its containers unless that is empty.
    pub fn event(&self, pod: &Pod, container: &str, kind: EventKind, reason: &str, message: &str) {
        let mut regarding = json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": pod.metadata.namespace, "name": pod.metadata.name,
            "uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version,
        });
        if !container.is_empty() {
            let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(|one| one.name == container);
            let later = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten()).any(|one| one.name == container);
            let list = if init {
                "initContainers"
            } else if later {
                "ephemeralContainers"
            } else {
                "containers"
            };
            regarding["fieldPath"] = format!("spec.{list}{{{container}}}").into();
        }
        self.recorder.record(regarding, kind, reason, message);
    }

    /// Records an event about the node itself.
    pub fn node_event(&self, kind: EventKind, reason: &str, message: &str) {
        let name = &self.config.node_name;
        let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name});
        self.recorder.record(regarding, kind, reason, message);
    }

    /// Links the log where log shippers look for it.
    pub fn link_log(&self, pod: &Pod, container: &str, attempt: u32, log_dir: &Path) {
        let target = log_dir.join(container).join(format!("{attempt}.log"));
        // The link of the attempt before goes with this one's coming.
        if let Some(before) = attempt.checked_sub(1) {
            let _ = std::fs::remove_file(self.log_link(model::namespace(pod), model::name(pod), container, model::uid(pod), before));
        }
        let link = self.log_link(model::namespace(pod), model::name(pod), container, model::uid(pod), attempt);
        let _ = std::fs::remove_file(&link);
        if let Err(error) = std::os::unix::fs::symlink(&target, &link) {
            tracing::debug!(link = %link.display(), %error, "log was not linked");
        }
    }

    fn log_link(&self, namespace: &str, name: &str, container: &str, uid: &str, attempt: u32) -> PathBuf {
        let id = status::log_id(uid, &format!("{container}-{attempt}"));
        self.config.container_log_dir.join(format!("{name}_{namespace}_{container}-{id}.log"))
    }

    /// Removes the logs of a pod that is gone, with their links.
    pub fn remove_logs(&self, namespace: &str, name: &str, uid: &str) {
        let directory = self.log_dir_of(namespace, name, uid);
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let container = entry.file_name().to_string_lossy().into_owned();
            let attempts = std::fs::read_dir(entry.path()).into_iter().flatten().flatten();
            let number = |file: std::fs::DirEntry| file.file_name().to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
            for attempt in attempts.filter_map(number) {
                let _ = std::fs::remove_file(self.log_link(namespace, name, &container, uid, attempt));
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::warn!(directory = %directory.display(), %error, "logs stay");
            }
        }
    }

    /// Has a pod look again at a time in milliseconds of even time.
    pub fn poke_at(self: &Arc<Kubelet>, uid: &str, at: i64) {
        let (weak, uid) = (Arc::downgrade(self), uid.to_owned());
        let wait = Duration::from_millis((at - now_ms()).max(0) as u64);
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            if let Some(kubelet) = weak.upgrade() {
                kubelet.pods.poke(&uid);
            }
        });
    }

    /// Keeps an image on disk as long as a pod runs from it.
    pub fn hold_image(&self, uid: &str, image: &str) {
        if let Some(hold) = self.images.hold(image) {
            self.holds.lock().entry(uid.to_owned()).or_default().entry(image.to_owned()).or_insert(hold);
        }
    }

    /// Gives back the images of a pod.
    pub fn release_images(&self, uid: &str) {
        self.holds.lock().remove(uid);
    }

    /// How long a pull of an image for a pod still has to wait after failures.
    pub fn pull_wait(&self, image: &str, uid: &str) -> Option<(Duration, String)> {
        let pulls = self.pulls.lock();
        let (_, until, why) = pulls.get(&(image.to_owned(), uid.to_owned()))?;
        let left = until - now_ms();
        (left > 0).then(|| (Duration::from_millis(left as u64), why.clone()))
    }

    /// Notes that a pull failed.
    pub fn pull_failed(&self, image: &str, uid: &str, why: String) {
        let mut pulls = self.pulls.lock();
        let (backoff, until, said) = pulls.entry((image.to_owned(), uid.to_owned())).or_default();
        if backoff.current() == 0 {
            backoff.failed(now_ms());
        }
        *until = backoff.failed(now_ms());
        *said = why;
    }

    /// Forgets failures of a pull.
    pub fn pull_succeeded(&self, image: &str, uid: &str) {
        self.pulls.lock().remove(&(image.to_owned(), uid.to_owned()));
    }
}
