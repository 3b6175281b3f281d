//! `certificatesigningrequests/approval`: only the conditions change, and only where admission lets them.

use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use http::StatusCode;
use serde_json::{Value, json};

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
    Box::new(CertificateApproval)
}

struct CertificateApproval;

#[async_trait]
impl Subresource for CertificateApproval {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural, subresource) == ("certificates.k8s.io", "certificatesigningrequests", "approval")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        let verb = request.allowed.verb();
        if verb == Verb::Get {
            return verbs::get::get(server, request);
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "UpdateOptions")?;
        let name = &request.allowed.attributes().name;
        let content_type = request.header("content-type");
        let written = if verb == Verb::Update {
            let given = decoded(&write, body, content_type).await?;
            guaranteed_update(&write, name, |old| approved(&write, old, &given).map(Changed::part)).await?
        } else {
            let sort = Sort::of(content_type, false)?;
            let bytes = body.collect().await?;
            let document = codec::json::parse(&bytes).map_err(|error| Status::bad_request(error.to_string()))?;
            guaranteed_update(&write, name, |old| {
                let value = patched(sort, old, &document, write.served.schema())?;
                let given = Object::from_value(value).ok_or_else(|| Status::bad_request("the patch leaves no object"))?;
                approved(&write, old, &given).map(Changed::part)
            })
            .await?
        };
        encode::written(&request, StatusCode::OK, &written, write.take_warnings())
    }
}

fn conditions(object: &Object) -> Vec<Value> {
    object.at(&["status", "conditions"]).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// The old request with the new conditions.
fn approved(write: &Write<'_>, old: &Object, given: &Object) -> Result<Object, Status> {
    let mut causes = Causes::default();
    let mut new = conditions(given);
    let before = conditions(old);
    let has = |list: &[Value], kind: &str| list.iter().any(|condition| condition["type"] == kind);
    for kind in ["Approved", "Denied"] {
        if has(&before, kind) && !has(&new, kind) {
            causes.forbidden("status.conditions", &format!("updates may not remove a condition of type {kind:?}"));
        }
    }
    if has(&new, "Approved") && has(&new, "Denied") {
        causes.invalid("status.conditions", &json!("Denied"), "Approved and Denied conditions are mutually exclusive");
    }
    for (index, condition) in new.iter_mut().enumerate() {
        if condition["type"].as_str().unwrap_or("").is_empty() {
            causes.required(&format!("status.conditions[{index}].type"), "");
        }
        let known = before.iter().find(|one| one["type"] == condition["type"]);
        for field in ["lastUpdateTime", "lastTransitionTime"] {
            if condition[field].is_null() {
                let kept = known.map(|one| one[field].clone()).filter(|time| !time.is_null());
                condition[field] = kept.unwrap_or_else(|| write.options.now.as_str().into());
            }
        }
    }
    if !causes.is_empty() {
        return Err(Status::invalid("certificates.k8s.io", "CertificateSigningRequest", old.name(), &causes));
    }
    let mut object = old.clone();
    object.map_at_mut(&["status"]).insert("conditions".into(), new.into());
    object.set_meta("resourceVersion", given.resource_version().to_owned());
    Ok(object)
}
