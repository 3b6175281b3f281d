//! The scheduler's picture of the cluster: columns of nodes, records of pods and counters over both.
//!
//! One task owns and changes it, so that nothing is locked. Pods count on their node from the moment of the decision
//! (assumed), not from the moment at which the API shows it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::drivers::Drivers;
use crate::nodes::{NodeChange, NodeIndex, Nodes};
use crate::read;
use crate::resources::Resources;
use crate::shape::{Compiler, Shape, ShapeKey, Shapes};
use crate::symbols::Symbols;
use crate::topology::{CounterIndex, Labels, Topology};
use crate::volumes::Volumes;

/// The place of a pod in the table of records. Places of removed pods are given again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodIndex(u32);

/// A pod.
#[derive(Debug, Clone)]
pub struct Pod {
    /// `namespace/name`.
    pub key: Arc<str>,
    /// Uid.
    pub uid: Arc<str>,
    /// What it asks for.
    pub shape: Arc<Shape>,
    /// Name of the node that it is bound to or assumed on.
    pub bound: Option<Arc<str>>,
    /// The node on which it counts; none while the node is unknown.
    pub(crate) placed: Option<NodeIndex>,
    /// Whether the API does not show the binding yet.
    pub assumed: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Whether it is going to make room for another.
    pub preempted: bool,
    /// Start time as the API writes it, which sorts by time; empty before the start.
    pub start: Box<str>,
    /// `metadata.generation` that was read.
    pub generation: i64,
    /// What the API was last told about why it fits nowhere.
    pub refusal: Option<Box<str>>,
    /// The node that victims are leaving for this pod.
    pub nominated: Option<Arc<str>>,
}

impl Pod {
    /// Namespace and name.
    pub fn names(&self) -> (&str, &str) {
        self.key.split_once('/').unwrap_or(("", &self.key))
    }
}

/// Everything that decisions are made from.
#[derive(Default)]
pub struct Cluster {
    /// Interned texts of nodes.
    pub symbols: Symbols,
    /// Names of resources.
    pub resources: Resources,
    /// Columns of nodes.
    pub nodes: Nodes,
    /// Counters.
    pub topology: Topology,
    /// Claims, volumes and classes.
    pub volumes: Volumes,
    /// What volume drivers say.
    pub drivers: Drivers,
    /// Pods for which victims are leaving a node.
    nominated: Vec<PodIndex>,
    shapes: Shapes,
    pods: Vec<Option<Pod>>,
    free: Vec<PodIndex>,
    by_uid: HashMap<Arc<str>, PodIndex>,
    /// Pods bound to nodes that are not there, by the node's name.
    orphans: HashMap<Arc<str>, Vec<PodIndex>>,
}

impl Cluster {
    /// A pod.
    pub fn pod(&self, pod: PodIndex) -> &Pod {
        self.pods[pod.0 as usize].as_ref().expect("indexes are given back when a pod is removed")
    }

    pub(crate) fn pod_mut(&mut self, pod: PodIndex) -> &mut Pod {
        self.pods[pod.0 as usize].as_mut().expect("indexes are given back when a pod is removed")
    }

    /// The pod with a uid.
    pub fn find(&self, uid: &str) -> Option<PodIndex> {
        self.by_uid.get(uid).copied()
    }

    /// All pods.
    pub fn pods(&self) -> impl Iterator<Item = (PodIndex, &Pod)> {
        self.pods.iter().enumerate().filter_map(|(at, pod)| Some((PodIndex(at as u32), pod.as_ref()?)))
    }

    /// The shape of a pod, compiled unless another pod has it.
    pub(crate) fn shape(&mut self, key: ShapeKey, pod_name: &str) -> Arc<Shape> {
        if let Some(shape) = self.shapes.find(&key) {
            return shape;
        }
        let mut compiler = Compiler {
            symbols: &mut self.symbols,
            resources: &mut self.resources,
            nodes: &self.nodes,
            topology: &mut self.topology,
            fresh: Vec::new(),
        };
        let shape = Arc::new(compiler.compile(Arc::new(key), pod_name));
        let fresh = compiler.fresh;
        self.nodes.widen(self.resources.columns());
        self.fill(&fresh);
        self.shapes.insert(shape.clone());
        shape
    }

