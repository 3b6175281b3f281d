//! Authorization by a webhook on a real server: order, conditions, failures, what is remembered, a file that changes.

use std::path::Path;

use http::Method;
use serde_json::{Value, json};
use server::{Security, User};

mod https_peer;
mod server_under_test;

use https_peer::{Peer, until};
use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Allows who is called ann, refuses who is called mallory for good, knows nobody else.
async fn judge() -> Peer {
    Peer::start(|path, review| {
        if path == "/broken" {
            return (400, Value::Null);
        }
        let status = match review["spec"]["user"].as_str() {
            Some("ann") => json!({"allowed": true, "reason": "ann may"}),
            Some("mallory") => json!({"allowed": false, "denied": true, "reason": "mallory may not"}),
            _ => json!({"allowed": false}),
        };
        (200, json!({"apiVersion": review["apiVersion"], "kind": "SubjectAccessReview", "status": status}))
    })
    .await
}

fn write(path: &Path, kubeconfig: &Path, change: Value) {
    let mut webhook = json!({
        "timeout": "3s", "subjectAccessReviewVersion": "v1", "matchConditionSubjectAccessReviewVersion": "v1",
        "authorizedTTL": "1m", "unauthorizedTTL": "1m", "failurePolicy": "Deny",
        "connectionInfo": {"type": "KubeConfigFile", "kubeConfigFile": kubeconfig},
        "matchConditions": [
            {"expression": "has(request.resourceAttributes)"},
            {"expression": "request.resourceAttributes.resource != 'secrets'"},
        ],
    });
    webhook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthorizationConfiguration",
        "authorizers": [{"type": "Webhook", "name": "judge", "webhook": webhook}, {"type": "Node", "name": "node"}, {"type": "RBAC", "name": "rbac"}],
    });
    std::fs::write(path, file.to_string()).unwrap();
}

async fn get(test: &UnderTest, user: &str, path: &str) -> (u16, Value) {
    let user = test.server.in_process(User::new(user, &[]));
    test.call_as(&user, Method::GET, path, "application/json", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_decides_before_rbac() {
    let peer = judge().await;
    let dir = tempfile::tempdir().unwrap();
    let (path, good, broken) = (dir.path().join("authorization.yaml"), dir.path().join("good"), dir.path().join("broken"));
    peer.kubeconfig(&good, "/judge");
    peer.kubeconfig(&broken, "/broken");
    write(&path, &good, json!({}));
    let test = UnderTest::start_in(dir, Security { authorization: Some(path.clone()), ..Security::default() }).await;
    // What mallory may by RBAC is refused all the same.
    let all = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "mallory"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    test.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &all).await;

    assert_eq!(get(&test, "ann", MAPS).await.0, 200);
    let (code, body) = get(&test, "mallory", MAPS).await;
    assert_eq!(code, 403);
    assert!(body["message"].as_str().unwrap().ends_with(": mallory may not"), "{body}");
    let (code, _) = get(&test, "bob", MAPS).await;
    assert_eq!(code, 403);
    let before = peer.asked().len();
    assert_eq!(get(&test, "ann", MAPS).await.0, 200);
    assert_eq!(peer.asked().len(), before, "the answer is remembered");
    // Conditions spare the webhook: RBAC alone decides.
    assert_eq!(get(&test, "mallory", "/api/v1/namespaces/default/secrets").await.0, 200);
    assert_eq!(get(&test, "ann", "/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(peer.asked().len(), before);
    let spec = &peer.asked()[0].1["spec"];
    assert_eq!(spec["resourceAttributes"], json!({"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps"}));

    // Reviews tell what the webhook says, synchronous steps included.
    let review = |user: &str| {
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {
            "user": user, "resourceAttributes": {"verb": "delete", "resource": "nodes"}}})
    };
    let status = test.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review("ann")).await["status"].clone();
    assert_eq!(status, json!({"allowed": true, "reason": "ann may"}));
    let status = test.create("/apis/authorization.k8s.io/v1/subjectaccessreviews", &review("mallory")).await["status"].clone();
    assert_eq!(status, json!({"allowed": false, "denied": true, "reason": "mallory may not"}));

    let state = || test.server.reloads().states()[&path].clone();
    write(&path, &good, json!({"matchConditions": [{"expression": "request.nope == 1"}]}));
    until("the bad file is refused", || state().refused == 1).await;
    assert_eq!(get(&test, "ann", MAPS).await.0, 200);
    write(&path, &broken, json!({}));
    until("the broken webhook is taken over", || state().taken == 1).await;
    assert_eq!(get(&test, "ann", MAPS).await.0, 403, "failures refuse");
    write(&path, &broken, json!({"failurePolicy": "NoOpinion"}));
    until("failures are passed over", || state().taken == 2).await;
    assert_eq!(get(&test, "mallory", MAPS).await.0, 200, "RBAC decides");
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_by_flags() {
    let peer = judge().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("kubeconfig");
    peer.kubeconfig(&path, "/judge");
    let modes = ["Node", "RBAC", "Webhook"].map(str::to_owned).to_vec();
    let test = UnderTest::start_in(dir, Security { modes, authorization_webhook: Some(path), ..Security::default() }).await;
    assert_eq!(get(&test, "ann", MAPS).await.0, 200);
    assert_eq!(get(&test, "bob", MAPS).await.0, 403);
    let asked = peer.asked();
    let ann = asked.iter().find(|(_, review)| review["spec"]["user"] == "ann").unwrap();
    assert_eq!(
        (ann.1["apiVersion"].as_str(), &ann.1["spec"]["group"]),
        (Some("authorization.k8s.io/v1beta1"), &json!(["system:authenticated"]))
    );
}
