//! What the scheduler reads of objects: small views decoded straight from an entry's bytes.
//!
//! A decoded pod costs eight times its JSON. These views name only the fields that decide about places; serde
//! skips the rest without building it. Pods with equal views are equal to the scheduler.

use std::collections::BTreeMap;
use std::fmt;

use api::label_selector::{LabelSelector, Operator, Requirement};
use api::quantity::Quantity;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer};
use store::Entry;

/// A short text.
pub type Text = Box<str>;
/// Texts by text.
pub type Texts = BTreeMap<Text, Text>;
/// Amounts by resource name.
pub type Amounts = BTreeMap<Text, Amount>;

/// Reads a view off an entry; `None` (logged) if the object does not have the shape of its kind.
pub fn view<T: DeserializeOwned>(entry: &Entry) -> Option<T> {
    match serde_json::from_slice(&entry.bytes) {
        Ok(view) => Some(view),
        Err(error) => {
            tracing::warn!(key = %entry.key, %error, "object cannot be read");
            None
        }
    }
}

/// A null reads as the zero value, like an absent field.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A quantity of a resource list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct Amount(pub Quantity);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Amount, D::Error> {
        struct Reader;
        impl Visitor<'_> for Reader {
            type Value = Amount;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Amount, E> {
                Quantity::read(text).map(Amount).map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
            fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Amount, E> {
                self.visit_str(&number.to_string())
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

macro_rules! views {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
        #[serde(rename_all = "camelCase", default)]
        #[allow(missing_docs, reason = "the fields are the API's own")]
        pub struct $name {
            $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] pub $field: $type,)*
        }
    )*};
}

