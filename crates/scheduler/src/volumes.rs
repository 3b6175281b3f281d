//! Claims, volumes and classes as far as they decide where a pod can run.
//!
//! A claim that is bound ties its pods to the nodes that reach the volume. A claim that waits for its first consumer
//! gets a volume that the chosen node reaches: one that is there, or one that a provisioner makes for that node.

use std::collections::HashMap;

use api::label_selector::LabelSelector;
use api::quantity::Quantity;

use crate::node_terms::Terms;
use crate::nodes::{NodeIndex, Nodes};
use crate::read::{self, Text};
use crate::symbols::{Symbol, Symbols};
use crate::topology::Labels;

/// The annotation by which the scheduler tells a provisioner the node.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// A claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Uid.
    pub uid: Text,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// Name of its class.
    pub class: Text,
    /// Name of the volume that it is bound to or asks for; empty for none.
    pub volume: Text,
    /// Whether the binding is complete.
    pub bound: bool,
    /// The node for which a provisioner is at work; empty for none.
    pub selected_node: Text,
    /// The node that the API shows, while `selected_node` may be assumed.
    shown_node: Text,
    /// Whether the provisioner took the node back.
    withdrawn: bool,
    modes: Vec<Text>,
    volume_mode: Text,
    selector: Option<LabelSelector>,
    size: Quantity,
}

/// A volume.
#[derive(Debug, Clone)]
pub struct Volume {
    class: Text,
    modes: Vec<Text>,
    volume_mode: Text,
    size: Quantity,
    labels: Labels,
    /// Nodes that reach it; none for all.
    nodes: Option<Terms>,
    /// `namespace/name` of the claim that has it, empty for none.
    claim: Text,
    available: bool,
    /// Driver and handle.
    driver: Option<(Text, Text)>,
    /// Whether `claim` is not in the API yet.
    assumed: bool,
}

/// A class.
#[derive(Debug, Clone)]
pub struct Class {
    waits: bool,
    provisioner: Text,
    /// Each term: label keys with values; one must hold. None allows every node.
    topologies: Vec<Vec<(Symbol, Vec<Symbol>)>>,
}

/// All claims, volumes and classes.
#[derive(Default)]
pub struct Volumes {
    claims: HashMap<Text, Claim>,
    volumes: HashMap<Text, Volume>,
    classes: HashMap<Text, Class>,
    /// Running pods by the claim that they use, as `namespace/name`.
    users: HashMap<Text, u32>,
}

/// How a claim stands to nodes.
pub enum Standing<'a> {
    /// There is none.
    Missing,
    /// It is being deleted.
    Terminating,
    /// It must be bound before its pods are scheduled.
    Unbound,
    /// It is bound to a volume that is not there.
    Lost,
    /// It is bound.
    Bound(&'a Volume),
    /// It waits for a node.
    Waits(&'a Claim, &'a Class),
}

/// What must be done for a claim before a pod can be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bind this volume to the claim.
    Take {
        /// Name of the volume.
        volume: Text,
        /// Name of the claim.
        claim: Text,
        /// Its uid.
        uid: Text,
    },
    /// Tell the provisioner the node.
    Provision {
        /// Name of the claim.
        claim: Text,
    },
}

impl Volume {
    /// Whether a node reaches the volume.
    pub fn reaches(&self, nodes: &Nodes, symbols: &Symbols, node: NodeIndex) -> bool {
        self.nodes.as_ref().is_none_or(|terms| terms.hold(nodes, symbols, node))
    }

    fn suits(&self, key: &str, claim: &Claim) -> bool {
        let free = if self.claim.is_empty() { self.available } else { *self.claim == *key };
        free && self.class == claim.class
            && self.volume_mode == claim.volume_mode
            && self.size >= claim.size
            && claim.modes.iter().all(|mode| self.modes.contains(mode))
            && claim.selector.as_ref().is_none_or(|selector| selector.matches_sorted(&self.labels))
    }
}

impl Volumes {
    /// Follows a claim.
    pub(crate) fn put_claim(&mut self, key: &str, uid: &str, terminating: bool, view: read::Claim) {
        let annotation = |name: &str| view.metadata.annotations.get(name).cloned().unwrap_or_default();
        let bound = !view.spec.volume_name.is_empty() && (!annotation(BIND_COMPLETED).is_empty() || &*view.status.phase == "Bound");
        let class = view.spec.storage_class_name.clone().unwrap_or_else(|| annotation(CLASS_ANNOTATION));
        let shown_node = annotation(SELECTED_NODE);
        let old = self.claims.get(key).filter(|old| *old.uid == *uid);
        let withdrawn = shown_node.is_empty() && old.is_some_and(|old| !old.shown_node.is_empty());
        let assumed = old.filter(|_| shown_node.is_empty() && !withdrawn).map(|old| old.selected_node.clone());
        let claim = Claim {
            uid: uid.into(),
            terminating,
            class,
            volume: view.spec.volume_name.clone(),
            bound,
            selected_node: assumed.unwrap_or_else(|| shown_node.clone()),
            shown_node,
            withdrawn,
            modes: view.spec.access_modes,
            volume_mode: mode(view.spec.volume_mode),
            selector: view.spec.selector.as_ref().map(read::Selector::compile),
            size: view.spec.resources.requests.get("storage").map_or(Quantity::ZERO, |amount| amount.0),
        };
        self.claims.insert(key.into(), claim);
    }

