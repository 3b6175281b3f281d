//! The way of every request, whether it comes over the network or from a component in the same process.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use api::{Reason, Status};
use bytes::Bytes;
use futures_util::FutureExt;
use http::Response;

use crate::attributes::{self, Attributes, Classified, Verb};
use crate::audit;
use crate::authenticate::Connection;
use crate::body::{RequestBody, ResponseBody};
use crate::catalog::{self, Served};
use crate::endpoints;
use crate::failure;
use crate::fairness::Schema;
use crate::gzip;
use crate::metrics;
use crate::query::Query;
use crate::request::{Call, Caller, Reply, Request, header, warn_first};
use crate::server::Server;
use crate::steps::admit::{Admitted, admit, is_long_running};
use crate::steps::encode::{self, Forms, Media};
use crate::steps::{authorize, identify};
use crate::trace;
use crate::user::User;
use crate::{aggregate, reviews, subresources, verbs};

/// Longest path with query that is looked at.
const MAX_URI: usize = 16 << 10;

/// Answers a request. Failures are answers, too.
pub async fn answer(server: &Arc<Server>, call: Call) -> Reply {
    let started = Instant::now();
    let media = failure_media(&call);
    let query = Query::parse(call.parts.uri.query());
    let mut classified = attributes::classify(&call.parts.method, call.parts.uri.path(), query.flag("watch"));
    name_from_selector(&mut classified, &query);
    if !classified.attributes.is_resource() {
        classified.attributes.verb = attributes::path_verb(&call.parts.method);
    }
    let labels = server.metrics.labels(&classified);
    let _in_flight = server.metrics.enter(&labels);
    let long = is_long_running(&classified.attributes, classified.verb);
    let audit_id = audit::id(&call);
    let trail = server.audit.as_ref().map(|audit| audit::Trail::begin(audit, &call, &classified.attributes, &audit_id, long));
    let timeout = server.config.request_timeout;
    let mut schema = None;
    // In a place of its own: whoever waits for the answer would otherwise hold all that the largest request needs, and move it.
    let carried = trace::of(&call.parts.headers);
    let work = trace::within(carried, audit::within(trail.clone(), Box::pin(handle(server, call, query, classified, &mut schema))));
    let result = if long {
        work.await
    } else {
        match tokio::time::timeout(timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(Status::new(Reason::Timeout, "request did not complete within the allotted timeout")),
        }
    };
    let mut reply = result.unwrap_or_else(|status| failure::answer(&status, media));
    if let Some(schema) = schema {
        schema.mark(&mut reply);
    }
    if let Some(trail) = trail {
        reply = trail.complete(reply);
    }
    audit::tell_id(&mut reply, &audit_id);
    // Nothing between a client and the server may keep what is meant for one person, unless the answer says otherwise.
    reply.headers_mut().entry(http::header::CACHE_CONTROL).or_insert(http::HeaderValue::from_static("no-cache, private"));
    let size = (!long).then(|| http_body::Body::size_hint(reply.body()).lower());
    server.metrics.observe(&labels, reply.status().as_u16(), started.elapsed(), size);
    reply
}

/// How a failure is told: as the first clause that asks for objects as they are wants it. Components in the process read JSON.
fn failure_media(call: &Call) -> Media {
    if matches!(call.caller, Caller::InProcess(_)) {
        return Media::Json;
    }
    encode::failure_media(header(&call.parts, "accept"))
}

/// A list or watch that a field selector narrows to one name is authorized for that name.
fn name_from_selector(classified: &mut Classified, query: &Query) {
    let attributes = &mut classified.attributes;
    let many = matches!(attributes.verb, "list" | "watch" | "deletecollection");
    if !many || !attributes.is_resource() || !attributes.name.is_empty() {
        return;
    }
    if let Ok(selector) = api::field_selector::FieldSelector::parse(query.text("fieldSelector")) {
        if let Some(name) = selector.exact("metadata.name") {
            attributes.name = name.to_owned();
        }
    }
}

