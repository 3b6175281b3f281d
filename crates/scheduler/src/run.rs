//! The loop: follow changes, decide about one pod after another, bind in the background.

use std::sync::Arc;
use std::time::Instant;

use api::Status;
use cache::Caches;
use client::{EventKind, Recorder};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, PodIndex};
use crate::decide::{Decider, Decision, Refusal};
use crate::follow::{Change, Follower, Kind};
use crate::plugin::Happenings;
use crate::queue::Queue;
use crate::write::{PodName, Writer};
use crate::{Config, Deps};

/// Decisions in a row before other tasks of the thread get their turn.
const DECISIONS_AT_ONCE: usize = 32;

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
    let followed = [(Kind::Node, caches.of::<Node>()), (Kind::Namespace, caches.of::<Namespace>()), (Kind::Pod, caches.of::<Pod>())];
    for (kind, cache) in followed {
        cache.synced().await;
        let sender = sender.clone();
        cache.subscribe(Box::new(move |old, new| {
            // The receiver is gone only when the scheduler ends.
            let _ = sender.send(Event::Changed(Change { kind, old: old.cloned(), new: new.cloned() }));
        }));
    }
    let recorder = Recorder::new(deps.client.clone(), &config.name, "");
    let writer = Writer { client: deps.client, recorder, scheduler: config.name.clone() };
    let mut scheduler = Scheduler { name: config.name, cluster: Cluster::default(), queue: Queue::default(), decider: Decider::default(), writer, sender };
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

struct Scheduler {
    name: String,
    cluster: Cluster,
    queue: Queue,
    decider: Decider,
    writer: Writer,
    sender: mpsc::UnboundedSender<Event>,
}

impl Scheduler {
    fn hear(&mut self, event: Event) {
        match event {
            Event::Changed(change) => Follower { scheduler: &self.name, cluster: &mut self.cluster, queue: &mut self.queue }.follow(&change),
            Event::Bound { uid, result } => self.bound(&uid, result),
        }
    }

    fn schedule(&mut self, pod: PodIndex) {
        match self.decider.decide(&mut self.cluster, pod) {
            Decision::Place(node) => {
                let node = self.cluster.nodes.name(node).clone();
                self.cluster.nominate(pod, None);
                self.cluster.bind(pod, &node);
                self.cluster.pod_mut(pod).assumed = true;
                self.bind(pod, node);
            }
            Decision::Nowhere(refusal) => self.refuse(pod, &refusal),
        }
    }

    fn pod_name(&self, pod: PodIndex) -> PodName {
        let pod = self.cluster.pod(pod);
        let (namespace, name) = pod.names();
        PodName { namespace: namespace.into(), name: name.into(), uid: pod.uid.to_string() }
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
        self.cluster.pod_mut(pod).assumed = false;
        self.cluster.unbind(pod);
        self.queue.retry(pod);
        self.queue.happened(Happenings::POD_GONE);
    }

    fn refuse(&mut self, pod: PodIndex, refusal: &Refusal) {
        let wakes = self.decider.plugins().iter().enumerate().filter(|(number, _)| refusal.plugins & (1 << number) != 0);
        let wakes = wakes.fold(Happenings::NODE_ADDED, |all, (_, plugin)| all.and(plugin.wakes));
        self.queue.park(pod, wakes);
        let name = self.pod_name(pod);
        let message = refusal.message.clone();
        self.writer.event(&name, EventKind::Warning, "FailedScheduling", message.clone());
        let record = self.cluster.pod_mut(pod);
        if record.refusal.as_deref() == Some(&message) {
            return;
        }
        let first = record.refusal.is_none();
        record.refusal = Some(message.as_str().into());
        let writer = self.writer.clone();
        tokio::spawn(async move {
            if let Err(status) = writer.refuse(&name, &message, first, None).await {
                tracing::debug!(%status, "condition was not written");
            }
        });
    }
}
