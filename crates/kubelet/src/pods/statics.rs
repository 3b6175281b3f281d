//! Static pods: manifests in a folder, run without the API, shown there as mirror pods.
//!
//! The folder is watched by the kernel. A pod's UID comes from its content, so that a changed file is another pod.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::Status;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use rustix::fs::inotify;
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::message::Message;
use super::model;
use crate::Kubelet;

/// Where a pod comes from; `file` for static ones.
pub const SOURCE: &str = "kubernetes.io/config.source";
/// Hash of a static pod's manifest.
pub const HASH: &str = "kubernetes.io/config.hash";
/// Marks the object that stands for a static pod in the API.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
/// Time until objects that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(2);
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
        let flags = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::DELETE;
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
            }
        }
        self.known = found;
    }

    /// Follows the folder and the objects that show its pods until the future is dropped.
    ///
    /// # Errors
    /// The kernel refuses to tell changes.
    pub async fn follow(mut self, kubelet: &Arc<Kubelet>) -> Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let retry = match self.show(kubelet).await {
                Ok(()) => None,
                Err(status) => {
                    tracing::debug!(%status, "static pods are not shown as they are yet");
                    Some(RETRY)
                }
            };
            let later = async {
                match retry {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                read = self.events.read(&mut buffer) => {
                    read.context("watch static pods")?;
                    self.apply(kubelet);
                }
                () = kubelet.mirrors_changed.notified() => {}
                () = later => {}
            }
        }
    }

    /// Removes objects that stand for no pod of the folder (any more) or that somebody deleted, and makes those that are missing.
    async fn show(&self, kubelet: &Arc<Kubelet>) -> Result<(), Status> {
        let objects = kubelet.assigned.list();
        let mirrors: Vec<Pod> = objects.iter().filter_map(|entry| cache::decode::<Pod>(entry)).filter(is_mirror).collect();
        let mut missing: BTreeMap<&String, &Arc<Pod>> = self.known.iter().collect();
        for mirror in &mirrors {
            let Some(hash) = mirrored(mirror) else {
                continue;
            };
            let stands = self.known.contains_key(hash) && mirror.metadata.deletion_timestamp.is_none();
            // What still ends is shown until it is over.
            if stands || (kubelet.pods.is_here(hash) && !self.known.contains_key(hash)) {
                missing.remove(hash);
            } else {
                super::publish::delete(&kubelet.client, mirror).await;
            }
        }
        for pod in missing.into_values() {
            let node: Option<Node> = kubelet.own_node.read("", &kubelet.config.node_name);
            let object = node.and_then(|node| mirror_of(pod, &node, &kubelet.config.node_name));
            let object = object.ok_or_else(|| Status::internal("the node is not registered yet"))?;
            match kubelet.client.create(&object).await {
                Ok(_) => drop(kubelet.pods.send(model::uid(pod), Message::Forgotten)),
                // The news of the one that is there will come.
                Err(status) if status.is_already_exists() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(())
    }
}

/// The pod with the status that its mirror shows, so that a restart of ours forgets nothing of a running pod.
fn with_history(kubelet: &Kubelet, pod: &Arc<Pod>) -> Arc<Pod> {
    let mirror: Option<Pod> = kubelet.assigned.read(model::namespace(pod), model::name(pod));
    let same = |mirror: &Pod| mirrored(mirror).is_some_and(|hash| hash == model::uid(pod));
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

/// The API server looks at all other pods; names end up in paths.
fn validate(pod: &serde_json::Value) -> Result<()> {
    use api::check::Check;
    use api::path::Path;
    use api::types::pod_spec::{self, Owner};
    let mut causes = api::Causes::default();
    let (metadata, spec) = (Path::root("metadata"), Path::root("spec"));
    for (field, needed) in [("name", true), ("namespace", false)] {
        let name = pod["metadata"][field].as_str().unwrap_or_default();
        if needed || !name.is_empty() {
            causes.each(&metadata.field(field), name, api::names::subdomain_errors(name));
        }
    }
    let map = pod["spec"].as_object().context("a pod has a spec")?;
    pod_spec::validate(map, Owner::Pod, &spec, &mut causes);
    if !causes.is_empty() {
        bail!("{}", causes.joined());
    }
    match reference(&pod["spec"]) {
        Some(objects) => bail!("static pods may not reference {objects}"),
        None => Ok(()),
    }
}

/// Objects of the API that a pod refers to. What a file of a node asks for was never looked at by admission, and nobody would
/// know that the node may read it.
fn reference(spec: &serde_json::Value) -> Option<&'static str> {
    let each = |owner: &'_ serde_json::Value, list: &str| owner[list].as_array().cloned().unwrap_or_default();
    let there = |owner: &serde_json::Value, field: &str| !owner[field].is_null();
    let containers: Vec<_> = ["initContainers", "containers", "ephemeralContainers"].iter().flat_map(|list| each(spec, list)).collect();
    let variables: Vec<_> = containers.iter().flat_map(|one| each(one, "env")).map(|mut one| one["valueFrom"].take()).collect();
    let sources: Vec<_> = containers.iter().flat_map(|one| each(one, "envFrom")).collect();
    let volumes = each(spec, "volumes");
    let projected: Vec<_> = volumes.iter().flat_map(|volume| each(&volume["projected"], "sources")).collect();
    let any = |list: &[serde_json::Value], field: &str| list.iter().any(|one| there(one, field));
    let by_secret = |volume: &serde_json::Value| {
        let kinds = volume.as_object().into_iter().flatten().map(|(_, source)| source);
        kinds.into_iter().any(|source| there(source, "secretRef") || there(source, "nodePublishSecretRef"))
    };
    if !spec["serviceAccountName"].as_str().unwrap_or_default().is_empty() {
        return Some("serviceaccounts");
    }
    if !each(spec, "imagePullSecrets").is_empty()
        || any(&variables, "secretKeyRef")
        || any(&sources, "secretRef")
        || any(&volumes, "secret")
        || any(&projected, "secret")
        || volumes.iter().any(by_secret)
    {
        return Some("secrets");
    }
    if any(&variables, "configMapKeyRef") || any(&sources, "configMapRef") || any(&volumes, "configMap") || any(&projected, "configMap") {
        return Some("configmaps");
    }
    if any(&volumes, "persistentVolumeClaim") || any(&volumes, "ephemeral") {
        return Some("persistentvolumeclaims");
    }
    (!each(spec, "resourceClaims").is_empty()).then_some("resourceclaims")
}

fn parse(path: &Path, node: &str) -> Result<Pod> {
    let text = std::fs::read_to_string(path).context("read")?;
    let mut value: serde_json::Value = serde_saphyr::from_str(&text).context("no YAML or JSON")?;
    let schema = api::schema::builtin("core.v1.Pod").context("the schema has pods")?;
    if let Some(map) = value.as_object_mut() {
        api::types::default(map, &schema);
    }
    validate(&value)?;
    let class = api::pods::qos_class(value.as_object().and_then(|pod| pod.get("spec")?.as_object()).context("a pod has a spec")?);
    // By way of text, for which the reader of pods is in the program anyway; one for trees would be as large again.
    let mut pod: Pod = serde_json::from_slice(&serde_json::to_vec(&value)?).context("no pod")?;
    // What the API server tells of other pods; the rest of the status is ours to find out.
    pod.status = Some(PodStatus { qos_class: Some(class.to_owned()), ..PodStatus::default() });
    let hash: String =
        Sha256::digest(format!("{node}{}{text}", path.display())).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    pod.metadata.name = Some(format!("{}-{node}", pod.metadata.name.unwrap_or_default()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(hash.clone());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(HASH.into(), hash);
    annotations.insert(SOURCE.into(), "file".into());
    let spec = pod.spec.as_mut().context("a pod has a spec")?;
    spec.node_name = Some(node.to_owned());
    // Nobody can evict a static pod by a taint.
    spec.tolerations.get_or_insert_default().push(k8s_openapi::api::core::v1::Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    });
    Ok(pod)
}

/// The object that shows a static pod.
fn mirror_of(pod: &Pod, node: &Node, node_name: &str) -> Option<Pod> {
    let mut object = pod.clone();
    let hash = object.metadata.uid.take()?;
    object.status = None;
    object.metadata.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: node_name.to_owned(),
        uid: node.metadata.uid.clone()?,
        controller: Some(true),
        ..OwnerReference::default()
    };
    object.metadata.owner_references = Some(vec![owner]);
    Some(object)
}

/// Which static pod an object stands for.
fn mirrored(object: &Pod) -> Option<&String> {
    object.metadata.annotations.as_ref()?.get(MIRROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of pods, containers and volumes become parts of paths on the node.
    #[test]
    fn pods_whose_names_lead_elsewhere_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let count = |pod: &str, namespace: &str, container: &str, volume: &str| {
            let pod = serde_json::json!({
                "kind": "Pod", "metadata": {"name": pod, "namespace": namespace},
                "spec": {"containers": [{"name": container, "image": "i"}], "volumes": [{"name": volume, "emptyDir": {}}]},
            });
            std::fs::write(folder.path().join("a.json"), pod.to_string()).unwrap();
            read(folder.path(), "n").len()
        };
        assert_eq!(count("a", "b", "c", "v"), 1);
        for bad in ["..", "../../a", "a/b", "/a", "a\u{0}b"] {
            assert_eq!(count(bad, "b", "c", "v"), 0, "{bad:?}");
            assert_eq!(count("a", bad, "c", "v"), 0, "{bad:?}");
            assert_eq!(count("a", "b", bad, "v"), 0, "{bad:?}");
            assert_eq!(count("a", "b", "c", bad), 0, "{bad:?}");
        }
    }

    #[test]
    fn pods_of_files_refer_to_no_objects() {
        let check = |more: &str, wanted: Option<&str>| {
            let text = format!("{{containers: [{{name: c, image: i}}], {more}}}");
            let spec = serde_saphyr::from_str(&text).unwrap();
            assert_eq!(reference(&spec), wanted, "{more}");
        };
        check("volumes: [{name: v, emptyDir: {}}, {name: p, projected: {sources: [{downwardAPI: {}}]}}]", None);
        check(
            "initContainers: [{name: i, env: [{name: A, value: a}, {name: B, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]}]",
            None,
        );
        check("serviceAccountName: a", Some("serviceaccounts"));
        for secret in [
            "imagePullSecrets: [{name: a}]",
            "initContainers: [{name: i, env: [{name: A, valueFrom: {secretKeyRef: {name: a, key: b}}}]}]",
            "ephemeralContainers: [{name: i, envFrom: [{secretRef: {name: a}}]}]",
            "volumes: [{name: v, secret: {secretName: a}}]",
            "volumes: [{name: v, projected: {sources: [{secret: {name: a}}]}}]",
            "volumes: [{name: v, csi: {driver: d, nodePublishSecretRef: {name: a}}}]",
        ] {
            check(secret, Some("secrets"));
        }
        check("volumes: [{name: v, configMap: {name: a}}]", Some("configmaps"));
        check("volumes: [{name: v, ephemeral: {}}]", Some("persistentvolumeclaims"));
        check("volumes: [{name: v, persistentVolumeClaim: {claimName: a}}]", Some("persistentvolumeclaims"));
        check("resourceClaims: [{name: a}]", Some("resourceclaims"));
    }

    #[test]
    fn pods_of_files_are_of_the_class_that_they_ask_for() {
        let folder = tempfile::tempdir().unwrap();
        for (resources, class) in
            [("{}", "BestEffort"), ("{requests: {cpu: 100m}}", "Burstable"), ("{limits: {cpu: 1, memory: 1Gi}}", "Guaranteed")]
        {
            let text = format!(
                "{{kind: Pod, metadata: {{name: a}}, status: {{phase: Failed}}, spec: {{containers: [{{name: c, image: i, resources: {resources}}}]}}}}"
            );
            std::fs::write(folder.path().join("a.yaml"), text).unwrap();
            let status = read(folder.path(), "n").into_values().next().and_then(|pod| pod.status.clone()).unwrap();
            assert_eq!((status.qos_class.as_deref(), status.phase), (Some(class), None), "{resources}");
        }
    }
}
