//! Custom resources in two versions with a webhook between them, on a real server.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use serde_json::{Value, json};

mod https_peer;
mod server_under_test;

use https_peer::{Peer, until};
use server_under_test::UnderTest;

const V1: &str = "/apis/example.com/v1/namespaces/default/things";
const V2: &str = "/apis/example.com/v2/namespaces/default/things";
const DEFINITION: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com";

/// `spec.hostPort` of the first version is `spec.host` and `spec.port` of the second.
fn converted(object: &Value, to: &str) -> Value {
    let mut object = object.clone();
    let spec = object["spec"].clone();
    if to == "example.com/v2" {
        let (host, port) = spec["hostPort"].as_str().unwrap_or(":").split_once(':').unwrap();
        object["spec"] = json!({"host": host, "port": port, "unknown": "pruned"});
    } else {
        object["spec"] = json!({"hostPort": format!("{}:{}", spec["host"].as_str().unwrap_or(""), spec["port"].as_str().unwrap_or(""))});
    }
    object["apiVersion"] = to.into();
    object["metadata"]["labels"] = json!({"converted": "yes"});
    object["metadata"]["finalizers"] = json!(["not/yours"]);
    object
}

async fn webhook() -> Peer {
    Peer::start(|_, review| {
        let request = &review["request"];
        let to = request["desiredAPIVersion"].as_str().unwrap_or("");
        let objects = request["objects"].as_array().cloned().unwrap_or_default();
        let is_bad = objects.iter().any(|object| object["metadata"]["name"] == "bad");
        let mut response = json!({"uid": request["uid"], "result": {"status": "Success"}});
        if is_bad {
            response["result"] = json!({"status": "Failure", "message": "no way"});
        } else {
            response["convertedObjects"] = objects.iter().map(|object| converted(object, to)).collect();
        }
        (200, json!({"apiVersion": review["apiVersion"], "kind": "ConversionReview", "response": response}))
    })
    .await
}

fn definition(peer: &Peer) -> Value {
    let version = |name: &str, storage: bool, fields: &[&str]| {
        let properties: serde_json::Map<String, Value> =
            fields.iter().map(|field| ((*field).to_owned(), json!({"type": "string"}))).collect();
        json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {
            "type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}}})
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [version("v1", true, &["hostPort"]), version("v2", false, &["host", "port"])],
            "conversion": {"strategy": "Webhook", "webhook": {
                "conversionReviewVersions": ["v1", "v1beta1"],
                "clientConfig": {"url": format!("https://{}/convert", peer.address), "caBundle": STANDARD.encode(&peer.authority)},
            }},
        },
    })
}

fn thing(version: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": name}, "spec": spec})
}

async fn start() -> (UnderTest, Peer) {
    let peer = webhook().await;
    let test = UnderTest::start().await;
    test.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition(&peer)).await;
    let catalog = || test.server.catalog().find("example.com", "v2", "things").is_some();
    until("the definition is served", catalog).await;
    (test, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_read_and_written_in_both_versions() {
    let (test, peer) = start().await;
    test.create(V1, &thing("v1", "a", json!({"hostPort": "one:1"}))).await;
    let made = test.create(V2, &thing("v2", "b", json!({"host": "two", "port": "2"}))).await;
    assert_eq!(made["spec"], json!({"host": "two", "port": "2"}));

    let read = test.get(&format!("{V2}/a")).await;
    assert_eq!(read["spec"], json!({"host": "one", "port": "1"}), "what the version does not know is pruned");
    assert_eq!(read["metadata"]["labels"], json!({"converted": "yes"}));
    assert!(read["metadata"]["finalizers"].is_null(), "only labels and annotations may change");
    assert_eq!(test.get(&format!("{V1}/b")).await["spec"], json!({"hostPort": "two:2"}));

    // A list is one call, and what it converted is remembered.
    for index in 0..20 {
        test.create(V1, &thing("v1", &format!("more-{index}"), json!({"hostPort": "x:9"}))).await;
    }
    let before = peer.asked().len();
    for _ in 0..2 {
        let list = test.get(V2).await;
        let items = list["items"].as_array().unwrap();
        assert!(
            items.len() == 22 && items.iter().all(|item| item["apiVersion"] == "example.com/v2" && item["spec"]["host"].is_string()),
            "{list}"
        );
    }
    assert_eq!(peer.asked().len(), before + 1);

    let patch = json!({"spec": {"port": "3"}}).to_string();
    let (code, body) = test.call(Method::PATCH, &format!("{V2}/a"), "application/merge-patch+json", patch).await;
    assert_eq!((code, &body["spec"]["port"]), (200, &json!("3")), "{body}");
    assert_eq!(test.get(&format!("{V1}/a")).await["spec"]["hostPort"], "one:3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stored_version_changes() {
    let (test, _) = start().await;
    test.create(V1, &thing("v1", "old", json!({"hostPort": "one:1"}))).await;
    let patch = json!([
        {"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true},
    ]);
    let (code, body) = test.call(Method::PATCH, DEFINITION, "application/json-patch+json", patch.to_string()).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(body["status"]["storedVersions"], json!(["v1", "v2"]));
    test.create(V2, &thing("v2", "new", json!({"host": "two", "port": "2"}))).await;
    for (path, version) in [(V1, "example.com/v1"), (V2, "example.com/v2")] {
        let list = test.get(path).await;
        let versions: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["apiVersion"]).collect();
        assert_eq!(versions, [version, version]);
    }
    // Writing an object again, unchanged, migrates it: once.
    let mut revisions = Vec::new();
    for _ in 0..3 {
        let current = test.get(&format!("{V2}/old")).await;
        revisions.push(current["metadata"]["resourceVersion"].clone());
        let (code, body) = test.call(Method::PUT, &format!("{V2}/old"), "application/json", current.to_string()).await;
        assert_eq!(code, 200, "{body}");
    }
    assert_ne!(revisions[0], revisions[1]);
    assert_eq!(revisions[1], revisions[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_told() {
    let (test, _) = start().await;
    test.create(V1, &thing("v1", "bad", json!({"hostPort": "one:1"}))).await;
    let (code, body) = test.call(Method::GET, &format!("{V2}/bad"), "application/json", "").await;
    assert_eq!(code, 500);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("conversion webhook for example.com/v1, Kind=Thing failed: no way"), "{message}");
    let (code, _) = test.call(Method::GET, V2, "application/json", "").await;
    assert_eq!(code, 500);
    assert_eq!(test.get(&format!("{V1}/bad")).await["spec"]["hostPort"], "one:1");
}
