//! The loop: follow changes, decide about one pod after another, bind in the background.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Reason, Status};
use cache::{Cache, Caches};
use client::{EventKind, Recorder};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{CSIDriver, CSINode, CSIStorageCapacity, StorageClass};
use store::Entry;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::cluster::PodIndex;
use crate::follow::{Change, Kind};
use crate::metrics::{Attempt, Metrics};
use crate::nodes::NodeIndex;
use crate::picture::{Outcome, Picture};
use crate::preempt::{Budget, Candidate};
use crate::read;
use crate::refusals::{Refusal, Refusals};
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
    Bound {
        uid: Arc<str>,
        began: Instant,
        result: Result<(), Status>,
    },
    /// A victim could not be made to go.
    Spared {
        uid: Arc<str>,
    },
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
        (Kind::Driver, caches.of::<CSIDriver>()),
        (Kind::DriverNode, caches.of::<CSINode>()),
        (Kind::Room, caches.of::<CSIStorageCapacity>()),
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
    let budgets = caches.of::<PodDisruptionBudget>();
    budgets.synced().await;
    let recorder = Recorder::new(deps.client.clone(), &config.name, "");
    let picture = Picture::new(&config.name);
    let metrics: Arc<Metrics> = Arc::default();
    let (shown, profile) = (metrics.clone(), config.name.clone());
    deps.metrics.set("scheduler", move |out| shown.render(&profile, out));
    let writer = Writer { client: deps.client, recorder, scheduler: config.name };
    let mut scheduler = Scheduler { picture, writer, budgets, awaiting: HashMap::new(), refusals: Refusals::default(), sender, metrics };
    let mut decisions = 0;
    loop {
        while let Ok(event) = events.try_recv() {
            scheduler.hear(event);
        }
        if let Some(pod) = scheduler.picture.next(Instant::now()) {
            scheduler.schedule(pod);
            decisions += 1;
            if decisions % DECISIONS_AT_ONCE == 0 {
                scheduler.metrics.wait(scheduler.picture.queue.depth());
                tokio::task::yield_now().await;
            }
            continue;
        }
        scheduler.metrics.wait(scheduler.picture.queue.depth());
        let event = match scheduler.picture.queue.wake_at() {
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
    began: Instant,
    task: AbortHandle,
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Scheduler {
    picture: Picture,
    writer: Writer,
    budgets: Arc<Cache>,
    /// Assumed pods whose claims are being bound, by uid, with what was asked for.
    awaiting: HashMap<Arc<str>, Awaiting>,
    refusals: Refusals,
    sender: mpsc::UnboundedSender<Event>,
    metrics: Arc<Metrics>,
}

impl Scheduler {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Changed(change) => {
                self.picture.follow(&change);
                if change.kind == Kind::Claim && !self.awaiting.is_empty() {
                    self.claims_changed();
                }
            }
            Event::Bound { uid, began, result } => self.bound(&uid, began, result),
            Event::Spared { uid } => self.picture.spared(&uid),
        }
    }

    fn schedule(&mut self, pod: PodIndex) {
        let began = Instant::now();
        let budgets = self.budgets.clone();
        match self.picture.decide(pod, || read_budgets(&budgets)) {
            Outcome::Placed(node) => {
                let shape = self.picture.cluster.pod(pod).shape.clone();
                let name = self.picture.cluster.nodes.name(node).clone();
                if self.picture.cluster.volumes.all_bound(&shape.key.namespace, &shape.claims) {
                    self.bind(pod, name, began);
                } else {
                    let steps = self.plan_volumes(&shape, node);
                    self.prepare(pod, &shape.key.namespace, steps, name, began);
                }
            }
            Outcome::Refused { message, candidate: Some(candidate) } => {
                self.metrics.observe(Attempt::Unschedulable, began.elapsed());
                let node = self.clear(pod, &candidate);
                self.report(pod, message, Some(node));
            }
            Outcome::Refused { message, candidate: None } => {
                self.metrics.observe(Attempt::Unschedulable, began.elapsed());
                let gone = self.picture.unreserve(pod).then(|| "".into());
                self.report(pod, message, gone);
            }
        }
    }

    fn pod_name(&self, pod: PodIndex) -> PodName {
        let pod = self.picture.cluster.pod(pod);
        let (namespace, name) = pod.names();
        PodName { namespace: namespace.into(), name: name.into(), uid: pod.uid.to_string(), generation: pod.generation }
    }

    fn bind(&self, pod: PodIndex, node: Arc<str>, began: Instant) {
        let (name, uid) = (self.pod_name(pod), self.picture.cluster.pod(pod).uid.clone());
        let (writer, sender, told) = (self.writer.clone(), self.sender.clone(), self.refusals.told(&name.uid));
        tokio::spawn(async move {
            // A refusal that is on its way may not come behind the binding and take its condition back.
            told.await;
            let result = writer.bind(&name, &node).await;
            let _ = sender.send(Event::Bound { uid, began, result });
        });
    }

    /// A binding that failed gives the place back; the watch tells if the pod is gone or somebody else's.
    fn bound(&mut self, uid: &str, began: Instant, result: Result<(), Status>) {
        let attempt = if result.is_ok() { Attempt::Scheduled } else { Attempt::Error };
        self.metrics.observe(attempt, began.elapsed());
        let awaiting = self.awaiting.remove(uid);
        let (Err(status), Some(pod)) = (result, self.picture.cluster.find(uid)) else {
            return;
        };
        let record = self.picture.cluster.pod(pod);
        if record.assumed {
            tracing::warn!(pod = &*record.key, %status, "binding failed");
            let namespace = record.shape.key.namespace.clone();
            if let Some(awaiting) = awaiting {
                self.picture.cluster.volumes.forget(&namespace, &awaiting.steps);
            }
            self.picture.take_back(pod);
        }
    }

    fn plan_volumes(&mut self, shape: &Shape, node: NodeIndex) -> Vec<Step> {
        let cluster = &mut self.picture.cluster;
        let namespace = &shape.key.namespace;
        let steps = cluster.volumes.plan(&cluster.nodes, &cluster.symbols, namespace, &shape.claims, node).unwrap_or_default();
        cluster.volumes.assume(namespace, &steps, cluster.nodes.name(node));
        steps
    }

    /// Gets the volumes of an assumed pod under way; it is bound when its claims are.
    fn prepare(&mut self, pod: PodIndex, namespace: &str, steps: Vec<Step>, node: Arc<str>, began: Instant) {
        let uid = self.picture.cluster.pod(pod).uid.clone();
        let (namespace, writer, sender) = (namespace.to_owned(), self.writer.clone(), self.sender.clone());
        let (key, todo) = (uid.clone(), steps.clone());
        let task = tokio::spawn(async move {
            for step in &todo {
                if let Err(status) = writer.prepare(&namespace, step, &node).await {
                    let _ = sender.send(Event::Bound { uid, began, result: Err(status) });
                    return;
                }
            }
            tokio::time::sleep(VOLUME_PATIENCE).await;
            let status = Status::new(Reason::Timeout, "claims were not bound in time");
            let _ = sender.send(Event::Bound { uid, began, result: Err(status) });
        });
        self.awaiting.insert(key, Awaiting { steps, began, task: task.abort_handle() });
    }

    /// Binds assumed pods whose claims are bound by now; those whose provisioner gave up look again.
    fn claims_changed(&mut self) {
        let waiting: Vec<Arc<str>> = self.awaiting.keys().cloned().collect();
        for uid in waiting {
            let assumed = self.picture.cluster.find(&uid).filter(|pod| self.picture.cluster.pod(*pod).assumed);
            let Some((pod, node)) = assumed.and_then(|pod| Some((pod, self.picture.cluster.pod(pod).bound.clone()?))) else {
                self.awaiting.remove(&uid);
                continue;
            };
            let shape = self.picture.cluster.pod(pod).shape.clone();
            if self.picture.cluster.volumes.all_bound(&shape.key.namespace, &shape.claims) {
                let began = self.awaiting.remove(&uid).map_or_else(Instant::now, |awaiting| awaiting.began);
                self.bind(pod, node, began);
            } else if self.picture.cluster.volumes.any_withdrawn(&shape.key.namespace, &shape.claims) {
                let began = self.awaiting.get(&uid).map_or_else(Instant::now, |awaiting| awaiting.began);
                self.bound(&uid, began, Err(Status::new(Reason::Conflict, "the provisioner cannot make a volume for this node")));
            }
        }
    }

    /// Makes the victims of a candidate go and reserves the node for a pod; the name of the node.
    fn clear(&mut self, pod: PodIndex, candidate: &Candidate) -> Arc<str> {
        let (node, losers) = self.picture.reserve(pod, candidate);
        for loser in losers {
            let (name, writer) = (self.pod_name(loser), self.writer.clone());
            tokio::spawn(async move {
                if let Err(status) = writer.denominate(&name).await {
                    tracing::debug!(%status, "nomination was not cleared");
                }
            });
        }
        let preemptor = self.picture.cluster.pod(pod).uid.clone();
        for victim in &candidate.victims {
            let uid = self.picture.cluster.pod(*victim).uid.clone();
            let (victim, node, preemptor, writer, sender) =
                (self.pod_name(*victim), node.clone(), preemptor.clone(), self.writer.clone(), self.sender.clone());
            tokio::spawn(async move {
                match writer.evict(&victim, &preemptor, &node).await {
                    Ok(()) => {}
                    // Somebody else made it go.
                    Err(status) if status.is_not_found() || status.is_conflict() => {}
                    Err(status) => {
                        tracing::warn!(victim = victim.name, %status, "victim could not be evicted");
                        let _ = sender.send(Event::Spared { uid });
                    }
                }
            });
        }
        node
    }

    /// Tells the pod and its readers why it fits nowhere, and which node is being cleared for it.
    fn report(&mut self, pod: PodIndex, message: String, nominated: Option<Arc<str>>) {
        let name = self.pod_name(pod);
        self.writer.event(&name, EventKind::Warning, "FailedScheduling", message.clone());
        let record = self.picture.cluster.pod_mut(pod);
        if record.refusal.as_deref() == Some(&message) && nominated.is_none() {
            return;
        }
        let first = record.refusal.is_none();
        record.refusal = Some(message.as_str().into());
        self.refusals.tell(&self.writer, Refusal { pod: name, message, first, nominated });
    }
}

fn read_budgets(budgets: &Cache) -> Vec<Budget> {
    let budget = |entry: &Arc<Entry>| {
        let view = read::view::<read::Budget>(entry)?;
        Some(Budget {
            namespace: entry.header.namespace.clone(),
            selector: read::compile(view.spec.selector.as_ref()),
            allowed: view.status.disruptions_allowed,
            disrupted: view.status.disrupted_pods.into_keys().collect(),
        })
    };
    budgets.list().iter().filter_map(budget).collect()
}
