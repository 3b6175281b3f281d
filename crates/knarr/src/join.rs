//! The server's side of joining: what further nodes may read, the token that lets them in, and whose requests for
//! serving certificates are approved.
//!
//! Client certificates of nodes are approved by the controllers. Upstream leaves serving certificates to people; here the
//! cluster approves those that name only the node itself, so that logs and exec work over TLS that is verified.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Change, Client, ListWatch, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use pki::{BootstrapToken, ParsedCsr, ServerToken, Usage};
use serde_json::{Value, json};
use store::Entry;
use tokio::sync::watch;

use crate::bundled::ensure;
use crate::node::Cluster;
use crate::node::facts::Facts;

/// Service account in `kube-system` that approves serving certificates.
pub const APPROVER: &str = "knarr-serving-approver";

const REQUESTS: ResourceId = ResourceId::new("certificates.k8s.io", "v1", "certificatesigningrequests");
const SERVING: &str = "kubernetes.io/kubelet-serving";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// Makes the objects that joining needs, and the first token.
///
/// # Errors
/// The Status of an answer, or a token that is none.
pub async fn prepare(client: &Client, cluster: &Cluster, pki: &pki::ClusterPki, given: Option<&str>, file: &Path) -> Result<()> {
    rules(client).await.context("let nodes join")?;
    let facts = Facts::of(cluster, pki.server_ca.cert_pem(), pki.client_ca.cert_pem());
    apply(client, "/api/v1/namespaces/kube-system/configmaps", &facts.config_map()).await.context("publish the facts of the cluster")?;
    token(client, pki, given, file).await.context("make the join token")
}

async fn rules(client: &Client) -> Result<()> {
    let binding = |name: &str, role: &str, group: &str| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        })
    };
    let requests = "system:certificates.k8s.io:certificatesigningrequests";
    for (name, role, group) in [
        ("knarr:node-bootstrapper", "system:node-bootstrapper".to_owned(), "system:bootstrappers"),
        ("knarr:approve-bootstrap", format!("{requests}:nodeclient"), "system:bootstrappers"),
        ("knarr:approve-renewal", format!("{requests}:selfnodeclient"), "system:nodes"),
    ] {
        ensure(client, &format!("{RBAC}/clusterrolebindings"), &binding(name, &role, group)).await?;
    }
    // The first contact is made by nobody yet: the token says whether the authority that is told here is the right one.
    let authority = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "knarr:server-authority"},
        "rules": [{"nonResourceURLs": ["/cacerts"], "verbs": ["get"]}],
    });
    ensure(client, &format!("{RBAC}/clusterroles"), &authority).await?;
    for (name, group) in
        [("knarr:server-authority", "system:authenticated"), ("knarr:server-authority-anonymous", "system:unauthenticated")]
    {
        ensure(client, &format!("{RBAC}/clusterrolebindings"), &binding(name, "knarr:server-authority", group)).await?;
    }
    let facts = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "knarr:cluster-facts", "namespace": "kube-system"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [Facts::NAME], "verbs": ["get"]}],
    });
    ensure(client, &format!("{RBAC}/namespaces/kube-system/roles"), &facts).await?;
    let group = |name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name});
    let readers = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "knarr:cluster-facts", "namespace": "kube-system"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "knarr:cluster-facts"},
        "subjects": [group("system:bootstrappers"), group("system:nodes")],
    });
    ensure(client, &format!("{RBAC}/namespaces/kube-system/rolebindings"), &readers).await?;
    let approver = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "knarr:serving-approver"},
        "rules": [
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": [SERVING], "verbs": ["approve"]},
            {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]},
        ],
    });
    ensure(client, &format!("{RBAC}/clusterroles"), &approver).await?;
    let mut bound = binding("knarr:serving-approver", "knarr:serving-approver", "");
    bound["subjects"] = json!([{"kind": "ServiceAccount", "name": APPROVER, "namespace": "kube-system"}]);
    ensure(client, &format!("{RBAC}/clusterrolebindings"), &bound).await
}

/// Creates an object, or brings the one of its name to what is said here.
async fn apply(client: &Client, collection: &str, object: &Value) -> Result<()> {
    match client.call(Method::POST, collection, object).await {
        Err(status) if status.is_already_exists() => {}
        Err(status) => return Err(status.into()),
        Ok(_) => return Ok(()),
    }
    let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap_or(""));
    client.call(Method::PUT, &path, object).await?;
    Ok(())
}

/// A token that was given always works; else one is made at the first start and never again, so that deleting its
/// Secret revokes it for good.
async fn token(client: &Client, pki: &pki::ClusterPki, given: Option<&str>, file: &Path) -> Result<()> {
    let token = match given {
        Some(given) => match ServerToken::parse(given)?.bootstrap() {
            Some(token) => token,
            None => bail!("--token must be six and sixteen characters of a-z0-9 with a dot between them"),
        },
        None if file.exists() => return Ok(()),
        None => BootstrapToken::generate(),
    };
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": format!("bootstrap-token-{}", token.id), "namespace": "kube-system"},
        "stringData": {
            "token-id": token.id, "token-secret": token.secret, "description": "Made at the first start of the server.",
            "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        },
    });
    apply(client, "/api/v1/namespaces/kube-system/secrets", &secret).await?;
    let text = ServerToken::pinned(pki.server_ca.cert_pem(), &token).to_text();
    pki::write_private(file, format!("{text}\n").as_bytes())?;
    Ok(())
}

