//! Reads many objects, all as they were at one revision. In JSON the stored bytes are joined, never decoded.

use std::sync::Arc;

use api::{Causes, Object, Reason, Status};
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::{DecodeError, Engine, alphabet};
use bytes::Bytes;
use codec::ListHead;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use store::{At, Entry, Form, Key, Limit, Page, Range, ReadError, Revision};

use crate::body::{ListBody, ResponseBody};
use crate::failure;
use crate::request::{Reply, Request, reply};
use crate::selection::Selected;
use crate::server::Server;
use crate::steps::convert;
use crate::steps::encode::{self, Media, Shape};

/// What part of which state is asked for.
struct Asked {
    at: At,
    start_after: Option<Key>,
    limit: usize,
}

/// What was found, for the head of the list.
pub(super) struct Found {
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) revision: Revision,
    pub(super) token: String,
    pub(super) remaining: Option<i64>,
}

/// Tokens are base64 without padding; what the last letter says beyond whole bytes does not count.
const TOKENS: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Lists above this are encoded away from the threads that serve requests.
const LARGE: usize = 500;

/// Answers with the objects of a selection.
///
/// # Errors
/// 400 for bad options, 410 where the state is not kept any more.
pub async fn list(server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
    let selected = Selected::read(&request.served, &request.allowed.attributes().namespace, &request.query)?;
    let found = find(server, &request, &selected).await?;
    convert::prepare(&request.served, &found.entries).await?;
    if request.negotiated.media == Media::Json && request.negotiated.shape == Shape::Object || found.entries.len() < LARGE {
        return encode_list(server, &request, found);
    }
    let server = server.clone();
    tokio::task::spawn_blocking(move || encode_list(&server, &request, found)).await.map_err(Status::internal)?
}

/// The objects that a query means, as far as they are in one part of the list.
///
/// # Errors
/// As `list`.
pub(super) async fn find(server: &Arc<Server>, request: &Request, selected: &Selected) -> Result<Found, Status> {
    read(server, selected, asked(request, selected)?).await
}