    /// Counts the pods that are there in new counters.
    fn fill(&mut self, fresh: &[CounterIndex]) {
        for counter in fresh {
            for pod in self.pods.iter().flatten() {
                let Some(node) = pod.placed else { continue };
                if pod.shape.holds.contains(counter) || self.topology.counts(*counter, pod.shape.group) {
                    self.topology.count_in(*counter, node, !pod.terminating);
                }
            }
        }
    }

    pub(crate) fn release(&mut self, shape: Arc<Shape>) {
        if self.shapes.release(&shape) {
            for counter in shape.counters() {
                self.topology.release_counter(counter);
            }
            self.topology.release_group(shape.group);
        }
    }

    /// Adds a pod that is not there yet and counts it on its node, if it has one.
    pub(crate) fn add_pod(&mut self, pod: Pod) -> PodIndex {
        let index = self.free.pop().unwrap_or_else(|| {
            self.pods.push(None);
            PodIndex(self.pods.len() as u32 - 1)
        });
        let bound = pod.bound.clone();
        self.by_uid.insert(pod.uid.clone(), index);
        self.pods[index.0 as usize] = Some(Pod { bound: None, placed: None, ..pod });
        if let Some(node) = bound {
            self.bind(index, &node);
        }
        index
    }

    /// Pods that wait for victims to leave a node.
    pub fn nominated(&self) -> &[PodIndex] {
        &self.nominated
    }

    /// Reserves a node for a pod while victims leave it, or no longer.
    pub(crate) fn nominate(&mut self, index: PodIndex, node: Option<Arc<str>>) {
        self.nominated.retain(|one| *one != index);
        if node.is_some() {
            self.nominated.push(index);
        }
        self.pod_mut(index).nominated = node;
    }

    /// Removes a pod.
    pub(crate) fn remove_pod(&mut self, index: PodIndex) {
        self.nominate(index, None);
        self.unbind(index);
        let pod = self.pods[index.0 as usize].take().expect("indexes are given back when a pod is removed");
        self.by_uid.remove(&pod.uid);
        self.free.push(index);
        self.release(pod.shape);
    }

    /// Gives a pod another shape.
    pub(crate) fn reshape(&mut self, index: PodIndex, shape: Arc<Shape>) {
        let bound = self.pod(index).bound.clone();
        self.unbind(index);
        let old = std::mem::replace(&mut self.pod_mut(index).shape, shape);
        self.release(old);
        if let Some(node) = bound {
            self.bind(index, &node);
        }
    }

    /// Notes that a pod is going.
    pub(crate) fn set_terminating(&mut self, index: PodIndex) {
        if !self.pod(index).terminating {
            let bound = self.pod(index).bound.clone();
            self.unbind(index);
            self.pod_mut(index).terminating = true;
            if let Some(node) = bound {
                self.bind(index, &node);
            }
        }
    }

    /// Binds a pod to a node by name; it counts there as soon as the node is known.
    pub(crate) fn bind(&mut self, index: PodIndex, node: &Arc<str>) {
        match self.nodes.find(node) {
            Some(node) => {
                // Records share the name with the node.
                self.pod_mut(index).bound = Some(self.nodes.name(node).clone());
                self.place(index, node);
            }
            None => {
                self.pod_mut(index).bound = Some(node.clone());
                self.orphans.entry(node.clone()).or_default().push(index);
            }
        }
    }