/// Approves requests for serving certificates of nodes, until its list or watch fails. No node gets a reserved address.
///
/// # Errors
/// The Status of the list or the watch.
pub async fn approve_serving(client: Client, reserved: watch::Receiver<Vec<IpAddr>>) -> Result<()> {
    let selection = Selection::all(REQUESTS).with_fields(format!("spec.signerName={SERVING}"));
    let ListWatch { initial, mut changes, .. } = client.list_watch(selection).await?;
    for entry in initial {
        decide(&client, &entry, &reserved).await;
    }
    while let Some(change) = changes.next().await {
        if let Change::Put(entry) = change? {
            decide(&client, &entry, &reserved).await;
        }
    }
    Ok(())
}

async fn decide(client: &Client, entry: &Entry, reserved: &watch::Receiver<Vec<IpAddr>>) {
    let Ok(mut request) = serde_json::from_slice::<Value>(&entry.bytes) else { return };
    let name = request["metadata"]["name"].as_str().unwrap_or("").to_owned();
    if request["status"]["conditions"].as_array().is_some_and(|conditions| !conditions.is_empty()) {
        return;
    }
    let outcome = match client.call(Method::GET, "/api/v1/nodes", &Value::Null).await {
        Ok(nodes) => check(&request["spec"], &nodes["items"], &reserved.borrow()),
        Err(status) => Err(status.message),
    };
    if let Err(why) = outcome {
        // It stays pending, so that a person can still decide.
        tracing::warn!(request = name, why, "serving certificate left for a person to approve");
        return;
    }
    request["status"]["conditions"] = json!([{
        "type": "Approved", "status": "True", "reason": "AutoApproved",
        "message": "Names only the node that asks for it.",
    }]);
    let path = REQUESTS.path("", &name, "approval");
    if let Err(status) = client.call(Method::PUT, &path, &request).await {
        tracing::warn!(request = name, why = status.message, "serving certificate could not be approved");
    }
}

/// A node may only be certified under its own name and under addresses that are nobody else's.
fn check(spec: &Value, nodes: &Value, reserved: &[IpAddr]) -> Result<(), String> {
    let user = spec["username"].as_str().unwrap_or("");
    let Some(node) = user.strip_prefix("system:node:") else {
        return Err(format!("asked for by {user:?}, which is no node"));
    };
    if !spec["groups"].as_array().is_some_and(|groups| groups.iter().any(|group| group == "system:nodes")) {
        return Err("asked for by somebody outside system:nodes".into());
    }
    let pem = STANDARD.decode(spec["request"].as_str().unwrap_or("")).map_err(|error| error.to_string())?;
    let csr = ParsedCsr::from_pem(&pem).map_err(|error| error.to_string())?;
    let usages: Vec<Usage> = spec["usages"].as_array().into_iter().flatten().filter_map(|usage| Usage::from_api(usage.as_str()?)).collect();
    csr.check_kubelet_serving(&usages).map_err(|error| error.to_string())?;
    if csr.subject.common_name != user {
        return Err(format!("names {:?} but was asked for by {user:?}", csr.subject.common_name));
    }
    if let Some(name) = csr.dns_names.iter().find(|name| *name != node) {
        return Err(format!("names {name:?}, which is not the node's name"));
    }
    let foreign: BTreeSet<IpAddr> = nodes
        .as_array()
        .into_iter()
        .flatten()
        .filter(|other| other["metadata"]["name"] != node)
        .flat_map(|other| other["status"]["addresses"].as_array().into_iter().flatten())
        .filter_map(|address| address["address"].as_str()?.parse().ok())
        .chain(reserved.iter().copied())
        .collect();
    match csr.ip_addresses.iter().find(|address| foreign.contains(address) || address.is_loopback() || address.is_unspecified()) {
        Some(address) => Err(format!("names {address}, which is not the node's own")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use pki::{PrivateKey, San, Subject, build_csr};

    use super::*;

    #[test]
    fn only_a_nodes_own_names_are_approved() {
        let nodes = json!([
            {"metadata": {"name": "a"}, "status": {"addresses": [{"address": "10.1.0.1"}]}},
            {"metadata": {"name": "b"}, "status": {"addresses": [{"address": "10.1.0.2"}]}},
        ]);
        let reserved = ["10.0.0.1".parse().unwrap()];
        let cases = [
            ("system:node:a", "system:node:a", vec!["a", "10.1.0.1"], true),
            ("system:node:new", "system:node:new", vec!["new", "10.1.0.3"], true),
            ("system:node:a", "system:node:b", vec!["b"], false),
            ("system:node:a", "system:node:a", vec!["b"], false),
            ("system:node:a", "system:node:a", vec!["kubernetes.default"], false),
            ("system:node:a", "system:node:a", vec!["10.1.0.2"], false),
            ("system:node:a", "system:node:a", vec!["10.0.0.1"], false),
            ("system:node:a", "system:node:a", vec!["127.0.0.1"], false),
            ("jane", "system:node:a", vec!["a"], false),
        ];
        for (user, subject, names, good) in cases {
            let sans: Vec<San> = names.iter().map(|name| San::parse(name)).collect();
            let request = build_csr(&PrivateKey::generate().unwrap(), &Subject::new(subject, &["system:nodes"]), &sans).unwrap();
            let spec = json!({
                "username": user, "groups": ["system:nodes"], "request": STANDARD.encode(request),
                "usages": ["digital signature", "server auth"],
            });
            assert_eq!(check(&spec, &nodes, &reserved).is_ok(), good, "{user} {subject} {names:?}");
        }
    }
}
