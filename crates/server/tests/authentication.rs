//! Tokens of an identity provider and of a webhook on a real server, asked about with TokenReviews.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use serde_json::{Value, json};
use server::{OidcSettings, Security};

mod https_peer;
mod server_under_test;

use https_peer::{Peer, until};
use server_under_test::UnderTest;

/// An identity provider with one key.
struct Provider {
    peer: Peer,
    key: EcdsaKeyPair,
}

impl Provider {
    async fn start() -> Provider {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new()).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let point = key.public_key().as_ref().to_vec();
        let own = Arc::new(std::sync::OnceLock::<String>::new());
        let told = own.clone();
        let peer = Peer::start(move |path, _| {
            let issuer = told.get().cloned().unwrap_or_default();
            match path {
                "/.well-known/openid-configuration" => (200, json!({"issuer": issuer, "jwks_uri": format!("{issuer}/keys")})),
                "/keys" => {
                    let part = |range: std::ops::Range<usize>| URL_SAFE_NO_PAD.encode(&point[range]);
                    (200, json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "one", "use": "sig", "x": part(1..33), "y": part(33..65)}]}))
                }
                _ => (404, Value::Null),
            }
        })
        .await;
        own.set(format!("https://{}", peer.address)).unwrap();
        Provider { peer, key }
    }

    fn url(&self) -> String {
        format!("https://{}", self.peer.address)
    }

    fn token(&self, extra: Value) -> String {
        let now = jiff::Timestamp::now().as_second();
        let mut claims = json!({"iss": self.url(), "aud": "cluster", "sub": "42", "exp": now + 600, "jti": "t1"});
        claims.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "one"})), part(&claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref()))
    }
}

async fn review(test: &UnderTest, token: &str) -> Value {
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    test.create("/apis/authentication.k8s.io/v1/tokenreviews", &review).await["status"].clone()
}

