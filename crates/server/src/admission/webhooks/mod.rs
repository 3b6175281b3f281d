//! Admission webhooks: what configurations say, whom a request concerns, and the two plugins that call them.

mod call;
mod hook;

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use futures_util::future::join_all;
use store::Store;

use super::facts::Known;
use super::{Admission, Operation, Plugin};
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
        for one in &hooks {
            let changed = invoke(server, one, admission).await?;
            changes += usize::from(changed);
            seen.push(changes);
        }
        for (one, seen) in hooks.iter().zip(seen) {
            if one.hook.reinvoke && changes > seen {
                changes += usize::from(invoke(server, one, admission).await?);
            }
        }
        Ok(())
    }
}

/// Calls one mutating hook and applies its patch; whether it changed anything.
async fn invoke(server: &Arc<Server>, one: &Concerned, admission: &mut Admission) -> Result<bool, Status> {
    let Some(answer) = call::review(server, &one.hook, &one.served, admission).await? else { return Ok(false) };
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
        for (one, answer) in hooks.iter().zip(answers) {
            match answer {
                Ok(Some(answer)) => {
                    warnings.extend(answer.warnings.iter().cloned());
                    result = result.and_then(|()| refuse(&one.hook, &answer));
                }
                Ok(None) => {}
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
