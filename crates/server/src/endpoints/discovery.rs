//! Discovery: which groups, versions and resources are served, in the old form of one document a version.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::Status;
use http::{HeaderValue, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::aggregated;
use crate::catalog::custom::version_order;
use crate::catalog::{self, Catalog, Served};
use crate::failure;
use crate::query::Query;
use crate::request::{Call, Reply, header, reply};
use crate::server::Server;
use crate::steps::encode::{self, Forms, Negotiated};

/// Answers a discovery path.
///
/// # Errors
/// 404 for groups and versions that are not served.
pub async fn serve(server: &Arc<Server>, call: &Call, path: &str) -> Result<Reply, Status> {
    let catalog = server.catalog();
    let accept = header(&call.parts, "accept");
    if matches!(path, "/api" | "/apis") {
        if let Some(form) = aggregated::wanted(accept) {
            return aggregated::serve(server, &catalog, call, path, form).await;
        }
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    // Of groups that are nobody's not even the paths are known; nor are versions that a definition does not serve.
    if let ["apis", group, ..] = parts.as_slice() {
        let here = groups(server, &catalog);
        let found = here.iter().find(|(name, _)| name == group);
        let served = found.is_some_and(|(_, versions)| parts.get(2).is_none_or(|version| versions.iter().any(|one| one == version)));
        if !served && !catalog::is_builtin_group(group) {
            return Ok(failure::no_such_path());
        }
    }
    let document = match parts.as_slice() {
        ["api"] => json!({
            "kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": format!("{}:{}", server.advertised(), server.config.advertise_port)}],
        }),
        ["apis"] => {
            let groups: Vec<Value> =
                groups(server, &catalog).iter().map(|(group, versions)| group_document(group, versions, false)).collect();
            json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
        }
        ["apis", group] => {
            let groups = groups(server, &catalog);
            let (group, versions) = groups.iter().find(|(name, _)| name == group).ok_or_else(failure::no_such_resource)?;
            group_document(group, versions, true)
        }
        ["api", version] => resources(&catalog, "", version)?,
        ["apis", group, version] => resources(&catalog, group, version)?,
        _ => return Err(failure::no_such_resource()),
    };
    let agent = header(&call.parts, "user-agent");
    let negotiated =
        encode::negotiate(accept, &Query::parse(call.parts.uri.query()), agent, Forms { protobuf: true, shapes: false, streams: false })?;
    encode::value_reply(&negotiated, StatusCode::OK, &document)
}

/// Groups (without core) with their versions, best first: built-in ones in order, then custom ones by name.
pub fn groups(server: &Server, catalog: &Catalog) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for served in catalog.all.iter().filter(|served| !served.def.group.is_empty()) {
        add(&mut groups, &served.def.group, &served.def.version);
    }
    for (group, version) in crate::aggregate::group_versions(server) {
        add(&mut groups, &group, &version);
    }
    for (_, versions) in &mut groups {
        versions.sort_by(|left, right| version_order(right, left));
    }
    groups
}

fn add(groups: &mut Vec<(String, Vec<String>)>, group: &str, version: &str) {
    match groups.iter_mut().find(|(name, _)| name == group) {
        Some((_, versions)) if versions.iter().all(|one| one != version) => versions.push(version.to_owned()),
        Some(_) => {}
        None => groups.push((group.to_owned(), vec![version.to_owned()])),
    }
}

fn group_document(group: &str, versions: &[String], alone: bool) -> Value {
    let versions: Vec<Value> =
        versions.iter().map(|version| json!({"groupVersion": format!("{group}/{version}"), "version": version})).collect();
    let mut document = json!({"name": group, "versions": versions, "preferredVersion": versions[0]});
    if alone {
        document["kind"] = "APIGroup".into();
        document["apiVersion"] = "v1".into();
    }
    document
}

