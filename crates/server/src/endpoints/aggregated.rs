//! Discovery in the new form: all groups, versions and resources in one document.

use std::sync::Arc;

use api::{ResourceDef, Status};
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::discovery::{groups, texts};
use super::{is_unchanged, tagged};
use crate::catalog::Catalog;
use crate::request::{Call, Reply, reply};
use crate::server::Server;

/// The form that a client takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    version: &'static str,
    content_type: &'static str,
}

const FORMS: [Form; 1] = [Form { version: "v2", content_type: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList" }];

/// Whether a client prefers this form over the old one, and in which version.
pub fn wanted(accept: &str) -> Option<Form> {
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or("");
        let parameters: Vec<&str> = parts.collect();
        let is = |text: &str| parameters.contains(&text);
        if media == "application/json" && is("as=APIGroupDiscoveryList") && is("g=apidiscovery.k8s.io") {
            if let Some(form) = FORMS.into_iter().find(|form| is(&format!("v={}", form.version))) {
                return Some(form);
            }
        } else if matches!(media, "application/json" | "*/*") && parameters.iter().all(|parameter| parameter.starts_with("q=")) {
            return None;
        }
    }
    None
}

/// Answers `/api` or `/apis`.
///
/// # Errors
/// 500 when the document cannot be written.
pub async fn serve(server: &Arc<Server>, catalog: &Catalog, call: &Call, path: &str, form: Form) -> Result<Reply, Status> {
    let items: Vec<Value> = if path == "/api" {
        vec![group(catalog, "", &["v1".to_owned()], &[])]
    } else {
        let mut others = Vec::new();
        for (group, version) in crate::aggregate::group_versions(server) {
            let part = crate::aggregate::discovery(server, &group, &version).await;
            // A server that does not answer keeps its place, so that clients know that something is missing.
            let part = part.unwrap_or_else(|_| json!({"version": version, "freshness": "Stale"}));
            others.push((group, version, part));
        }
        groups(server, catalog).iter().map(|(name, versions)| group(catalog, name, versions, &others)).collect()
    };
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{}", form.version), "metadata": {}, "items": items,
    });
    let bytes = serde_json::to_vec(&document).map_err(Status::internal)?;
    let hash = Sha256::digest(&bytes);
    let etag: String = hash.iter().map(|byte| format!("{byte:02X}")).collect();
    let mut answer = if is_unchanged(call, &etag) {
        reply(StatusCode::NOT_MODIFIED, form.content_type, Vec::new())
    } else {
        reply(StatusCode::OK, form.content_type, bytes)
    };
    answer.headers_mut().insert(http::header::VARY, HeaderValue::from_static("Accept"));
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("public"));
    Ok(tagged(answer, &etag))
}

/// Group, version and document of what other servers serve.
type Others = (String, String, Value);

fn group(catalog: &Catalog, name: &str, versions: &[String], others: &[Others]) -> Value {
    let versions: Vec<Value> = versions.iter().map(|version| one_version(catalog, name, version, others)).collect();
    let metadata = if name.is_empty() { json!({}) } else { json!({"name": name}) };
    json!({"metadata": metadata, "versions": versions})
}

fn one_version(catalog: &Catalog, group: &str, version: &str, others: &[Others]) -> Value {
    if let Some((.., document)) = others.iter().find(|(one, two, _)| one == group && two == version) {
        return document.clone();
    }
    let here = catalog.all.iter().filter(|served| &*served.def.group == group && &*served.def.version == version);
    let resources: Vec<Value> = here.map(|served| resource(&served.def, served.custom.is_some())).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

/// A resource. Those of definitions say their group and version again; of the others only what is of another group or version does.
fn resource(def: &ResourceDef, custom: bool) -> Value {
    let (group, version) = if custom { (&*def.group, &*def.version) } else { ("", "") };
    let scope = if def.namespaced() { "Namespaced" } else { "Cluster" };
    let mut row = json!({
        "resource": &*def.plural,
        "responseKind": {"group": group, "version": version, "kind": &*def.kind},
        "scope": scope, "singularResource": &*def.singular, "verbs": texts(&def.verbs),
    });
    if !def.short_names.is_empty() {
        row["shortNames"] = texts(&def.short_names);
    }
    if !def.categories.is_empty() {
        row["categories"] = texts(&def.categories);
    }
    if !def.subresources.is_empty() {
        row["subresources"] = def
            .subresources
            .iter()
            .map(|sub| {
                let own = !sub.version.is_empty() && (*sub.group != *def.group || *sub.version != *def.version);
                let (group, version) = if own { (&*sub.group, &*sub.version) } else { (group, version) };
                json!({
                    "subresource": &*sub.name, "responseKind": {"group": group, "version": version, "kind": &*sub.kind},
                    "verbs": texts(&sub.verbs),
                })
            })
            .collect();
    }
    row
}
