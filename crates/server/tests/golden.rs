//! Every answer that was recorded from the real server is equal here, masked fields aside.

use http::Method;
use serde_json::{Map, Value, json};

mod server_under_test;

use server_under_test::UnderTest;

const MASKED: [&str; 8] = [
    "lastPhaseTransitionTime",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "time",
    "lastHeartbeatTime",
    "lastTransitionTime",
    "retryAfterSeconds",
];

/// Masks what differs from server to server, as the recording did.
fn masked(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            Value::Object(map.iter().map(|(name, value)| (name.clone(), masked_field(name, value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::String(text) if text.len() == 36 && text.bytes().filter(|byte| *byte == b'-').count() == 4 => "MASK".into(),
        Value::String(text) => match text.find("kube-api-access-") {
            Some(at) if text.len() >= at + 21 => format!("{}kube-api-access-MASK{}", &text[..at], &text[at + 21..]).into(),
            _ => value.clone(),
        },
        other => other.clone(),
    }
}

fn masked_field(name: &str, value: &Value) -> Value {
    let none = value.is_null() || *value == "None" || *value == "" || *value == 0;
    if MASKED.contains(&name) || (matches!(name, "clusterIP" | "nodePort") && !none) {
        return "MASK".into();
    }
    if name == "clusterIPs" && *value != json!(["None"]) {
        return json!(["MASK"]);
    }
    masked(value)
}

fn path(request: &Value) -> String {
    let api_version = request["apiVersion"].as_str().unwrap();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let kind = request["kind"].as_str().unwrap();
    let def = api::resources::builtin().iter().find(|def| &*def.group == group && &*def.version == version && &*def.kind == kind).unwrap();
    let root = if group.is_empty() { "/api" } else { "/apis" };
    let namespace = if def.namespaced() { "/namespaces/default" } else { "" };
    format!("{root}/{api_version}{namespace}/{}?dryRun=All&fieldValidation=Strict&fieldManager=golden", def.plural)
}

/// Paths at which two values differ.
fn differences(path: &str, found: &Value, wanted: &Value, out: &mut Vec<String>) {
    match (found, wanted) {
        (Value::Object(one), Value::Object(two)) => {
            let names: std::collections::BTreeSet<&String> = one.keys().chain(two.keys()).collect();
            for name in names {
                match (one.get(name), two.get(name)) {
                    (Some(one), Some(two)) => differences(&format!("{path}.{name}"), one, two, out),
                    (Some(one), None) => out.push(format!("{path}.{name}: {one} is too much")),
                    (None, Some(two)) => out.push(format!("{path}.{name}: {two} is missing")),
                    (None, None) => {}
                }
            }
        }
        (Value::Array(one), Value::Array(two)) if one.len() == two.len() => {
            for (index, (one, two)) in one.iter().zip(two).enumerate() {
                differences(&format!("{path}[{index}]"), one, two, out);
            }
        }
        (one, two) if one != two => out.push(format!("{path}: {one} in place of {two}")),
        _ => {}
    }
}

async fn with_account() -> UnderTest {
    let test = UnderTest::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    test.create("/api/v1/namespaces/default/serviceaccounts", &account).await;
    test
}

fn name(request: &Value) -> String {
    format!("{} {}", request["kind"].as_str().unwrap(), request["metadata"]["name"])
}

#[tokio::test(flavor = "multi_thread")]
async fn valid_objects_are_answered_as_recorded() {
    let test = with_account().await;
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/valid.json")).unwrap();
    let mut failures = Vec::new();
    for case in &cases {
        let (code, body) = test.call(Method::POST, &path(&case["request"]), "application/json", case["request"].to_string()).await;
        let mut found = Vec::new();
        if u64::from(code) != case["code"].as_u64().unwrap() {
            found.push(format!("code {code}: {}", body["message"]));
        } else {
            differences("", &masked(&body), &masked(&case["response"]), &mut found);
        }
        failures.extend(found.into_iter().map(|text| format!("{}: {text}", name(&case["request"]))));
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_objects_are_refused_as_recorded() {
    let test = with_account().await;
    let cases: Vec<Value> = serde_json::from_str(include_str!("golden/invalid.json")).unwrap();
    let mut failures = Vec::new();
    for case in &cases {
        let (code, body) = test.call(Method::POST, &path(&case["request"]), "application/json", case["request"].to_string()).await;
        let fields = |value: &Value| -> Vec<String> {
            let causes = value["details"]["causes"].as_array().cloned().unwrap_or_default();
            let mut fields: Vec<String> = causes.iter().map(|cause| cause["field"].to_string()).collect();
            fields.sort();
            fields
        };
        let wanted = &case["response"];
        let same =
            u64::from(code) == case["code"].as_u64().unwrap() && body["reason"] == wanted["reason"] && fields(&body) == fields(wanted);
        if !same {
            failures.push(format!("{}: {code} {body}\n   in place of {} {}", name(&case["request"]), case["code"], wanted));
        }
    }
    assert!(failures.is_empty(), "{} differences:\n{}", failures.len(), failures.join("\n"));
}