    /// Forgets a claim.
    pub(crate) fn remove_claim(&mut self, key: &str) {
        self.claims.remove(key);
    }

    /// Follows a volume.
    pub(crate) fn put_volume(&mut self, symbols: &mut Symbols, name: &str, labels: &Labels, view: read::Persistent) {
        let shown = view.spec.claim_ref.map(|claim| Text::from(format!("{}/{}", claim.namespace, claim.name)));
        let assumed = self.volumes.get(name).filter(|old| old.assumed && shown.is_none()).map(|old| old.claim.clone());
        let volume = Volume {
            class: view.spec.storage_class_name,
            modes: view.spec.access_modes,
            volume_mode: mode(view.spec.volume_mode),
            size: view.spec.capacity.get("storage").map_or(Quantity::ZERO, |amount| amount.0),
            labels: labels.clone(),
            nodes: view.spec.node_affinity.required.as_ref().map(|selector| Terms::compile(symbols, selector)),
            driver: view.spec.csi.map(|source| (source.driver, source.volume_handle)),
            assumed: assumed.is_some(),
            claim: shown.or(assumed).unwrap_or_default(),
            available: matches!(&*view.status.phase, "" | "Available" | "Pending"),
        };
        self.volumes.insert(name.into(), volume);
    }

    /// Forgets a volume.
    pub(crate) fn remove_volume(&mut self, name: &str) {
        self.volumes.remove(name);
    }

    /// Follows a class.
    pub(crate) fn put_class(&mut self, symbols: &mut Symbols, name: &str, view: &read::Class) {
        let label = |label: &read::LabelValues, symbols: &mut Symbols| {
            (symbols.intern(&label.key), label.values.iter().map(|value| symbols.intern(value)).collect())
        };
        let term = |term: &read::TopologyTerm| term.match_label_expressions.iter().map(|one| label(one, symbols)).collect();
        let topologies = view.allowed_topologies.iter().map(term).collect();
        let class =
            Class { waits: &*view.volume_binding_mode == "WaitForFirstConsumer", provisioner: view.provisioner.clone(), topologies };
        self.classes.insert(name.into(), class);
    }

    /// Forgets a class.
    pub(crate) fn remove_class(&mut self, name: &str) {
        self.classes.remove(name);
    }

    /// A claim by `namespace/name`.
    pub fn claim(&self, key: &str) -> Option<&Claim> {
        self.claims.get(key)
    }

