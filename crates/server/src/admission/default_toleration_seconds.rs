//! Pods stay five minutes on a node that is not ready or unreachable, unless they say otherwise.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Admission, Operation, Plugin};
use crate::server::Server;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(DefaultTolerationSeconds)
}

struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    async fn mutate(&self, _server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "pods") || !matches!(admission.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let Some(pod) = &admission.object else { return Ok(()) };
        let tolerations = pod.at(&["spec", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let missing: Vec<&str> = TAINTS.into_iter().filter(|taint| !tolerations.iter().any(|one| tolerates(one, taint))).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let mut all = tolerations;
        all.extend(
            missing
                .into_iter()
                .map(|taint| json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS})),
        );
        if let Some(pod) = admission.change() {
            pod.map_at_mut(&["spec"]).insert("tolerations".into(), all.into());
        }
        Ok(())
    }
}

fn tolerates(toleration: &Value, taint: &str) -> bool {
    let text = |field: &str| toleration[field].as_str().unwrap_or("");
    (text("key") == taint || text("key").is_empty()) && matches!(text("effect"), "" | "NoExecute")
}
