//! Certificates end to end: the directory survives restarts, openssl agrees with what we issue, TLS tells who calls.

use pki::*;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn openssl(dir: &Path, args: &str) -> String {
    let output = Command::new("openssl").current_dir(dir).args(args.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_directory_survives_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("pki");
    let sans = [San::parse("10.96.0.1"), San::parse("kubernetes.default.svc"), San::parse("::1")];
    let first = ClusterPki::load_or_create(&dir).unwrap();
    let serving = first.serving_cert("serving-api", "kube-apiserver", &sans).unwrap().current().cert_pem.clone();
    let again = ClusterPki::load_or_create(&dir).unwrap();
    assert_eq!(first.server_ca.cert_pem(), again.server_ca.cert_pem());
    assert_eq!(first.service_account_key.public(), again.service_account_key.public());
    assert_eq!(again.serving_cert("serving-api", "kube-apiserver", &sans).unwrap().current().cert_pem, serving);
    let other = again.serving_cert("serving-api", "kube-apiserver", &sans[..1]).unwrap();
    assert_ne!(other.current().cert_pem, serving, "other names need another certificate");
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        let secret = entry.file_name().to_string_lossy().ends_with(".key");
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, if secret { 0o600 } else { 0o644 }, "{:?}", entry.path());
    }
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    std::fs::write(dir.join("format.json"), r#"{"magic":"knarr-pki","format":99,"writer":"x"}"#).unwrap();
    assert!(matches!(ClusterPki::load_or_create(&dir), Err(PkiError::TooNew { found: 99, .. })));
}

#[test]
fn openssl_agrees() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let pki = ClusterPki::load_or_create(dir).unwrap();
    pki.serving_cert("api", "kube-apiserver", &[San::parse("127.0.0.1"), San::parse("localhost")]).unwrap();
    pki.client_cert("admin", &Subject::new("admin", &["system:masters", "extra", "third"])).unwrap();
    assert_eq!(openssl(dir, "verify -x509_strict -CAfile server-ca.crt -purpose sslserver api.crt"), "api.crt: OK\n");
    assert_eq!(openssl(dir, "verify -x509_strict -CAfile client-ca.crt -purpose sslclient admin.crt"), "admin.crt: OK\n");
    let subject = openssl(dir, "x509 -in admin.crt -noout -subject -nameopt RFC2253");
    assert_eq!(subject, "subject=CN=admin,O=third,O=extra,O=system:masters\n");
    let text = openssl(dir, "x509 -in api.crt -noout -ext subjectAltName,keyUsage,extendedKeyUsage,basicConstraints");
    for expected in ["DNS:localhost", "IP Address:127.0.0.1", "Digital Signature, Key Encipherment", "TLS Web Server"] {
        assert!(text.contains(expected), "{text}");
    }
    let text = openssl(dir, "x509 -in server-ca.crt -noout -text");
    assert!(text.contains("CA:TRUE") && text.contains("ecdsa-with-SHA256"), "{text}");
}

#[test]
fn requests_of_others_are_checked_and_signed() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    let pki = ClusterPki::load_or_create(dir).unwrap();
    let keys = ["rsa:2048", "ec -pkeyopt ec_paramgen_curve:P-256", "ec -pkeyopt ec_paramgen_curve:secp384r1", "ed25519"];
    for key in keys {
        openssl(dir, &format!("req -new -nodes -newkey {key} -keyout k -out csr -subj /O=one/O=two/CN=jane"));
        let csr = ParsedCsr::from_pem(&std::fs::read(dir.join("csr")).unwrap()).unwrap();
        assert_eq!(csr.subject, Subject::new("jane", &["one", "two"]), "{key}");
        let usages = [Usage::ClientAuth, Usage::DigitalSignature];
        csr.check_client(&usages).unwrap();
        assert!(csr.check_client(&[Usage::ServerAuth]).is_err());
        let cert = pki.client_ca.sign_csr(&csr, &usages, Duration::from_secs(3600)).unwrap();
        std::fs::write(dir.join("jane.crt"), &cert).unwrap();
        assert_eq!(openssl(dir, "verify -CAfile client-ca.crt -purpose sslclient jane.crt"), "jane.crt: OK\n");
        let subject = openssl(dir, "x509 -in jane.crt -noout -subject -nameopt RFC2253");
        assert_eq!(subject, "subject=CN=jane,O=two,O=one\n");
    }
    let pem = std::fs::read_to_string(dir.join("csr")).unwrap();
    let mut lines: Vec<String> = pem.lines().map(str::to_owned).collect();
    let middle = lines.len() / 2;
    lines[middle] = lines[middle].chars().rev().collect();
    assert!(ParsedCsr::from_pem(lines.join("\n").as_bytes()).is_err(), "a changed request does not verify");
    assert!(matches!(ParsedCsr::from_pem(b"nonsense"), Err(CsrError::NotPem)));
}