    /// Driver and volume that a claim leads to. A volume that is still to be made counts as one of its own.
    pub fn attached_by<'a>(&'a self, key: &str) -> Option<(&'a str, std::borrow::Cow<'a, str>)> {
        match self.standing(key) {
            Standing::Bound(volume) => volume.driver.as_ref().map(|(driver, handle)| (&**driver, (&**handle).into())),
            Standing::Waits(_, class) if &*class.provisioner != NO_PROVISIONER => {
                Some((&*class.provisioner, format!("claim {key}").into()))
            }
            _ => None,
        }
    }

    /// What has to be made for steps: provisioner, class and size. What somebody already makes has its place.
    pub fn to_be_made<'a>(&'a self, namespace: &'a str, steps: &'a [Step]) -> impl Iterator<Item = (&'a str, &'a str, Quantity)> {
        steps.iter().filter_map(move |step| {
            let Step::Provision { claim } = step else { return None };
            let claim = self.claims.get(format!("{namespace}/{claim}").as_str()).filter(|claim| claim.selected_node.is_empty())?;
            Some((&*self.classes.get(&claim.class)?.provisioner, &*claim.class, claim.size))
        })
    }

    /// How a claim stands.
    pub fn standing(&self, key: &str) -> Standing<'_> {
        let Some(claim) = self.claims.get(key) else {
            return Standing::Missing;
        };
        if claim.terminating {
            return Standing::Terminating;
        }
        if claim.bound {
            return self.volumes.get(&claim.volume).map_or(Standing::Lost, Standing::Bound);
        }
        match self.classes.get(&claim.class) {
            Some(class) if class.waits && claim.volume.is_empty() => Standing::Waits(claim, class),
            _ => Standing::Unbound,
        }
    }

    /// What must be done for the waiting claims of a pod on a node; `None` if a claim gets no volume there.
    pub fn plan(&self, nodes: &Nodes, symbols: &Symbols, namespace: &str, claims: &[Text], node: NodeIndex) -> Option<Vec<Step>> {
        let mut steps = Vec::new();
        let mut taken: Vec<&str> = Vec::new();
        for name in claims {
            let key = format!("{namespace}/{name}");
            let Standing::Waits(claim, class) = self.standing(&key) else { continue };
            if !claim.selected_node.is_empty() {
                if *claim.selected_node != **nodes.name(node) {
                    return None;
                }
                steps.push(Step::Provision { claim: name.clone() });
                continue;
            }
            // The smallest volume that suits is taken, so that large ones stay for claims that need them.
            let suiting = self
                .volumes
                .iter()
                .filter(|(volume, one)| !taken.contains(&&***volume) && one.suits(&key, claim) && one.reaches(nodes, symbols, node));
            if let Some((volume, _)) =
                suiting.min_by(|(a, one), (b, other)| (one.claim.is_empty(), one.size, a).cmp(&(other.claim.is_empty(), other.size, b)))
            {
                taken.push(volume);
                steps.push(Step::Take { volume: volume.clone(), claim: name.clone(), uid: claim.uid.clone() });
            } else if class.provisions_on(nodes, node) {
                steps.push(Step::Provision { claim: name.clone() });
            } else {
                return None;
            }
        }
        Some(steps)
    }

    /// Counts steps as done before the API shows them, so that no other pod plans with the same volume.
    pub(crate) fn assume(&mut self, namespace: &str, steps: &[Step], node: &str) {
        for step in steps {
            match step {
                Step::Take { volume, claim, .. } => {
                    if let Some(volume) = self.volumes.get_mut(volume) {
                        volume.assumed |= volume.claim.is_empty();
                        volume.claim = format!("{namespace}/{claim}").into();
                    }
                }
                Step::Provision { claim } => {
                    if let Some(claim) = self.claims.get_mut(format!("{namespace}/{claim}").as_str()) {
                        claim.selected_node = node.into();
                        claim.withdrawn = false;
                    }
                }
            }
        }
    }

    /// Takes back what was assumed but could not be written.
    pub(crate) fn forget(&mut self, namespace: &str, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Take { volume, .. } => {
                    if let Some(volume) = self.volumes.get_mut(volume).filter(|volume| volume.assumed) {
                        volume.assumed = false;
                        volume.claim = Text::default();
                    }
                }
                Step::Provision { claim } => {
                    if let Some(claim) = self.claims.get_mut(format!("{namespace}/{claim}").as_str()) {
                        claim.selected_node = claim.shown_node.clone();
                    }
                }
            }
        }
    }

    /// Counts a pod that uses claims.
    pub(crate) fn count_users(&mut self, namespace: &str, claims: &[Text], sign: i32) {
        for name in claims {
            let key: Text = format!("{namespace}/{name}").into();
            let users = self.users.entry(key.clone()).or_insert(0);
            *users = users.wrapping_add_signed(sign);
            if *users == 0 {
                self.users.remove(&key);
            }
        }
    }

    /// Whether a claim is for one pod only and a pod has it.
    pub fn is_taken(&self, key: &str) -> bool {
        self.users.contains_key(key)
            && self.claims.get(key).is_some_and(|claim| claim.modes.iter().any(|mode| &**mode == "ReadWriteOncePod"))
    }

    /// Whether a provisioner took back the node of a claim.
    pub fn any_withdrawn(&self, namespace: &str, claims: &[Text]) -> bool {
        claims
            .iter()
            .any(|name| self.claims.get(format!("{namespace}/{name}").as_str()).is_some_and(|claim| claim.withdrawn && !claim.bound))
    }

    /// Whether all claims of a pod are bound.
    pub fn all_bound(&self, namespace: &str, claims: &[Text]) -> bool {
        claims.iter().all(|name| self.claims.get(format!("{namespace}/{name}").as_str()).is_some_and(|claim| claim.bound))
    }
}

impl Class {
    fn provisions_on(&self, nodes: &Nodes, node: NodeIndex) -> bool {
        let holds = |term: &Vec<(Symbol, Vec<Symbol>)>| {
            term.iter().all(|(key, values)| nodes.label(node, *key).is_some_and(|value| values.contains(&value)))
        };
        !self.provisioner.is_empty()
            && &*self.provisioner != NO_PROVISIONER
            && (self.topologies.is_empty() || self.topologies.iter().any(holds))
    }
}

fn mode(text: Text) -> Text {
    if text.is_empty() { "Filesystem".into() } else { text }
}
