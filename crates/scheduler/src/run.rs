//! The loop: follow changes, decide about one pod after another, bind in the background.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Reason, Status};
use cache::{Cache, Caches};
use client::{EventKind, Recorder};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use store::Entry;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::cluster::{Cluster, PodIndex};
use crate::decide::{Decider, Decision, Refusal};
use crate::follow::{Change, Follower, Kind};
use crate::nodes::NodeIndex;
use crate::plugin::Happenings;
use crate::preempt::{Budget, Candidate};
use crate::queue::Queue;
use crate::read;
use crate::shape::Shape;
use crate::volumes::Step;
use crate::write::{PodName, Writer};
use crate::{Config, Deps};

/// Decisions in a row before other tasks of the thread get their turn.
const DECISIONS_AT_ONCE: usize = 32;

/// How long provisioners may take before a pod looks for another node.
const VOLUME_PATIENCE: Duration = Duration::from_secs(600);

/// What the loop hears.
enum Event {
    Changed(Change),
    /// A binding ended.
    Bound { uid: Arc<str>, result: Result<(), Status> },
}

/// Schedules until the future is dropped.
///
/// # Errors
/// None yet.
pub async fn run(config: Config, deps: Deps) -> anyhow::Result<()> {
    let caches = Caches::new(deps.client.clone());
    let (sender, mut events) = mpsc::unbounded_channel();
    let followed = [
        (Kind::Node, caches.of::<Node>()),
        (Kind::Namespace, caches.of::<Namespace>()),
        (Kind::Class, caches.of::<StorageClass>()),
        (Kind::Volume, caches.of::<PersistentVolume>()),
        (Kind::Claim, caches.of::<PersistentVolumeClaim>()),
        (Kind::Pod, caches.of::<Pod>()),
    ];
    for (kind, cache) in followed {
        cache.synced().await;
        let sender = sender.clone();
        cache.subscribe(Box::new(move |old, new| {
            // The receiver is gone only when the scheduler ends.
            let _ = sender.send(Event::Changed(Change { kind, old: old.cloned(), new: new.cloned() }));
        }));
    }
    let budget_cache = caches.of::<PodDisruptionBudget>();
    budget_cache.synced().await;
    let recorder = Recorder::new(deps.client.clone(), &config.name, "");
    let writer = Writer { client: deps.client, recorder, scheduler: config.name.clone() };
    let mut scheduler = Scheduler { name: config.name, cluster: Cluster::default(), queue: Queue::default(), decider: Decider::default(), writer, budget_cache, awaiting: HashMap::new(), sender };
    let mut decisions = 0;
    loop {
        while let Ok(event) = events.try_recv() {
            scheduler.hear(event);
        }
        if let Some(pod) = scheduler.queue.next(Instant::now()) {
            scheduler.schedule(pod);
            decisions += 1;
            if decisions % DECISIONS_AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            continue;
        }
        let event = match scheduler.queue.wake_at() {
            Some(at) => tokio::time::timeout_at(at.into(), events.recv()).await.ok().flatten(),
            None => events.recv().await,
        };
        if let Some(event) = event {
            scheduler.hear(event);
        }
    }
}

