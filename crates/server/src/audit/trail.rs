//! What is known about one request for its audit events.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::Status;
use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;
use http::request::Parts;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::Audit;
use super::event::{self, Event};
use super::policy::{Decision, Level, Stage};
use crate::attributes::Attributes;
use crate::body::{BoxError, RequestBody, ResponseBody};
use crate::request::{Call, Reply, header};
use crate::user::User;

tokio::task_local! {
    static TRAIL: Arc<Trail>;
}

/// Names a request in its audit events and its answer.
const ID_HEADER: &str = "audit-id";

/// Longest user agent that is written whole.
const MAX_AGENT: usize = 1024;

/// The trail of one request, from its coming to the end of its answer.
pub struct Trail {
    audit: Arc<Audit>,
    id: String,
    received: Timestamp,
    uri: String,
    agent: String,
    source_ips: Vec<String>,
    attributes: Attributes,
    long_running: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    decision: Option<Decision>,
    user: Value,
    impersonated: Option<Value>,
    object_ref: Option<Value>,
    request_object: Option<Value>,
    response_status: Option<Value>,
    response_object: Option<Value>,
    annotations: BTreeMap<String, String>,
    done: bool,
}

/// The id of a request: that of its caller, who may have given it one, or a new one.
pub fn id(call: &Call) -> String {
    match header(&call.parts, ID_HEADER) {
        "" if call.caller.peer().is_none() => String::new(),
        "" => uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string(),
        given => given.chars().take(64).collect(),
    }
}

/// Tells the caller the id of its request.
pub fn tell_id(reply: &mut Reply, id: &str) {
    if let Ok(mut value) = HeaderValue::from_str(id) {
        if !id.is_empty() {
            // Never the same twice: in the table of known headers of an HTTP/2 connection it would only be in the way.
            value.set_sensitive(true);
            reply.headers_mut().insert(ID_HEADER, value);
        }
    }
}

/// Serves a request with its trail, if it has one.
pub async fn within<T>(trail: Option<Arc<Trail>>, work: impl Future<Output = T>) -> T {
    match trail {
        Some(trail) => TRAIL.scope(trail, work).await,
        None => work.await,
    }
}

/// The trail of the request that this task serves.
fn current() -> Option<Arc<Trail>> {
    TRAIL.try_with(Arc::clone).ok()
}

/// Adds an annotation to the events of the request, if it is audited. The first value of a key stays.
pub fn annotate(key: impl Into<String>, value: impl Into<String>) {
    annotate_at(Level::Metadata, key, value);
}

/// Adds an annotation that shows content, and so is for requests that are written with theirs.
pub fn annotate_request(key: impl Into<String>, value: impl Into<String>) {
    annotate_at(Level::Request, key, value);
}

fn annotate_at(level: Level, key: impl Into<String>, value: impl Into<String>) {
    let add = |trail: &Arc<Trail>| {
        let mut state = trail.state.lock();
        if state.decision.as_ref().is_some_and(|decision| decision.level >= level) {
            state.annotations.entry(key.into()).or_insert_with(|| value.into());
        }
    };
    // Most requests are not audited.
    TRAIL.try_with(add).unwrap_or(());
}

/// Settles how fully the request is audited now that its caller is known, and writes that it has come.
///
/// # Errors
/// When its body, which is to be written down, cannot be read.
pub async fn identified(user: &User, call: &mut Call) -> Result<(), Status> {
    let Some(trail) = current() else { return Ok(()) };
    let level = trail.decide(Some(user));
    if level == Level::None {
        return Ok(());
    }
    trail.emit(Stage::RequestReceived);
    let writes = matches!(trail.attributes.verb, "create" | "update" | "patch" | "delete" | "deletecollection");
    if writes && !trail.long_running {
        // The reference needs names that only the object has, so it is read at the level of metadata, too.
        let body = std::mem::replace(&mut call.body, RequestBody::Ready(Bytes::new())).collect().await?;
        trail.sent(&body, header(&call.parts, "content-type"), level);
        call.body = RequestBody::Ready(body);
    }
    Ok(())
}

/// Notes as whom the request is served.
pub fn impersonated(user: &User) {
    let note = |trail: &Arc<Trail>| trail.state.lock().impersonated = Some(user.to_value());
    TRAIL.try_with(note).unwrap_or(());
}

