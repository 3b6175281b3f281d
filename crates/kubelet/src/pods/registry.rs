//! The workers of this node by pod UID: the API's pods come in here, and so do the runtime's events.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use cri::engine::{Recovered, Sandbox};
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use runtime::{ContainerEvent, ContainerStatus};
use store::Entry;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use super::admit;
use super::message::Message;
use super::model;
use super::release;
use super::worker::Worker;
use crate::placement::claim::PodClaim;
use crate::{Kubelet, csi};

/// All workers.
#[derive(Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// The pods that have their place on this node, by UID, with what they were given. Taken before `inner`.
    admitted: Mutex<HashMap<String, Arc<Pod>>>,
    /// Pods that wait for room for more than they have. Taken alone.
    wanting: Mutex<HashSet<String>>,
    /// Held while a pod is judged, so that two never take the same place.
    judging: tokio::sync::Mutex<()>,
    /// Held while plugins are asked for the devices of a pod, so that none is chosen twice. Taken before `judging`.
    giving: tokio::sync::Mutex<()>,
    /// A worker has ended.
    ended: Notify,
}

#[derive(Default)]
struct Inner {
    workers: HashMap<String, Running>,
    tasks: JoinSet<()>,
    /// Sandboxes that an earlier run of ours left and whose pods have not come yet.
    left: HashMap<String, Sandbox>,
    /// Last words of containers whose sandboxes were lost while we were away, by pod.
    last_words: HashMap<String, Vec<ContainerStatus>>,
    /// Pods that are over but still in the API, so that they do not start again.
    over: HashMap<String, ()>,
    /// Static pods of a name that is still in use by an older pod of that name.
    held_back: HashMap<String, Arc<Pod>>,
}

struct Running {
    sender: UnboundedSender<Message>,
    pod: Arc<Pod>,
    sandbox: Option<Sandbox>,
    /// The node has told it to go.
    leaving: bool,
    /// The API has it no more: what is left of it is on its way out, and its name and its place may be another's.
    gone: bool,
}

impl Running {
    fn is_called(&self, namespace: &str, name: &str) -> bool {
        model::name(&self.pod) == name && model::namespace(&self.pod) == namespace
    }
}

impl Registry {
    /// Notes what an earlier run of ours left.
    pub fn recovered(&self, recovered: Recovered) {
        let mut inner = self.inner.lock();
        for sandbox in recovered.sandboxes {
            inner.left.insert(sandbox.id().to_string(), sandbox);
        }
        inner.last_words = recovered.lost;
    }

    /// The API has a pod of this node, new or changed.
    pub fn put(&self, kubelet: &Arc<Kubelet>, entry: &Entry) {
        let Some(pod) = cache::decode::<Pod>(entry).map(Arc::new) else {
            return;
        };
        if !super::statics::is_mirror(&pod) {
            self.put_pod(kubelet, pod);
        }
    }

    /// As `put`, decoded; static pods come this way.
    pub fn put_pod(&self, kubelet: &Arc<Kubelet>, pod: Arc<Pod>) {
        let uid = model::uid(&pod).to_owned();
        let mut inner = self.inner.lock();
        if let Some(running) = inner.workers.get_mut(&uid) {
            running.pod = pod.clone();
            let _ = running.sender.send(Message::Pod(pod));
            return;
        }
        let done = pod.status.as_ref().is_some_and(super::publish::is_final);
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if inner.over.contains_key(&uid) && !leaving {
            return;
        }
        if done && !leaving && !inner.left.contains_key(&uid) {
            return;
        }
        let (namespace, name) = (model::namespace(&pod), model::name(&pod));
        if super::statics::is_static(&pod) && inner.workers.values().any(|running| running.is_called(namespace, name)) {
            // The older one holds what a static pod has of its machine: ports, folders, locks. Pods of the API do not wait:
            // whoever deletes one by force says that nobody has to.
            inner.held_back.insert(uid, pod);
            return;
        }
        inner.spawn(kubelet, pod);
    }

    /// The API no longer has a pod.
    pub fn gone(&self, kubelet: &Arc<Kubelet>, uid: &str, namespace: &str, name: &str) {
        let mut inner = self.inner.lock();
        inner.over.remove(uid);
        inner.held_back.remove(uid);
        let Some(running) = inner.workers.get_mut(uid) else {
            return kubelet.remove_logs(namespace, name, uid);
        };
        running.gone = true;
        let _ = running.sender.send(Message::Gone);
        drop(inner);
        // The scheduler counts with its place from now on.
        kubelet.placement.release(uid);
        self.admitted.lock().remove(uid);
        self.more_room();
    }

