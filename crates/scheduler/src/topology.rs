//! Counters of pods by topology domain, kept while pods come and go.
//!
//! A scheduler that looks at every pod to judge affinity falls to tens of pods a second. Here a question such as
//! "how many pods that match this selector run in each zone" is a counter: it is filled once when a pod first asks,
//! and adding or removing a pod touches only the counters that its labels match or that it holds itself.

use std::collections::HashMap;
use std::sync::Arc;

use crate::nodes::{NodeIndex, Nodes};
use crate::read::{Selector, compile};
use crate::symbols::Symbol;
use api::label_selector::LabelSelector;

/// Sorted labels as headers hold them.
pub type Labels = Arc<[(Box<str>, Box<str>)]>;

/// A set of pods: labels in some namespaces.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PodSet {
    /// Namespaces by name.
    pub namespaces: Vec<Box<str>>,
    /// And by label.
    pub namespace_selector: Option<Selector>,
    /// Labels of the pods.
    pub selector: Option<Selector>,
}

/// What a counter counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// Pods that are in all of these sets; `live` leaves out those that are going.
    Matching {
        /// The sets.
        sets: Vec<PodSet>,
        /// Without terminating pods.
        live: bool,
    },
    /// Pods that have a term about this set.
    Holding {
        /// The set.
        set: PodSet,
        /// The kind of term.
        role: Role,
    },
}

/// A kind of term that running pods have about others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Keeps others out.
    RequiredAnti,
    /// Likes others as much as this weight says.
    Likes(i32),
}

/// A topology key: labels of nodes as dense domain numbers.
#[derive(Debug)]
pub struct Key {
    label: Symbol,
    domain_of: Vec<u32>,
    numbers: HashMap<Symbol, u32>,
    /// How many nodes each domain has.
    sizes: Vec<u32>,
    /// How many nodes have the label.
    labelled: usize,
}

/// The domain of nodes that do not have the label.
const NONE: u32 = u32::MAX;

/// The number of a topology key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyIndex(u32);

/// The number of a counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CounterIndex(u32);

/// The number of a group of pods with equal namespace and labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GroupIndex(u32);

/// A counter: how many pods by node and by domain.
pub struct Counter {
    what: What,
    compiled: Vec<(Option<LabelSelector>, LabelSelector)>,
    /// The topology key.
    pub key: KeyIndex,
    per_node: Vec<u32>,
    by_domain: Vec<u32>,
    /// Pods in any domain.
    pub total: u32,
    users: u32,
}

struct Group {
    namespace: Box<str>,
    labels: Labels,
    users: u32,
    /// Counters that count pods of this group.
    matched: Vec<CounterIndex>,
    /// Counters of terms about this group that other pods hold.
    held: Vec<CounterIndex>,
}

/// Keys, groups and counters.
#[derive(Default)]
pub struct Topology {
    keys: Vec<Key>,
    key_numbers: HashMap<Symbol, KeyIndex>,
    counters: Vec<Option<Counter>>,
    counter_numbers: HashMap<(What, KeyIndex), CounterIndex>,
    free_counters: Vec<CounterIndex>,
    groups: Vec<Option<Group>>,
    group_numbers: HashMap<(Box<str>, Labels), GroupIndex>,
    free_groups: Vec<GroupIndex>,
    namespaces: HashMap<Box<str>, Labels>,
}

impl Counter {
    /// Pods in a domain.
    pub fn in_domain(&self, domain: u32) -> u32 {
        self.by_domain.get(domain as usize).copied().unwrap_or(0)
    }

    /// Pods on a node.
    pub fn on_node(&self, node: NodeIndex) -> u32 {
        self.per_node.get(node.at()).copied().unwrap_or(0)
    }

    /// The role, for counters of holders.
    pub fn role(&self) -> Option<Role> {
        match &self.what {
            What::Matching { .. } => None,
            What::Holding { role, .. } => Some(*role),
        }
    }

    fn sets(&self) -> &[PodSet] {
        match &self.what {
            What::Matching { sets, .. } => sets,
            What::Holding { set, .. } => std::slice::from_ref(set),
        }
    }

    fn covers(&self, group: &Group, namespaces: &HashMap<Box<str>, Labels>) -> bool {
        self.sets().iter().zip(&self.compiled).all(|(set, (namespace_selector, selector))| {
            let named = set.namespaces.contains(&group.namespace);
            let chosen = || {
                namespace_selector
                    .as_ref()
                    .is_some_and(|selector| namespaces.get(&group.namespace).is_some_and(|labels| selector.matches_sorted(labels)))
            };
            (named || chosen()) && selector.matches_sorted(&group.labels)
        })
    }

