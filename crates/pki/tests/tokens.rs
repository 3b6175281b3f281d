//! Service account tokens and kubeconfigs, checked from the outside.

use pki::*;

fn authority(issuers: &[&str]) -> TokenAuthority {
    let issuers: Vec<String> = issuers.iter().map(|text| (*text).to_owned()).collect();
    TokenAuthority::new(PrivateKey::generate().unwrap(), &[], &issuers).unwrap()
}

fn request(seconds: i64) -> TokenRequest {
    TokenRequest {
        namespace: "default".into(),
        service_account: "robot".into(),
        service_account_uid: "u1".into(),
        audiences: vec!["api".into(), "vault".into()],
        expiration_seconds: seconds,
        warn_after_seconds: Some(10),
        pod: Some(BoundObject { name: "p".into(), uid: "u2".into() }),
        secret: None,
        node: Some(BoundObject { name: "n".into(), uid: "u3".into() }),
    }
}

fn claims(token: &str) -> serde_json::Value {
    use base64::Engine;
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn audiences(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn bound_tokens() {
    let tokens = authority(&["https://kubernetes.default.svc"]);
    let (token, expires) = tokens.mint(&request(3607)).unwrap();
    let found = claims(&token);
    assert_eq!(found["sub"], "system:serviceaccount:default:robot");
    assert_eq!(found["iss"], "https://kubernetes.default.svc");
    assert_eq!(found["aud"], serde_json::json!(["api", "vault"]));
    assert_eq!(found["exp"], expires.as_second());
    let iat = found["iat"].as_i64().unwrap();
    let expected = serde_json::json!({
        "namespace": "default", "serviceaccount": {"name": "robot", "uid": "u1"},
        "pod": {"name": "p", "uid": "u2"}, "node": {"name": "n", "uid": "u3"}, "warnafter": iat + 10,
    });
    assert_eq!(found["kubernetes.io"], expected);
    for _ in 0..2 {
        let verified = tokens.verify(&token, &audiences(&["api", "other"])).unwrap();
        assert_eq!(verified.audiences, ["api"]);
        assert_eq!(verified.user_name(), "system:serviceaccount:default:robot");
        assert_eq!(verified.groups(), ["system:serviceaccounts", "system:serviceaccounts:default"]);
        let names: Vec<String> = verified.extra().into_iter().map(|(name, _)| name).collect();
        let short: Vec<&str> = names.iter().map(|name| name.split_once('/').unwrap().1).collect();
        assert_eq!(short, ["credential-id", "node-name", "node-uid", "pod-name", "pod-uid"]);
    }
    assert!(matches!(tokens.verify(&token, &audiences(&["x"])), Err(VerifyError::Audience { .. })));
    assert!(tokens.claims_to_be_ours(&token));
}

#[test]
fn refusals() {
    let tokens = authority(&["https://a", "https://b"]);
    let api = audiences(&["api"]);
    let (good, _) = tokens.mint(&request(600)).unwrap();
    let (old, _) = tokens.mint(&request(-61)).unwrap();
    let (barely, _) = tokens.mint(&request(-30)).unwrap();
    let other = authority(&["https://a"]);
    let (foreign_key, _) = other.mint(&request(600)).unwrap();
    let (foreign_issuer, _) = authority(&["https://c"]).mint(&request(600)).unwrap();
    let (head, signature) = good.rsplit_once('.').unwrap();
    let (header, body) = head.split_once('.').unwrap();
    use base64::Engine;
    let b64 = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let none = format!("{}.{body}.", b64(r#"{"alg":"none"}"#));
    let rsa = format!("{}.{body}.{signature}", b64(r#"{"alg":"RS256"}"#));
    let cases = [
        (good.clone(), None),
        (barely, None),
        (old, Some(VerifyError::Expired)),
        (foreign_key, Some(VerifyError::Signature)),
        (foreign_issuer, Some(VerifyError::NotOurs)),
        (none, Some(VerifyError::Signature)),
        (rsa, Some(VerifyError::Signature)),
        (format!("{header}.{body}.{}", b64("short")), Some(VerifyError::Signature)),
        ("abcdef.0123456789abcdef".into(), Some(VerifyError::NotOurs)),
        ("x".repeat(1 << 20), Some(VerifyError::NotOurs)),
    ];
    for (token, expected) in cases {
        assert_eq!(tokens.verify(&token, &api).err(), expected, "{}", &token[..token.len().min(80)]);
    }
}

#[test]
fn keys_rotate_and_are_published() {
    let old_key = PrivateKey::generate().unwrap();
    let issuer = ["https://k".to_owned()];
    let old = TokenAuthority::new(old_key.clone(), &[], &issuer).unwrap();
    let (token, _) = old.mint(&request(600)).unwrap();
    let new = TokenAuthority::new(PrivateKey::generate().unwrap(), &[old_key.public()], &issuer).unwrap();
    new.verify(&token, &audiences(&["api"])).unwrap();
    let jwks: serde_json::Value = serde_json::from_str(&new.jwks_document()).unwrap();
    let keys = jwks["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[1]["kid"], old_key.public().key_id());
    assert_eq!((&keys[0]["kty"], &keys[0]["crv"], &keys[0]["alg"]), (&"EC".into(), &"P-256".into(), &"ES256".into()));
    let discovery: serde_json::Value = serde_json::from_str(&new.discovery_document(None)).unwrap();
    assert_eq!(discovery["jwks_uri"], "https://k/openid/v1/jwks");
    assert_eq!(discovery["id_token_signing_alg_values_supported"][0], "ES256");
    assert_eq!(PublicKey::from_pem(&old_key.public().to_pem()).unwrap(), old_key.public());
    assert_eq!(PrivateKey::from_pem(&old_key.to_pem()).unwrap().public(), old_key.public());
}

#[test]
fn tokens_of_secrets() {
    let tokens = authority(&["https://k"]);
    let legacy = LegacyToken { namespace: "ns".into(), secret: "s".into(), service_account: "sa".into(), service_account_uid: "u".into() };
    let token = tokens.mint_legacy(&legacy).unwrap();
    assert_eq!(claims(&token)["iss"], "kubernetes/serviceaccount");
    let verified = tokens.verify(&token, &audiences(&["api"])).unwrap();
    assert!(verified.legacy && verified.expires_at.is_none());
    assert_eq!(verified.secret.as_ref().unwrap().name, "s");
    assert_eq!(verified.audiences, ["api"]);
}

#[test]
fn kubeconfigs() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("config");
    let config = Kubeconfig::single("knarr", "https://127.0.0.1:6443", "CA\n", "admin", AuthInfo::client_cert("C", "K"));
    config.write(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Kubeconfig::read(&path).unwrap(), config);
    let resolved = config.resolve(None).unwrap();
    assert_eq!(resolved.ca_pem.as_deref(), Some("CA\n"));
    assert_eq!(resolved.client, Some(ClientSource { cert_pem: "C".into(), key_pem: "K".into() }));
    let kubectl = std::process::Command::new("kubectl")
        .args(["config", "view", "--kubeconfig", path.to_str().unwrap(), "-o", "jsonpath={.clusters[0].cluster.server}"])
        .output();
    if let Ok(output) = kubectl {
        assert_eq!(String::from_utf8_lossy(&output.stdout), "https://127.0.0.1:6443");
    }
    std::fs::write(temp.path().join("ca.pem"), "FILE").unwrap();
    let text = "apiVersion: v1\nkind: Config\npreferences: {}\ncurrent-context: c\ncontexts:\n- {name: c, context: {cluster: k, user: u, namespace: n}}\nclusters:\n- name: k\n  cluster: {server: 'http://x', certificate-authority: ca.pem}\nusers:\n- name: u\n  user: {token: abc, tokenFile: tok}\n";
    std::fs::write(&path, text).unwrap();
    let resolved = Kubeconfig::read(&path).unwrap().resolve(None).unwrap();
    assert_eq!(resolved.ca_pem.as_deref(), Some("FILE"));
    assert_eq!(resolved.token_file, Some(temp.path().join("tok")));
    assert_eq!(resolved.namespace.as_deref(), Some("n"));
    let exec = text.replace("{token: abc, tokenFile: tok}", "{exec: {command: aws}}");
    let error = Kubeconfig::parse(&exec).unwrap().resolve(None).unwrap_err();
    assert_eq!(error.to_string(), "user \"u\" uses an exec credential plugin, which is not supported");
    let error = Kubeconfig::parse(text).unwrap().resolve(Some("zzz")).unwrap_err();
    assert_eq!(error.to_string(), "context \"zzz\" does not exist in the kubeconfig");
}
