//! A pod's priority comes from its priority class; at most one class is the default.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

const CLASSES: &str = "/registry/priorityclasses/";

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(Priority)
}

struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("", "pods") {
            return Ok(());
        }
        match admission.operation {
            Operation::Create => resolve(server, admission),
            Operation::Update => {
                keep(admission);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !admission.is("scheduling.k8s.io", "priorityclasses") || !matches!(admission.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let Some(class) = &admission.object else { return Ok(()) };
        if class.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        match default_class(server) {
            Some(other) if other.name() != class.name() => {
                let why = format!("PriorityClass {} is already marked as default. Only one default can exist", other.name());
                Err(admission.forbidden(&why))
            }
            _ => Ok(()),
        }
    }
}

fn resolve(server: &Server, admission: &mut Admission) -> Result<(), Status> {
    let Some(pod) = &admission.object else { return Ok(()) };
    let wanted = pod.text_at(&["spec", "priorityClassName"]).to_owned();
    let given = pod.at(&["spec", "priority"]).and_then(Value::as_i64);
    let class = if wanted.is_empty() {
        default_class(server)
    } else {
        let class = read(server, &wanted);
        Some(class.ok_or_else(|| admission.forbidden(&format!("no PriorityClass with name {wanted} was found")))?)
    };
    let (name, value, policy) = match &class {
        Some(class) => {
            let policy = match class.text_at(&["preemptionPolicy"]) {
                "" => "PreemptLowerPriority",
                policy => policy,
            };
            (class.name().to_owned(), class.get("value").and_then(Value::as_i64).unwrap_or(0), policy.to_owned())
        }
        None => (String::new(), 0, "PreemptLowerPriority".to_owned()),
    };
    if given.is_some_and(|given| given != value) {
        let given = given.unwrap_or(0);
        return Err(admission.forbidden(&format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
        )));
    }
    let given_policy = pod.text_at(&["spec", "preemptionPolicy"]).to_owned();
    if !given_policy.is_empty() && given_policy != policy {
        return Err(admission.forbidden(&format!(
            "the string value of PreemptionPolicy ({given_policy}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
        )));
    }
    let spec = admission.change().expect("a creation has an object").map_at_mut(&["spec"]);
    if !name.is_empty() {
        spec.insert("priorityClassName".into(), name.into());
    }
    spec.insert("priority".into(), value.into());
    spec.insert("preemptionPolicy".into(), policy.into());
    Ok(())
}

/// An update that leaves the priority out does not mean to change it.
fn keep(admission: &mut Admission) {
    let Some(old) = &admission.old else { return };
    let kept: Vec<(&str, Value)> =
        ["priority", "preemptionPolicy"].into_iter().filter_map(|field| Some((field, old.at(&["spec", field])?.clone()))).collect();
    let Some(pod) = admission.change() else { return };
    let spec = pod.map_at_mut(&["spec"]);
    for (field, value) in kept {
        if spec.get(field).is_none_or(Value::is_null) {
            spec.insert(field.into(), value);
        }
    }
}

fn read(server: &Server, name: &str) -> Option<Object> {
    let entry = server.store.mvcc().get(&Kind::new(CLASSES).key(name)).value?;
    codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)
}

fn default_class(server: &Server) -> Option<Object> {
    let snapshot = server.store.mvcc().snapshot(&Kind::new(CLASSES));
    let classes = snapshot.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value));
    classes
        .filter(|class| class.get("globalDefault") == Some(&Value::Bool(true)))
        .min_by_key(|class| class.get("value").and_then(Value::as_i64).unwrap_or(0))
}
