//! MutatingAdmissionPolicy.

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use cel::policy::Change;
use patch::ManagedBy;
use serde_json::Value;
use store::Store;

use super::bound::{Binding, Compiled, Policies, concerned, object, params, refusal};
use crate::admission::facts::Known;
use crate::admission::{Admission, Operation, Plugin};
use crate::catalog::Served;
use crate::follow::Follow;
use crate::server::Server;
use crate::steps::options::now;
use crate::steps::{convert, default};
use crate::write::KindOf;

/// The plugin.
pub fn mutating(store: Arc<dyn Store>) -> Box<dyn Plugin> {
    Box::new(Mutating { policies: Policies::follow(store, "mutatingadmissionpolicies", "mutatingadmissionpolicybindings") })
}

struct Mutating {
    policies: Follow<Policies>,
}

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if admission.object.is_none() || !matches!(admission.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let bound = self.policies.read().all();
        let mut seen: Vec<usize> = Vec::with_capacity(bound.len());
        let mut changes = 0;
        for (policy, binding) in &bound {
            changes += usize::from(run(server, policy, binding, admission)?);
            seen.push(changes);
        }
        for ((policy, binding), seen) in bound.iter().zip(seen) {
            if policy.reinvoke && changes > seen {
                changes += usize::from(run(server, policy, binding, admission)?);
            }
        }
        Ok(())
    }
}

/// Runs all mutations of a bound policy; whether they changed anything.
fn run(server: &Arc<Server>, policy: &Compiled, binding: &Binding, admission: &mut Admission) -> Result<bool, Status> {
    let Some(served) = concerned(server, policy, binding, admission) else { return Ok(false) };
    let fail = |admission: &Admission, why: String| {
        if policy.fails_closed {
            let message = format!("policy '{}' with binding '{}' denied request: {why}", policy.name, binding.name);
            return Err(refusal(admission, &message, ""));
        }
        Ok(false)
    };
    match policy.policy.matches(&Known::of(server, admission, &served)?.facts(None)) {
        Ok(true) => {}
        Ok(false) => return Ok(false),
        Err(why) => return fail(admission, why),
    }
    let runs = match params(server, policy, binding, admission) {
        Ok(runs) => runs,
        Err(why) => return fail(admission, format!("failed to configure binding: {why}")),
    };
    let mut changed = false;
    for param in &runs {
        let param = Some(param).filter(|param: &&Value| !param.is_null());
        for index in 0..policy.policy.mutations() {
            let known = Known::of(server, admission, &served)?;
            let change = match policy.policy.mutate(index, &known.facts(param)) {
                Ok(change) => change,
                Err(why) => return fail(admission, why),
            };
            match apply(server, admission, &served, &policy.name, change)? {
                Ok(one) => changed |= one,
                Err(why) => return fail(admission, why),
            }
        }
    }
    Ok(changed)
}

/// Makes one change; the inner error is the policy's.
fn apply(
    server: &Arc<Server>,
    admission: &mut Admission,
    served: &Served,
    policy: &str,
    change: Change,
) -> Result<Result<bool, String>, Status> {
    let Some(current) = &admission.object else { return Ok(Ok(false)) };
    let own_version = current.api_version().to_owned();
    let shown = convert::convert(&admission.served, current, &served.api_version)?;
    let changed = match change {
        Change::JsonPatch(document) => match patch::json_patch::apply(&Value::Object(shown.0.clone()), &document) {
            Ok(value) => value,
            Err(error) => return Ok(Err(error.to_string())),
        },
        Change::Apply(config) => match merged(server, served, &shown, config, policy) {
            Ok(object) => object.into_value(),
            Err(why) => return Ok(Err(why)),
        },
    };
    let decoded = match codec::json::decode_value(changed, served.schema(), codec::Strictness::Ignore) {
        Ok(decoded) => decoded.object,
        Err(error) => return Ok(Err(error.to_string())),
    };
    if decoded == shown {
        return Ok(Ok(false));
    }
    let back = convert::convert(&admission.served, &decoded, &own_version)?;
    admission.object = Some(default::of_object(&admission.served, back).into_object());
    admission.changed = true;
    Ok(Ok(true))
}

/// Merges a configuration by the rules of lists and maps; ownership stays as it was.
fn merged(server: &Server, served: &Served, current: &Object, config: Value, policy: &str) -> Result<Object, String> {
    let mut config = object(config).ok_or("the configuration is no object")?;
    config.set_kind(current.api_version(), current.kind());
    for field in ["name", "namespace"] {
        if let Some(value) = current.metadata().and_then(|meta| meta.get(field)) {
            config.set_meta(field, value.clone());
        }
    }
    let time = now();
    let by = ManagedBy { manager: policy, api_version: &served.api_version, subresource: "", time: &time };
    let mut result =
        patch::managed::apply(Some(current), &config, &by, true, &KindOf { server, served }).map_err(|error| error.to_string())?;
    match current.metadata().and_then(|meta| meta.get("managedFields")) {
        Some(fields) => result.set_meta("managedFields", fields.clone()),
        None => {
            result.metadata_mut().remove("managedFields");
        }
    }
    Ok(result)
}