views! {
    /// A pod.
    Pod { metadata: PodMeta, spec: PodSpec, status: PodStatus }
    /// Metadata that headers do not hold.
    PodMeta { creation_timestamp: Text }
    /// What a pod asks for.
    PodSpec {
        node_name: Text, priority: i32, preemption_policy: Text, node_selector: Texts, affinity: Affinity,
        tolerations: Vec<Toleration>, containers: Vec<Container>, init_containers: Vec<Container>, overhead: Amounts,
        resources: Resources, topology_spread_constraints: Vec<Spread>, volumes: Vec<Volume>, scheduling_gates: Vec<Gate>,
    }
    /// What is known of a pod.
    PodStatus { start_time: Text, nominated_node_name: Text, conditions: Vec<Condition>, container_statuses: Vec<ContainerStatus>, init_container_statuses: Vec<ContainerStatus>, resize: Text }
    /// What runs of a container, which a resize may have left above or below its request.
    ContainerStatus { name: Text, resources: Resources, allocated_resources: Amounts }
    /// A condition.
    Condition { r#type: Text, status: Text, reason: Text, message: Text }
    /// A reason not to be scheduled yet.
    Gate { name: Text }
    /// A container.
    Container { name: Text, image: Text, resources: Resources, ports: Vec<Port>, restart_policy: Text }
    /// Requests and limits.
    Resources { requests: Amounts }
    /// A port of a container.
    Port { host_port: i32, protocol: Text, #[serde(rename = "hostIP")] host_ip: Text }
    /// Tolerates a taint.
    Toleration { key: Text, operator: Text, value: Text, effect: Text }
    /// All affinities.
    Affinity { node_affinity: NodeAffinity, pod_affinity: PodAffinity, pod_anti_affinity: PodAffinity }
    /// Affinity to nodes.
    NodeAffinity { required_during_scheduling_ignored_during_execution: Option<NodeSelector>, preferred_during_scheduling_ignored_during_execution: Vec<PreferredNode> }
    /// Terms of which one must hold.
    NodeSelector { node_selector_terms: Vec<NodeTerm> }
    /// Requirements that hold together.
    NodeTerm { match_expressions: Vec<Expression>, match_fields: Vec<Expression> }
    /// A weighted term.
    PreferredNode { weight: i32, preference: NodeTerm }
    /// A requirement of labels or fields.
    Expression { key: Text, operator: Text, values: Vec<Text> }
    /// Affinity to pods.
    PodAffinity { required_during_scheduling_ignored_during_execution: Vec<PodTerm>, preferred_during_scheduling_ignored_during_execution: Vec<WeightedPodTerm> }
    /// A weighted term.
    WeightedPodTerm { weight: i32, pod_affinity_term: PodTerm }
    /// Pods in a topology.
    PodTerm { label_selector: Option<Selector>, namespaces: Vec<Text>, namespace_selector: Option<Selector>, topology_key: Text, match_label_keys: Vec<Text>, mismatch_label_keys: Vec<Text> }
    /// A label selector.
    Selector { match_labels: Texts, match_expressions: Vec<Expression> }
    /// A topology spread constraint.
    Spread { max_skew: i32, topology_key: Text, when_unsatisfiable: Text, label_selector: Option<Selector>, min_domains: Option<i32>, node_affinity_policy: Text, node_taints_policy: Text, match_label_keys: Vec<Text> }
    /// A volume of a pod.
    Volume { name: Text, persistent_volume_claim: Option<ClaimSource>, ephemeral: Option<Ephemeral> }
    /// Names a claim.
    ClaimSource { claim_name: Text, read_only: bool }
    /// A claim made for the pod.
    Ephemeral {}

    /// A node.
    Node { spec: NodeSpec, status: NodeStatus }
    /// What is wanted of a node.
    NodeSpec { taints: Vec<Taint>, unschedulable: bool }
    /// What a node offers.
    NodeStatus { allocatable: Amounts, images: Vec<Image> }
    /// A taint.
    Taint { key: Text, value: Text, effect: Text }
    /// An image on a node.
    Image { names: Vec<Text>, size_bytes: i64 }

    /// A claim.
    Claim { metadata: ClaimMeta, spec: ClaimSpec, status: ClaimStatus }
    /// Metadata of a claim.
    ClaimMeta { annotations: Texts }
    /// What a claim asks for.
    ClaimSpec { storage_class_name: Option<Text>, volume_name: Text, access_modes: Vec<Text>, volume_mode: Text, selector: Option<Selector>, resources: Resources }
    /// Whether a claim is bound.
    ClaimStatus { phase: Text }
    /// A volume.
    Persistent { spec: PersistentSpec, status: ClaimStatus }
    /// What a volume is.
    PersistentSpec { storage_class_name: Text, access_modes: Vec<Text>, volume_mode: Text, capacity: Amounts, node_affinity: VolumeAffinity, claim_ref: Option<ClaimRef>, csi: Option<CsiSource> }
    /// The driver of a volume.
    CsiSource { driver: Text, volume_handle: Text }
    /// Where a volume can be reached.
    VolumeAffinity { required: Option<NodeSelector> }
    /// Whose a volume is.
    ClaimRef { namespace: Text, name: Text, uid: Text }
    /// A class of storage.
    Class { provisioner: Text, volume_binding_mode: Text, allowed_topologies: Vec<TopologyTerm> }
    /// Where a class can make volumes.
    TopologyTerm { match_label_expressions: Vec<LabelValues> }
    /// A label with values.
    LabelValues { key: Text, values: Vec<Text> }

    /// What drivers say of a node.
    CsiNode { spec: CsiNodeSpec }
    /// The drivers.
    CsiNodeSpec { drivers: Vec<CsiNodeDriver> }
    /// A driver on a node.
    CsiNodeDriver { name: Text, allocatable: CsiNodeRoom }
    /// How many volumes it takes there.
    CsiNodeRoom { count: Option<i32> }
    /// A driver.
    CsiDriver { spec: CsiDriverSpec }
    /// Whether it says how much room it has.
    CsiDriverSpec { storage_capacity: bool }
    /// Room for volumes of a class.
    Capacity { storage_class_name: Text, node_topology: Option<Selector>, capacity: Option<Amount>, maximum_volume_size: Option<Amount> }

    /// A disruption budget.
    Budget { spec: BudgetSpec, status: BudgetStatus }
    /// Whose budget.
    BudgetSpec { selector: Option<Selector> }
    /// What is left of it.
    BudgetStatus { disruptions_allowed: i32, disrupted_pods: Texts }
}

impl Selector {
    /// The selector in the form that matches labels.
    pub fn compile(&self) -> LabelSelector {
        let mut requirements: Vec<Requirement> = self
            .match_labels
            .iter()
            .map(|(key, value)| Requirement { key: key.to_string(), operator: Operator::In(vec![value.to_string()]) })
            .collect();
        for expression in &self.match_expressions {
            let values = expression.values.iter().map(ToString::to_string).collect();
            let operator = match &*expression.operator {
                "In" => Operator::In(values),
                "NotIn" => Operator::NotIn(values),
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                _ => return LabelSelector::nothing(),
            };
            requirements.push(Requirement { key: expression.key.to_string(), operator });
        }
        LabelSelector { requirements, nothing: false }
    }
}

/// The compiled selector; an absent one matches nothing.
pub fn compile(selector: Option<&Selector>) -> LabelSelector {
    selector.map_or_else(LabelSelector::nothing, Selector::compile)
}