async fn handle(
    server: &Arc<Server>,
    mut call: Call,
    query: Query,
    classified: Classified,
    schema: &mut Option<Arc<Schema>>,
) -> Result<Reply, Status> {
    if call.parts.uri.path_and_query().is_some_and(|whole| whole.as_str().len() > MAX_URI) {
        let mut status = Status::bad_request("the request URI is too long");
        status.code = 414;
        return Err(status);
    }
    let caller = identify::identify(server, &mut call).await;
    metrics::count(&server.metrics.authentications, caller.is_ok());
    let caller = match caller {
        Err(status) if status.code != 401 && !matches!(call.caller, Caller::InProcess(_)) => {
            let mut refused = failure::answer(&status, failure_media(&call));
            failure::no_sniffing(&mut refused);
            return Ok(refused);
        }
        other => other?,
    };
    let seat = match admit(server, &caller, &classified, &query, schema).await {
        Admitted::Seated(seat) => seat,
        Admitted::Refused(refused) => {
            return if matches!(call.caller, Caller::InProcess(_)) { Err(refused.status()) } else { Ok(refused.answer()) };
        }
    };
    let allowed = authorize::authorize(server, caller, classified).await;
    metrics::count(&server.metrics.authorizations, allowed.is_ok());
    let allowed = match allowed {
        Ok(allowed) => allowed,
        Err(status) if matches!(call.caller, Caller::InProcess(_)) => return Err(status),
        Err(status) => {
            let mut refused = failure::answer(&status, failure_media(&call));
            failure::no_sniffing(&mut refused);
            return Ok(refused);
        }
    };
    let reply = dispatch(server, call, query, allowed).await;
    drop(seat);
    reply
}

async fn dispatch(server: &Arc<Server>, call: Call, query: Query, allowed: authorize::Allowed) -> Result<Reply, Status> {
    let attributes = allowed.attributes();
    if let Some(service) = aggregate::service_for(server, attributes) {
        return aggregate::relay(server, call, &allowed, &service).await;
    }
    if !attributes.is_resource() {
        return endpoints::serve(server, call, query, &allowed).await;
    }
    timeout_of(&query)?;
    let catalog = server.catalog();
    let Some(served) = catalog.find(&attributes.group, &attributes.version, &attributes.resource) else {
        // Of groups that nobody serves not even the paths are known.
        let known = catalog::is_builtin_group(&attributes.group) || matches!(call.caller, Caller::InProcess(_));
        return if known { Err(failure::no_such_resource()) } else { Ok(failure::no_such_path()) };
    };
    let (one, many) = (!attributes.name.is_empty(), matches!(attributes.verb, "list" | "watch" | "deletecollection"));
    if served.custom.is_some() && served.def.namespaced() && attributes.namespace.is_empty() && !one && !many {
        return Ok(failure::no_such_path());
    }
    let only_answered = !served.def.has_verb("get") && !served.def.has_verb("list");
    if only_answered && !attributes.name.is_empty() {
        return Err(failure::no_such_resource());
    }
    if served.def.namespaced()
        && attributes.namespace.is_empty()
        && !attributes.name.is_empty()
        && attributes.verb != "list"
        && attributes.verb != "watch"
        && attributes.verb != "deletecollection"
    {
        return Err(failure::no_such_resource());
    }
    if !served.def.namespaced() && !attributes.namespace.is_empty() && attributes.resource != "namespaces" {
        return Err(failure::no_such_resource());
    }
    if !attributes.subresource.is_empty() && served.def.subresource(&attributes.subresource).is_none() {
        return Err(failure::no_such_resource());
    }
    if server.store.is_shared() && wants_the_newest(allowed.verb(), &query) {
        server.store.catch_up().await.map_err(failure::read)?;
    }
    if !is_method_served(&call.parts.method, served, &allowed) {
        return Err(failure::method_not_allowed());
    }
    let streams = is_long_running(attributes, crate::attributes::Verb::Get);
    let (accept, agent) = (header(&call.parts, "accept"), header(&call.parts, "user-agent"));
    let negotiated = match encode::negotiate(accept, &query, agent, forms(served, attributes)) {
        Ok(negotiated) => negotiated,
        Err(_) if streams => encode::Negotiated::JSON,
        Err(status) if accept.trim_start().starts_with(Media::Protobuf.content_type()) => {
            return Ok(failure::answer(&status, Media::Protobuf));
        }
        Err(status) => return Err(status),
    };
    if allowed.verb() == Verb::Watch && negotiated.media == Media::Yaml {
        return Err(encode::not_streamed());
    }
    if negotiated.shape == encode::Shape::Table {
        encode::check_include(&query)?;
    }
    let Call { parts, body, caller } = call;
    let peer = caller.peer();
    let request = Request { server: server.clone(), served: served.clone(), allowed, query, parts, body, negotiated, peer };
    let mut result = if let Some(review) = reviews::find(&request) {
        review.serve(server, request).await
    } else if let Some(subresource) = subresources::find(&request) {
        subresource.serve(server, request).await
    } else {
        verbs::serve(server, request).await
    };
    if let Some(text) = deprecation(&served) {
        match &mut result {
            Ok(reply) => warn_first(reply, text),
            // A method that the kind does not have says nothing of its age.
            Err(status) if status.code == 405 => {}
            Err(status) => {
                status.warnings.retain(|warning| warning != text);
                status.warnings.insert(0, text.to_owned());
            }
        }
    }
    result
}