fn resources(catalog: &Catalog, group: &str, version: &str) -> Result<Value, Status> {
    let mut rows = Vec::new();
    let here = catalog.all.iter().filter(|served| &*served.def.group == group && &*served.def.version == version);
    for served in here {
        rows.extend(resource_rows(served));
    }
    if rows.is_empty() {
        return Err(failure::no_such_resource());
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let mut document = json!({"kind": "APIResourceList", "groupVersion": group_version, "resources": rows});
    // The oldest group leaves out the version of the document.
    if !group.is_empty() {
        document["apiVersion"] = "v1".into();
    }
    Ok(document)
}

fn resource_rows(served: &Served) -> Vec<Value> {
    let def = &served.def;
    let mut row = json!({
        "name": &*def.plural, "singularName": &*def.singular, "namespaced": def.namespaced(), "kind": &*def.kind, "verbs": texts(&def.verbs),
    });
    if !def.short_names.is_empty() {
        row["shortNames"] = texts(&def.short_names);
    }
    if !def.categories.is_empty() {
        row["categories"] = texts(&def.categories);
    }
    if def.has_verb("list") && &*def.plural != "componentstatuses" {
        row["storageVersionHash"] = storage_version_hash(served).into();
    }
    let mut rows = vec![row];
    for sub in &def.subresources {
        let mut row = json!({
            "name": format!("{}/{}", def.plural, sub.name), "singularName": "", "namespaced": def.namespaced(),
            "kind": &*sub.kind, "verbs": texts(&sub.verbs),
        });
        if !sub.version.is_empty() && (*sub.group != *def.group || *sub.version != *def.version) {
            row["group"] = (*sub.group).into();
            row["version"] = (*sub.version).into();
        }
        rows.push(row);
    }
    rows
}

pub(super) fn texts(list: &[Box<str>]) -> Value {
    list.iter().map(|text| Value::from(&**text)).collect()
}

/// Kinds of which the real server stores an older version, which its hashes tell.
const HASHED_VERSIONS: &[(&str, &str)] =
    &[("MutatingAdmissionPolicy", "v1beta1"), ("MutatingAdmissionPolicyBinding", "v1beta1"), ("CustomResourceDefinition", "v1beta1")];

/// The first eight bytes of a hash over what is stored, as base64.
fn storage_version_hash(served: &Served) -> String {
    use base64::Engine;
    let (group, version) = served.storage_version.split_once('/').unwrap_or(("", &served.storage_version));
    let older = HASHED_VERSIONS.iter().find(|(kind, _)| served.custom.is_none() && *kind == &*served.def.kind);
    let version = older.map_or(version, |(_, older)| older);
    let hash = Sha256::digest(format!("{group}/{version}/{}", served.def.kind));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

/// `/version`.
pub fn version() -> Result<Reply, Status> {
    let (plain, _) = api::VERSION.split_once('+').unwrap_or((api::VERSION, ""));
    let mut numbers = plain.trim_start_matches('v').split('.');
    let document = json!({
        "major": numbers.next().unwrap_or(""), "minor": numbers.next().unwrap_or(""),
        "emulationMajor": "1", "emulationMinor": "36", "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
        "gitVersion": api::VERSION, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "", "compiler": "rustc", "platform": "linux/amd64",
    });
    let mut bytes = serde_json::to_vec_pretty(&document).map_err(Status::internal)?;
    bytes.push(b'\n');
    let mut answer = reply(StatusCode::OK, "application/json", bytes);
    answer.headers_mut().insert(http::header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(answer)
}

/// `/`: all paths.
pub fn paths(server: &Arc<Server>) -> Result<Reply, Status> {
    let catalog = server.catalog();
    let mut paths: BTreeSet<String> = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/apis/",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openapi/v3/",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ]
    .map(str::to_owned)
    .into();
    paths.extend(super::health::paths());
    for (group, versions) in groups(server, &catalog) {
        paths.insert(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|version| format!("/apis/{group}/{version}")));
    }
    encode::value_reply(&Negotiated { pretty: true, ..Negotiated::JSON }, StatusCode::OK, &json!({"paths": paths}))
}
