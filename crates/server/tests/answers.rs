//! Answers that the real server gives in places where guessing comes to something else, one line of data each: they were
//! asked of it by `dev/differential_test.sh`.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

mod server_under_test;

use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";

#[tokio::test(flavor = "multi_thread")]
async fn options_of_lists_and_watches_are_refused_with_all_that_is_wrong() {
    let test = UnderTest::start().await;
    let token = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, text);
    for (query, code, message) in [
        ("watch=1&continue=x".to_owned(), 422, "resourceVersionMatch is forbidden when continue is provided"),
        ("watch=1&resourceVersionMatch=Exact&resourceVersion=1".to_owned(), 422, "supported values: \"NotOlderThan\""),
        ("watch=1&resourceVersion=x".to_owned(), 500, "resourceVersion: Invalid value: \"x\""),
        ("resourceVersion=x".to_owned(), 400, "invalid resource version: resourceVersion"),
        ("resourceVersionMatch=Wrong&resourceVersion=1".to_owned(), 422, "supported values: \"Exact\", \"NotOlderThan\", \"\""),
        ("continue=abcde".to_owned(), 400, "illegal base64 data at input byte 4"),
        (format!("continue={}", token("{}")), 400, "server does not recognize this encoded version"),
        (format!("continue={}", token(r#"{"v":1}"#)), 400, "cannot unmarshal number into Go struct field continueToken.v of type string"),
        (format!("continue={}", token(r#"{"v":"meta.k8s.io/v1","rv":1}"#)), 400, "encoded start key empty"),
    ] {
        let (found, answer) = test.call(Method::GET, &format!("{MAPS}?{query}"), JSON, "").await;
        assert_eq!(found, code, "{query}: {answer}");
        assert!(answer["message"].as_str().unwrap_or("").contains(message), "{query}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_leads_nowhere_is_told_by_who_would_serve_it() {
    let test = UnderTest::start().await;
    for (method, path, code) in [
        (Method::GET, "/api/v2", 404),
        (Method::GET, "/apis/none.example.com", 404),
        (Method::GET, "/apis/apps/v2", 404),
        (Method::POST, "/apis", 200),
        (Method::POST, "/api", 405),
        (Method::DELETE, "/apis/authentication.k8s.io/v1/tokenreviews/x", 404),
        (Method::GET, "/apis/authorization.k8s.io/v1/subjectaccessreviews?watch=1", 405),
    ] {
        let (found, answer) = test.call(method.clone(), path, JSON, "").await;
        assert_eq!(found, code, "{method} {path}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn some_kinds_change_nothing_but_their_status_through_it() {
    let test = UnderTest::start().await;
    let rule = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["none"]});
    for (collection, object) in [
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"metadata": {"name": "a"}, "spec": {"attacher": "x", "nodeName": "n", "source": {"persistentVolumeName": "p"}}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"metadata": {"name": "a"}, "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}),
        ),
        ("/apis/networking.k8s.io/v1/servicecidrs", json!({"metadata": {"name": "a"}, "spec": {"cidrs": ["10.77.0.0/24"]}})),
    ] {
        test.create(collection, &object).await;
        let patch = json!({"metadata": {"annotations": {"by": "status"}}});
        let (code, answer) = test.call(Method::PATCH, &format!("{collection}/a/status"), MERGE, patch.to_string()).await;
        assert_eq!((code, &answer["metadata"]["annotations"]["by"]), (200, &Value::Null), "{collection}: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_refused_in_the_words_of_the_real_server() {
    let test = UnderTest::start().await;
    let rules = json!([{"rule": "self.color != 'blue' || self.count > 2", "message": "blue needs more"}]);
    let properties = json!({
        "color": {"type": "string", "enum": ["red", "blue"]}, "count": {"type": "integer"}, "replicas": {"type": "integer"},
        "name": {"type": "string", "maxLength": 3, "pattern": "^a"},
        "tags": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
    });
    let schema =
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties, "x-kubernetes-validations": rules}}});
    let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
    let version =
        json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"scale": scale}});
    let definition = json!({"metadata": {"name": "foos.example.com"}, "spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"}, "versions": [version],
    }});
    test.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &definition).await;
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while test.call(Method::GET, foos, JSON, "").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the resource is not served");
        tokio::task::yield_now().await;
    }
    let blocked = "<nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
    for (spec, expected) in [
        (json!({"color": "blue", "count": 1}), vec!["spec: Invalid value: blue needs more"]),
        (json!({"color": "blue"}), vec!["spec: Invalid value: \"object\": no such key: count evaluating rule: blue needs more"]),
        (
            json!({"color": 5, "count": 1}),
            vec![
                "spec.color: Invalid value: \"integer\": spec.color in body must be of type string: \"integer\"",
                "spec.color: Unsupported value: 5: supported values: \"red\", \"blue\"",
                blocked,
            ],
        ),
        (json!({"color": "red", "name": "bbbb"}), vec!["spec.name: Too long: may not be more than 3 bytes", blocked]),
        (json!({"color": "red", "tags": ["a", "a"]}), vec!["spec.tags[1]: Duplicate value: \"a\""]),
        (json!({"color": "red", "replicas": -1}), vec![".spec.replicas: Invalid value: -1: should be a non-negative integer"]),
        (
            json!("text"),
            vec![
                "spec: Invalid value: \"string\": spec in body must be of type object: \"string\"",
                ".spec.replicas: Invalid value: 0: .spec.replicas accessor error: text is of the type string, expected map[string]interface{}",
                blocked,
            ],
        ),
    ] {
        let object = json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "f"}, "spec": spec});
        let (code, answer) = test.call(Method::POST, foos, JSON, object.to_string()).await;
        let causes = answer["details"]["causes"].as_array().cloned().unwrap_or_default();
        let found: Vec<String> =
            causes.iter().map(|one| format!("{}: {}", one["field"].as_str().unwrap(), one["message"].as_str().unwrap())).collect();
        assert_eq!((code, found), (422, expected.into_iter().map(str::to_owned).collect()), "{spec}: {answer}");
    }
    for (body, code) in [(json!({"metadata": {"name": "f"}}), 400), (json!({"kind": "Foo", "metadata": {"name": "f"}}), 400)] {
        let (found, answer) = test.call(Method::POST, foos, JSON, body.to_string()).await;
        assert_eq!(found, code, "{body}: {answer}");
    }
}
