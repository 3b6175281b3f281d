//! `pods/eviction`: a deletion that disruption budgets may refuse.

use std::sync::Arc;

use api::label_selector::LabelSelector;
use api::{Object, Reason, Status};
use async_trait::async_trait;
use serde_json::{Value, json};
use store::Kind;

use super::{Subresource, admit, decoded, success};
use crate::admission::Operation;
use crate::catalog::Served;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::update::{Changed, guaranteed_update};
use crate::steps::{commit, convert};
use crate::verbs::delete::{self, DeleteOptions};
use crate::write::Write;

/// Most pods whose disruption a budget remembers.
const MAX_DISRUPTED: usize = 2000;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(PodEviction)
}

struct PodEviction;

#[async_trait]
impl Subresource for PodEviction {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural, subresource) == ("", "pods", "eviction")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        if request.allowed.attributes().verb != "create" {
            return Err(failure::method_not_allowed());
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "CreateOptions")?;
        let name = &request.allowed.attributes().name;
        let eviction = decoded(&write, body, request.header("content-type")).await?;
        if !eviction.name().is_empty() && eviction.name() != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let eviction = admit(&write, Operation::Create, eviction, None).await?;
        evict(&write, name, &eviction).await?;
        success(&request)
    }
}

async fn evict(write: &Write<'_>, name: &str, eviction: &Object) -> Result<(), Status> {
    let key = commit::key(write.served, write.namespace(), name);
    let entry = write.server.store.mvcc().get(&key).value.ok_or_else(|| write.served.not_found(name))?;
    let pod = convert::read(write.served, &entry)?;
    let mut options = options(eviction);
    if !ignores_budgets(&pod) {
        if let Some(budget) = budget_of(write.server, &pod)? {
            if !may_go_unready(&pod, &budget) {
                take(write, &pod, &budget).await?;
            }
        }
        if !write.options.dry_run {
            mark(write, name).await?;
        }
    }
    options.uid.get_or_insert_with(|| pod.uid().to_owned());
    match delete::run(write, name, &options).await {
        Err(status) if status.is_not_found() => Ok(()),
        other => other.map(drop),
    }
}

fn options(eviction: &Object) -> DeleteOptions {
    let text = |path: &[&str]| eviction.at(path).and_then(Value::as_str).map(str::to_owned);
    DeleteOptions {
        grace: eviction.at(&["deleteOptions", "gracePeriodSeconds"]).and_then(Value::as_i64),
        uid: text(&["deleteOptions", "preconditions", "uid"]),
        resource_version: text(&["deleteOptions", "preconditions", "resourceVersion"]),
        ..DeleteOptions::default()
    }
}

/// Pods that do not run disturb nobody by going.
fn ignores_budgets(pod: &Object) -> bool {
    pod.deletion_timestamp().is_some() || matches!(pod.text_at(&["status", "phase"]), "Succeeded" | "Failed" | "Pending")
}

fn is_ready(pod: &Object) -> bool {
    crate::catalog::custom::condition(pod, "Ready")
}

/// Whether the budget lets a pod go that is not ready.
fn may_go_unready(pod: &Object, budget: &Object) -> bool {
    if is_ready(pod) {
        return false;
    }
    let number = |field: &str| budget.at(&["status", field]).and_then(Value::as_i64).unwrap_or(0);
    match budget.text_at(&["spec", "unhealthyPodEvictionPolicy"]) {
        "AlwaysAllow" => true,
        _ => number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0,
    }
}

fn budgets(server: &Server) -> Result<Arc<Served>, Status> {
    server.catalog().find("policy", "v1", "poddisruptionbudgets").cloned().ok_or_else(|| Status::internal("budgets are not served"))
}

fn budget_of(server: &Server, pod: &Object) -> Result<Option<Object>, Status> {
    let snapshot = server.store.mvcc().snapshot(&Kind::new("/registry/poddisruptionbudgets/"));
    let prefix = Kind::new("/registry/poddisruptionbudgets/").namespace(pod.namespace());
    let mut found = Vec::new();
    for entry in snapshot.under(&prefix) {
        let budget = Object::from_value(codec::json::parse(&entry.bytes).map_err(Status::internal)?).unwrap_or_default();
        let selector = LabelSelector::from_value(budget.at(&["spec", "selector"]).unwrap_or(&Value::Null))
            .unwrap_or_else(|_| LabelSelector::nothing());
        if selector.matches(|key| pod.label(key)) {
            found.push(budget);
        }
    }
    if found.len() > 1 {
        return Err(Status::internal("This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."));
    }
    Ok(found.pop())
}

/// Takes one disruption from the budget, or refuses.
async fn take(write: &Write<'_>, pod: &Object, budget: &Object) -> Result<(), Status> {
    let served = budgets(write.server)?;
    let name = budget.name().to_owned();
    let on_budget = Write::with_options(write.server, write.allowed, &served, write.options.clone());
    guaranteed_update(&on_budget, &name, |budget| {
        let number = |field: &str| budget.at(&["status", field]).and_then(Value::as_i64).unwrap_or(0);
        let allowed = number("disruptionsAllowed");
        if number("observedGeneration") < budget.generation() {
            return Err(refused(&name, &format!("The disruption budget {name} is still being processed by the server."), 10));
        }
        if allowed < 0 {
            return Err(Status::forbidden("policy", "poddisruptionbudgets", &name, "pdb disruptions allowed is negative"));
        }
        let disrupted = budget.at(&["status", "disruptedPods"]).and_then(Value::as_object).map_or(0, serde_json::Map::len);
        if disrupted > MAX_DISRUPTED {
            return Err(Status::forbidden(
                "policy",
                "poddisruptionbudgets",
                &name,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
            ));
        }
        if allowed == 0 {
            let why = format!(
                "The disruption budget {name} needs {} healthy pods and has {} currently",
                number("desiredHealthy"),
                number("currentHealthy")
            );
            return Err(refused(&name, &why, 0));
        }
        let mut budget = budget.clone();
        let status = budget.map_at_mut(&["status"]);
        status.insert("disruptionsAllowed".into(), (allowed - 1).into());
        budget.map_at_mut(&["status", "disruptedPods"]).insert(pod.name().to_owned(), write.options.now.as_str().into());
        Ok(Changed::done(budget))
    })
    .await?;
    Ok(())
}

fn refused(_budget: &str, why: &str, retry: u32) -> Status {
    let mut status = Status::too_many_requests("Cannot evict pod as it would violate the pod's disruption budget.", retry);
    status.reason = Reason::TooManyRequests;
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": why}]});
    if retry > 0 {
        details["retryAfterSeconds"] = retry.into();
    }
    status.details = details;
    status
}

/// Tells in the pod why it goes.
async fn mark(write: &Write<'_>, name: &str) -> Result<(), Status> {
    guaranteed_update(write, name, |pod| {
        let mut pod = pod.clone();
        let now = write.options.now.as_str();
        let status = pod.map_at_mut(&["status"]);
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|condition| condition["type"] != "DisruptionTarget");
            list.push(json!({
                "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
                "lastProbeTime": null, "lastTransitionTime": now,
            }));
        }
        Ok(Changed::done(pod))
    })
    .await?;
    Ok(())
}
