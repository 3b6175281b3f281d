//! Priority and fairness on a real server: what callers see of it, and the objects that the server keeps.

mod server_under_test;

use std::time::{Duration, Instant};

use bytes::Bytes;
use client::Transport;
use http::{Method, Request};
use serde_json::{Value, json};
use server::User;
use server_under_test::UnderTest;

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

async fn eventually(what: &str, test: &UnderTest, path: &str, good: impl Fn(u16, &Value) -> bool) -> Value {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        let (code, body) = test.call(Method::GET, path, "application/json", "").await;
        if good(code, &body) {
            return body;
        }
        assert!(Instant::now() < end, "{what}: {code} {body}");
        tokio::task::yield_now().await;
    }
}

async fn headers(test: &UnderTest, user: User, path: &str) -> (u16, [String; 2]) {
    let user = test.server.in_process(user);
    // Refusals come as a Status in process, so that only paths which are allowed have headers here.
    let reply = user.call(Request::get(path).body(Bytes::new()).unwrap()).await.unwrap();
    let header = |name: &str| reply.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    (reply.status().as_u16(), [header("x-kubernetes-pf-flowschema-uid"), header("x-kubernetes-pf-prioritylevel-uid")])
}

fn dangling(body: &Value) -> (&str, &str) {
    let condition = &body["status"]["conditions"][0];
    assert!(condition["type"] == "Dangling" || condition.is_null(), "{condition}");
    (condition["status"].as_str().unwrap_or(""), condition["reason"].as_str().unwrap_or(""))
}

#[tokio::test]
async fn callers_are_told_their_schema_and_level() {
    let test = UnderTest::start().await;
    let uid = |object: Value| object["metadata"]["uid"].as_str().unwrap().to_owned();
    let (schema, level) = (uid(test.get(&format!("{SCHEMAS}/exempt")).await), uid(test.get(&format!("{LEVELS}/exempt")).await));
    let admin = || User::new("admin", &["system:masters"]);
    assert_eq!(headers(&test, admin(), "/api/v1/namespaces").await, (200, [schema, level]));
    let [schema, level] = headers(&test, User::new("bob", &[]), "/version").await.1;
    assert_eq!(schema, uid(test.get(&format!("{SCHEMAS}/global-default")).await));
    assert_eq!(level, uid(test.get(&format!("{LEVELS}/global-default")).await));
    // A schema of one's own counts as soon as it is there.
    let own = json!({
        "metadata": {"name": "bobs"},
        "spec": {
            "matchingPrecedence": 20, "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [{"subjects": [{"kind": "User", "user": {"name": "bob"}}], "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/version"]}]}],
        },
    });
    let own = uid(test.create(SCHEMAS, &own).await);
    let end = Instant::now() + Duration::from_secs(10);
    while headers(&test, User::new("bob", &[]), "/version").await.1[0] != own {
        assert!(Instant::now() < end, "the new schema is not in force");
        tokio::task::yield_now().await;
    }
    let (code, text) = headers(&test, admin(), "/debug/api_priority_and_fairness/dump_priority_levels").await;
    assert!(code == 200 && !text[0].is_empty());
}

#[tokio::test]
async fn the_server_keeps_its_objects_and_tells_of_levels_that_are_missing() {
    let test = UnderTest::start().await;
    for name in ["exempt", "catch-all", "system-nodes"] {
        let path = format!("{SCHEMAS}/{name}");
        eventually("a condition", &test, &path, |_, body| dangling(body) == ("False", "Found")).await;
    }
    let lost = json!({
        "metadata": {"name": "lost"},
        "spec": {
            "matchingPrecedence": 30, "priorityLevelConfiguration": {"name": "nowhere"},
            "rules": [{"subjects": [{"kind": "Group", "group": {"name": "x"}}], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}],
        },
    });
    test.create(SCHEMAS, &lost).await;
    let path = format!("{SCHEMAS}/lost");
    let body = eventually("a missing level", &test, &path, |_, body| dangling(body) == ("True", "NotFound")).await;
    let manager = &body["metadata"]["managedFields"][0];
    assert!(manager["manager"] == "api-priority-and-fairness-config-consumer-v1" && manager["subresource"] == "status", "{manager}");
    let level = json!({
        "metadata": {"name": "nowhere"},
        "spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}},
    });
    test.create(LEVELS, &level).await;
    eventually("the level", &test, &path, |_, body| dangling(body) == ("False", "Found")).await;
    // Objects of every server come back; what people changed and said so stays.
    let gone = test.get(&format!("{LEVELS}/catch-all")).await["metadata"]["uid"].clone();
    assert_eq!(test.call(Method::DELETE, &format!("{LEVELS}/catch-all"), "application/json", "").await.0, 200);
    let path = format!("{LEVELS}/catch-all");
    eventually("a mandatory object", &test, &path, |code, body| code == 200 && body["metadata"]["uid"] != gone).await;
    for (name, annotation, expected) in [("workload-low", "true", 100), ("workload-high", "false", 7), ("catch-all", "false", 5)] {
        let path = format!("{LEVELS}/{name}");
        let patch = json!({
            "metadata": {"annotations": {"apf.kubernetes.io/autoupdate-spec": annotation}},
            "spec": {"limited": {"nominalConcurrencyShares": 7}},
        });
        let (code, changed) = test.call(Method::PATCH, &path, "application/merge-patch+json", patch.to_string()).await;
        assert_eq!((code, &changed["spec"]["limited"]["nominalConcurrencyShares"]), (200, &json!(7)), "{name}");
        let right = |_, body: &Value| body["spec"]["limited"]["nominalConcurrencyShares"] == expected;
        eventually(name, &test, &path, right).await;
    }
    // All is said: nothing is written any more.
    let metadata = |body: &Value| body["metadata"]["resourceVersion"].clone();
    let before = metadata(&test.get("/api/v1/configmaps?limit=1").await);
    test.create("/api/v1/namespaces/default/configmaps", &json!({"metadata": {"name": "a"}})).await;
    let after = metadata(&test.get("/api/v1/configmaps?limit=1").await);
    let number = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&after) < number(&before) + 20, "{before} {after}");
}
