//! Webhooks over real TLS: they change, refuse, time out, and are passed over where that is allowed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pki::{Authority, HotCert, IssueRequest, San, Subject, Usage};
use serde_json::{Value, json};

mod server_under_test;

use server_under_test::UnderTest;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// A webhook server: `/mutate` labels, `/deny` refuses, `/hang` never answers. Returns its address and its authority.
async fn webhooks() -> (SocketAddr, String) {
    pki::install_provider();
    let authority = Authority::create("webhooks", DAY).unwrap();
    let request = IssueRequest {
        subject: Subject::new("webhook", &[]),
        sans: vec![San::parse("127.0.0.1")],
        usages: vec![Usage::DigitalSignature, Usage::ServerAuth],
        lifetime: DAY,
    };
    let cert = HotCert::new(authority.issue(&request).unwrap()).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(pki::server_config(&cert, false, &["http/1.1"]).unwrap()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let stream = acceptor.accept(stream).await.unwrap();
                let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                    let path = request.uri().path().to_owned();
                    let trace = request.headers().get("traceparent").map(|value| value.to_str().unwrap().to_owned());
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    Ok::<_, std::convert::Infallible>(Response::new(Full::new(answer(&path, trace, &body).await)))
                });
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.ok();
            });
        }
    });
    (address, authority.cert_pem().to_owned())
}

async fn answer(path: &str, trace: Option<String>, body: &[u8]) -> Bytes {
    let review: Value = serde_json::from_slice(body).unwrap();
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    match path {
        "/mutate" => {
            let mut labels = json!({"hooked": "yes"});
            if let Some(trace) = trace {
                labels["trace"] = trace.into();
            }
            let patch = json!([{"op": "add", "path": "/metadata/labels", "value": labels}]);
            response["patch"] = STANDARD.encode(patch.to_string()).into();
            response["patchType"] = "JSONPatch".into();
            response["warnings"] = json!(["beware"]);
        }
        "/deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "not today", "code": 403, "reason": "Forbidden"});
        }
        _ => std::future::pending::<()>().await,
    }
    Bytes::from(json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string())
}

fn configuration(kind: &str, (address, authority): &(SocketAddr, String), path: &str, extra: Value) -> Value {
    let mut hook = json!({
        "name": "hook.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
        "clientConfig": {"url": format!("https://{address}{path}"), "caBundle": STANDARD.encode(authority)},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
    });
    hook.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
    json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": "hooks"}, "webhooks": [hook]})
}

async fn configure(test: &UnderTest, kind: &str, hooks: &(SocketAddr, String), path: &str, extra: Value) -> String {
    let plural = format!("/apis/admissionregistration.k8s.io/v1/{}s", kind.to_lowercase());
    test.create(&plural, &configuration(kind, hooks, path, extra)).await;
    format!("{plural}/hooks")
}

fn map(name: &str) -> String {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_change_and_refuse() {
    let test = UnderTest::start().await;
    let hooks = webhooks().await;
    let mutating = configure(&test, "MutatingWebhookConfiguration", &hooks, "/mutate", json!({})).await;
    let (code, body) = test.call(Method::POST, MAPS, "application/json", map("a")).await;
    assert_eq!((code, body["metadata"]["labels"]["hooked"].as_str()), (201, Some("yes")), "{body}");
    test.call(Method::DELETE, &mutating, "application/json", "").await;
    configure(&test, "ValidatingWebhookConfiguration", &hooks, "/deny", json!({})).await;
    let (code, body) = test.call(Method::POST, MAPS, "application/json", map("b")).await;
    let text = "admission webhook \"hook.example.com\" denied the request: not today";
    assert_eq!((code, body["message"].as_str()), (403, Some(text)));
    let (code, _) = test.call(Method::GET, &format!("{MAPS}/b"), "application/json", "").await;
    assert_eq!(code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn hooks_are_called_in_the_trace_of_the_request() {
    let test = UnderTest::start().await;
    let hooks = webhooks().await;
    configure(&test, "MutatingWebhookConfiguration", &hooks, "/mutate", json!({})).await;
    let admin = test.server.in_process(server::User::new("admin", &["system:masters"]));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = http::Request::post(MAPS).header("content-type", "application/json").header("traceparent", trace);
    let reply = client::Transport::call(&*admin, request.body(Bytes::from(map("traced"))).unwrap()).await.unwrap();
    let made: Value = serde_json::from_slice(reply.body()).unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"hooked": "yes", "trace": trace}));
    let (_, made) = test.call(Method::POST, MAPS, "application/json", map("untraced")).await;
    assert_eq!(made["metadata"]["labels"], json!({"hooked": "yes"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_follow_the_policy() {
    let test = UnderTest::start().await;
    let hooks = webhooks().await;
    let path = configure(&test, "ValidatingWebhookConfiguration", &hooks, "/hang", json!({"timeoutSeconds": 1})).await;
    let (code, body) = test.call(Method::POST, MAPS, "application/json", map("a")).await;
    assert_eq!(code, 500);
    assert!(body["message"].as_str().unwrap().contains("deadline"), "{body}");
    test.call(Method::DELETE, &path, "application/json", "").await;
    let lax = json!({"timeoutSeconds": 1, "failurePolicy": "Ignore"});
    configure(&test, "ValidatingWebhookConfiguration", &hooks, "/hang", lax).await;
    let (code, _) = test.call(Method::POST, MAPS, "application/json", map("a")).await;
    assert_eq!(code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_selectors_spare_the_hook() {
    let test = UnderTest::start().await;
    let hooks = webhooks().await;
    let extra = json!({
        "matchConditions": [{"name": "named", "expression": "object.metadata.name.startsWith('bad')"}],
        "objectSelector": {"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]},
    });
    configure(&test, "ValidatingWebhookConfiguration", &hooks, "/deny", extra).await;
    let skipped = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bad-2", "labels": {"skip": "1"}}}).to_string();
    for (body, expected) in [(map("good"), 201), (map("bad"), 403), (skipped, 201)] {
        let (code, answer) = test.call(Method::POST, MAPS, "application/json", body).await;
        assert_eq!(code, expected, "{answer}");
    }
}
