//! `pods/ephemeralcontainers` and `pods/resize`: a whole pod comes, one part of it is taken.

use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use http::StatusCode;
use serde_json::Value;

use super::{Subresource, decoded};
use crate::attributes::Verb;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::encode;
use crate::steps::update::{Changed, guaranteed_update};
use crate::verbs;
use crate::verbs::patch::{Sort, patched};
use crate::write::Write;

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(PodPart)
}

struct PodPart;

#[async_trait]
impl Subresource for PodPart {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural) == ("", "pods") && matches!(subresource, "ephemeralcontainers" | "resize")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        let verb = request.allowed.verb();
        if verb == Verb::Get {
            return verbs::get::get(server, request);
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "UpdateOptions")?;
        let name = &request.allowed.attributes().name;
        let take = if write.subresource() == "resize" { resized } else { with_ephemeral };
        let content_type = request.header("content-type");
        let written = if verb == Verb::Update {
            let given = decoded(&write, body, content_type).await?;
            guaranteed_update(&write, name, |old| take(old, &given).map(Changed::part)).await?
        } else {
            let sort = Sort::of(content_type, false)?;
            let bytes = body.collect().await?;
            let document = codec::json::parse(&bytes).map_err(|error| Status::bad_request(error.to_string()))?;
            let schema = write.served.schema();
            guaranteed_update(&write, name, |old| {
                let value = patched(sort, old, &document, schema)?;
                let decoded = codec::json::decode_value(value, schema, write.options.strictness);
                let decoded = decoded.map_err(|error| error.status("v1", "Pod"))?;
                take(old, &decoded.object).map(Changed::part)
            })
            .await?
        };
        encode::written(&request, StatusCode::OK, &written, write.take_warnings())
    }
}

/// Ephemeral containers are added, never changed or removed.
fn with_ephemeral(old: &Object, given: &Object) -> Result<Object, Status> {
    let list = |object: &Object| object.at(&["spec", "ephemeralContainers"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let (before, after) = (list(old), list(given));
    let mut causes = Causes::default();
    let mut taken: Vec<&str> = Vec::new();
    for field in ["containers", "initContainers"] {
        let containers = old.at(&["spec", field]).and_then(Value::as_array);
        taken.extend(containers.into_iter().flatten().filter_map(|one| one["name"].as_str()));
    }
    for container in &before {
        if !after.iter().any(|one| one["name"] == container["name"]) {
            let name = container["name"].as_str().unwrap_or("");
            causes.forbidden("spec.ephemeralContainers", &format!("existing ephemeral containers {name:?} may not be removed"));
        }
    }
    for (index, container) in after.iter().enumerate() {
        let path = format!("spec.ephemeralContainers[{index}]");
        let name = container["name"].as_str().unwrap_or("");
        if name.is_empty() {
            causes.required(&format!("{path}.name"), "");
        } else if taken.contains(&name) {
            causes.duplicate(&format!("{path}.name"), &container["name"]);
        }
        if container["image"].as_str().unwrap_or("").is_empty() {
            causes.required(&format!("{path}.image"), "");
        }
        for field in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy"] {
            if container.get(field).is_some_and(|value| !value.is_null()) {
                causes.forbidden(&format!("{path}.{field}"), "cannot be set for an Ephemeral Container");
            }
        }
        let target = container["targetContainerName"].as_str().unwrap_or("");
        if !target.is_empty() && !taken.contains(&target) {
            causes.not_found(&format!("{path}.targetContainerName"), &container["targetContainerName"]);
        }
    }
    if !causes.is_empty() {
        return Err(Status::invalid("", "Pod", old.name(), &causes));
    }
    let mut pod = old.clone();
    pod.map_at_mut(&["spec"]).insert("ephemeralContainers".into(), after.into());
    pod.set_meta("resourceVersion", given.resource_version().to_owned());
    Ok(pod)
}

/// Only resources and resize policies of containers change.
fn resized(old: &Object, given: &Object) -> Result<Object, Status> {
    let mut pod = old.clone();
    for field in ["containers", "initContainers"] {
        let wanted = given.at(&["spec", field]).and_then(Value::as_array).cloned().unwrap_or_default();
        let Some(containers) = pod.map_at_mut(&["spec"]).get_mut(field).and_then(Value::as_array_mut) else { continue };
        for container in containers {
            let Some(new) = wanted.iter().find(|one| one["name"] == container["name"]) else { continue };
            for part in ["resources", "resizePolicy"] {
                if let (Some(value), Some(map)) = (new.get(part), container.as_object_mut()) {
                    map.insert(part.to_owned(), value.clone());
                }
            }
        }
    }
    let without_resources = |object: &Object| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        for field in ["containers", "initContainers"] {
            for container in spec[field].as_array_mut().into_iter().flatten() {
                if let Some(map) = container.as_object_mut() {
                    map.remove("resources");
                    map.remove("resizePolicy");
                }
            }
        }
        spec
    };
    if without_resources(old) != without_resources(given) {
        let mut causes = Causes::default();
        causes.forbidden("spec", "only cpu and memory resources are mutable");
        return Err(Status::invalid("", "Pod", old.name(), &causes));
    }
    pod.set_meta("resourceVersion", given.resource_version().to_owned());
    Ok(pod)
}
