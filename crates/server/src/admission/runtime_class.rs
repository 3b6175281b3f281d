//! A pod takes over overhead and scheduling rules of its runtime class.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(RuntimeClass)
}

struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "pods") || admission.operation != Operation::Create {
            return Ok(());
        }
        let Some(pod) = &admission.object else { return Ok(()) };
        let name = pod.text_at(&["spec", "runtimeClassName"]).to_owned();
        let given = pod.at(&["spec", "overhead"]).filter(|overhead| overhead.as_object().is_some_and(|map| !map.is_empty())).cloned();
        if name.is_empty() {
            return match given {
                Some(_) => Err(admission.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")),
                None => Ok(()),
            };
        }
        let class = find(server, &name).ok_or_else(|| admission.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found")))?;
        let overhead = class.at(&["overhead", "podFixed"]).cloned();
        if given.is_some() && given != overhead {
            return Err(admission.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
        }
        let selector = class.at(&["scheduling", "nodeSelector"]).and_then(Value::as_object).cloned().unwrap_or_default();
        let tolerations = class.at(&["scheduling", "tolerations"]).and_then(Value::as_array).cloned().unwrap_or_default();
        let own = pod.at(&["spec", "nodeSelector"]).and_then(Value::as_object).cloned().unwrap_or_default();
        if let Some((key, _)) = selector.iter().find(|(key, value)| own.get(*key).is_some_and(|own| own != *value)) {
            return Err(admission
                .forbidden(&format!("conflict: runtimeClass.scheduling.nodeSelector[{key}] differs from pod.spec.nodeSelector[{key}]")));
        }
        let Some(pod) = admission.change() else { return Ok(()) };
        let spec = pod.map_at_mut(&["spec"]);
        if let Some(overhead) = overhead {
            spec.insert("overhead".into(), overhead);
        }
        if !selector.is_empty() {
            let mut all = own;
            all.extend(selector);
            spec.insert("nodeSelector".into(), all.into());
        }
        if !tolerations.is_empty() {
            let mut all = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
            all.extend(tolerations.into_iter().filter(|one| !all.contains(one)).collect::<Vec<_>>());
            spec.insert("tolerations".into(), all.into());
        }
        Ok(())
    }
}

fn find(server: &Server, name: &str) -> Option<Object> {
    let key = Kind::new(api::resources::storage_prefix("node.k8s.io", "runtimeclasses", false)).key(name);
    let entry = server.store.mvcc().get(&key).value?;
    codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)
}
