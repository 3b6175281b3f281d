//! Turns changes of objects into changes of the picture and of the queue.

use std::sync::Arc;
use std::time::Instant;

use store::Entry;

use crate::cluster::{Cluster, Pod, PodIndex};
use crate::plugin::Happenings;
use crate::queue::Queue;
use crate::read;
use crate::shape::ShapeKey;

/// A kind that the scheduler follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Pods.
    Pod,
    /// Nodes.
    Node,
    /// Namespaces.
    Namespace,
    /// Claims of volumes.
    Claim,
    /// Volumes.
    Volume,
    /// Classes of volumes.
    Class,
    /// Drivers of volumes.
    Driver,
    /// What drivers say of nodes.
    DriverNode,
    /// Room that drivers have.
    Room,
}

/// A change of an object: the version before and the version after.
pub struct Change {
    /// Kind.
    pub kind: Kind,
    /// Before.
    pub old: Option<Arc<Entry>>,
    /// After.
    pub new: Option<Arc<Entry>>,
}

/// The picture with the queue, as changes find them.
pub struct Follower<'a> {
    /// Name of the scheduler.
    pub scheduler: &'a str,
    /// The picture.
    pub cluster: &'a mut Cluster,
    /// The queue.
    pub queue: &'a mut Queue,
}