#[test]
fn own_requests_obey_the_rules_of_kubelet_signers() {
    let key = PrivateKey::generate().unwrap();
    let node = Subject::new("system:node:n1", &["system:nodes"]);
    let client = [Usage::DigitalSignature, Usage::ClientAuth];
    let serving = [Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth];
    let parse = |subject: &Subject, sans: &[San]| {
        let parsed = ParsedCsr::from_pem(build_csr(&key, subject, sans).unwrap().as_bytes()).unwrap();
        assert_eq!(parsed.key, KeyKind::Ecdsa(256));
        parsed
    };
    let sans = [San::parse("n1"), San::parse("10.0.0.1")];
    parse(&node, &[]).check_kubelet_client(&client).unwrap();
    parse(&node, &sans).check_kubelet_serving(&serving).unwrap();
    let refusals = [
        (parse(&node, &sans).check_kubelet_client(&client), "DNS subjectAltNames are not allowed"),
        (parse(&node, &[]).check_kubelet_serving(&serving), "DNS or IP subjectAltName is required"),
        (parse(&node, &[]).check_kubelet_client(&serving), "usages did not match those of the signer"),
        (
            parse(&Subject::new("system:node:n1", &["system:nodes", "x"]), &[]).check_kubelet_client(&client),
            "subject organization is not system:nodes",
        ),
        (
            parse(&Subject::new("n1", &["system:nodes"]), &[]).check_kubelet_client(&client),
            "subject common name does not begin with system:node: ",
        ),
    ];
    for (result, text) in refusals {
        assert_eq!(result.unwrap_err().to_string(), text);
    }
}

/// One TLS connection over memory; what the server saw of the client, or the client's error.
async fn connect(
    server: Arc<rustls::ServerConfig>,
    client: Arc<rustls::ClientConfig>,
) -> Result<Vec<rustls_pki_types::CertificateDer<'static>>, std::io::Error> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let serve = tokio::spawn(async move {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(far).await?;
        let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
        stream.write_all(b"hello").await?;
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(chain)
    });
    let name = rustls_pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(client).connect(name, near).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    assert_eq!(text, "hello");
    serve.await.unwrap()
}