/// `timeout` has to be a time, though no request lasts longer for it.
fn timeout_of(query: &Query) -> Result<(), Status> {
    let text = query.text("timeout");
    if text.is_empty() || crate::durations::parse(text.strip_prefix(['-', '+']).unwrap_or(text)).is_some() {
        return Ok(());
    }
    let why = format!("invalid timeout specified in the request URL - time: invalid duration {text:?}");
    Err(Status::bad_request(why))
}

/// What everybody who uses an old kind is told.
fn deprecation(served: &Served) -> Option<&'static str> {
    match &*served.def.plural {
        _ if served.custom.is_some() || !served.def.group.is_empty() => None,
        "endpoints" => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
        "componentstatuses" => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Whether a request must see what was committed before it came, also by other servers: all but reads that take any state,
/// lists (which ask the store themselves) and watches from a place that they name.
fn wants_the_newest(verb: Verb, query: &Query) -> bool {
    match verb {
        Verb::List => false,
        Verb::Get => query.text("resourceVersion") != "0",
        Verb::Watch => query.text("resourceVersion").is_empty(),
        _ => true,
    }
}

/// Whether a path takes a method: collections are made into, objects are changed.
fn is_method_served(method: &http::Method, served: &Served, allowed: &authorize::Allowed) -> bool {
    use crate::attributes::Verb;
    let (attributes, verb) = (allowed.attributes(), allowed.verb());
    if matches!(attributes.subresource.as_str(), "proxy" | "exec" | "attach" | "portforward") {
        return true;
    }
    if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "PATCH" | "DELETE") {
        return false;
    }
    let (one, part) = (!attributes.name.is_empty(), !attributes.subresource.is_empty());
    if part {
        let found = served.def.subresource(&attributes.subresource);
        return found.is_some_and(|one| one.verbs.iter().any(|served| &**served == verb.text()));
    }
    match verb {
        verb if verb != Verb::Create && !served.def.has_verb("get") && !served.def.has_verb("list") => false,
        Verb::Create => !one && (!served.def.namespaced() || !attributes.namespace.is_empty() || !served.def.has_verb("get")),
        Verb::Update | Verb::Patch => one,
        _ => true,
    }
}

/// What the kind of a request can be sent as.
fn forms(served: &Served, attributes: &Attributes) -> Forms {
    let stored = served.def.has_verb("get") || served.def.has_verb("list");
    Forms {
        protobuf: served.custom.is_none(),
        shapes: stored && matches!(attributes.subresource.as_str(), "" | "status" | "scale"),
        streams: stored && attributes.name.is_empty(),
    }
}

/// A call from the same process. Failures come as a Status.
///
/// # Errors
/// The Status of the answer.
pub async fn call_in_process(server: &Arc<Server>, user: &Arc<User>, request: http::Request<Bytes>) -> Result<Response<Bytes>, Status> {
    let (parts, body) = request.into_parts();
    let call = Call { parts, body: RequestBody::Ready(body), caller: Caller::InProcess(user.clone()) };
    let reply = answer(server, call).await;
    let (parts, body) = reply.into_parts();
    let bytes = ready_bytes(body).await?;
    if parts.status.is_client_error() || parts.status.is_server_error() {
        let value = codec::json::parse(&bytes).unwrap_or_default();
        return Err(Status::from_value(parts.status.as_u16(), &value));
    }
    Ok(Response::from_parts(parts, bytes))
}

async fn ready_bytes(body: ResponseBody) -> Result<Bytes, Status> {
    match body.into_ready() {
        Ok(bytes) => Ok(bytes),
        Err(stream) => {
            let collected = http_body_util::BodyExt::collect(stream).await;
            collected.map(http_body_util::Collected::to_bytes).map_err(Status::internal)
        }
    }
}

/// A request from the network.
pub async fn call_from_network(server: &Arc<Server>, connection: &Arc<Connection>, request: http::Request<hyper::body::Incoming>) -> Reply {
    let (parts, body) = request.into_parts();
    let (path, encoding) = (parts.uri.path().to_owned(), gzip::accepts(&parts.headers) && gzip::pays_off(connection.peer));
    let call = Call { parts, body: RequestBody::Network(body), caller: Caller::Connection(connection.clone()) };
    // A request that panics must not take the other requests of its connection with it.
    let reply = match AssertUnwindSafe(answer(server, call)).catch_unwind().await {
        Ok(reply) => reply,
        Err(_) => {
            tracing::error!(%path, "a request panicked");
            failure::answer(&Status::internal("the request could not be served"), Media::Json)
        }
    };
    if encoding { gzip::compressed(reply) } else { reply }
}