    /// Takes a pod off its node.
    pub(crate) fn unbind(&mut self, index: PodIndex) {
        if let Some(node) = self.pod_mut(index).bound.take()
            && !self.displace(index)
            && let Some(orphans) = self.orphans.get_mut(&node)
        {
            orphans.retain(|one| *one != index);
            if orphans.is_empty() {
                self.orphans.remove(&node);
            }
        }
    }

    /// Counts a pod on a node.
    pub(crate) fn place(&mut self, index: PodIndex, node: NodeIndex) {
        let pod = self.pods[index.0 as usize].as_mut().expect("indexes are given back when a pod is removed");
        debug_assert!(pod.placed.is_none(), "a pod counts once");
        pod.placed = Some(node);
        self.nodes.request(node, &pod.shape.requests, 1);
        self.nodes.ports[node.at()].extend(&pod.shape.ports);
        self.nodes.pods[node.at()].push(index);
        self.volumes.count_users(&pod.shape.key.namespace, &pod.shape.claims, 1);
        self.topology.count(node, pod.shape.group, &pod.shape.holds, !pod.terminating, 1);
    }

    /// No longer counts a pod; whether it did.
    pub(crate) fn displace(&mut self, index: PodIndex) -> bool {
        let pod = self.pods[index.0 as usize].as_mut().expect("indexes are given back when a pod is removed");
        let Some(node) = pod.placed.take() else {
            return false;
        };
        self.nodes.request(node, &pod.shape.requests, -1);
        for port in &pod.shape.ports {
            if let Some(at) = self.nodes.ports[node.at()].iter().position(|one| one == port) {
                self.nodes.ports[node.at()].swap_remove(at);
            }
        }
        self.nodes.pods[node.at()].retain(|one| *one != index);
        self.volumes.count_users(&pod.shape.key.namespace, &pod.shape.claims, -1);
        self.topology.count(node, pod.shape.group, &pod.shape.holds, !pod.terminating, -1);
        true
    }

    /// Adds or updates a node; what changed, or `None` for a new node.
    pub(crate) fn put_node(&mut self, name: &str, labels: &Labels, view: &read::Node) -> Option<NodeChange> {
        let known = self.nodes.find(name);
        let node = known.unwrap_or_else(|| self.nodes.add(name));
        let labels = Nodes::labels_of(&mut self.symbols, labels);
        let relabelled = !self.nodes.has_labels(node, &labels);
        if relabelled || known.is_none() {
            let pods = self.nodes.pods[node.at()].clone();
            for pod in &pods {
                self.displace(*pod);
            }
            self.nodes.set_labels(node, labels);
            self.topology.relabel(&self.nodes, node);
            pods.iter().for_each(|pod| self.place(*pod, node));
        }
        let change = self.nodes.set(node, view, &mut self.symbols, &mut self.resources);
        if known.is_none() {
            for pod in self.orphans.remove(name).unwrap_or_default() {
                self.place(pod, node);
            }
            return None;
        }
        Some(NodeChange { labels: relabelled, ..change })
    }

    /// Removes a node. Its pods stay bound to the name.
    pub(crate) fn remove_node(&mut self, name: &str) {
        let Some(node) = self.nodes.find(name) else {
            return;
        };
        let name = self.nodes.name(node).clone();
        let pods = self.nodes.pods[node.at()].clone();
        for pod in &pods {
            self.displace(*pod);
        }
        self.nodes.remove(node);
        self.topology.relabel(&self.nodes, node);
        if !pods.is_empty() {
            self.orphans.insert(name, pods);
        }
    }

    /// Notes the labels of a namespace, or that it is gone; whether that changed who matches whom.
    pub(crate) fn put_namespace(&mut self, name: &str, labels: Option<&Labels>) -> bool {
        let changed = self.topology.set_namespace(name, labels);
        if changed {
            self.topology.reset();
            for pod in self.pods.iter().flatten() {
                if let Some(node) = pod.placed {
                    self.topology.count(node, pod.shape.group, &pod.shape.holds, !pod.terminating, 1);
                }
            }
        }
        changed
    }
}