    fn add(&mut self, node: NodeIndex, domain: u32, sign: i32) {
        if self.per_node.len() <= node.at() {
            self.per_node.resize(node.at() + 1, 0);
        }
        let slot = &mut self.per_node[node.at()];
        *slot = slot.wrapping_add_signed(sign);
        if domain != NONE {
            if self.by_domain.len() <= domain as usize {
                self.by_domain.resize(domain as usize + 1, 0);
            }
            let slot = &mut self.by_domain[domain as usize];
            *slot = slot.wrapping_add_signed(sign);
            self.total = self.total.wrapping_add_signed(sign);
        }
    }
}

impl Topology {
    /// A counter.
    pub fn counter(&self, counter: CounterIndex) -> &Counter {
        self.counters[counter.0 as usize].as_ref().expect("a counter lives as long as a shape uses it")
    }

    /// The domain of a node under a key, if the node has the label.
    pub fn domain(&self, key: KeyIndex, node: NodeIndex) -> Option<u32> {
        let domain = self.keys[key.0 as usize].domain_of[node.at()];
        (domain != NONE).then_some(domain)
    }

    /// The label of a key.
    pub fn label(&self, key: KeyIndex) -> Symbol {
        self.keys[key.0 as usize].label
    }

    /// Counters of terms that running pods hold about a group.
    pub fn held_about(&self, group: GroupIndex) -> impl Iterator<Item = &Counter> {
        let group = self.groups[group.0 as usize].as_ref().expect("a group lives as long as a shape uses it");
        group.held.iter().map(|counter| self.counter(*counter)).filter(|counter| counter.total > 0)
    }

    /// Whether a counter counts the pods of a group.
    pub fn counts(&self, counter: CounterIndex, group: GroupIndex) -> bool {
        self.groups[group.0 as usize].as_ref().is_some_and(|group| group.matched.contains(&counter))
    }

    /// The key of a label, made if it is new.
    pub(crate) fn key(&mut self, nodes: &Nodes, label: Symbol) -> KeyIndex {
        if let Some(key) = self.key_numbers.get(&label) {
            return *key;
        }
        let key = KeyIndex(self.keys.len() as u32);
        self.keys.push(Key { label, domain_of: vec![NONE; nodes.places()], numbers: HashMap::new(), sizes: Vec::new(), labelled: 0 });
        self.key_numbers.insert(label, key);
        for node in nodes.alive() {
            self.set_domain(key.0 as usize, nodes, *node);
        }
        key
    }

    fn set_domain(&mut self, key: usize, nodes: &Nodes, node: NodeIndex) {
        let key = &mut self.keys[key];
        let next = key.numbers.len() as u32;
        let domain = nodes.label(node, key.label).map_or(NONE, |value| *key.numbers.entry(value).or_insert(next));
        if key.domain_of.len() <= node.at() {
            key.domain_of.resize(node.at() + 1, NONE);
        }
        let old = std::mem::replace(&mut key.domain_of[node.at()], domain);
        key.sizes.resize(key.numbers.len(), 0);
        if old != NONE {
            key.sizes[old as usize] -= 1;
            key.labelled -= 1;
        }
        if domain != NONE {
            key.sizes[domain as usize] += 1;
            key.labelled += 1;
        }
    }

    /// Follows new labels of a node. Its pods must not be counted meanwhile.
    pub(crate) fn relabel(&mut self, nodes: &Nodes, node: NodeIndex) {
        for key in 0..self.keys.len() {
            self.set_domain(key, nodes, node);
        }
    }

    /// The group of a namespace and labels, made if it is new, with one more user.
    pub(crate) fn use_group(&mut self, namespace: &str, labels: &Labels) -> GroupIndex {
        let name = (Box::from(namespace), labels.clone());
        if let Some(group) = self.group_numbers.get(&name).copied() {
            self.groups[group.0 as usize].as_mut().expect("named groups exist").users += 1;
            return group;
        }
        let mut group = Group { namespace: namespace.into(), labels: labels.clone(), users: 1, matched: Vec::new(), held: Vec::new() };
        for (number, counter) in self.counters.iter().enumerate() {
            let Some(counter) = counter else { continue };
            if counter.covers(&group, &self.namespaces) {
                let list = if counter.role().is_some() { &mut group.held } else { &mut group.matched };
                list.push(CounterIndex(number as u32));
            }
        }
        let index = self.free_groups.pop().unwrap_or_else(|| {
            self.groups.push(None);
            GroupIndex(self.groups.len() as u32 - 1)
        });
        self.groups[index.0 as usize] = Some(group);
        self.group_numbers.insert(name, index);
        index
    }

    /// One user of a group less.
    pub(crate) fn release_group(&mut self, index: GroupIndex) {
        let slot = &mut self.groups[index.0 as usize];
        let group = slot.as_mut().expect("users hold groups that exist");
        group.users -= 1;
        if group.users == 0 {
            let name = (group.namespace.clone(), group.labels.clone());
            *slot = None;
            self.group_numbers.remove(&name);
            self.free_groups.push(index);
        }
    }