/// Claims under way. The task that writes and then waits ends with it.
struct Awaiting {
    steps: Vec<Step>,
    task: AbortHandle,
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Scheduler {
    name: String,
    cluster: Cluster,
    queue: Queue,
    decider: Decider,
    writer: Writer,
    budget_cache: Arc<Cache>,
    /// Assumed pods whose claims are being bound, by uid, with what was asked for.
    awaiting: HashMap<Arc<str>, Awaiting>,
    sender: mpsc::UnboundedSender<Event>,
}

impl Scheduler {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Changed(change) => {
                let claims = change.kind == Kind::Claim && !self.awaiting.is_empty();
                self.follow(&change);
                if claims {
                    self.claims_changed();
                }
            }
            Event::Bound { uid, result } => self.bound(&uid, result),
        }
    }

    fn follow(&mut self, change: &Change) {
        Follower { scheduler: &self.name, cluster: &mut self.cluster, queue: &mut self.queue }.follow(change);
    }

    fn schedule(&mut self, pod: PodIndex) {
        match self.decider.decide(&mut self.cluster, pod) {
            Decision::Place(index) => {
                let node = self.cluster.nodes.name(index).clone();
                let shape = self.cluster.pod(pod).shape.clone();
                let steps = self.plan_volumes(&shape, index);
                self.cluster.nominate(pod, None);
                self.cluster.bind(pod, &node);
                self.cluster.pod_mut(pod).assumed = true;
                if self.cluster.volumes.all_bound(&shape.key.namespace, &shape.claims) {
                    self.bind(pod, node);
                } else {
                    self.prepare(pod, &shape.key.namespace, steps, node);
                }
            }
            Decision::Nowhere(refusal) => self.refuse(pod, &refusal),
        }
    }

    fn pod_name(&self, pod: PodIndex) -> PodName {
        let pod = self.cluster.pod(pod);
        let (namespace, name) = pod.names();
        PodName { namespace: namespace.into(), name: name.into(), uid: pod.uid.to_string() }
    }

    fn plan_volumes(&mut self, shape: &Shape, node: NodeIndex) -> Vec<Step> {
        if shape.claims.is_empty() {
            return Vec::new();
        }
        let namespace = &shape.key.namespace;
        let steps = self.cluster.volumes.plan(&self.cluster.nodes, &self.cluster.symbols, namespace, &shape.claims, node).unwrap_or_default();
        self.cluster.volumes.assume(namespace, &steps, self.cluster.nodes.name(node));
        steps
    }

    /// Gets the volumes of an assumed pod under way; it is bound when its claims are.
    fn prepare(&mut self, pod: PodIndex, namespace: &str, steps: Vec<Step>, node: Arc<str>) {
        let uid = self.cluster.pod(pod).uid.clone();
        let (namespace, writer, sender) = (namespace.to_owned(), self.writer.clone(), self.sender.clone());
        let (key, todo) = (uid.clone(), steps.clone());
        let task = tokio::spawn(async move {
            for step in &todo {
                if let Err(status) = writer.prepare(&namespace, step, &node).await {
                    let _ = sender.send(Event::Bound { uid, result: Err(status) });
                    return;
                }
            }
            tokio::time::sleep(VOLUME_PATIENCE).await;
            let status = Status::new(Reason::Timeout, "claims were not bound in time");
            let _ = sender.send(Event::Bound { uid, result: Err(status) });
        });
        self.awaiting.insert(key, Awaiting { steps, task: task.abort_handle() });
    }

    /// Binds assumed pods whose claims are bound by now; those whose provisioner gave up look again.
    fn claims_changed(&mut self) {
        let waiting: Vec<Arc<str>> = self.awaiting.keys().cloned().collect();
        for uid in waiting {
            let Some(pod) = self.cluster.find(&uid) else {
                self.awaiting.remove(&uid);
                continue;
            };
            let record = self.cluster.pod(pod);
            let (shape, node) = (record.shape.clone(), record.bound.clone());
            let Some(node) = node.filter(|_| record.assumed) else {
                self.awaiting.remove(&uid);
                continue;
            };
            if self.cluster.volumes.all_bound(&shape.key.namespace, &shape.claims) {
                self.awaiting.remove(&uid);
                self.bind(pod, node);
            } else if self.cluster.volumes.any_withdrawn(&shape.key.namespace, &shape.claims) {
                self.bound(&uid, Err(Status::new(Reason::Conflict, "the provisioner cannot make a volume for this node")));
            }
        }
    }

    fn bind(&self, pod: PodIndex, node: Arc<str>) {
        let (name, uid) = (self.pod_name(pod), self.cluster.pod(pod).uid.clone());
        let (writer, sender) = (self.writer.clone(), self.sender.clone());
        tokio::spawn(async move {
            let result = writer.bind(&name, &node).await;
            let _ = sender.send(Event::Bound { uid, result });
        });
    }

    /// A binding that failed gives the place back; the watch tells if the pod is gone or somebody else's.
    fn bound(&mut self, uid: &str, result: Result<(), Status>) {
        let (Err(status), Some(pod)) = (result, self.cluster.find(uid)) else {
            return;
        };
        if !self.cluster.pod(pod).assumed {
            return;
        }
        tracing::warn!(pod = &*self.cluster.pod(pod).key, %status, "binding failed");
        if let Some(awaiting) = self.awaiting.remove(uid) {
            let namespace = self.cluster.pod(pod).shape.key.namespace.clone();
            self.cluster.volumes.forget(&namespace, &awaiting.steps);
        }
        self.cluster.pod_mut(pod).assumed = false;
        self.cluster.unbind(pod);
        self.queue.retry(pod);
        self.queue.happened(Happenings::POD_GONE);
    }

    fn refuse(&mut self, pod: PodIndex, refusal: &Refusal) {
        let wakes = self.decider.plugins().iter().enumerate().filter(|(number, _)| refusal.plugins & (1 << number) != 0);
        let wakes = wakes.fold(Happenings::NODE_ADDED, |all, (_, plugin)| all.and(plugin.wakes));
        self.queue.park(pod, wakes);
        let mut message = refusal.message.clone();
        let mut nominated = None;
        let budgets = if refusal.curable.is_empty() { Vec::new() } else { self.budgets() };
        match self.decider.preempt(&mut self.cluster, pod, refusal, &budgets) {
            Ok(candidate) => nominated = Some(self.clear(pod, &candidate)),
            Err(why) if refusal.nodes > 0 => message.push_str(&format!(" preemption: {why}")),
            Err(_) => {}
        }
        if nominated.is_none() && refusal.curable.is_empty() && self.cluster.pod(pod).nominated.is_some() {
            self.cluster.nominate(pod, None);
            nominated = Some("".into());
        }
        self.report(pod, message, nominated);
    }

    /// Tells the pod and its readers why it fits nowhere.
    fn report(&mut self, pod: PodIndex, message: String, nominated: Option<Arc<str>>) {
        let name = self.pod_name(pod);
        self.writer.event(&name, EventKind::Warning, "FailedScheduling", message.clone());
        let record = self.cluster.pod_mut(pod);
        if record.refusal.as_deref() == Some(&message) && nominated.is_none() {
            return;
        }
        let first = record.refusal.is_none();
        record.refusal = Some(message.as_str().into());
        let writer = self.writer.clone();
        tokio::spawn(async move {
            if let Err(status) = writer.refuse(&name, &message, first, nominated.as_deref()).await {
                tracing::debug!(%status, "condition was not written");
            }
        });
    }

    fn budgets(&self) -> Vec<Budget> {
        let budget = |entry: &Arc<Entry>| {
            let view = read::view::<read::Budget>(entry)?;
            Some(Budget {
                namespace: entry.header.namespace.clone(),
                selector: read::compile(view.spec.selector.as_ref()),
                allowed: view.status.disruptions_allowed,
                disrupted: view.status.disrupted_pods.into_keys().collect(),
            })
        };
        self.budget_cache.list().iter().filter_map(budget).collect()
    }

    /// Makes the victims of a candidate go and reserves the node for a pod; the name of the node.
    fn clear(&mut self, pod: PodIndex, candidate: &Candidate) -> Arc<str> {
        let node = self.cluster.nodes.name(candidate.node).clone();
        self.denominate_lower(pod, &node);
        self.cluster.nominate(pod, Some(node.clone()));
        for victim in &candidate.victims {
            let (victim, node, preemptor, writer) = (self.pod_name(*victim), node.clone(), self.cluster.pod(pod).uid.clone(), self.writer.clone());
            tokio::spawn(async move {
                match writer.evict(&victim, &preemptor, &node).await {
                    Ok(()) => {}
                    Err(status) if status.is_not_found() || status.is_conflict() => {}
                    Err(status) => tracing::warn!(victim = victim.name, %status, "victim could not be evicted"),
                }
            });
        }
        node
    }

    /// Less important pods that waited for the node must look again.
    fn denominate_lower(&mut self, pod: PodIndex, node: &Arc<str>) {
        let priority = self.cluster.pod(pod).shape.priority();
        let lower = |other: &&PodIndex| {
            let other = self.cluster.pod(**other);
            other.nominated.as_ref() == Some(node) && other.shape.priority() < priority
        };
        let others: Vec<PodIndex> = self.cluster.nominated().iter().filter(lower).copied().collect();
        for other in others {
            self.cluster.nominate(other, None);
            let (name, writer) = (self.pod_name(other), self.writer.clone());
            tokio::spawn(async move {
                if let Err(status) = writer.denominate(&name).await {
                    tracing::debug!(%status, "nomination was not cleared");
                }
            });
        }
    }
}
