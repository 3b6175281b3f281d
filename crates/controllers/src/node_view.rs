//! What controllers ask of every version of a node: a few fields read straight from the bytes.
//!
//! A node changes several times as it joins and then with every status it posts, and each change is heard by many
//! controllers. A typed node costs them a hundred allocations; this view borrows from the entry and skips the rest.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use store::Entry;

type Text<'a> = Cow<'a, str>;

/// A null reads as the zero value, like an absent field.
fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeView<'a> {
    #[serde(borrow)]
    pub metadata: Meta<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub spec: Spec<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Status<'a>,
}

/// Metadata that headers do not hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Meta<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub annotations: BTreeMap<Text<'a>, Text<'a>>,
}

/// What is wanted of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Spec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub taints: Vec<TaintView<'a>>,
    #[serde(deserialize_with = "nullable")]
    pub unschedulable: bool,
    #[serde(borrow, rename = "podCIDR", deserialize_with = "nullable")]
    pub pod_cidr: Text<'a>,
}

/// A taint.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaintView<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub key: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub value: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub effect: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub time_added: Text<'a>,
}

/// What is known of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    pub conditions: Vec<ConditionView<'a>>,
}

/// A condition.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConditionView<'a> {
    #[serde(borrow, rename = "type", deserialize_with = "nullable")]
    pub kind: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub status: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    pub last_heartbeat_time: Text<'a>,
}

impl<'a> NodeView<'a> {
    /// The view of an entry; an empty one (logged) if it does not have the shape of a node.
    pub fn of(entry: &'a Entry) -> NodeView<'a> {
        serde_json::from_slice(&entry.bytes).unwrap_or_else(|error| {
            tracing::warn!(key = %entry.key, %error, "object cannot be read");
            NodeView::default()
        })
    }

    /// The condition of a type.
    pub fn condition(&self, kind: &str) -> Option<&ConditionView<'a>> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Whether the condition Ready is true.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|ready| ready.status == "True")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_reads_what_is_there() {
        let text = r#"{"kind":"Node","metadata":{"name":"n","annotations":{"a\"b":"c"}},"spec":{"podCIDR":"10.0.0.0/24","taints":[{"key":"k","effect":"NoExecute","value":null}]},
            "status":{"conditions":[{"type":"Ready","status":"True","lastHeartbeatTime":"t"}],"images":[{"names":["x"]}]}}"#;
        let view: NodeView<'_> = serde_json::from_str(text).unwrap();
        assert!(view.is_ready() && !view.spec.unschedulable);
        assert_eq!((&*view.spec.pod_cidr, &*view.spec.taints[0].key, &*view.spec.taints[0].value), ("10.0.0.0/24", "k", ""));
        assert_eq!(view.metadata.annotations.get("a\"b").map(|text| &**text), Some("c"));
        let none: NodeView<'_> = serde_json::from_str(r#"{"metadata":{"annotations":null},"spec":{"taints":null},"status":null}"#).unwrap();
        assert!(none.spec.taints.is_empty() && none.condition("Ready").is_none());
    }
}