impl Trail {
    /// The trail of a request that has just come.
    pub fn begin(audit: &Arc<Audit>, call: &Call, attributes: &Attributes, id: &str, long_running: bool) -> Arc<Trail> {
        let peer = call.caller.peer().map_or_else(|| "::1".to_owned(), |peer| peer.ip().to_canonical().to_string());
        let mut agent = header(&call.parts, "user-agent").to_owned();
        if agent.len() > MAX_AGENT {
            let end = (0..=MAX_AGENT).rev().find(|end| agent.is_char_boundary(*end)).unwrap_or(0);
            agent.truncate(end);
            agent.push_str("...TRUNCATED");
        }
        let uri = call.parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str).to_owned();
        Arc::new(Trail {
            audit: audit.clone(),
            id: if id.is_empty() { uuid::Uuid::new_v4().to_string() } else { id.to_owned() },
            received: Timestamp::now(),
            uri,
            agent,
            source_ips: source_ips(&call.parts, peer),
            attributes: attributes.clone(),
            long_running,
            state: Mutex::default(),
        })
    }

    /// Writes down a list or watch that a component of this process does without going through the pipeline.
    pub fn note(audit: &Arc<Audit>, user: &User, attributes: &Attributes, uri: String) {
        let trail = Trail {
            audit: audit.clone(),
            id: uuid::Uuid::new_v4().to_string(),
            received: Timestamp::now(),
            uri,
            agent: String::new(),
            source_ips: vec!["::1".into()],
            attributes: attributes.clone(),
            long_running: attributes.verb == "watch",
            state: Mutex::default(),
        };
        if trail.decide(Some(user)) == Level::None {
            return;
        }
        {
            let mut state = trail.state.lock();
            state.annotations.insert("authorization.k8s.io/decision".into(), "allow".into());
        }
        trail.emit(Stage::RequestReceived);
        trail.state.lock().response_status = Some(json!({"metadata": {}, "code": 200}));
        if trail.long_running {
            trail.emit(Stage::ResponseStarted);
        }
        trail.finish(Stage::ResponseComplete);
    }

    fn decide(&self, user: Option<&User>) -> Level {
        let nobody = User::default();
        let decision = self.audit.policy().decide(user.unwrap_or(&nobody), &self.attributes);
        let level = decision.level;
        self.audit.count(level);
        let mut state = self.state.lock();
        state.user = user.map_or_else(|| json!({}), User::to_value);
        state.object_ref = event::object_ref(&self.attributes);
        state.done = level == Level::None;
        state.decision = Some(decision);
        level
    }

    fn sent(&self, body: &Bytes, content_type: &str, level: Level) {
        let Some(mut object) = event::body_value(body, content_type) else { return };
        let mut state = self.state.lock();
        if let Some(reference) = state.object_ref.as_mut().filter(|_| matches!(self.attributes.verb, "create" | "update")) {
            event::complete_ref(reference, &object);
        }
        if level >= Level::Request {
            if state.decision.as_ref().is_some_and(|decision| decision.omit_managed_fields) {
                event::drop_managed_fields(&mut object);
            }
            state.request_object = Some(object);
        }
    }

    /// Notes the outcome. What is written at the end of a stream comes when the stream ends.
    pub fn complete(self: Arc<Self>, mut reply: Reply) -> Reply {
        let code = reply.status().as_u16();
        let level = {
            let state = self.state.lock();
            if state.done {
                return reply;
            }
            state.decision.as_ref().map(|decision| decision.level)
        };
        let Some(level) = level else {
            // The caller is not known: authentication failed, or the request never came so far.
            if self.decide(None) != Level::None {
                self.state.lock().response_status = Some(self.unauthenticated(code));
                self.finish(Stage::ResponseStarted);
            }
            return reply;
        };
        let content_type = reply.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        let body = std::mem::replace(reply.body_mut(), ResponseBody::Full(Bytes::new()));
        let body = match body {
            ResponseBody::List(_) if level == Level::RequestResponse => body.into_ready().map_or_else(|other| other, ResponseBody::Full),
            other => other,
        };
        let mut status = json!({"metadata": {}, "code": code});
        if let ResponseBody::Full(bytes) = &body {
            self.answered(bytes, &content_type, code, level, &mut status);
        }
        self.state.lock().response_status = Some(status);
        if self.long_running {
            self.emit(Stage::ResponseStarted);
        }
        *reply.body_mut() = match body {
            ResponseBody::Stream(stream) => ResponseBody::Stream(Box::pin(Ending { stream, trail: self })),
            other => {
                self.finish(Stage::ResponseComplete);
                other
            }
        };
        reply
    }

    fn answered(&self, bytes: &Bytes, content_type: &str, code: u16, level: Level, status: &mut Value) {
        if code < 400 && level < Level::RequestResponse && !bytes.starts_with(b"{") {
            return;
        }
        let is_status = code >= 400 || memmem(&bytes[..bytes.len().min(512)], b"\"Status\"");
        if !is_status && level < Level::RequestResponse {
            return;
        }
        let Some(mut value) = event::body_value(bytes, content_type) else { return };
        if value["kind"] == "Status" {
            for field in ["status", "message", "reason", "details"] {
                if let Some(part) = value.get(field).filter(|part| !part.is_null()) {
                    status[field] = part.clone();
                }
            }
        }
        if level == Level::RequestResponse {
            let mut state = self.state.lock();
            if state.decision.as_ref().is_some_and(|decision| decision.omit_managed_fields) {
                event::drop_managed_fields(&mut value);
            }
            state.response_object = Some(value);
        }
    }

    fn unauthenticated(&self, code: u16) -> Value {
        if code == 401 {
            json!({"metadata": {}, "status": "Failure", "message": "Authentication failed, attempted: bearer", "code": code})
        } else {
            json!({"metadata": {}, "status": "Failure", "code": code})
        }
    }

    fn finish(&self, stage: Stage) {
        self.emit(stage);
        self.state.lock().done = true;
    }

    fn emit(&self, stage: Stage) {
        let state = self.state.lock();
        let Some(decision) = &state.decision else { return };
        if state.done || decision.level == Level::None || decision.omit_stages.contains(&stage) {
            return;
        }
        let (kind, api_version, level, stage_name) = Event::names(decision.level, stage);
        let annotations = Some(&state.annotations).filter(|annotations| !annotations.is_empty());
        let event = Event {
            kind,
            api_version,
            level,
            id: &self.id,
            stage: stage_name,
            uri: &self.uri,
            verb: self.attributes.verb,
            user: &state.user,
            impersonated_user: state.impersonated.as_ref(),
            source_ips: &self.source_ips,
            user_agent: &self.agent,
            object_ref: state.object_ref.as_ref(),
            response_status: state.response_status.as_ref(),
            request_object: state.request_object.as_ref(),
            response_object: state.response_object.as_ref(),
            request_received_timestamp: event::micro(self.received),
            stage_timestamp: event::micro(Timestamp::now()),
            annotations,
        };
        let mut line = serde_json::to_vec(&event).expect("an event can always be written");
        line.push(b'\n');
        self.audit.write(&line);
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        let is_open = {
            let mut state = self.state.lock();
            let is_open = !state.done && state.decision.is_some();
            if is_open && std::thread::panicking() {
                state.response_status = Some(
                    json!({"metadata": {}, "status": "Failure", "message": "APIServer panic'd", "reason": "InternalError", "code": 500}),
                );
            } else if is_open && state.response_status.is_none() {
                state.response_status =
                    Some(json!({"metadata": {}, "status": "Success", "message": "Connection closed early", "code": 200}));
            }
            is_open
        };
        if is_open {
            self.finish(if std::thread::panicking() { Stage::Panic } else { Stage::ResponseComplete });
        }
    }
}

fn memmem(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Proxies say for whom they call; the last address is the one that is known for sure.
fn source_ips(parts: &Parts, peer: String) -> Vec<String> {
    let forwarded = header(parts, "x-forwarded-for").split(',').map(str::trim);
    let mut found: Vec<String> = forwarded.filter(|text| text.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect();
    let real = header(parts, "x-real-ip").trim();
    if real.parse::<std::net::IpAddr>().is_ok() && !found.iter().any(|one| one == real) {
        found.push(real.to_owned());
    }
    if found.last() != Some(&peer) {
        found.push(peer);
    }
    found
}

/// A stream whose end is written down; also an end that the caller makes by going away.
struct Ending {
    stream: Pin<Box<dyn Stream<Item = Result<Bytes, BoxError>> + Send>>,
    trail: Arc<Trail>,
}

impl Stream for Ending {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.stream.as_mut().poll_next(context)
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.trail.finish(Stage::ResponseComplete);
    }
}
