//! Objects through which users see what runs inside this process: the Service of the cluster DNS and its endpoints.

use std::net::IpAddr;

use anyhow::Result;
use client::Client;
use http::Method;
use serde_json::{Value, json};

/// Makes or mends the objects of the cluster DNS. Nodes answer at the service address themselves; the slice lists the
/// nodes, so that a foreign kube-proxy finds them too.
///
/// # Errors
/// The Status of the answer.
pub async fn dns(client: &Client, address: IpAddr, nodes: &[IpAddr]) -> Result<()> {
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
    ]);
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
    let service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": address, "ports": ports},
    });
    ensure(client, "/api/v1/namespaces/kube-system/services", &service).await?;
    let endpoints: Vec<Value> =
        nodes.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true, "serving": true, "terminating": false}})).collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-nodes", "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "knarr.io"},
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}],
    });
    ensure(client, "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices", &slice).await
}

/// Makes the default storage class: folders on the node of the first pod that uses the volume.
///
/// # Errors
/// The Status of the answer.
pub async fn storage(client: &Client) -> Result<()> {
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "local-path", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "knarr.io/local-path", "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    });
    ensure(client, "/apis/storage.k8s.io/v1/storageclasses", &class).await
}

/// Lets nodes read what their DNS and proxy serve: nodes act as themselves there, whether they are in this process or not.
///
/// # Errors
/// The Status of the answer.
pub async fn node_network(client: &Client) -> Result<()> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "knarr:node-network"},
        "rules": [
            {"apiGroups": [""], "resources": ["services", "namespaces", "nodes"], "verbs": ["get", "list", "watch"]},
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["get", "list", "watch"]},
        ],
    });
    ensure(client, "/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await?;
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "knarr:node-network"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "knarr:node-network"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "system:nodes"}],
    });
    ensure(client, "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await
}

/// Creates an object unless one of its name is there. It is asked for first: a fixed service address is refused as taken
/// before the name is.
///
/// # Errors
/// The Status of the answer.
pub async fn ensure(client: &Client, collection: &str, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().unwrap_or("");
    match client.call(Method::GET, &format!("{collection}/{name}"), &Value::Null).await {
        Ok(_) => return Ok(()),
        Err(status) if status.is_not_found() => {}
        Err(status) => return Err(status.into()),
    }
    match client.call(Method::POST, collection, object).await {
        Err(status) if !status.is_already_exists() => Err(status.into()),
        _ => Ok(()),
    }
}