    /// A counter with one more user, and whether it is new and must be filled.
    pub(crate) fn use_counter(&mut self, what: What, key: KeyIndex) -> (CounterIndex, bool) {
        let name = (what, key);
        if let Some(index) = self.counter_numbers.get(&name).copied() {
            self.counters[index.0 as usize].as_mut().expect("named counters exist").users += 1;
            return (index, false);
        }
        let mut counter =
            Counter { what: name.0.clone(), compiled: Vec::new(), key, per_node: Vec::new(), by_domain: Vec::new(), total: 0, users: 1 };
        counter.compiled = counter
            .sets()
            .iter()
            .map(|set| (set.namespace_selector.as_ref().map(Selector::compile), compile(set.selector.as_ref())))
            .collect();
        let index = self.free_counters.pop().unwrap_or_else(|| {
            self.counters.push(None);
            CounterIndex(self.counters.len() as u32 - 1)
        });
        for group in self.groups.iter_mut().flatten() {
            if counter.covers(group, &self.namespaces) {
                let list = if counter.role().is_some() { &mut group.held } else { &mut group.matched };
                list.push(index);
            }
        }
        self.counters[index.0 as usize] = Some(counter);
        self.counter_numbers.insert(name, index);
        (index, true)
    }

    /// One user of a counter less.
    pub(crate) fn release_counter(&mut self, index: CounterIndex) {
        let slot = &mut self.counters[index.0 as usize];
        let counter = slot.as_mut().expect("users hold counters that exist");
        counter.users -= 1;
        if counter.users > 0 {
            return;
        }
        let counter = slot.take().expect("just looked at");
        self.counter_numbers.remove(&(counter.what, counter.key));
        self.free_counters.push(index);
        for group in self.groups.iter_mut().flatten() {
            group.matched.retain(|one| *one != index);
            group.held.retain(|one| *one != index);
        }
    }

    /// Counts a pod of a group that holds counters: on (1) or off (-1) a node.
    pub(crate) fn count(&mut self, node: NodeIndex, group: GroupIndex, holds: &[CounterIndex], live: bool, sign: i32) {
        let group = self.groups[group.0 as usize].as_ref().expect("a group lives as long as a shape uses it");
        for index in group.matched.iter().chain(holds) {
            let counter = self.counters[index.0 as usize].as_mut().expect("a counter lives as long as a shape uses it");
            if live || !matches!(counter.what, What::Matching { live: true, .. }) {
                let domain = self.keys[counter.key.0 as usize].domain_of[node.at()];
                counter.add(node, domain, sign);
            }
        }
    }

    /// Counts a pod in one new counter.
    pub(crate) fn count_in(&mut self, index: CounterIndex, node: NodeIndex, live: bool) {
        let counter = self.counters[index.0 as usize].as_mut().expect("a counter lives as long as a shape uses it");
        if live || !matches!(counter.what, What::Matching { live: true, .. }) {
            let domain = self.keys[counter.key.0 as usize].domain_of[node.at()];
            counter.add(node, domain, 1);
        }
    }

    /// Notes the labels of a namespace; whether a counter chooses namespaces by label, so that all must be counted afresh.
    pub(crate) fn set_namespace(&mut self, namespace: &str, labels: Option<&Labels>) -> bool {
        let old = match labels {
            Some(labels) => self.namespaces.insert(namespace.into(), labels.clone()),
            None => self.namespaces.remove(namespace),
        };
        old.as_ref() != labels
            && self.counters.iter().flatten().any(|counter| counter.compiled.iter().any(|(namespaces, _)| namespaces.is_some()))
    }

    /// Forgets all counts and matches groups and counters again. The caller counts all pods afresh.
    pub(crate) fn reset(&mut self) {
        for counter in self.counters.iter_mut().flatten() {
            counter.per_node.clear();
            counter.by_domain.clear();
            counter.total = 0;
        }
        for group in self.groups.iter_mut().flatten() {
            group.matched.clear();
            group.held.clear();
            for (number, counter) in self.counters.iter().enumerate() {
                let Some(counter) = counter else { continue };
                if counter.covers(group, &self.namespaces) {
                    let list = if counter.role().is_some() { &mut group.held } else { &mut group.matched };
                    list.push(CounterIndex(number as u32));
                }
            }
        }
    }

    /// Whether a node has the labels of all keys.
    pub fn has_all(&self, keys: &[KeyIndex], node: NodeIndex) -> bool {
        keys.iter().all(|key| self.keys[key.0 as usize].domain_of[node.at()] != NONE)
    }

    /// How many nodes have the label of a key.
    pub fn labelled(&self, key: KeyIndex) -> usize {
        self.keys[key.0 as usize].labelled
    }

    /// How many nodes each domain of a key has.
    pub fn sizes(&self, key: KeyIndex) -> &[u32] {
        &self.keys[key.0 as usize].sizes
    }
}
