//! OpenAPI v2 and v3, made once per version of the catalog.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{ResourceDef, Status};
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{is_unchanged, tagged};
use crate::failure;
use crate::request::{Call, Reply, header, reply};
use crate::server::Server;

/// Documents that were made, by path and form, for one version of the catalog.
#[derive(Default)]
pub struct Documents {
    made: Mutex<(u64, HashMap<String, Document>)>,
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    etag: String,
}

const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

/// Answers a path under `/openapi`.
///
/// # Errors
/// 404 for group versions that are not served, 406 for forms that are not made.
pub async fn serve(server: &Arc<Server>, call: &Call, path: &str) -> Result<Reply, Status> {
    let accept = header(&call.parts, "accept");
    match path {
        "/openapi/v2" => {
            let protobuf = accept.contains("openapi.spec.v2") && !accept.trim_start().starts_with("application/json");
            let (key, content_type) = if protobuf { ("v2.pb", V2_PROTOBUF) } else { ("v2.json", "application/json") };
            let document = document(server, key).await?;
            Ok(answer(call, document, content_type))
        }
        "/openapi/v3" => {
            let index = index(server).await?;
            let mut reply = reply(StatusCode::OK, "application/json", failure::line(&index));
            reply.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
            Ok(reply)
        }
        _ => {
            if accept.trim() == V3_PROTOBUF {
                return Err(Status::new(api::Reason::NotAcceptable, "only application/json is served here"));
            }
            let group_version = path.strip_prefix("/openapi/v3/").ok_or_else(failure::no_such_resource)?;
            let document = document(server, group_version).await?;
            let mut answer = answer(call, document, "application/json");
            let forever = call.parts.uri.query().is_some_and(|query| query.contains("hash="));
            if forever {
                answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
            }
            Ok(answer)
        }
    }
}

fn answer(call: &Call, document: Document, content_type: &'static str) -> Reply {
    let made = if is_unchanged(call, &document.etag) {
        reply(StatusCode::NOT_MODIFIED, content_type, Bytes::new())
    } else {
        reply(StatusCode::OK, content_type, document.bytes)
    };
    tagged(made, &document.etag)
}

/// Resources by `api/v1` or `apis/apps/v1`.
fn by_path(server: &Server) -> (u64, BTreeMap<String, Vec<Arc<ResourceDef>>>) {
    let catalog = server.catalog();
    let mut all: BTreeMap<String, Vec<Arc<ResourceDef>>> = BTreeMap::new();
    for served in &catalog.all {
        let path = if served.def.group.is_empty() { format!("api/{}", served.def.version) } else { format!("apis/{}", served.api_version) };
        all.entry(path).or_default().push(served.def.clone());
    }
    (catalog.version, all)
}

async fn document(server: &Arc<Server>, key: &str) -> Result<Document, Status> {
    let (version, resources) = by_path(server);
    {
        let made = server.openapi.made.lock();
        if let Some(document) = made.1.get(key).filter(|_| made.0 == version) {
            return Ok(document.clone());
        }
    }
    let wanted = key.to_owned();
    // Types of custom resources that were made for the document alone go with it.
    let passing = |def: Arc<ResourceDef>| match &def.schema {
        api::TypeRef::Late(_) => Arc::new(ResourceDef { schema: def.schema.passing(), ..(*def).clone() }),
        _ => def,
    };
    let make = move || match wanted.as_str() {
        "v2.json" | "v2.pb" => {
            let all: Vec<Arc<ResourceDef>> = resources.into_values().flatten().map(passing).collect();
            let value = codec::openapi::v2(&all);
            Some(if wanted == "v2.pb" { codec::openapi::v2_protobuf(&value) } else { failure::line(&value) })
        }
        path => {
            let list: Vec<Arc<ResourceDef>> = resources.get(path)?.iter().cloned().map(passing).collect();
            Some(failure::line(&codec::openapi::v3(&list)))
        }
    };
    let bytes = tokio::task::spawn_blocking(make).await.map_err(Status::internal)?;
    let bytes = Bytes::from(bytes.ok_or_else(failure::no_such_resource)?);
    let etag: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    let document = Document { bytes, etag };
    let mut made = server.openapi.made.lock();
    if made.0 != version {
        *made = (version, HashMap::new());
    }
    made.1.insert(key.to_owned(), document.clone());
    Ok(document)
}

/// The list of documents, each with its hash in the address.
async fn index(server: &Arc<Server>) -> Result<Value, Status> {
    let (version, resources) = by_path(server);
    let mut paths = Map::new();
    for path in resources.into_keys() {
        // The hash of the catalog's version spares making every document to list them.
        let hash: String = Sha256::digest(format!("{path} {version} {}", api::VERSION)).iter().map(|byte| format!("{byte:02X}")).collect();
        let address = format!("/openapi/v3/{path}?hash={hash}");
        paths.insert(path, json!({"serverRelativeURL": address}));
    }
    Ok(json!({"paths": paths}))
}
