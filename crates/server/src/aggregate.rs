//! Groups that other servers serve: requests are relayed to the Service of an APIService object.

use std::sync::Arc;

use api::{Object, Reason, Status};
use serde_json::{Value, json};
use store::Kind;

use crate::attributes::Attributes;
use crate::request::{Call, Reply};
use crate::server::Server;
use crate::steps::authorize::Allowed;

/// Where a group version is served.
pub struct Service {
    /// The APIService object.
    pub object: Object,
}

/// The other server of a path, if it has one.
pub fn service_for(server: &Server, asked: &Attributes) -> Option<Service> {
    let mut parts = asked.path.split('/').skip(1);
    if parts.next() != Some("apis") {
        return None;
    }
    let (group, version) = (parts.next()?, parts.next()?);
    let rest = format!("{version}.{group}");
    let entry = server.store.mvcc().get(&services().key(rest)).value?;
    let object = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)?;
    object.at(&["spec", "service"]).is_some_and(Value::is_object).then_some(Service { object })
}

fn services() -> Kind {
    Kind::new(api::resources::storage_prefix("apiregistration.k8s.io", "apiservices", false))
}

/// Group versions that other servers serve.
pub fn group_versions(server: &Server) -> Vec<(String, String)> {
    let snapshot = server.store.mvcc().snapshot(&services());
    let objects = snapshot.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value));
    objects
        .filter(|object| object.at(&["spec", "service"]).is_some_and(Value::is_object))
        .map(|object| (object.text_at(&["spec", "group"]).to_owned(), object.text_at(&["spec", "version"]).to_owned()))
        .collect()
}

/// The discovery of a group version that another server serves.
pub fn discovery(_server: &Server, _group: &str, version: &str) -> Value {
    json!({"version": version, "freshness": "Stale"})
}

/// Relays a request.
///
/// # Errors
/// 503 where the other server cannot be reached.
pub async fn relay(_server: &Arc<Server>, _call: Call, _allowed: &Allowed, service: &Service) -> Result<Reply, Status> {
    Err(Status::new(Reason::ServiceUnavailable, format!("service of {} is unavailable: aggregated servers are not reached yet", service.object.name())))
}
