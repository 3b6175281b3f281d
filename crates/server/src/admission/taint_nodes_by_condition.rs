//! A new node is not ready until its conditions say so.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Operation, Plugin};
use crate::server::Server;

const TAINT: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(TaintNodesByCondition)
}

struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    async fn mutate(&self, _server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "nodes") || admission.operation != Operation::Create {
            return Ok(());
        }
        let Some(node) = admission.change() else { return Ok(()) };
        let taints = node.map_at_mut(&["spec"]).entry("taints").or_insert_with(|| json!([]));
        if !taints.is_array() {
            *taints = json!([]);
        }
        let taints = taints.as_array_mut().expect("just made a list");
        if !taints.iter().any(|one: &Value| one["key"] == TAINT && one["effect"] == "NoSchedule") {
            taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}