fn configuration(provider: &Provider) -> Value {
    json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
        "jwt": [{
            "issuer": {"url": provider.url(), "certificateAuthority": provider.peer.authority, "audiences": ["cluster"]},
            "claimMappings": {
                "username": {"expression": "'ext:' + claims.email"},
                "groups": {"expression": "claims.roles.filter(r, r != 'secret').map(r, 'role:' + r)"},
                "uid": {"claim": "sub"},
                "extra": [{"key": "example.com/team", "valueExpression": "claims.team"}],
            },
            "claimValidationRules": [{"expression": "claims.email_verified == true", "message": "verify your address"}],
            "userValidationRules": [{"expression": "!user.username.startsWith('ext:system:')", "message": "reserved"}],
        }],
        "anonymous": {"enabled": true, "conditions": [{"path": "/livez"}]},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn structured_configuration_maps_claims() {
    let provider = Provider::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("authentication.yaml");
    std::fs::write(&path, configuration(&provider).to_string()).unwrap();
    let test = UnderTest::start_in(dir, Security { authentication: Some(path.clone()), ..Security::default() }).await;

    let good = json!({"email": "ann@example.com", "email_verified": true, "roles": ["dev", "secret"], "team": "blue"});
    let status = review(&test, &provider.token(good.clone())).await;
    assert_eq!(status["authenticated"], true, "{status}");
    assert_eq!(status["user"]["username"], "ext:ann@example.com");
    assert_eq!(status["user"]["uid"], "42");
    assert_eq!(status["user"]["groups"], json!(["role:dev", "system:authenticated"]));
    assert_eq!(status["user"]["extra"]["example.com/team"], json!(["blue"]));
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/credential-id"], json!(["JTI=t1"]));

    for (change, why) in [
        (json!({"email_verified": false}), "verify your address"),
        (json!({"email": "system:admin"}), "reserved"),
        (json!({"aud": "other"}), "expected audience"),
        (json!({"exp": 1000}), "expired"),
        (json!({"nbf": 99_999_999_999i64}), "nbf"),
    ] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let status = review(&test, &provider.token(claims)).await;
        assert!(status["authenticated"] != true && status["error"].as_str().unwrap_or("").contains(why), "{why}: {status}");
    }
    let token = provider.token(good.clone());
    let forged = format!("{}A{}", &token[..token.len() - 10], &token[token.len() - 9..]);
    assert_ne!(review(&test, &forged).await["authenticated"], true);

    // Another mapping while the server runs; a bad one in between changes nothing.
    let state = || test.server.reloads().states()[&path].clone();
    let mut bad = configuration(&provider);
    bad["jwt"][0]["claimMappings"]["username"]["expression"] = "claims.email +".into();
    std::fs::write(&path, bad.to_string()).unwrap();
    until("the bad file is refused", || state().refused == 1).await;
    assert_eq!(review(&test, &token).await["authenticated"], true);
    let mut next = configuration(&provider);
    next["jwt"][0]["claimMappings"]["username"] = json!({"claim": "sub", "prefix": "id-"});
    std::fs::write(&path, next.to_string()).unwrap();
    until("the next file is taken over", || state().taken == 1).await;
    assert_eq!(review(&test, &token).await["user"]["username"], "id-42");
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_describe_one_issuer() {
    let provider = Provider::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), &provider.peer.authority).unwrap();
    let oidc = OidcSettings {
        issuer: provider.url(),
        client_id: "cluster".into(),
        ca_file: Some(dir.path().join("ca.pem")),
        groups_claim: "roles".into(),
        groups_prefix: "oidc:".into(),
        required_claims: vec![("hd".into(), "example.com".into())],
        signing_algorithms: vec!["ES256".into()],
        ..OidcSettings::default()
    };
    let test = UnderTest::start_in(dir, Security { oidc: Some(oidc), ..Security::default() }).await;
    let status = review(&test, &provider.token(json!({"roles": "dev", "hd": "example.com"}))).await;
    assert_eq!(status["user"]["username"], format!("{}#42", provider.url()), "{status}");
    assert_eq!(status["user"]["groups"][0], "oidc:dev");
    let status = review(&test, &provider.token(json!({"hd": "example.org"}))).await;
    assert!(status["error"].as_str().unwrap().contains("required claim hd"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_knows_tokens() {
    let failures = Arc::new(AtomicUsize::new(1));
    let left = failures.clone();
    let peer = Peer::start(move |_, review| {
        if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return (503, Value::Null);
        }
        let known = review["spec"]["token"] == "known";
        let user = json!({"username": "hook-user", "uid": "7", "groups": ["hooked"], "extra": {"a": ["b"]}});
        let status = if known { json!({"authenticated": true, "user": user}) } else { json!({"authenticated": false}) };
        (200, json!({"apiVersion": review["apiVersion"], "kind": "TokenReview", "status": status}))
    })
    .await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("webhook");
    peer.kubeconfig(&path, "/review");
    let security = Security {
        token_webhook: Some(path),
        token_webhook_version: "v1".into(),
        token_webhook_ttl: Some(Duration::from_secs(60)),
        ..Security::default()
    };
    let test = UnderTest::start_in(dir, security).await;
    for _ in 0..3 {
        let status = review(&test, "known").await;
        assert_eq!(status["user"]["username"], "hook-user", "{status}");
        assert_eq!(status["user"]["groups"], json!(["hooked", "system:authenticated"]));
        assert_ne!(review(&test, "unknown").await["authenticated"], true);
    }
    // One call failed, one was for each token: the rest is remembered.
    let asked = peer.asked();
    assert_eq!(asked.len(), 3);
    assert_eq!((asked[1].0.as_str(), asked[1].1["apiVersion"].as_str()), ("/review", Some("authentication.k8s.io/v1")));
    let (code, _) = test.call(Method::GET, "/version", "application/json", "").await;
    assert_eq!(code, 200);
}
