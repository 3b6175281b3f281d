//! Shapes: what equal pods have in common, compiled once and shared by all of them.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::node_terms::{Term, Terms};
use crate::nodes::{Effect, Nodes};
use crate::ports::{HostPort, host_ports};
use crate::read::{self, PodSpec, PodTerm};
use crate::resources::{Requests, Resources, requests};
use crate::symbols::{Symbol, Symbols};
use crate::topology::{CounterIndex, GroupIndex, KeyIndex, Labels, PodSet, Role, Topology, What};

/// All that decides about a pod's place. Pods with equal keys have one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeKey {
    /// Namespace.
    pub namespace: Box<str>,
    /// Labels.
    pub labels: Labels,
    /// The part of the spec that matters.
    pub spec: PodSpec,
    hash: u64,
}

impl Hash for ShapeKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

impl ShapeKey {
    /// The key of a pod; `running` are the containers that a resize may have left above their requests.
    pub fn new(namespace: &str, labels: &Labels, mut spec: PodSpec, running: &[read::ContainerStatus]) -> ShapeKey {
        for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
            if let Some(status) = running.iter().find(|status| status.name == container.name) {
                for (name, has) in status.resources.requests.iter().chain(&status.allocated_resources) {
                    if let Some(asked) = container.resources.requests.get_mut(name) {
                        *asked = (*asked).max(*has);
                    }
                }
            }
            container.name = Box::default();
        }
        spec.node_name = Box::default();
        spec.scheduling_gates.clear();
        spec.volumes.retain(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some());
        let mut hasher = std::hash::DefaultHasher::new();
        (namespace, labels, &spec).hash(&mut hasher);
        ShapeKey { namespace: namespace.into(), labels: labels.clone(), spec, hash: hasher.finish() }
    }
}

/// Tolerates some taints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Key; none tolerates every key.
    pub key: Option<Symbol>,
    /// Value; none tolerates every value.
    pub value: Option<Symbol>,
    /// Effect; none tolerates every effect.
    pub effect: Option<Effect>,
    /// Compares numbers: `Lt` (-1) or `Gt` (1) of the taint's value.
    pub order: Option<(i64, std::cmp::Ordering)>,
}

/// A spread constraint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    /// How uneven domains may be.
    pub max_skew: i64,
    /// Fewest domains for the least to count.
    pub min_domains: usize,
    /// Pods by domain.
    pub counter: CounterIndex,
    /// Topology key.
    pub key: KeyIndex,
    /// Whether the key is the node's host name.
    pub by_host: bool,
    /// Only nodes that the pod's node affinity allows count.
    pub honor_affinity: bool,
    /// Only nodes whose taints the pod tolerates count.
    pub honor_taints: bool,
    /// Whether the pod itself will count.
    pub counts_itself: bool,
}

/// A compiled pod.
#[derive(Debug)]
pub struct Shape {
    /// What it was compiled from.
    pub key: Arc<ShapeKey>,
    /// Namespace and labels.
    pub group: GroupIndex,
    /// Resources.
    pub requests: Requests,
    /// Ports of the host.
    pub ports: Vec<HostPort>,
    /// `nodeSelector`.
    pub node_selector: Option<Term>,
    /// Required node affinity.
    pub node_required: Option<Terms>,
    /// Preferred node affinity.
    pub node_preferred: Vec<(i64, Term)>,
    /// Tolerations.
    pub tolerations: Vec<Toleration>,
    /// Required affinity: for each term's key the pods that match all terms.
    pub affinity: Vec<CounterIndex>,
    /// Whether the pod matches its own affinity terms.
    pub likes_itself: bool,
    /// Required anti-affinity.
    pub anti_affinity: Vec<CounterIndex>,
    /// Preferred affinity (positive) and anti-affinity (negative).
    pub preferred: Vec<(i64, CounterIndex)>,
    /// Counters of terms that the pod holds while it runs.
    pub holds: Vec<CounterIndex>,
    /// Spread that must be kept.
    pub spread: Vec<Spread>,
    /// Spread that is liked.
    pub spread_liked: Vec<Spread>,
    /// Names of claims, empty for pods without.
    pub claims: Vec<Box<str>>,
}

impl Shape {
    /// Priority.
    pub fn priority(&self) -> i32 {
        self.key.spec.priority
    }

