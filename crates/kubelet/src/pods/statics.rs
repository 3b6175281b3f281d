//! Static pods: manifests in a folder, run without the API, shown there as mirror pods.
//!
//! The folder is watched by the kernel. A pod's UID comes from its content, so that a changed file is another pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rustix::fs::inotify;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::model;
use crate::Kubelet;

/// Where a pod comes from; `file` for static ones.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's manifest.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Marks the object that stands for a static pod in the API.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Largest manifest.
const MAX_MANIFEST: u64 = 1 << 20;

/// Whether a pod comes from a file.
pub fn is_static(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.get(SOURCE).is_some_and(|source| source == "file"))
}

/// Whether an object only stands for a static pod.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// The folder, watched from the first look on.
pub struct Statics {
    folder: PathBuf,
    events: pipe::Receiver,
    known: BTreeMap<String, Arc<Pod>>,
}

impl Statics {
    /// Begins to watch. Needs a tokio runtime.
    ///
    /// # Errors
    /// The folder cannot be made or watched.
    pub fn open(folder: &Path) -> Result<Statics> {
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let notify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).context("watch static pods")?;
        let flags = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::DELETE;
        inotify::add_watch(&notify, folder, flags).with_context(|| format!("watch {}", folder.display()))?;
        let events = pipe::Receiver::from_owned_fd_unchecked(notify).context("watch static pods")?;
        Ok(Statics { folder: folder.to_owned(), events, known: BTreeMap::new() })
    }

    /// Hands over what the folder has now. When this returns, every pod of the folder has its worker.
    pub fn apply(&mut self, kubelet: &Arc<Kubelet>) {
        let found = read(&self.folder, &kubelet.config.node_name);
        for (uid, pod) in &self.known {
            if !found.contains_key(uid) {
                kubelet.pods.gone(kubelet, uid, model::namespace(pod), model::name(pod));
            }
        }
        for (uid, pod) in &found {
            if !self.known.contains_key(uid) {
                kubelet.pods.put_pod(kubelet, with_history(kubelet, pod));
                tokio::spawn(mirror(kubelet.clone(), pod.clone()));
            }
        }
        self.known = found;
    }

    /// Follows the folder until the future is dropped.
    ///
    /// # Errors
    /// The kernel refuses to tell changes.
    pub async fn follow(mut self, kubelet: &Arc<Kubelet>) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            self.events.read(&mut buffer).await.context("watch static pods")?;
            self.apply(kubelet);
        }
    }
}

/// The pod with the status that its mirror shows, so that a restart of ours forgets nothing of a running pod.
fn with_history(kubelet: &Kubelet, pod: &Arc<Pod>) -> Arc<Pod> {
    let mirror: Option<Pod> = kubelet.assigned.read(model::namespace(pod), model::name(pod));
    let same = |mirror: &Pod| mirror.metadata.annotations.as_ref().and_then(|annotations| annotations.get(MIRROR)).is_some_and(|hash| hash == model::uid(pod));
    let status = mirror.filter(same).and_then(|mirror| mirror.status).filter(|status| !super::publish::is_final(status));
    match status {
        None => pod.clone(),
        Some(status) => Arc::new(Pod { status: Some(status), ..(**pod).clone() }),
    }
}

fn read(folder: &Path, node: &str) -> BTreeMap<String, Arc<Pod>> {
    let mut pods = BTreeMap::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        let fits = entry.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_MANIFEST);
        if hidden || !fits {
            continue;
        }
        match parse(&path, node) {
            Ok(pod) => {
                pods.insert(model::uid(&pod).to_owned(), Arc::new(pod));
            }
            Err(error) => tracing::warn!("static pod {}: {error:#}", path.display()),
        }
    }
    pods
}

fn parse(path: &Path, node: &str) -> Result<Pod> {
    let text = std::fs::read_to_string(path).context("read")?;
    let mut value: serde_json::Value = serde_saphyr::from_str(&text).context("no YAML or JSON")?;
    let schema = api::schema::builtin("core.v1.Pod").context("the schema has pods")?;
    if let Some(map) = value.as_object_mut() {
        api::types::default(map, &schema);
    }
    let mut pod: Pod = serde_json::from_value(value).context("no pod")?;
    let hash: String = Sha256::digest(format!("{node}{}{text}", path.display())).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    pod.metadata.name = Some(format!("{}-{node}", pod.metadata.name.unwrap_or_default()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), hash);
    annotations.insert(SOURCE.into(), "file".into());
    let spec = pod.spec.as_mut().context("a pod has a spec")?;
    spec.node_name = Some(node.to_owned());
    // Nobody can evict a static pod by a taint.
    spec.tolerations.get_or_insert_default().push(k8s_openapi::api::core::v1::Toleration { operator: Some("Exists".into()), effect: Some("NoExecute".into()), ..Default::default() });
    Ok(pod)
}

/// Makes the object that shows a static pod, again and again until the API takes it.
async fn mirror(kubelet: Arc<Kubelet>, pod: Arc<Pod>) {
    let mut object = (*pod).clone();
    let hash = model::uid(&pod).to_owned();
    object.metadata.uid = None;
    object.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    loop {
        let node: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
        if let Some(uid) = node.and_then(|node| node.metadata.uid) {
            let owner = OwnerReference { api_version: "v1".into(), kind: "Node".into(), name: kubelet.config.node_name.clone(), uid, controller: Some(true), ..OwnerReference::default() };
            object.metadata.owner_references = Some(vec![owner]);
            match kubelet.client.create(&object).await {
                Ok(_) => return kubelet.pods.poke(model::uid(&pod)),
                Err(status) if status.is_already_exists() => return kubelet.pods.poke(model::uid(&pod)),
                Err(status) => tracing::debug!(pod = model::name(&pod), %status, "mirror pod was not made yet"),
            }
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}
