//! What clients rely on beyond single objects: versions, conflicts, pages, watches, deletion, rights.

use std::time::Duration;

use client::{Change, ResourceId, Selection, Transport};
use futures_util::StreamExt;
use http::Method;
use serde_json::{Value, json};
use server::User;

mod server_under_test;

use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "1"}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_update_conflicts_and_an_unchanged_one_writes_nothing() {
    let test = UnderTest::start().await;
    let first = test.create(MAPS, &map("a")).await;
    let path = format!("{MAPS}/a");
    let (code, same) = test.call(Method::PUT, &path, "application/json", first.to_string()).await;
    assert_eq!(code, 200);
    assert_eq!(same["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let mut changed = first.clone();
    changed["data"]["a"] = "2".into();
    let (code, second) = test.call(Method::PUT, &path, "application/json", changed.to_string()).await;
    assert_eq!(code, 200);
    assert_ne!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let (code, refused) = test.call(Method::PUT, &path, "application/json", changed.to_string()).await;
    assert_eq!((code, refused["reason"].as_str()), (409, Some("Conflict")));
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_of_all_sorts_change_what_they_say() {
    let test = UnderTest::start().await;
    test.create(MAPS, &map("a")).await;
    let path = format!("{MAPS}/a");
    for (content_type, body) in [
        ("application/merge-patch+json", json!({"data": {"b": "2"}})),
        ("application/strategic-merge-patch+json", json!({"data": {"c": "3"}})),
        ("application/json-patch+json", json!([{"op": "add", "path": "/data/d", "value": "4"}])),
    ] {
        let (code, body) = test.call(Method::PATCH, &path, content_type, body.to_string()).await;
        assert_eq!(code, 200, "{content_type}: {body}");
    }
    let applied = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"e": "5"}});
    let (code, body) =
        test.call(Method::PATCH, &format!("{path}?fieldManager=me"), "application/apply-patch+yaml", applied.to_string()).await;
    assert_eq!(code, 200, "{body}");
    assert_eq!(test.get(&path).await["data"], json!({"a": "1", "b": "2", "c": "3", "d": "4", "e": "5"}));
    let (code, _) = test.call(Method::PATCH, &path, "text/plain", "x").await;
    assert_eq!(code, 415);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_of_one_revision() {
    let test = UnderTest::start().await;
    for index in 0..7 {
        test.create(MAPS, &map(&format!("m{index}"))).await;
    }
    let first = test.get(&format!("{MAPS}?limit=3")).await;
    test.call(Method::DELETE, &format!("{MAPS}/m5"), "application/json", "").await;
    let mut names: Vec<String> = Vec::new();
    let mut page = first.clone();
    loop {
        names.extend(page["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()));
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        let Some(token) = page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) else { break };
        page = test.get(&format!("{MAPS}?limit=3&continue={token}")).await;
    }
    assert_eq!(names, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_turn_changes_into_coming_and_going() {
    let test = UnderTest::start().await;
    let client = test.server.in_process(User::new("watcher", &["system:masters"]));
    let selection = Selection::all(ResourceId::new("", "v1", "configmaps")).in_namespace("default").with_labels("w=1");
    let mut watch = client.list_watch(selection).await.unwrap();
    assert!(watch.initial.is_empty());
    test.create(MAPS, &map("a")).await;
    for labels in [json!({"w": "1"}), json!({"w": null}), json!({"w": "1"})] {
        let patch = json!({"metadata": {"labels": labels}});
        test.call(Method::PATCH, &format!("{MAPS}/a"), "application/merge-patch+json", patch.to_string()).await;
    }
    test.call(Method::DELETE, &format!("{MAPS}/a"), "application/json", "").await;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let change = tokio::time::timeout(Duration::from_secs(60), watch.changes.next()).await.unwrap().unwrap().unwrap();
        match change {
            Change::Put(entry) => seen.push(("put", entry.revision)),
            Change::Deleted(entry) => {
                let object: Value = serde_json::from_slice(&entry.bytes).unwrap();
                assert_eq!(object["metadata"]["resourceVersion"], entry.revision.to_string());
                seen.push(("deleted", entry.revision));
            }
            Change::Progress(_) => {}
        }
    }
    let kinds: Vec<&str> = seen.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["put", "deleted", "put", "deleted"]);
    assert!(seen.windows(2).all(|pair| pair[0].1 < pair[1].1));
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_and_preconditions_hold_a_deletion() {
    let test = UnderTest::start().await;
    let mut held = map("a");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    test.create(MAPS, &held).await;
    let path = format!("{MAPS}/a");
    let wrong = json!({"preconditions": {"uid": "other"}});
    let (code, _) = test.call(Method::DELETE, &path, "application/json", wrong.to_string()).await;
    assert_eq!(code, 409);
    let (code, body) = test.call(Method::DELETE, &path, "application/json", "").await;
    assert_eq!((code, body["kind"].as_str()), (200, Some("ConfigMap")));
    assert!(test.get(&path).await["metadata"]["deletionTimestamp"].is_string());
    let patch = json!({"metadata": {"finalizers": null}});
    test.call(Method::PATCH, &path, "application/merge-patch+json", patch.to_string()).await;
    let (code, _) = test.call(Method::GET, &path, "application/json", "").await;
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn rights_are_those_of_roles() {
    let test = UnderTest::start().await;
    let alice = test.server.in_process(User::new("alice", &[]));
    let list = || test.call_as(&alice, Method::GET, MAPS, "application/json", "");
    let (code, body) = list().await;
    let text = "configmaps is forbidden: User \"alice\" cannot list resource \"configmaps\" in API group \"\" in the namespace \"default\"";
    assert_eq!((code, body["message"].as_str()), (403, Some(text)));
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}],
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "alice"}],
    });
    test.create(&format!("{rbac}/roles"), &role).await;
    test.create(&format!("{rbac}/rolebindings"), &binding).await;
    assert_eq!(list().await.0, 200);
    let (code, _) = test.call(Method::DELETE, &format!("{rbac}/rolebindings/reader"), "application/json", "").await;
    assert_eq!(code, 200);
    assert_eq!(list().await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn custom_resources_are_served_validated_and_cleaned_up() {
    let test = UnderTest::start().await;
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "minimum": 1}, "d": {"type": "string", "default": "x"}},
                    "x-kubernetes-validations": [{"rule": "self.n < 10", "message": "n is too large"}],
                }}}},
            }],
        },
    });
    test.create(definitions, &definition).await;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    while test.call(Method::GET, foos, "application/json", "").await.0 != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the resource is not served");
        tokio::task::yield_now().await;
    }
    let foo = |n: i64| json!({"apiVersion": "example.com/v1", "kind": "Foo", "metadata": {"name": "f"}, "spec": {"n": n, "unknown": 1}});
    for (n, field) in [(0, "spec.n"), (10, "spec")] {
        let (code, body) = test.call(Method::POST, foos, "application/json", foo(n).to_string()).await;
        assert_eq!((code, body["details"]["causes"][0]["field"].as_str()), (422, Some(field)), "{body}");
    }
    let made = test.create(foos, &foo(1)).await;
    assert_eq!(made["spec"], json!({"n": 1, "d": "x"}));
    let (code, _) = test.call(Method::DELETE, &format!("{definitions}/foos.example.com"), "application/json", "").await;
    assert_eq!(code, 200);
    while test.call(Method::GET, foos, "application/json", "").await.0 != 404 {
        assert!(tokio::time::Instant::now() < deadline, "the resource is still served");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_and_ports_and_give_them_back() {
    let test = UnderTest::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service =
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    let made = test.create(services, &service).await;
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."));
    let port = made["spec"]["ports"][0]["nodePort"].as_u64().unwrap();
    assert!((30000..=32767).contains(&port));
    test.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await;
    let mut taken = service.clone();
    taken["metadata"]["name"] = "t".into();
    taken["spec"]["clusterIP"] = address.as_str().into();
    let (code, _) = test.call(Method::POST, services, "application/json", taken.to_string()).await;
    assert_eq!(code, 422);
    let patch = json!({"spec": {"type": "ClusterIP"}});
    let (_, changed) = test.call(Method::PATCH, &format!("{services}/s"), "application/merge-patch+json", patch.to_string()).await;
    assert_eq!(changed["spec"]["clusterIP"], address);
    assert!(changed["spec"]["ports"][0]["nodePort"].is_null());
    test.call(Method::DELETE, &format!("{services}/s"), "application/json", "").await;
    test.create(services, &taken).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bodies_are_refused_with_a_status() {
    let test = UnderTest::start().await;
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let large = format!("{{\"data\":{{\"a\":\"{}\"}}}}", "x".repeat(4 << 20));
    for (content_type, body, expected) in [
        ("application/json", "{".to_owned(), 400),
        ("application/json", "[]".to_owned(), 400),
        ("application/json", deep, 400),
        ("application/json", large, 413),
        ("application/vnd.kubernetes.protobuf", "k8s".to_owned(), 400),
        ("application/json", json!({"kind": "Pod", "apiVersion": "v1"}).to_string(), 400),
        ("application/json", json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "UPPER"}}).to_string(), 422),
        ("application/xml", "<a/>".to_owned(), 415),
    ] {
        let start: String = body.chars().take(20).collect();
        let (code, answer) = test.call(Method::POST, MAPS, content_type, body).await;
        assert_eq!(code, expected, "{start}: {answer}");
        assert_eq!(answer["kind"], "Status", "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_requests_keep_metadata_of_every_way_in_and_decisions_of_one() {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    const MERGE: &str = "application/merge-patch+json";
    let test = UnderTest::start().await;
    let pem = pki::build_csr(&pki::PrivateKey::generate().unwrap(), &pki::Subject::new("somebody", &[]), &[]).unwrap();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
    let request = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"generateName": "e2e-"},
        "spec": {"request": encoded, "signerName": "kubernetes.io/kube-apiserver-client", "expirationSeconds": 3600, "usages": ["client auth"]}});
    let made = test.create(REQUESTS, &request).await;
    assert_eq!(made["spec"]["username"], "admin");
    let path = format!("{REQUESTS}/{}", made["metadata"]["name"].as_str().unwrap());
    let approval = format!("{path}/approval");
    let patch = json!({"metadata": {"annotations": {"approval": "patched"}}, "status": {"conditions": [{"type": "Other", "status": "True", "reason": "x"}]}});
    let (code, patched) = test.call(Method::PATCH, &approval, MERGE, patch.to_string()).await;
    assert_eq!((code, &patched["metadata"]["annotations"]["approval"]), (200, &json!("patched")), "{patched}");
    assert_eq!(patched["status"]["conditions"][0]["type"], "Other");
    assert!(patched["status"]["conditions"][0]["lastUpdateTime"].is_string());
    let mut approved = patched.clone();
    let decision = json!({"type": "Approved", "status": "True", "reason": "y"});
    approved["status"]["conditions"].as_array_mut().unwrap().push(decision);
    let (code, approved) = test.call(Method::PUT, &approval, "application/json", approved.to_string()).await;
    assert_eq!(code, 200, "{approved}");
    let status = format!("{path}/status");
    let patch = json!({"metadata": {"annotations": {"status": "patched"}}, "status": {"certificate": encoded}});
    let (code, signed) = test.call(Method::PATCH, &status, MERGE, patch.to_string()).await;
    assert_eq!((code, &signed["metadata"]["annotations"]["status"]), (200, &json!("patched")), "{signed}");
    assert_eq!(signed["status"]["certificate"], encoded);
    for (what, path, conditions, code) in [
        ("a decision is final", &approval, json!([]), 422),
        ("only approval decides", &status, json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]), 422),
        (
            "decisions exclude each other",
            &approval,
            json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]),
            422,
        ),
    ] {
        let patch = json!({"status": {"conditions": conditions}});
        let (found, answer) = test.call(Method::PATCH, path, MERGE, patch.to_string()).await;
        assert_eq!(found, code, "{what}: {answer}");
    }
}