    /// Every counter that the shape uses.
    pub fn counters(&self) -> impl Iterator<Item = CounterIndex> {
        let spread = self.spread.iter().chain(&self.spread_liked).map(|spread| spread.counter);
        let preferred = self.preferred.iter().map(|(_, counter)| *counter);
        self.affinity.iter().chain(&self.anti_affinity).chain(&self.holds).copied().chain(preferred).chain(spread)
    }
}

/// Weight that a running pod's required affinity has in scores.
const HARD_AFFINITY_WEIGHT: i32 = 1;

/// What compiling needs.
pub(crate) struct Compiler<'a> {
    pub symbols: &'a mut Symbols,
    pub resources: &'a mut Resources,
    pub nodes: &'a Nodes,
    pub topology: &'a mut Topology,
    /// Counters made on the way, to be filled.
    pub fresh: Vec<CounterIndex>,
}

impl Compiler<'_> {
    /// Compiles a pod.
    pub fn compile(&mut self, key: Arc<ShapeKey>, pod_name: &str) -> Shape {
        let spec = &key.spec;
        let node_affinity = &spec.affinity.node_affinity;
        let preferred = node_affinity.preferred_during_scheduling_ignored_during_execution.iter();
        let node_preferred = preferred.map(|term| (i64::from(term.weight), Term::compile(self.symbols, &term.preference))).collect();
        let required = node_affinity.required_during_scheduling_ignored_during_execution.as_ref();
        let node_required = required.map(|selector| Terms::compile(self.symbols, selector));
        let group = self.topology.use_group(&key.namespace, &key.labels);
        let terms = |list: &[PodTerm]| -> Vec<(PodSet, Box<str>)> {
            list.iter().map(|term| (pod_set(&key, term), term.topology_key.clone())).collect()
        };
        let affinity_terms = terms(&spec.affinity.pod_affinity.required_during_scheduling_ignored_during_execution);
        let anti_terms = terms(&spec.affinity.pod_anti_affinity.required_during_scheduling_ignored_during_execution);
        let sets: Vec<PodSet> = affinity_terms.iter().map(|(set, _)| set.clone()).collect();
        let affinity: Vec<CounterIndex> = affinity_terms.iter().map(|(_, label)| self.matching(sets.clone(), false, label)).collect();
        let anti_affinity = anti_terms.iter().map(|(set, label)| self.matching(vec![set.clone()], false, label)).collect();
        let mut holds: Vec<CounterIndex> = anti_terms.iter().map(|(set, label)| self.holding(set, Role::RequiredAnti, label)).collect();
        holds.extend(affinity_terms.iter().map(|(set, label)| self.holding(set, Role::Likes(HARD_AFFINITY_WEIGHT), label)));
        let mut preferred = Vec::new();
        for (pod_affinity, sign) in [(&spec.affinity.pod_affinity, 1), (&spec.affinity.pod_anti_affinity, -1)] {
            for term in &pod_affinity.preferred_during_scheduling_ignored_during_execution {
                let (set, label) = (pod_set(&key, &term.pod_affinity_term), &term.pod_affinity_term.topology_key);
                holds.push(self.holding(&set, Role::Likes(sign * term.weight), label));
                preferred.push((i64::from(sign * term.weight), self.matching(vec![set], false, label)));
            }
        }
        let (mut spread, mut spread_liked) = (Vec::new(), Vec::new());
        for constraint in &spec.topology_spread_constraints {
            let list = if &*constraint.when_unsatisfiable == "ScheduleAnyway" { &mut spread_liked } else { &mut spread };
            list.push(self.spread(&key, group, constraint));
        }
        let likes_itself = affinity.first().is_some_and(|counter| self.topology.counts(*counter, group));
        Shape {
            group,
            requests: requests(self.resources, spec),
            ports: host_ports(spec),
            node_selector: Term::exact(self.symbols, &spec.node_selector),
            node_required,
            node_preferred,
            tolerations: spec.tolerations.iter().filter_map(|one| toleration(self.symbols, one)).collect(),
            affinity,
            likes_itself,
            anti_affinity,
            preferred,
            holds,
            spread,
            spread_liked,
            claims: claims(spec, pod_name),
            key,
        }
    }

    fn counter(&mut self, what: What, label: &str) -> CounterIndex {
        let label = self.symbols.intern(label);
        let key = self.topology.key(self.nodes, label);
        let (counter, fresh) = self.topology.use_counter(what, key);
        if fresh {
            self.fresh.push(counter);
        }
        counter
    }

    fn matching(&mut self, sets: Vec<PodSet>, live: bool, label: &str) -> CounterIndex {
        self.counter(What::Matching { sets, live }, label)
    }

    fn holding(&mut self, set: &PodSet, role: Role, label: &str) -> CounterIndex {
        self.counter(What::Holding { set: set.clone(), role }, label)
    }

    fn spread(&mut self, key: &ShapeKey, group: GroupIndex, constraint: &read::Spread) -> Spread {
        let selector = with_label_keys(key, constraint.label_selector.clone(), &constraint.match_label_keys, "In");
        let set = PodSet { namespaces: vec![key.namespace.clone()], namespace_selector: None, selector };
        let counter = self.matching(vec![set], true, &constraint.topology_key);
        Spread {
            max_skew: constraint.max_skew.into(),
            min_domains: constraint.min_domains.map_or(1, |least| least.max(1) as usize),
            counter,
            key: self.topology.counter(counter).key,
            by_host: &*constraint.topology_key == "kubernetes.io/hostname",
            honor_affinity: &*constraint.node_affinity_policy != "Ignore",
            honor_taints: &*constraint.node_taints_policy == "Honor",
            counts_itself: self.topology.counts(counter, group),
        }
    }
}