    /// Ends everything that an earlier run of ours left and that the API does not want any more.
    pub fn end_strangers(&self, kubelet: &Arc<Kubelet>) {
        let strangers: Vec<(String, Sandbox)> = {
            let mut inner = self.inner.lock();
            inner.last_words.clear();
            inner.left.drain().collect()
        };
        let known: HashSet<String> = strangers.iter().map(|(uid, _)| uid.clone()).collect();
        for (uid, sandbox) in strangers {
            tracing::info!(uid, "ending a pod that is no longer wanted");
            let kubelet = kubelet.clone();
            tokio::spawn(async move {
                if let Err(error) = sandbox.destroy().await {
                    tracing::warn!(uid, %error, "sandbox was not destroyed");
                }
                if let Some(network) = &kubelet.network {
                    network.detach(&uid);
                }
                release_directories(&kubelet, &uid).await;
            });
        }
        // Pods that were over before their directories were gone.
        for uid in csi::data::children(&kubelet.config.root_dir.join("pods")) {
            if !self.is_here(&uid) && !known.contains(&uid) {
                let kubelet = kubelet.clone();
                tokio::spawn(async move { release_directories(&kubelet, &uid).await });
            }
        }
    }

    /// Hands a runtime event to its pod.
    pub fn event(&self, event: ContainerEvent) {
        if let Some(running) = self.inner.lock().workers.get(event.sandbox.as_str()) {
            let _ = running.sender.send(Message::Runtime(event));
        }
    }

    /// Tells every pod to look again, for example after a lag in events.
    pub fn poke_all(&self) {
        for running in self.inner.lock().workers.values() {
            let _ = running.sender.send(Message::Poke);
        }
    }

    /// Tells a pod to look again.
    pub fn poke(&self, uid: &str) {
        if let Some(running) = self.inner.lock().workers.get(uid) {
            let _ = running.sender.send(Message::Poke);
        }
    }

    /// Sends a message to a pod; false if it has no worker.
    pub fn send(&self, uid: &str, message: Message) -> bool {
        let mut inner = self.inner.lock();
        let Some(running) = inner.workers.get_mut(uid) else {
            return false;
        };
        running.leaving |= matches!(message, Message::Evict { .. });
        running.sender.send(message).is_ok()
    }

    /// Whether a pod has a worker.
    pub fn is_here(&self, uid: &str) -> bool {
        self.inner.lock().workers.contains_key(uid)
    }

    /// Whether the node has told a pod to go.
    pub fn is_leaving(&self, uid: &str) -> bool {
        self.inner.lock().workers.get(uid).is_some_and(|running| running.leaving)
    }

    /// Waits until none of these pods has a worker, or the patience is over.
    pub async fn ended(&self, uids: &[String], patience: Duration) {
        let wait = async {
            loop {
                let next = self.ended.notified();
                if uids.iter().all(|uid| !self.inner.lock().workers.contains_key(uid)) {
                    return;
                }
                next.await;
            }
        };
        if tokio::time::timeout(patience, wait).await.is_err() {
            tracing::warn!(?uids, "evicted pods are not gone yet");
        }
    }

    /// The sandbox of a pod, for exec, attach, port-forward and statistics.
    pub fn sandbox(&self, uid: &str) -> Option<Sandbox> {
        self.inner.lock().workers.get(uid).and_then(|running| running.sandbox.clone())
    }

    /// The sandboxes of all pods by UID.
    pub fn sandboxes(&self) -> Vec<(String, Sandbox)> {
        let inner = self.inner.lock();
        inner.workers.iter().filter_map(|(uid, running)| Some((uid.clone(), running.sandbox.clone()?))).collect()
    }

    /// Notes the sandbox of a pod.
    pub fn set_sandbox(&self, uid: &str, sandbox: Option<Sandbox>) {
        if let Some(running) = self.inner.lock().workers.get_mut(uid) {
            running.sandbox = sandbox;
        }
    }

