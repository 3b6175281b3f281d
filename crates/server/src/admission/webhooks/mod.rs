//! Admission webhooks: what configurations say, whom a request concerns, and the two plugins that call them.

mod call;
mod hook;

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use futures_util::future::join_all;
use serde_json::json;
use store::Store;

use super::facts::Known;
use super::{Admission, Operation, Plugin};
use crate::audit;
use crate::catalog::Served;
use crate::follow::Follow;
use crate::server::Server;
use crate::steps::{convert, default};
use call::Answer;
use hook::{Hook, Hooks};

/// Calls mutating webhooks one after the other.
pub fn mutating(store: Arc<dyn Store>) -> Box<dyn Plugin> {
    Box::new(Mutating { hooks: Hooks::follow(store, "mutatingwebhookconfigurations") })
}

/// Calls validating webhooks all at once.
pub fn validating(store: Arc<dyn Store>) -> Box<dyn Plugin> {
    Box::new(Validating { hooks: Hooks::follow(store, "validatingwebhookconfigurations") })
}

struct Mutating {
    hooks: Follow<Hooks>,
}

struct Validating {
    hooks: Follow<Hooks>,
}

/// A hook that concerns a request, and the version in which it wants the object.
struct Concerned {
    hook: Arc<Hook>,
    served: Arc<Served>,
}

/// Configurations of admission are not subject to admission by webhooks: a bad one could never be mended.
fn is_exempt(admission: &Admission) -> bool {
    &*admission.served.def.group == "admissionregistration.k8s.io"
}

fn concerned(server: &Arc<Server>, hooks: &Follow<Hooks>, admission: &Admission) -> Result<Vec<Concerned>, Status> {
    if is_exempt(admission) {
        return Ok(Vec::new());
    }
    let all = hooks.read().all();
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for hook in all {
        let Some(served) = hook.matching.version(server, admission) else { continue };
        if !hook.matching.selects(server, admission) || !conditions(server, &hook, admission, &served)? {
            continue;
        }
        if admission.dry_run && !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun") {
            return Err(Status::bad_request(format!("admission webhook {:?} does not support dry run", hook.name)));
        }
        found.push(Concerned { hook, served });
    }
    Ok(found)
}

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let hooks = concerned(server, &self.hooks, admission)?;
        // For each hook, how often the object had been changed when it was called.
        let mut seen: Vec<usize> = Vec::with_capacity(hooks.len());
        let mut changes = 0;
        for (index, one) in hooks.iter().enumerate() {
            let changed = invoke(server, one, admission, (0, index)).await?;
            changes += usize::from(changed);
            seen.push(changes);
        }
        for (index, (one, seen)) in hooks.iter().zip(seen).enumerate() {
            if one.hook.reinvoke && changes > seen {
                changes += usize::from(invoke(server, one, admission, (1, index)).await?);
            }
        }
        Ok(())
    }
}

/// Calls one mutating hook and applies its patch; whether it changed anything. `turn` is round and index.
async fn invoke(server: &Arc<Server>, one: &Concerned, admission: &mut Admission, turn: (usize, usize)) -> Result<bool, Status> {
    let place = format!("webhook.admission.k8s.io/round_{}_index_{}", turn.0, turn.1);
    let Some(answer) = call::review(server, &one.hook, &one.served, admission).await? else {
        audit::annotate(format!("failed-open.mutating.{place}"), one.hook.name.as_str());
        return Ok(false);
    };
    note(&one.hook, &answer);
    let patch = answer.patch.clone();
    let changed = apply(one, answer, admission)?;
    let (configuration, webhook) = (&one.hook.configuration, &one.hook.name);
    let told = json!({"configuration": configuration, "webhook": webhook, "mutated": changed});
    audit::annotate(format!("mutation.{place}"), told.to_string());
    if changed {
        let told = json!({"configuration": configuration, "webhook": webhook, "patch": patch, "patchType": "JSONPatch"});
        audit::annotate_request(format!("patch.{place}"), told.to_string());
    }
    Ok(changed)
}

/// What a hook wants to have in the audit log.
fn note(hook: &Hook, answer: &Answer) {
    for (key, value) in &answer.annotations {
        audit::annotate(format!("{}/{key}", hook.name), value.as_str());
    }
}

/// Applies the patch of a hook; whether it changed anything.
fn apply(one: &Concerned, answer: Answer, admission: &mut Admission) -> Result<bool, Status> {
    admission.warnings.extend(answer.warnings.iter().cloned());
    refuse(&one.hook, &answer)?;
    let Some(patch) = answer.patch else { return Ok(false) };
    if admission.operation == Operation::Delete || admission.operation == Operation::Connect {
        return Ok(false);
    }
    let Some(object) = &admission.object else { return Ok(false) };
    let own_version = admission.served.api_version.clone();
    let document = convert::convert(&admission.served, object, &one.served.api_version)?.into_value();
    let fail = |why: String| call::failed(&one.hook, &why);
    let patched = match patch::json_patch::apply(&document, &patch) {
        Ok(patched) => patched,
        Err(error) => return fail(format!("cannot apply the patch: {error}")).map(|()| false),
    };
    if patched == document {
        return Ok(false);
    }
    let decoded = match codec::json::decode_value(patched, one.served.schema(), codec::Strictness::Ignore) {
        Ok(decoded) => decoded.object,
        Err(error) => return fail(format!("the patch leaves no valid object: {error}")).map(|()| false),
    };
    let back = convert::convert(&admission.served, &decoded, &own_version)?;
    admission.object = Some(default::of_object(&admission.served, back).into_object());
    admission.changed = true;
    Ok(true)
}

fn refuse(hook: &Hook, answer: &Answer) -> Result<(), Status> {
    if answer.allowed {
        return Ok(());
    }
    let denied = format!("admission webhook {:?} denied the request", hook.name);
    let text = |field: &str| answer.status[field].as_str().unwrap_or("");
    let mut status = Status::from_value(400, &answer.status);
    status.code = answer.status["code"].as_u64().map_or(400, |code| code as u16).max(400);
    status.message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", reason) => format!("{denied}: {reason}"),
        (message, _) => format!("{denied}: {message}"),
    };
    Err(status)
}

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let hooks = concerned(server, &self.hooks, admission)?;
        if hooks.is_empty() {
            return Ok(());
        }
        let shared: &Admission = admission;
        let calls = hooks.iter().map(|one| call::review(server, &one.hook, &one.served, shared));
        let answers = join_all(calls).await;
        let mut warnings = Vec::new();
        let mut result = Ok(());
        for (index, (one, answer)) in hooks.iter().zip(answers).enumerate() {
            match answer {
                Ok(Some(answer)) => {
                    note(&one.hook, &answer);
                    warnings.extend(answer.warnings.iter().cloned());
                    result = result.and_then(|()| refuse(&one.hook, &answer));
                }
                Ok(None) => audit::annotate(
                    format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}"),
                    one.hook.name.as_str(),
                ),
                Err(status) => result = result.and(Err(status)),
            }
        }
        admission.warnings.extend(warnings);
        result
    }
}

/// Whether all conditions of a hook hold.
fn conditions(server: &Arc<Server>, hook: &Hook, admission: &Admission, served: &Served) -> Result<bool, Status> {
    let held = match &hook.conditions {
        Ok(conditions) if conditions.is_empty() => return Ok(true),
        Ok(conditions) => conditions.hold(&Known::of(server, admission, served)?.facts(None)),
        Err(why) => Err(why.clone()),
    };
    held.or_else(|why| call::failed(hook, &why).map(|()| false))
}
