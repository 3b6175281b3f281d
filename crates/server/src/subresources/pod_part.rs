//! `pods/ephemeralcontainers` and `pods/resize`: a whole pod comes, one part of it is taken.

use std::sync::Arc;

use api::kinds::core::pod;
use api::{Causes, Object, Status};
use async_trait::async_trait;
use http::StatusCode;

use super::{Subresource, decoded};
use crate::attributes::Verb;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::update::{Changed, guaranteed_update};
use crate::steps::{default, encode};
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
        let content_type = request.header("content-type");
        let written = if verb == Verb::Update {
            let given = decoded(&write, body, content_type).await?;
            guaranteed_update(&write, name, |old| taken(&write, old, given.clone()).map(Changed::part)).await?
        } else {
            let sort = Sort::of(content_type, false)?;
            let bytes = body.collect().await?;
            let document = codec::json::parse(&bytes).map_err(|error| Status::bad_request(error.to_string()))?;
            let schema = write.served.schema();
            guaranteed_update(&write, name, |old| {
                let value = patched(sort, old, &document, schema)?;
                let decoded = codec::json::decode_value(value, schema, write.options.strictness);
                let decoded = decoded.map_err(|error| error.status("v1", "Pod"))?;
                taken(&write, old, decoded.object).map(Changed::part)
            })
            .await?
        };
        encode::written(&request, StatusCode::OK, &written, write.take_warnings())
    }
}

/// What the rules of pods make of the part that was given.
fn taken(write: &Write<'_>, old: &Object, given: Object) -> Result<Object, Status> {
    let mut pod = default::of_object(write.served, given).into_object();
    let mut causes = Causes::default();
    if write.subresource() == "resize" {
        pod::prepare_resize(&mut pod, old);
        pod::validate_resize(&pod, old, &mut causes);
    } else {
        pod::prepare_ephemeral_containers(&mut pod, old);
        pod::validate_ephemeral_containers(&pod, old, &mut causes);
    }
    if causes.is_empty() { Ok(pod) } else { Err(Status::invalid("", "Pod", old.name(), &causes)) }
}