impl Follower<'_> {
    /// Follows a change.
    pub fn follow(&mut self, change: &Change) {
        let (old, new) = (change.old.as_deref(), change.new.as_deref());
        match change.kind {
            Kind::Pod => self.pod(old, new),
            Kind::Node => self.node(old, new),
            Kind::Claim | Kind::Volume | Kind::Class => self.volumes(change.kind, old, new),
            Kind::Driver | Kind::DriverNode | Kind::Room => self.drivers(change.kind, old, new),
            Kind::Namespace => {
                let Some(entry) = new.or(old) else { return };
                if self.cluster.put_namespace(&entry.header.name, new.map(|entry| &entry.header.labels)) {
                    self.queue.happened(Happenings::NAMESPACE);
                }
            }
        }
    }

    fn volumes(&mut self, kind: Kind, old: Option<&Entry>, new: Option<&Entry>) {
        let Some(entry) = new.or(old) else { return };
        let (cluster, name) = (&mut *self.cluster, &*entry.header.name);
        match (kind, new) {
            (Kind::Claim, None) => cluster.volumes.remove_claim(&entry.key.rest),
            (Kind::Volume, None) => cluster.volumes.remove_volume(name),
            (_, None) => cluster.volumes.remove_class(name),
            (Kind::Claim, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    cluster.volumes.put_claim(&entry.key.rest, &entry.header.uid, entry.header.deletion_timestamp.is_some(), view);
                }
            }
            (Kind::Volume, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    cluster.volumes.put_volume(&mut cluster.symbols, name, &entry.header.labels, view);
                }
            }
            (_, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    cluster.volumes.put_class(&mut cluster.symbols, name, &view);
                }
            }
        }
        self.queue.happened(Happenings::VOLUMES);
    }

    fn drivers(&mut self, kind: Kind, old: Option<&Entry>, new: Option<&Entry>) {
        let Some(entry) = new.or(old) else { return };
        let (drivers, name) = (&mut self.cluster.drivers, &*entry.header.name);
        match (kind, new) {
            (Kind::Driver, None) => drivers.remove_driver(name),
            (Kind::DriverNode, None) => drivers.remove_node(name),
            (_, None) => drivers.remove_room(&entry.key.rest),
            (Kind::Driver, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    drivers.put_driver(name, &view);
                }
            }
            (Kind::DriverNode, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    drivers.put_node(name, view);
                }
            }
            (_, Some(_)) => {
                if let Some(view) = read::view(entry) {
                    drivers.put_room(&entry.key.rest, view);
                }
            }
        }
        self.queue.happened(Happenings::VOLUMES);
    }

    fn node(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        let Some(entry) = new else {
            if let Some(old) = old {
                self.cluster.remove_node(&old.header.name);
            }
            return;
        };
        let Some(view) = read::view::<read::Node>(entry) else { return };
        let Some(change) = self.cluster.put_node(&entry.header.name, &entry.header.labels, &view) else {
            self.queue.happened(Happenings::NODE_ADDED);
            return;
        };
        let flags = [
            (change.labels, Happenings::NODE_LABELS),
            (change.taints, Happenings::NODE_TAINTS),
            (change.resources, Happenings::NODE_RESOURCES),
        ];
        let happened = flags.iter().filter(|(is, _)| *is).fold(Happenings::NONE, |all, (_, one)| all.and(*one));
        if happened != Happenings::NONE {
            self.queue.happened(happened);
        }
    }

    fn pod(&mut self, old: Option<&Entry>, new: Option<&Entry>) {
        if let Some(old) = old
            && new.is_none_or(|new| new.header.uid != old.header.uid || is_finished(new))
        {
            self.forget(old);
        }
        let Some(entry) = new.filter(|entry| !is_finished(entry)) else {
            return;
        };
        let node = entry.header.field("spec.nodeName");
        let ours = entry.header.field("spec.schedulerName") == self.scheduler;
        match self.cluster.find(&entry.header.uid) {
            Some(pod) if node.is_empty() => self.changed_waiting(pod, old, entry),
            Some(pod) => self.changed_bound(pod, old, entry, node),
            None if node.is_empty() && (!ours || entry.header.deletion_timestamp.is_some()) => {}
            None => self.appeared(entry, node),
        }
    }

    fn forget(&mut self, entry: &Entry) {
        let Some(pod) = self.cluster.find(&entry.header.uid) else {
            return;
        };
        let counted = self.cluster.pod(pod).bound.is_some() || self.cluster.pod(pod).nominated.is_some();
        self.queue.remove(pod);
        self.cluster.remove_pod(pod);
        if counted {
            self.queue.happened(Happenings::POD_GONE);
        }
    }

    fn appeared(&mut self, entry: &Entry, node: &str) {
        let Some(view) = read::view::<read::Pod>(entry) else { return };
        let gated = !view.spec.scheduling_gates.is_empty();
        let preempted = is_preempted(&view.status);
        let (start, nominated) = (view.status.start_time.clone(), view.status.nominated_node_name.clone());
        let shape = self.cluster.shape(shape_key(entry, view), &entry.header.name);
        let priority = shape.priority();
        let pod = self.cluster.add_pod(Pod {
            key: entry.key.rest.clone(),
            uid: (*entry.header.uid).into(),
            shape,
            bound: (!node.is_empty()).then(|| node.into()),
            placed: None,
            assumed: false,
            terminating: entry.header.deletion_timestamp.is_some(),
            preempted,
            start,
            generation: entry.header.generation,
            refusal: None,
            nominated: None,
        });
        if !node.is_empty() {
            self.queue.happened(Happenings::POD_BOUND);
            return;
        }
        if !nominated.is_empty() {
            self.cluster.nominate(pod, Some((*nominated).into()));
        }
        if !gated {
            self.queue.add(pod, priority, Instant::now());
        }
    }

    /// A pod without a node in the API; it may be assumed on one here.
    fn changed_waiting(&mut self, pod: PodIndex, old: Option<&Entry>, entry: &Entry) {
        if entry.header.deletion_timestamp.is_some() {
            self.forget(entry);
            return;
        }
        if old.is_some_and(|old| same_wishes(old, entry)) || self.cluster.pod(pod).assumed {
            return;
        }
        let Some(view) = read::view::<read::Pod>(entry) else { return };
        let gated = !view.spec.scheduling_gates.is_empty();
        let known = self.queue.contains(pod);
        let changed = self.take_shape(pod, entry, view);
        if !gated && (changed || !known) {
            let priority = self.cluster.pod(pod).shape.priority();
            self.queue.add(pod, priority, Instant::now());
        }
    }

    fn changed_bound(&mut self, pod: PodIndex, old: Option<&Entry>, entry: &Entry, node: &str) {
        let was = self.cluster.pod(pod).bound.clone();
        if self.cluster.pod(pod).nominated.is_some() {
            self.cluster.nominate(pod, None);
        }
        self.queue.remove(pod);
        if was.as_deref() != Some(node) {
            self.cluster.unbind(pod);
            self.cluster.bind(pod, &node.into());
        }
        let confirmed = std::mem::take(&mut self.cluster.pod_mut(pod).assumed);
        if entry.header.deletion_timestamp.is_some() {
            self.cluster.set_terminating(pod);
        }
        if confirmed || was.is_none() {
            self.queue.happened(Happenings::POD_BOUND);
        }
        if old.is_some_and(|old| same_wishes(old, entry) && same_moment(old, entry)) {
            return;
        }
        let Some(view) = read::view::<read::Pod>(entry) else { return };
        let record = self.cluster.pod_mut(pod);
        record.start = view.status.start_time.clone();
        record.preempted |= is_preempted(&view.status);
        let labels = old.is_some_and(|old| old.header.labels != entry.header.labels);
        if self.take_shape(pod, entry, view) {
            self.queue.happened(if labels { Happenings::POD_LABELS } else { Happenings::POD_GONE });
        }
    }

    /// Gives a pod the shape of its new version; whether that is another one.
    fn take_shape(&mut self, pod: PodIndex, entry: &Entry, view: read::Pod) -> bool {
        let shape = self.cluster.shape(shape_key(entry, view), &entry.header.name);
        self.cluster.pod_mut(pod).generation = entry.header.generation;
        let changed = !Arc::ptr_eq(&shape, &self.cluster.pod(pod).shape);
        if changed {
            self.cluster.reshape(pod, shape);
        }
        changed
    }
}

fn shape_key(entry: &Entry, view: read::Pod) -> ShapeKey {
    let running: Vec<read::ContainerStatus> =
        view.status.container_statuses.into_iter().chain(view.status.init_container_statuses).collect();
    ShapeKey::new(&entry.header.namespace, &entry.header.labels, view.spec, &running)
}

fn is_finished(entry: &Entry) -> bool {
    matches!(entry.header.field("status.phase"), "Succeeded" | "Failed")
}

fn is_preempted(status: &read::PodStatus) -> bool {
    status.conditions.iter().any(|condition| {
        &*condition.r#type == "DisruptionTarget" && &*condition.status == "True" && &*condition.reason == "PreemptionByScheduler"
    })
}

/// Whether two versions of a pod ask for the same. A spec that was changed once may be in a resize, which shows in the status.
fn same_wishes(old: &Entry, new: &Entry) -> bool {
    old.header.generation == new.header.generation && new.header.generation <= 1 && old.header.labels == new.header.labels
}

/// Whether nothing happened to a running pod that preemption asks about.
fn same_moment(old: &Entry, new: &Entry) -> bool {
    old.header.deletion_timestamp == new.header.deletion_timestamp && old.header.field("status.phase") == new.header.field("status.phase")
}
