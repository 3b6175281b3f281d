//! `certificatesigningrequests/approval`: only the conditions change, and only where admission lets them.

use std::sync::Arc;

use api::kinds::certificates::certificate_signing_request;
use api::{Causes, Object, Status};
use async_trait::async_trait;
use http::StatusCode;

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

/// What the rules of requests make of the object that was given.
fn approved(write: &Write<'_>, old: &Object, given: &Object) -> Result<Object, Status> {
    let mut request = given.clone();
    certificate_signing_request::prepare_approval(&mut request, old);
    certificate_signing_request::stamp_conditions(&mut request, old, &write.options.now);
    let mut causes = Causes::default();
    certificate_signing_request::validate_approval(&request, old, &mut causes);
    if !causes.is_empty() {
        return Err(Status::invalid("certificates.k8s.io", "CertificateSigningRequest", old.name(), &causes));
    }
    Ok(request)
}