fn asked(request: &Request, selected: &Selected) -> Result<Asked, Status> {
    let query = &request.query;
    let (version, rule, token) = (query.text("resourceVersion"), query.text("resourceVersionMatch"), query.text("continue"));
    let limit = query.number("limit")?.unwrap_or(0);
    let mut causes = Causes::default();
    if !rule.is_empty() {
        if version.is_empty() {
            causes.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !token.is_empty() {
            causes.forbidden("resourceVersionMatch", "resourceVersionMatch is forbidden when continue is provided");
        }
        if !matches!(rule, "Exact" | "NotOlderThan") {
            causes.not_supported_in_order("resourceVersionMatch", &Value::from(rule), &["Exact", "NotOlderThan", ""]);
        }
        if rule == "Exact" && version == "0" {
            causes.forbidden("resourceVersionMatch", "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if query.get("sendInitialEvents").is_some() {
        causes.forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
    }
    if !causes.is_empty() {
        return Err(Status::invalid("meta.k8s.io", "ListOptions", "", &causes));
    }
    // Whoever takes any state gets all of it, as from the real server's cache.
    let limit_or_all = if limit > 0 && version != "0" { limit as usize } else { usize::MAX };
    if !token.is_empty() {
        if !version.is_empty() && version != "0" {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        let (revision, start) = read_token(token)?;
        let at = revision.map_or(At::Latest, At::Exact);
        return Ok(Asked { at, start_after: Some(selected.prefix.kind.key(start)), limit: limit_or_all });
    }
    let revision = parse_version(version)?;
    let at = match (revision, rule) {
        (None | Some(Revision(0)), _) => At::Latest,
        (Some(revision), "Exact") => At::Exact(revision),
        (Some(revision), "NotOlderThan") => At::NotOlderThan(revision),
        (Some(revision), _) if limit > 0 => At::Exact(revision),
        (Some(revision), _) => At::NotOlderThan(revision),
    };
    Ok(Asked { at, start_after: None, limit: limit_or_all })
}

/// Reads a resource version; `None` for an empty one.
///
/// # Errors
/// 400 for anything but a number.
pub fn parse_version(text: &str) -> Result<Option<Revision>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse()
        .map(|number| Some(Revision(number)))
        .map_err(|_| Status::bad_request(format!("invalid resource version: {}", failure::no_version(text))))
}

async fn read(server: &Arc<Server>, selected: &Selected, asked: Asked) -> Result<Found, Status> {
    let plain = selected.is_everything();
    let limit = match (plain, asked.limit) {
        (true, usize::MAX) => Limit::NONE,
        (true, entries) => Limit::page(entries),
        (false, _) => Limit::NONE,
    };
    let range = Range { prefix: selected.prefix.clone(), start_after: asked.start_after.clone() };
    let result = server.store.list(range, asked.at, limit).await;
    let found = match result {
        Err(ReadError::TooOld { .. }) if asked.start_after.is_some() => return Err(expired_token(asked.start_after)),
        other => other.map_err(failure::read)?,
    };
    let Page { mut entries, mut more, remaining } = found.value;
    let mut remaining = remaining.map(|count| count as i64).filter(|_| more);
    if !plain {
        let end = entries.last().map(|entry| entry.key.clone());
        entries.retain(|entry| selected.matches(entry));
        // A page that is full is the last one only if nothing at all comes behind it, whether it is selected or not.
        more |= entries.len() == asked.limit && entries.last().map(|entry| &entry.key) != end.as_ref();
        if entries.len() > asked.limit {
            entries.truncate(asked.limit);
            more = true;
        }
        remaining = None;
    }
    let token = match entries.last() {
        Some(last) if more => write_token(Some(found.revision), &last.key.rest),
        _ => String::new(),
    };
    Ok(Found { entries, revision: found.revision, token, remaining })
}

/// A continue token: the revision of the first page and where the next one starts.
fn write_token(revision: Option<Revision>, rest: &str) -> String {
    let revision = revision.map_or(-1, |revision| revision.0 as i64);
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": format!("{rest}\u{0}")});
    TOKENS.encode(token.to_string())
}

fn read_token(token: &str) -> Result<(Option<Revision>, String), Status> {
    let bad = |why: String| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
    let place = |error: DecodeError| match error {
        DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
        // What is left over does not make a byte.
        _ => token.len() / 4 * 4,
    };
    let bytes = TOKENS.decode(token).map_err(|error| bad(format!("illegal base64 data at input byte {}", place(error))))?;
    let value = codec::json::parse(&bytes).map_err(|error| bad(error.to_string()))?;
    let of_type = |place: &str, found: &Value, wanted: &str| {
        bad(format!("json: cannot unmarshal {} into Go {place} of type {wanted}", json_type(found)))
    };
    if !value.is_object() {
        return Err(of_type("value", &value, "storage.continueToken"));
    }
    let text = |field: &str| match &value[field] {
        Value::Null => Ok(String::new()),
        Value::String(text) => Ok(text.clone()),
        other => Err(of_type(&format!("struct field continueToken.{field}"), other, "string")),
    };
    let (version, start) = (text("v")?, text("start")?);
    let revision = match &value["rv"] {
        Value::Null => 0,
        number => number.as_i64().ok_or_else(|| of_type("struct field continueToken.rv", number, "int64"))?,
    };
    if version != "meta.k8s.io/v1" {
        return Err(bad(format!("server does not recognize this encoded version {version}")));
    }
    if revision == 0 {
        return Err(bad(format!("incorrect encoded start resourceVersion (version {version})")));
    }
    if start.is_empty() {
        return Err(bad(format!("encoded start key empty (version {version})")));
    }
    if start.split('/').any(|part| matches!(part, "." | "..")) {
        return Err(bad(start));
    }
    Ok(((revision > 0).then(|| Revision(revision as u64)), start.trim_end_matches('\u{0}').to_owned()))
}

/// What a value is in the words of Go's decoder.
fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn expired_token(start: Option<Key>) -> Status {
    let mut status = Status::new(
        Reason::Expired,
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    if let Some(key) = start {
        status.metadata.insert("continue".into(), write_token(None, &key.rest).into());
    }
    status
}

fn encode_list(server: &Arc<Server>, request: &Request, found: Found) -> Result<Reply, Status> {
    let served = &request.served;
    let version = found.revision.to_string();
    let head = ListHead {
        api_version: &served.api_version,
        kind: &served.def.list_kind,
        resource_version: &version,
        continue_token: &found.token,
        remaining: found.remaining,
        always_continue: served.custom.is_some() && request.negotiated.shape == Shape::Object,
    };
    let negotiated = &request.negotiated;
    let mut answer = match (negotiated.shape, negotiated.media) {
        (Shape::Object, Media::Json) if !negotiated.pretty && found.entries.iter().all(|entry| convert::is_verbatim(served, entry)) => {
            let body = ListBody::new(head.json_start().into(), found.entries, Bytes::from_static(codec::list::JSON_END));
            let mut answer = reply(StatusCode::OK, "application/json", Bytes::new());
            *answer.body_mut() = ResponseBody::List(body);
            answer
        }
        (Shape::Object, Media::Protobuf) => {
            let form = Form(served.form | MESSAGE);
            let message = |entry: &Entry| {
                codec::protobuf::message(&convert::read(served, entry)?, served.schema()).map(Bytes::from).map_err(Status::internal)
            };
            let messages: Vec<Bytes> = found
                .entries
                .iter()
                .map(|entry| server.store.derived().get_or_make(entry, form, message))
                .collect::<Result<_, Status>>()?;
            let body = codec::protobuf::list(&head, messages.iter().map(|message| &message[..]));
            reply(StatusCode::OK, negotiated.media.content_type(), body)
        }
        (Shape::Metadata, _) => metadata_list(request, &head, &found.entries)?,
        (Shape::Table, _) => {
            let objects = objects(request, &found.entries)?;
            let table = codec::table::table(&served.def, &head, &objects, encode::include(&request.query), &encode::clock());
            reply(StatusCode::OK, negotiated.media.content_type(), encode::value_bytes(negotiated, &table)?)
        }
        (Shape::Object, _) => {
            let items: Vec<Value> = objects(request, &found.entries)?.into_iter().map(Object::into_value).collect();
            let list = json!({"kind": head.kind, "apiVersion": head.api_version, "metadata": head.metadata(), "items": items});
            reply(StatusCode::OK, negotiated.media.content_type(), encode::value_bytes(negotiated, &list)?)
        }
    };
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    encode::finish(request, &mut answer, Vec::new());
    Ok(answer)
}

/// Marks the number of a derived form as that of the bare message.
const MESSAGE: u32 = 1 << 30;

fn objects(request: &Request, entries: &[Arc<Entry>]) -> Result<Vec<Object>, Status> {
    entries.iter().map(|entry| convert::read(&request.served, entry)).collect()
}

fn metadata_list(request: &Request, head: &ListHead, entries: &[Arc<Entry>]) -> Result<Reply, Status> {
    let negotiated = &request.negotiated;
    let head = ListHead { api_version: "meta.k8s.io/v1", kind: "PartialObjectMetadataList", ..head.clone() };
    let items = entries.iter().map(|entry| codec::metadata_only::object(&entry.bytes).map_err(Status::internal));
    let items: Vec<Vec<u8>> = items.collect::<Result<_, Status>>()?;
    if negotiated.media == Media::Json && !negotiated.pretty {
        let body = codec::list::json(&head, items.iter().map(Vec::as_slice));
        return Ok(reply(StatusCode::OK, "application/json", body));
    }
    let items: Vec<Value> = items.iter().map(|item| codec::json::parse(item).map_err(Status::internal)).collect::<Result<_, _>>()?;
    let list = json!({"kind": head.kind, "apiVersion": head.api_version, "metadata": head.metadata(), "items": items});
    Ok(reply(StatusCode::OK, negotiated.media.content_type(), encode::value_bytes(negotiated, &list)?))
}
