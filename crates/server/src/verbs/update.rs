//! Replaces an object, or makes it where the kind allows that.

use std::sync::Arc;

use api::{Object, Status};
use http::StatusCode;

use crate::catalog::Served;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit::Written;
use crate::steps::decode::{self, Expected};
use crate::steps::encode;
use crate::steps::update::{Changed, guaranteed_update};
use crate::verbs::create;
use crate::write::Write;

/// Kinds that a PUT may make.
const CREATE_ON_UPDATE: &[(&str, &str)] = &[
    ("", "endpoints"),
    ("", "events"),
    ("events.k8s.io", "events"),
    ("", "limitranges"),
    ("coordination.k8s.io", "leases"),
    ("rbac.authorization.k8s.io", "roles"),
    ("rbac.authorization.k8s.io", "rolebindings"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
];

/// Answers with the new version.
///
/// # Errors
/// What a step refuses with.
pub async fn update(server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
    let body = request.take_body();
    let write = Write::new(server, &request, "UpdateOptions")?;
    let served = &request.served;
    let expected = Expected { schema: served.schema(), api_version: &served.api_version, kind: &served.def.kind };
    let decoded = write.told(decode::decode(&write, body, request.header("content-type"), expected).await)?;
    let name = &request.allowed.attributes().name;
    let mut object = decoded.into_object();
    crate::steps::prepare::once_each_owner(&write, &mut object);
    check_name(&object, name)?;
    let result = guaranteed_update(&write, name, |_| Ok(Changed::whole(object.clone()))).await;
    let (code, written) = match result {
        Ok(written) => (StatusCode::OK, written),
        Err(status) if status.is_not_found() && may_create(served, &request) => {
            (StatusCode::CREATED, create_instead(server, &request, object).await?)
        }
        Err(status) => return write.told(Err(status)),
    };
    encode::written(&request, code, &written, write.take_warnings())
}

fn check_name(object: &Object, name: &str) -> Result<(), Status> {
    match object.name() {
        "" => Err(Status::bad_request(format!("the name of the object ({name} based on URL) was undeterminable: name must be provided"))),
        own if own == name => Ok(()),
        own => Err(Status::bad_request(format!("the name of the object ({own}) does not match the name on the URL ({name})"))),
    }
}

fn may_create(served: &Served, request: &Request) -> bool {
    request.allowed.attributes().subresource.is_empty()
        && CREATE_ON_UPDATE.iter().any(|(group, plural)| *group == &*served.def.group && *plural == &*served.def.plural)
}

async fn create_instead(server: &Arc<Server>, request: &Request, mut object: Object) -> Result<Written, Status> {
    let allowed = request.allowed.also_create(server)?;
    let options = crate::steps::options::WriteOptions::read(request, "UpdateOptions")?;
    let write = Write::with_options(server, &allowed, &request.served, options);
    // Nothing that is there is meant by it.
    object.metadata_mut().remove("resourceVersion");
    if object.name().is_empty() {
        object.set_meta("name", request.allowed.attributes().name.clone());
    }
    create::run_placed(&write, object).await
}