/// The pods that a term is about, as seen from a pod.
fn pod_set(key: &ShapeKey, term: &PodTerm) -> PodSet {
    let selector = with_label_keys(key, term.label_selector.clone(), &term.match_label_keys, "In");
    let selector = with_label_keys(key, selector, &term.mismatch_label_keys, "NotIn");
    let mut namespaces = term.namespaces.clone();
    if namespaces.is_empty() && term.namespace_selector.is_none() {
        namespaces.push(key.namespace.clone());
    }
    namespaces.sort_unstable();
    PodSet { namespaces, namespace_selector: term.namespace_selector.clone(), selector }
}

/// Adds the pod's own values of some labels to a selector, unless the server has done so.
fn with_label_keys(key: &ShapeKey, selector: Option<read::Selector>, keys: &[Box<str>], operator: &str) -> Option<read::Selector> {
    let mut selector = selector?;
    for label in keys {
        let Ok(at) = key.labels.binary_search_by(|(key, _)| key.cmp(label)) else { continue };
        let expression = read::Expression { key: label.clone(), operator: operator.into(), values: vec![key.labels[at].1.clone()] };
        if !selector.match_expressions.contains(&expression) {
            selector.match_expressions.push(expression);
        }
    }
    Some(selector)
}

fn toleration(symbols: &mut Symbols, one: &read::Toleration) -> Option<Toleration> {
    let order = match &*one.operator {
        "Lt" => Some((one.value.parse().ok()?, std::cmp::Ordering::Less)),
        "Gt" => Some((one.value.parse().ok()?, std::cmp::Ordering::Greater)),
        _ => None,
    };
    Some(Toleration {
        key: (!one.key.is_empty()).then(|| symbols.intern(&one.key)),
        value: (&*one.operator != "Exists" && order.is_none()).then(|| symbols.intern(&one.value)),
        effect: if one.effect.is_empty() { None } else { Some(Effect::find(&one.effect)?) },
        order,
    })
}

fn claims(spec: &PodSpec, pod_name: &str) -> Vec<Box<str>> {
    let name = |volume: &read::Volume| {
        if let Some(source) = &volume.persistent_volume_claim {
            return Some(source.claim_name.clone());
        }
        volume.ephemeral.as_ref().map(|_| format!("{pod_name}-{}", volume.name).into())
    };
    spec.volumes.iter().filter_map(name).collect()
}

/// All shapes in use.
#[derive(Default)]
pub(crate) struct Shapes {
    shapes: HashMap<Arc<ShapeKey>, Arc<Shape>>,
}

impl Shapes {
    pub fn find(&self, key: &ShapeKey) -> Option<Arc<Shape>> {
        self.shapes.get(key).cloned()
    }

    pub fn insert(&mut self, shape: Arc<Shape>) {
        self.shapes.insert(shape.key.clone(), shape);
    }

    /// Forgets a shape that nobody but the table and the caller holds; whether it did.
    pub fn release(&mut self, shape: &Arc<Shape>) -> bool {
        let last = Arc::strong_count(shape) == 2;
        if last {
            self.shapes.remove(&shape.key);
        }
        last
    }
}
