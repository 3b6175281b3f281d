//! `serviceaccounts/token`: mints bound tokens.

use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use http::StatusCode;
use pki::{BoundObject, TokenRequest};
use serde_json::Value;
use store::{Entry, Kind};

use super::{Subresource, admit, decoded, reply_with};
use crate::admission::Operation;
use crate::authenticate::audiences;
use crate::failure;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::steps::commit;
use crate::steps::options::now;
use crate::write::Write;

/// Shortest lifetime.
const SHORTEST: i64 = 600;
/// Longest lifetime.
const LONGEST: i64 = 1 << 32;
/// Lifetime where none is asked for.
const USUAL: i64 = 3600;
/// The lifetime that pods ask for without a wish of their own; such tokens last a year and warn after that time.
const WARN_AFTER: i64 = 3607;
const YEAR: i64 = 365 * 24 * 3600;

/// Of the request for a token.
const API_VERSION: &str = "authentication.k8s.io/v1";

/// The subresource.
pub fn subresource() -> Box<dyn Subresource> {
    Box::new(ServiceAccountToken)
}

struct ServiceAccountToken;

#[async_trait]
impl Subresource for ServiceAccountToken {
    fn serves(&self, group: &str, plural: &str, subresource: &str) -> bool {
        (group, plural, subresource) == ("", "serviceaccounts", "token")
    }

    async fn serve(&self, server: &Arc<Server>, mut request: Request) -> Result<Reply, Status> {
        if request.allowed.attributes().verb != "create" {
            return Err(failure::method_not_allowed());
        }
        let body = request.take_body();
        let write = Write::new(server, &request, "CreateOptions")?;
        let mut asked = decoded(&write, body, request.header("content-type")).await?;
        asked.map_at_mut(&["spec"]).entry("expirationSeconds").or_insert(USUAL.into());
        manage(&write, &mut asked);
        let attributes = request.allowed.attributes();
        let key = commit::key(&request.served, &attributes.namespace, &attributes.name);
        let account = server.store.mvcc().get(&key).value.ok_or_else(|| request.served.not_found(&attributes.name))?;
        let mut asked = admit(&write, Operation::Create, asked, None).await?;
        mint(server, &mut asked, &account)?;
        reply_with(&request, StatusCode::CREATED, &asked)
    }
}

fn mint(server: &Server, asked: &mut Object, account: &Entry) -> Result<(), Status> {
    let header = &account.header;
    let mut causes = Causes::default();
    let seconds = asked.at(&["spec", "expirationSeconds"]).and_then(Value::as_i64).unwrap_or(USUAL);
    if seconds < SHORTEST {
        causes.invalid("spec.expirationSeconds", &Value::from(seconds), "may not specify a duration less than 10 minutes");
    } else if seconds > LONGEST {
        causes.invalid("spec.expirationSeconds", &Value::from(seconds), "may not specify a duration larger than 2^32 seconds");
    }
    if !causes.is_empty() {
        return Err(Status::invalid("authentication.k8s.io", "TokenRequest", "", &causes));
    }
    let mut wanted: Vec<String> = asked
        .at(&["spec", "audiences"])
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let own = audiences(server);
    if wanted.is_empty() {
        wanted.clone_from(&own);
    }
    let bound = bound(server, asked, &header.namespace)?;
    let extended = seconds == WARN_AFTER && bound.pod.is_some() && wanted == own;
    let token_request = TokenRequest {
        namespace: header.namespace.to_string(),
        service_account: header.name.to_string(),
        service_account_uid: header.uid.to_string(),
        audiences: wanted.clone(),
        expiration_seconds: if extended { YEAR } else { seconds },
        warn_after_seconds: extended.then_some(WARN_AFTER),
        pod: bound.pod,
        secret: bound.secret,
        node: bound.node,
    };
    let (token, expiry) = server.tokens.mint(&token_request).map_err(Status::internal)?;
    let shown = if extended { jiff::Timestamp::now().as_second() + WARN_AFTER } else { expiry.as_second() };
    asked.set_meta("name", header.name.to_string());
    asked.set_meta("namespace", header.namespace.to_string());
    asked.set_meta("uid", header.uid.to_string());
    asked.set_meta("creationTimestamp", now());
    let spec = asked.map_at_mut(&["spec"]);
    spec.insert("audiences".into(), wanted.into());
    spec.insert("expirationSeconds".into(), seconds.into());
    let status = asked.map_at_mut(&["status"]);
    status.insert("token".into(), token.into());
    status.insert("expirationTimestamp".into(), crate::steps::options::timestamp(shown).into());
    Ok(())
}

/// Notes who wrote which fields of the request, which is of another kind than the account.
fn manage(write: &Write<'_>, asked: &mut Object) {
    struct Requests;
    impl patch::Managed for Requests {
        fn schema(&self, api_version: &str) -> Option<api::TypeRef> {
            (api_version == API_VERSION).then(|| api::schema::builtin_kind("authentication.k8s.io", "v1", "TokenRequest")).flatten()
        }
        fn convert(&self, object: &Object, _api_version: &str) -> Option<Object> {
            Some(object.clone())
        }
        fn reset(&self, _subresource: &str) -> Vec<Vec<&'static str>> {
            Vec::new()
        }
    }
    let by = patch::ManagedBy { api_version: API_VERSION, ..write.managed_by() };
    patch::managed::update(None, asked, &by, &Requests);
}

#[derive(Default)]
struct Bound {
    pod: Option<BoundObject>,
    secret: Option<BoundObject>,
    node: Option<BoundObject>,
}

/// Finds the object that the token shall be bound to.
fn bound(server: &Server, asked: &Object, namespace: &str) -> Result<Bound, Status> {
    let text = |field: &str| asked.text_at(&["spec", "boundObjectRef", field]);
    let (kind, name, uid) = (text("kind"), text("name"), text("uid"));
    if kind.is_empty() && name.is_empty() {
        return Ok(Bound::default());
    }
    let (prefix, plural, rest) = match kind {
        "Pod" => ("/registry/pods/", "pods", format!("{namespace}/{name}")),
        "Secret" => ("/registry/secrets/", "secrets", format!("{namespace}/{name}")),
        "Node" => ("/registry/minions/", "nodes", name.to_owned()),
        other => {
            let api_version = text("apiVersion");
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            return Err(Status::bad_request(format!("cannot bind token to object of type {group}/{version}, Kind={other}")));
        }
    };
    let entry = find(server, prefix, &rest).ok_or_else(|| Status::not_found("", plural, name))?;
    if !uid.is_empty() && *entry.header.uid != *uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict("", plural, name, &why));
    }
    let object = Some(BoundObject { name: name.to_owned(), uid: entry.header.uid.to_string() });
    Ok(match kind {
        "Pod" => {
            let node = entry.header.field("spec.nodeName");
            let pod: Value = serde_json::from_slice(&entry.bytes).map_err(Status::internal)?;
            let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("");
            if account != asked.name() && !asked.name().is_empty() {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    asked.name()
                )));
            }
            let node = (!node.is_empty()).then(|| BoundObject {
                name: node.to_owned(),
                uid: find(server, "/registry/minions/", node).map(|entry| entry.header.uid.to_string()).unwrap_or_default(),
            });
            Bound { pod: object, node, ..Bound::default() }
        }
        "Secret" => Bound { secret: object, ..Bound::default() },
        _ => Bound { node: object, ..Bound::default() },
    })
}

fn find(server: &Server, prefix: &str, rest: &str) -> Option<Arc<Entry>> {
    server.store.mvcc().get(&Kind::new(prefix).key(rest)).value
}
