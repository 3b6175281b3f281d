//! The audit log of a real server: levels, stages, users, objects, annotations, the webhook, and a policy that changes.

use std::path::Path;
use std::time::Duration;

use client::Transport;
use http::{Method, Request};
use serde_json::{Value, json};
use server::{AuditSettings, Security, User};

mod https_peer;
mod server_under_test;

use https_peer::{Peer, until};
use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

const POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, users: ['system:apiserver']}
- {level: Metadata, resources: [{resources: [secrets]}]}
- {level: RequestResponse, omitManagedFields: true, resources: [{resources: [configmaps]}]}
- {level: None}
";

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

async fn start(settings: impl FnOnce(&Path) -> AuditSettings) -> (UnderTest, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), POLICY).unwrap();
    let log = dir.path().join("audit.log");
    let audit = AuditSettings { policy: Some(dir.path().join("policy.yaml")), ..settings(dir.path()) };
    (UnderTest::start_in(dir, Security { audit, ..Security::default() }).await, log)
}

fn to_file(dir: &Path) -> AuditSettings {
    AuditSettings { log: Some(dir.join("audit.log")), ..AuditSettings::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_and_objects() {
    let (test, log) = start(to_file).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "map-"}, "data": {"a": "b"}});
    let made = test.create(MAPS, &map).await;
    let name = made["metadata"]["name"].as_str().unwrap().to_owned();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"key": "hidden-words"}});
    test.create(SECRETS, &secret).await;
    let patch = json!({"data": {"a": "c"}}).to_string();
    let (code, _) = test.call(Method::PATCH, &format!("{MAPS}/{name}"), "application/merge-patch+json", patch).await;
    assert_eq!(code, 200);
    test.call(Method::GET, &format!("{MAPS}/none"), "application/json", "").await;
    test.call(Method::GET, "/version", "application/json", "").await;

    let events = lines(&log);
    assert!(!std::fs::read_to_string(&log).unwrap().contains("hidden-words"));
    let [create, secret, patch, missing] = events.as_slice() else { panic!("{events:#?}") };
    assert_eq!(create["level"], "RequestResponse");
    assert_eq!(create["stage"], "ResponseComplete");
    assert_eq!((create["verb"].as_str(), create["requestURI"].as_str()), (Some("create"), Some(MAPS)));
    assert_eq!(create["user"]["username"], "admin");
    assert_eq!(create["objectRef"], json!({"resource": "configmaps", "namespace": "default", "apiVersion": "v1"}));
    assert_eq!(create["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(create["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(create["responseObject"]["metadata"]["name"], name);
    assert!(create["responseObject"]["metadata"]["managedFields"].is_null());
    assert_eq!(create["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(create["annotations"]["authorization.k8s.io/reason"], "");
    assert_eq!((secret["level"].as_str(), secret["objectRef"]["name"].as_str()), (Some("Metadata"), Some("s")));
    assert!(secret["requestObject"].is_null() && secret["responseObject"].is_null());
    assert_eq!(patch["requestObject"], json!({"data": {"a": "c"}}));
    assert_eq!(missing["responseStatus"]["reason"], "NotFound");
    assert_eq!(missing["responseStatus"]["code"], 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_streams_and_ids() {
    let (test, log) = start(to_file).await;
    let nobody = test.server.in_process(User::new("nobody", &[]));
    let (code, _) = test.call_as(&nobody, Method::GET, MAPS, "application/json", "").await;
    assert_eq!(code, 403);
    let admin = test.server.in_process(User::new("root", &["system:masters"]));
    let request =
        Request::get(MAPS).header("impersonate-user", "jane").header("audit-id", "my-own-id").header("x-forwarded-for", "192.0.2.7");
    let refused = admin.call(request.body(bytes::Bytes::new()).unwrap()).await;
    assert_eq!(refused.unwrap_err().code, 403);
    let (code, _) = test.call(Method::GET, &format!("{MAPS}?watch=1&timeoutSeconds=1"), "application/json", "").await;
    assert_eq!(code, 200);
    until("the end of the watch is written", || lines(&log).len() >= 4).await;

    let events = lines(&log);
    assert_eq!(
        (events[0]["user"]["username"].as_str(), &events[0]["annotations"]["authorization.k8s.io/decision"]),
        (Some("nobody"), &json!("forbid"))
    );
    assert_eq!((events[1]["user"]["username"].as_str(), events[1]["impersonatedUser"]["username"].as_str()), (Some("root"), Some("jane")));
    assert_eq!(events[1]["auditID"], "my-own-id");
    assert_eq!(events[1]["sourceIPs"], json!(["192.0.2.7", "::1"]));
    let stages: Vec<&str> = events[2..].iter().map(|event| event["stage"].as_str().unwrap()).collect();
    assert_eq!(stages, ["ResponseStarted", "ResponseComplete"]);
    assert_eq!(events[2]["auditID"], events[3]["auditID"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_change_while_the_server_runs() {
    let (test, log) = start(to_file).await;
    let policy = test.dir().join("policy.yaml");
    let state = || test.server.reloads().states()[&policy].clone();
    std::fs::write(&policy, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: Loud}]}").unwrap();
    until("the bad file is refused", || !state().error.is_empty()).await;
    test.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(lines(&log).len(), 1, "the old policy stays");
    // Written beside it and moved over it, as editors and volumes do.
    let next = test.dir().join("next");
    std::fs::write(&next, "{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [{level: None}]}").unwrap();
    std::fs::rename(&next, &policy).unwrap();
    until("the good file is taken over", || state().error.is_empty()).await;
    assert_eq!((state().taken, state().refused), (1, 1));
    test.get("/api/v1/namespaces/default/configmaps").await;
    assert_eq!(lines(&log).len(), 1, "nothing is audited any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_a_webhook_in_batches() {
    let sizes = |peer: &Peer| peer.asked().iter().map(|(_, list)| list["items"].as_array().map_or(0, Vec::len)).collect::<Vec<_>>();
    // What fills a batch does not wait; what fills none waits for its time, which only one of the two lives to see.
    for (wait, asked, batches) in [(Duration::from_secs(3600), 7, vec![3, 3]), (Duration::from_millis(20), 1, vec![1])] {
        let peer = Peer::start(|_, _| (200, Value::Null)).await;
        let (test, _) = start(|dir| {
            peer.kubeconfig(&dir.join("webhook"), "/events");
            AuditSettings { webhook: Some(dir.join("webhook")), webhook_batch: 3, webhook_wait: Some(wait), ..AuditSettings::default() }
        })
        .await;
        for _ in 0..asked {
            test.get(MAPS).await;
        }
        until("all events have come", || sizes(&peer).iter().sum::<usize>() == batches.iter().sum::<usize>()).await;
        assert_eq!(sizes(&peer), batches);
        let (path, list) = &peer.asked()[0];
        assert_eq!(
            (path.as_str(), list["kind"].as_str(), list["apiVersion"].as_str()),
            ("/events", Some("EventList"), Some("audit.k8s.io/v1"))
        );
        assert_eq!(list["items"][0]["objectRef"]["resource"], "configmaps");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn admission_annotates() {
    let (test, log) = start(to_file).await;
    let peer = Peer::start(|_, review| {
        use base64::Engine;
        let patch = json!([{"op": "add", "path": "/data/hooked", "value": "yes"}]).to_string();
        let patch = base64::engine::general_purpose::STANDARD.encode(patch);
        let response = json!({"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch, "auditAnnotations": {"by": "hook"}});
        (200, json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    })
    .await;
    let bundle = {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD.encode(&peer.authority)
    };
    let hook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration", "metadata": {"name": "hooks"},
        "webhooks": [{
            "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": format!("https://{}/mutate", peer.address), "caBundle": bundle},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
        }],
    });
    test.create("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", &hook).await;
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "policy"},
        "spec": {
            "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]},
            "validations": [{"expression": "object.metadata.name != 'odd'", "message": "an odd name"}],
            "auditAnnotations": [{"key": "count", "valueExpression": "'entries: ' + string(object.data.size())"}],
        },
    });
    test.create("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", &policy).await;
    let binding = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": "binding"},
        "spec": {"policyName": "policy", "validationActions": ["Audit"]},
    });
    test.create("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings", &binding).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "odd"}, "data": {"a": "b"}});
    test.create(MAPS, &map).await;

    let events = lines(&log);
    let annotations = &events.last().unwrap()["annotations"];
    let value = |key: &str| serde_json::from_str::<Value>(annotations[key].as_str().unwrap_or("null")).unwrap();
    assert_eq!(
        value("mutation.webhook.admission.k8s.io/round_0_index_0"),
        json!({"configuration": "hooks", "webhook": "hook.example.com", "mutated": true})
    );
    assert_eq!(value("patch.webhook.admission.k8s.io/round_0_index_0")["patch"][0]["value"], "yes");
    assert_eq!(annotations["hook.example.com/by"], "hook");
    assert_eq!(annotations["policy/count"], "entries: 2");
    let failure = value("validation.policy.admission.k8s.io/validation_failure");
    assert_eq!(
        failure,
        json!([{"message": "an odd name", "policy": "policy", "binding": "binding", "expressionIndex": 0, "validationActions": ["Audit"]}])
    );
}