#[tokio::test]
async fn tls_tells_who_calls_and_swaps_certificates() {
    let temp = tempfile::tempdir().unwrap();
    let pki = ClusterPki::load_or_create(temp.path()).unwrap();
    let serving = pki.serving_cert("api", "api", &[San::parse("localhost")]).unwrap();
    let admin = pki.client_cert("admin", &Subject::new("admin", &["b", "a"])).unwrap();
    let server = Arc::new(server_config(&serving, true, &["h2", "http/1.1"]).unwrap());
    let trust = ServerTrust::Authorities(vec![pki.server_ca.cert_pem().to_owned()]);
    let client = |trust: &ServerTrust, cert| Arc::new(client_config(trust, cert, &["h2"]).unwrap());
    let authorities = ClientAuthorities::from_pem(&[pki.client_ca.cert_pem()]).unwrap();

    let chain = connect(server.clone(), client(&trust, Some(&admin))).await.unwrap();
    let identity = authorities.verify(&chain).unwrap();
    assert_eq!((identity.user.as_str(), identity.groups), ("admin", vec!["b".to_owned(), "a".to_owned()]));
    assert!(identity.credential_id.starts_with("X509SHA256="));

    let chain = connect(server.clone(), client(&trust, None)).await.unwrap();
    assert!(matches!(authorities.verify(&chain), Err(ClientCertError::Missing)));

    // A certificate of another CA connects, and is refused by the authenticator.
    let stranger = pki.front_proxy_cert("front").unwrap();
    let chain = connect(server.clone(), client(&trust, Some(&stranger))).await.unwrap();
    assert!(matches!(authorities.verify(&chain), Err(ClientCertError::Untrusted(_))));
    let both = [pki.client_ca.cert_pem(), pki.request_header_ca.cert_pem()];
    assert_eq!(ClientAuthorities::from_pem(&both).unwrap().verify(&chain).unwrap().user, "front");

    // A serving certificate is no client certificate.
    let chain = connect(server.clone(), client(&trust, Some(&serving))).await.unwrap();
    let server_ca = ClientAuthorities::from_pem(&[pki.server_ca.cert_pem()]).unwrap();
    assert!(matches!(server_ca.verify(&chain), Err(ClientCertError::Untrusted(_))));

    // The same server configuration serves the new certificate after a swap.
    let other = Authority::create("other", Duration::from_secs(60)).unwrap();
    let request = IssueRequest {
        subject: Subject::new("api", &[]),
        sans: vec![San::parse("localhost")],
        usages: vec![Usage::ServerAuth],
        lifetime: Duration::from_secs(60),
    };
    serving.replace(other.issue(&request).unwrap()).unwrap();
    assert!(connect(server.clone(), client(&trust, None)).await.is_err());
    let hash = ca_hash(other.cert_pem());
    let pinned = ServerTrust::Pinned { ca_pem: other.cert_pem().to_owned(), hash: hash.clone() };
    connect(server.clone(), client(&pinned, None)).await.unwrap();
    connect(server.clone(), client(&ServerTrust::Anybody, None)).await.unwrap();
    let wrong = ServerTrust::Pinned { ca_pem: pki.server_ca.cert_pem().to_owned(), hash };
    assert!(matches!(client_config(&wrong, None, &[]), Err(TlsError::PinMismatch { .. })));
}

#[tokio::test]
async fn leaves_are_renewed_while_running_and_after_expiry() {
    let temp = tempfile::tempdir().unwrap();
    let mut pki = ClusterPki::load_or_create(temp.path()).unwrap();
    pki.set_leaf_lifetime(Duration::from_secs(2));
    let cert = pki.client_cert("admin", &Subject::new("admin", &[])).unwrap();
    let first = cert.current().cert_pem.clone();
    let mut replaced = cert.subscribe();
    let task = tokio::spawn(cert.clone().keep_renewed());
    tokio::time::timeout(Duration::from_secs(60), replaced.changed()).await.unwrap().unwrap();
    task.abort();
    assert_ne!(cert.current().cert_pem, first);
    // A start with a due or expired file issues again.
    pki.set_leaf_lifetime(Duration::from_secs(3600));
    let now = pki.client_cert("admin", &Subject::new("admin", &[])).unwrap().current();
    assert!(now.renew_at() > jiff::Timestamp::now());
    let on_disk = std::fs::read_to_string(temp.path().join("admin.crt")).unwrap();
    assert_eq!(on_disk, now.cert_pem);
}

#[test]
fn rsa_authorities_from_outside_work() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path();
    openssl(dir, "req -x509 -nodes -newkey rsa:2048 -keyout ca.key -out ca.crt -subj /CN=kubernetes -days 10");
    let read = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let authority = Authority::from_pem(&read("ca.crt"), &read("ca.key")).unwrap();
    let request = IssueRequest {
        subject: Subject::new("u", &["g"]),
        sans: vec![],
        usages: vec![Usage::ClientAuth],
        lifetime: Duration::from_secs(600),
    };
    let issued = authority.issue(&request).unwrap();
    std::fs::write(dir.join("u.crt"), &issued.cert_pem).unwrap();
    assert_eq!(openssl(dir, "verify -CAfile ca.crt u.crt"), "u.crt: OK\n");
    assert!(authority.has_signed(&issued.chain[0]));
}
