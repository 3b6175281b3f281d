//! Spoiled certificates, requests, keys and tokens: none breaks us, and none makes somebody of anybody.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::*;
use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Good {
    authority: String,
    key: String,
    authorities: ClientAuthorities,
    certificate: CertificateDer<'static>,
    identity: Identity,
    request: String,
}

static GOOD: LazyLock<Good> = LazyLock::new(|| {
    install_provider();
    let authority = Authority::create("clients", DAY).unwrap();
    let request = IssueRequest {
        subject: Subject::new("jane", &["readers"]),
        sans: vec![San::parse("jane.example.com")],
        usages: vec![Usage::DigitalSignature, Usage::ClientAuth],
        lifetime: DAY,
    };
    let issued = authority.issue(&request).unwrap();
    let authorities = ClientAuthorities::from_pem(&[authority.cert_pem()]).unwrap();
    let certificate = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap().into_owned();
    let identity = authorities.verify(std::slice::from_ref(&certificate)).unwrap();
    let key = Issued::from_pem(&issued.cert_pem, &issued.key_pem).map(|_| issued.key_pem.clone()).unwrap();
    let own = PrivateKey::from_pem(&key).unwrap();
    let request = build_csr(&own, &Subject::new("system:node:a", &["system:nodes"]), &[San::parse("192.0.2.1")]).unwrap();
    Good { authority: authority.cert_pem().to_owned(), key, authorities, certificate, identity, request }
});

/// Changes to bytes: where, to what, and where they end.
fn spoil(bytes: &[u8], changes: &[(prop::sample::Index, u8)], end: Option<prop::sample::Index>) -> Vec<u8> {
    let mut spoiled = bytes.to_vec();
    for (at, byte) in changes {
        let at = at.index(spoiled.len());
        spoiled[at] = *byte;
    }
    spoiled.truncate(end.map_or(usize::MAX, |end| end.index(bytes.len())));
    spoiled
}

fn changes() -> impl Strategy<Value = (Vec<(prop::sample::Index, u8)>, Option<prop::sample::Index>)> {
    (prop::collection::vec(any::<(prop::sample::Index, u8)>(), 0..4), prop::option::weighted(0.2, any::<prop::sample::Index>()))
}

fn der(pem: &str) -> Vec<u8> {
    STANDARD.decode(pem.lines().filter(|line| !line.starts_with('-')).collect::<String>()).unwrap()
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

proptest! {
    #[test]
    fn a_spoiled_certificate_is_nobody((changes, end) in changes()) {
        let good = &*GOOD;
        let spoiled = spoil(&good.certificate, &changes, end);
        let same = spoiled == *good.certificate;
        match good.authorities.verify(&[CertificateDer::from(spoiled)]) {
            Ok(identity) => prop_assert!(same && identity == good.identity, "{:?}", identity),
            Err(error) => prop_assert!(!same, "{}", error),
        }
    }

    #[test]
    fn a_spoiled_request_asks_for_nothing_else((changes, end) in changes()) {
        let good = &*GOOD;
        let whole = ParsedCsr::from_pem(good.request.as_bytes()).unwrap();
        let spoiled = spoil(&der(&good.request), &changes, end);
        if let Ok(parsed) = ParsedCsr::from_pem(pem("CERTIFICATE REQUEST", &spoiled).as_bytes()) {
            prop_assert_eq!(format!("{parsed:?}"), format!("{whole:?}"), "its own key has signed it");
        }
    }

    #[test]
    fn spoiled_files_are_errors((changes, end) in changes(), which in 0..3) {
        let good = &*GOOD;
        let (certificate, key) = (der(&good.authority), der(&good.key));
        let (certificate, key) = if which == 0 { (certificate, spoil(&key, &changes, end)) } else { (spoil(&certificate, &changes, end), key) };
        let (mut certificate, key) = (pem("CERTIFICATE", &certificate), pem("PRIVATE KEY", &key));
        if which == 2 {
            certificate = String::from_utf8_lossy(&spoil(good.authority.as_bytes(), &changes, end)).into_owned();
        }
        let _ = Authority::from_pem(&certificate, &key);
        let _ = Authority::without_key(&certificate);
        let _ = Issued::from_pem(&certificate, &key);
        let _ = ClientAuthorities::from_pem(&[&certificate]);
        let _ = PrivateKey::from_pem(&key);
    }

    #[test]
    fn tokens_are_read_as_written(text in "(K10)?[a-z0-9:.]{0,90}", other in "\\PC{0,60}") {
        for text in [text, other, format!("K10{}::node:secret", "a".repeat(64))] {
            if let Ok(token) = ServerToken::parse(&text) {
                let again = ServerToken::parse(&token.to_text()).unwrap();
                prop_assert!(again == token, "{}", text);
            }
            if let Ok(token) = BootstrapToken::parse(&text) {
                prop_assert_eq!(token.to_text(), text);
            }
        }
    }
}