    /// The pods that have workers.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.inner.lock().workers.values().map(|running| running.pod.clone()).collect()
    }

    /// Gives a pod its place beside those that were admitted before, or says why not: reason and message.
    pub async fn admit(&self, kubelet: &Kubelet, pod: &Arc<Pod>) -> Option<(String, String)> {
        let claim = PodClaim::of(pod);
        // A plugin that takes its time keeps only those waiting who want devices too, or whose place depends on who came first.
        let asks = claim.containers.iter().any(|container| !container.extended.is_empty());
        let _giving = if asks { Some(self.giving.lock().await) } else { None };
        let in_turn = if asks && !kubelet.placement.is_ordered() { None } else { Some(self.judging.lock().await) };
        let refused = match admit::refuse_early(kubelet, pod) {
            None => admit::place(kubelet, &claim).await,
            refused => refused,
        };
        if refused.is_some() {
            return refused;
        }
        let _judging = match in_turn {
            Some(judging) => judging,
            None => self.judging.lock().await,
        };
        let refused = admit::unfit(kubelet, pod, &self.placed());
        match refused {
            Some(_) => kubelet.placement.release(model::uid(pod)),
            None => self.admitted(pod),
        }
        refused
    }

    /// Gives a pod the resources that it asks for by now, or says why not; it is asked to look again when there is more room.
    pub async fn resize(&self, kubelet: &Kubelet, pod: &Arc<Pod>) -> Option<(String, String)> {
        let _judging = self.judging.lock().await;
        let uid = model::uid(pod);
        let others: Vec<Arc<Pod>> = self.placed().into_iter().filter(|other| model::uid(other) != uid).collect();
        let refused = admit::no_room(kubelet, pod, &others);
        match refused {
            Some(_) => drop(self.wanting.lock().insert(uid.to_owned())),
            None => {
                self.admitted(pod);
                self.more_room();
            }
        }
        refused
    }

    /// The pods that take room, with what they were given.
    fn placed(&self) -> Vec<Arc<Pod>> {
        let admitted = self.admitted.lock();
        let over = |pod: &Arc<Pod>| pod.status.as_ref().is_some_and(super::publish::is_final);
        let running = self.pods().into_iter().filter(|pod| !over(pod));
        running.filter_map(|pod| admitted.get(model::uid(&pod)).cloned()).collect()
    }

    /// Those that wait for room look again.
    fn more_room(&self) {
        let wanting: Vec<String> = self.wanting.lock().drain().collect();
        let inner = self.inner.lock();
        for running in wanting.iter().filter_map(|uid| inner.workers.get(uid)) {
            let _ = running.sender.send(Message::Look);
        }
    }

    /// Notes a pod that an earlier run of ours admitted.
    pub fn admitted(&self, pod: &Arc<Pod>) {
        self.admitted.lock().insert(model::uid(pod).to_owned(), pod.clone());
    }

    /// A pod by namespace and name, the one with a worker; of two the one that the API has.
    pub fn find(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let inner = self.inner.lock();
        let called = inner.workers.values().filter(|running| running.is_called(namespace, name));
        called.min_by_key(|running| running.gone).map(|running| running.pod.clone())
    }

    fn over(&self, kubelet: &Arc<Kubelet>, uid: &str) {
        self.admitted.lock().remove(uid);
        self.more_room();
        let mut inner = self.inner.lock();
        let Some(running) = inner.workers.remove(uid) else {
            return;
        };
        let (namespace, name) = (model::namespace(&running.pod).to_owned(), model::name(&running.pod).to_owned());
        if kubelet.in_api(&namespace, &name, uid) {
            inner.over.insert(uid.to_owned(), ());
        } else {
            kubelet.remove_logs(&namespace, &name, uid);
        }
        let next = inner.held_back.values().find(|pod| model::name(pod) == name && model::namespace(pod) == namespace).cloned();
        if let Some(pod) = next {
            inner.held_back.remove(model::uid(&pod));
            inner.spawn(kubelet, pod);
        }
        drop(inner);
        self.ended.notify_waiters();
        if super::statics::is_static(&running.pod) {
            kubelet.mirrors_changed.notify_one();
        }
    }
}

/// Removes the directories of a pod that nobody wants, however long its volumes take.
async fn release_directories(kubelet: &Arc<Kubelet>, uid: &str) {
    let mut wait = Duration::from_millis(500);
    while !release::remove_directories(kubelet, uid).await {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(60));
    }
    if kubelet.csi.forget(uid) {
        kubelet.status_changed.notify_one();
    }
}

impl Inner {
    fn spawn(&mut self, kubelet: &Arc<Kubelet>, pod: Arc<Pod>) {
        let uid = model::uid(&pod).to_owned();
        let sandbox = self.left.remove(&uid);
        let last_words = self.last_words.remove(&uid).unwrap_or_default();
        let (sender, inbox) = unbounded_channel();
        let worker = Worker::new(kubelet.clone(), pod.clone(), sandbox.clone(), last_words, sender.clone(), inbox);
        self.workers.insert(uid.clone(), Running { sender, pod, sandbox, leaving: false, gone: false });
        while self.tasks.try_join_next().is_some() {}
        let kubelet = kubelet.clone();
        self.tasks.spawn(async move {
            worker.run().await;
            kubelet.pods.over(&kubelet, &uid);
        });
    }
}
