//! Pulls: from Debian's registry as users have it, and from one that fails in every way that registries do.

mod support;

use std::sync::{Arc, Mutex};

use image::{PullError, PullProgress, RegistryAuth};
use support::stand::Stand;
use support::{DebianRegistry, digest, docker_archive, layer, noise, open, text};

#[tokio::test]
async fn a_real_registry_behind_a_mirror_entry() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = DebianRegistry::start();
    let base = layer(&[("etc/", ""), ("etc/who", "base")]);
    let old = docker_archive(&[(&["e2e/app:1"], &[base.clone(), layer(&[("v", "1")])])]);
    registry.push(&old, "docker.io/e2e/app:1", "e2e/app:1");
    let registries = format!("mirrors: {{registry.k8s.io: {{endpoint: ['http://{}']}}}}", registry.address);
    let store = open(directory.path(), &registries);
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let progress = Arc::new(move |progress: PullProgress| listener.lock().expect("not poisoned").push(progress));
    let image = store.pull_with_progress("registry.k8s.io/e2e/app:1", &[], progress).await.expect("pulls");
    assert_eq!(image.names, ["registry.k8s.io/e2e/app:1"]);
    assert!(image.digests[0].starts_with("registry.k8s.io/e2e/app@sha256:") && !image.pinned);
    let layers = store.layers(&image);
    assert_eq!((text(&layers, "v").as_deref(), text(&layers, "etc/who").as_deref()), (Some("1"), Some("base")));
    let last = told.lock().expect("not poisoned").last().cloned().expect("progress was told");
    assert_eq!((last.layers_done, last.bytes_done), (2, last.bytes_total));
    // The same by digest is the same image, with nothing to download.
    let again = store.pull(&image.digests[0], &[]).await.expect("pulls");
    assert_eq!(again.id, image.id);
    // A tag that moves takes its name along; the base is shared.
    let new = docker_archive(&[(&["e2e/app:1"], &[base.clone(), layer(&[("v", "2")])])]);
    registry.push(&new, "docker.io/e2e/app:1", "e2e/app:1");
    let moved = store.pull("registry.k8s.io/e2e/app:1", &[]).await.expect("pulls");
    assert_ne!(moved.id, image.id);
    assert_eq!(text(&store.layers(&moved), "v").as_deref(), Some("2"));
    assert_eq!(store.layers(&moved)[1], layers[1]);
    assert!(store.resolve(&image.id).expect("still here").names.is_empty());
    let error = store.pull("registry.k8s.io/e2e/app:2", &[]).await.expect_err("no such tag");
    // The mirror says no; the registry itself cannot be reached from a test, or does not have it either.
    assert!(
        error.to_string().starts_with(r#"failed to pull and unpack image "registry.k8s.io/e2e/app:2": failed to resolve reference"#),
        "{error}"
    );
}

#[tokio::test]
async fn missing_images_have_the_words_that_users_know() {
    let directory = tempfile::tempdir().expect("a directory");
    let registry = DebianRegistry::start();
    let store = open(directory.path(), "");
    let name = format!("{}/none:1", registry.address);
    let error = store.pull(&name, &[]).await.expect_err("none");
    assert_eq!(
        error.to_string(),
        format!("failed to pull and unpack image {name:?}: failed to resolve reference {name:?}: {name}: not found")
    );
    assert!(matches!(error, PullError::NotFound { .. }));
    let error = store.pull("Not A Name", &[]).await.expect_err("no name");
    assert!(matches!(error, PullError::InvalidName { .. }) && error.to_string().contains("couldn't parse image name"), "{error}");
    let address = registry.address;
    drop(registry);
    let error = store.pull(&name, &[]).await.expect_err("nobody listens");
    assert!(matches!(error, PullError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&format!("dial tcp {address}: connect: connection refused")), "{error}");
}

#[tokio::test]
async fn interrupted_downloads_are_resumed() {
    for no_ranges in [false, true] {
        let directory = tempfile::tempdir().expect("a directory");
        let stand = Stand::start().await;
        let content = support::layer_of_bytes("f", &noise(300_000));
        stand.add("a", "1", std::slice::from_ref(&content));
        stand.set(|behaviour| (behaviour.break_after, behaviour.no_ranges) = (Some(100_000), no_ranges));
        let store = open(directory.path(), "");
        let image = store.pull(&format!("{}/a:1", stand.address), &[]).await.expect("pulls");
        let file = store.layers(&image)[0].join("f");
        assert!(std::fs::read(file).expect("reads") == noise(300_000));
        let expected = if no_ranges { 3 } else { 5 };
        assert_eq!(stand.count("/blobs/"), expected, "config and the pieces of the layer");
    }
}

#[tokio::test]
async fn downloads_are_resumed_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let stand = Stand::start().await;
    let content = support::layer_of_bytes("f", &noise(300_000));
    stand.add("a", "1", std::slice::from_ref(&content));
    let blob = support::gzip(&content);
    let part = |bytes: &[u8]| {
        let store = open(directory.path(), "");
        let path = store.dir().join("ingest").join(digest(&blob).replace(':', "-"));
        std::fs::write(path, bytes).expect("writes");
        store
    };
    let name = format!("{}/a:1", stand.address);
    let store = part(&blob[..200_000]);
    let told = Arc::new(Mutex::new(0));
    let least = told.clone();
    let progress = Arc::new(move |progress: PullProgress| {
        let mut least = least.lock().expect("not poisoned");
        if *least == 0 {
            *least = progress.bytes_done;
        }
    });
    store.pull_with_progress(&name, &[], progress).await.expect("pulls");
    assert_eq!(*told.lock().expect("not poisoned"), 200_000);
    store.remove(&name).await.expect("removes");
    drop(store);
    // What lies there is not trusted: a damaged beginning is noticed and fetched anew.
    let mut damaged = blob[..200_000].to_vec();
    damaged[5000] ^= 1;
    let store = part(&damaged);
    store.pull(&name, &[]).await.expect("pulls in spite of it");
    store.remove(&name).await.expect("removes");
    drop(store);
    part(&[0; 400_000]).pull(&name, &[]).await.expect("a longer file is none");
}

#[tokio::test]
async fn what_does_not_fit_its_digest_is_refused() {
    let content = layer(&[("f", "x")]);
    let blob = support::gzip(&content);
    let blob_path = format!("/v2/a/blobs/{}", digest(&blob));
    let mut wrong = blob.clone();
    wrong[10] ^= 1;
    let longer = [blob.clone(), vec![0; 10]].concat();
    let cases: [(&str, Vec<u8>, &str); 3] = [
        ("digest", wrong, "has the digest"),
        ("longer", longer, "has the size"),
        ("shorter", blob[..blob.len() - 1].to_vec(), "has the size"),
    ];
    for (name, content_now, part) in cases {
        let directory = tempfile::tempdir().expect("a directory");
        let stand = Stand::start().await;
        stand.add("a", "1", std::slice::from_ref(&content));
        stand.set(|behaviour| behaviour.content.get_mut(&blob_path).expect("the layer").1 = content_now);
        let store = open(directory.path(), "");
        let error = store.pull(&format!("{}/a:1", stand.address), &[]).await.expect_err(name);
        assert!(matches!(&error, PullError::Refused { .. }) && error.to_string().contains(part), "{name}: {error}");
        assert!(store.list().is_empty() && store.usage() == Default::default());
    }
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path(), "");
    let stand = Stand::start().await;
    let manifest = stand.add("a", "1", &[content]);
    stand.set(|behaviour| {
        let path = format!("/v2/a/manifests/{manifest}");
        behaviour.content.get_mut(&path).expect("the manifest").1.push(b' ');
    });
    let error = store.pull(&format!("{}/a@{manifest}", stand.address), &[]).await.expect_err("another manifest");
    assert!(error.to_string().contains("has the digest"), "{error}");
    let huge = vec![b' '; 5 << 20];
    stand.add_manifest("big", "1", "application/vnd.oci.image.manifest.v1+json", huge);
    let error = store.pull(&format!("{}/big:1", stand.address), &[]).await.expect_err("too large");
    assert!(error.to_string().contains("is larger than 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn an_index_gives_the_member_of_this_platform() {
    let directory = tempfile::tempdir().expect("a directory");
    let stand = Stand::start().await;
    let manifest = stand.add("a", "own", &[layer(&[("f", "x")])]);
    let own = image::Platform::host();
    let member = |digest: &str, os: &str, architecture: &str| {
        serde_json::json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": 1,
            "platform": {"os": os, "architecture": architecture}})
    };
    let zeros = format!("sha256:{}", "0".repeat(64));
    let index = |members: Vec<serde_json::Value>| serde_json::json!({"schemaVersion": 2, "manifests": members}).to_string().into_bytes();
    let fitting =
        index(vec![member(&zeros, "unknown", "unknown"), member(&zeros, "linux", "s390x"), member(&manifest, &own.os, &own.architecture)]);
    let top = digest(&fitting);
    stand.add_manifest("a", "1", "application/vnd.oci.image.index.v1+json", fitting);
    stand.add_manifest("a", "2", "application/vnd.oci.image.index.v1+json", index(vec![member(&zeros, "plan9", "vax")]));
    let store = open(directory.path(), "");
    let image = store.pull(&format!("{}/a:1", stand.address), &[]).await.expect("pulls");
    assert_eq!(image.digests, [format!("{}/a@{top}", stand.address)]);
    let error = store.pull(&format!("{}/a:2", stand.address), &[]).await.expect_err("no member");
    assert!(matches!(error, PullError::Platform { .. }), "{error}");
}

/// CVE-2023-25153 and its like: what describes an image is small, and leads to one soon.
#[tokio::test]
async fn indexes_of_indexes_end() {
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let directory = tempfile::tempdir().expect("a directory");
    let stand = Stand::start().await;
    let mut inner = stand.add("a", "own", &[layer(&[("f", "x")])]);
    let mut kind = "application/vnd.oci.image.manifest.v1+json";
    let store = open(directory.path(), "");
    for depth in 1..5 {
        let member = serde_json::json!({"mediaType": kind, "digest": inner, "size": 1});
        let index = serde_json::json!({"schemaVersion": 2, "manifests": [member]}).to_string().into_bytes();
        (inner, kind) = (digest(&index), INDEX);
        stand.add_manifest("a", &depth.to_string(), INDEX, index);
    }
    store.pull(&format!("{}/a:2", stand.address), &[]).await.expect("an index of an index");
    let error = store.pull(&format!("{}/a:4", stand.address), &[]).await.expect_err("too deep");
    assert!(error.to_string().contains("indexes are nested too deeply"), "{error}");
}

#[tokio::test]
async fn pulls_of_the_same_are_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let stand = Stand::start().await;
    let shared = layer(&[("f", "x")]);
    stand.add("a", "1", &[shared.clone(), layer(&[("a", "")]), shared.clone()]);
    stand.add("b", "1", &[shared.clone(), layer(&[("b", "")])]);
    let store = open(directory.path(), "");
    let (a, b) = (format!("{}/a:1", stand.address), format!("{}/b:1", stand.address));
    let pulls = [&a, &b, &a, &b, &a, &a].map(|name| store.pull(name, &[]));
    let images = futures_util::future::try_join_all(pulls).await.expect("all pull");
    assert_eq!(images[0], images[2]);
    assert_eq!((stand.count("/a/manifests/"), stand.count("/b/manifests/")), (1, 1));
    let blob = digest(&support::gzip(&shared));
    assert_eq!(stand.count(&blob), 1, "the shared layer is downloaded once");
    assert_eq!(store.layers(&images[0]).len(), 2, "a layer that comes twice is mounted once");
    // Nothing changed: one small question, no manifest.
    store.pull(&a, &[]).await.expect("is up to date");
    assert_eq!((stand.count("/a/manifests/"), stand.count("/blobs/")), (2, 5));
}

#[tokio::test]
async fn basic_credentials_are_sent_when_wanted() {
    let directory = tempfile::tempdir().expect("a directory");
    let stand = Stand::start().await;
    stand.add("a", "1", &[layer(&[("f", "x")])]);
    // "user:pass" and "user:wrong" in base64.
    stand.set(|behaviour| {
        behaviour.wanted = Some("Basic dXNlcjpwYXNz".into());
        behaviour.challenge = r#"Basic realm="here""#.into();
    });
    let name = format!("{}/a:1", stand.address);
    let store = open(directory.path(), "");
    let error = store.pull(&name, &[]).await.expect_err("no credentials");
    assert!(
        error.to_string().ends_with(
            "pull access denied, repository does not exist or may require authorization: server message: no basic auth credentials"
        ),
        "{error}"
    );
    let secret = |registry: &str, auth: &str| {
        let json = format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#);
        RegistryAuth::parse_docker_config_json(json.as_bytes()).expect("parses")
    };
    let address = stand.address.to_string();
    let error = store.pull(&name, &secret(&address, "dXNlcjp3cm9uZw==")).await.expect_err("wrong password");
    assert!(matches!(error, PullError::Denied { .. }), "{error}");
    let before = stand.seen().len();
    store.pull(&name, &secret("other.example.com", "dXNlcjpwYXNz")).await.expect_err("for somebody else");
    assert!(stand.seen()[before..].iter().all(|(_, authorization)| authorization.is_empty()), "a secret went to the wrong host");
    // Several secrets for one registry: each is tried.
    let both = [secret(&address, "dXNlcjp3cm9uZw=="), secret(&address, "dXNlcjpwYXNz")].concat();
    store.pull(&name, &both).await.expect("the second fits");
    store.remove(&name).await.expect("removes");
    drop(store);
    let file = format!("configs: {{'{address}': {{auth: {{username: user, password: pass}}}}}}");
    open(directory.path(), &file).pull(&name, &[]).await.expect("registries.yaml has them");
}

#[tokio::test]
async fn tokens_are_fetched_and_stay_at_home() {
    let directory = tempfile::tempdir().expect("a directory");
    let (stand, elsewhere) = (Stand::start().await, Stand::start().await);
    for stand in [&stand, &elsewhere] {
        stand.add("team/a", "1", &[layer(&[("f", "x")])]);
    }
    stand.set(|behaviour| {
        behaviour.wanted = Some("Bearer t0k".into());
        behaviour.challenge = format!(
            r#"Bearer realm="http://{}/token",service="s",scope="repository:team/a:pull",error="insufficient_scope""#,
            stand.address
        );
        behaviour.content.insert("/token".into(), ("application/json".into(), br#"{"token":"t0k","expires_in":60}"#.to_vec()));
        behaviour.redirect_blobs = Some(format!("http://{}", elsewhere.address));
    });
    let auth =
        RegistryAuth { registry: stand.address.to_string(), username: "user".into(), password: "pass".into(), ..RegistryAuth::default() };
    let name = format!("{}/team/a:1", stand.address);
    let store = open(directory.path(), "");
    store.pull(&name, &[auth]).await.expect("pulls");
    let tokens: Vec<_> = stand.seen().into_iter().filter(|(path, _)| path.starts_with("/token")).collect();
    assert_eq!(
        tokens,
        [("/token?service=s&scope=repository:team/a:pull&account=user".to_string(), "Basic dXNlcjpwYXNz".to_string())],
        "one token for all requests"
    );
    assert_eq!(elsewhere.seen().len(), 2);
    assert!(elsewhere.seen().iter().all(|(_, authorization)| authorization.is_empty()), "the token went with a redirect");
    // A token that is not good enough ends in the words that users know.
    store.remove(&name).await.expect("removes");
    stand.set(|behaviour| behaviour.wanted = Some("Bearer other".into()));
    let error = store.pull(&name, &[]).await.expect_err("denied").to_string();
    assert!(error.ends_with("pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"), "{error}");
}

#[tokio::test]
async fn mirrors_are_tried_in_order_and_see_no_secrets() {
    let directory = tempfile::tempdir().expect("a directory");
    let (empty, full) = (Stand::start().await, Stand::start().await);
    full.add("official/app", "1", &[layer(&[("f", "x")])]);
    let registries = format!(
        "mirrors: {{docker.io: {{endpoint: ['http://127.0.0.1:1', 'http://{}', 'http://{}'], rewrite: {{'^library/(.*)': 'official/$1'}}}}}}",
        empty.address, full.address
    );
    let store = open(directory.path(), &registries);
    let secret = RegistryAuth {
        registry: "https://index.docker.io/v1/".into(),
        username: "u".into(),
        password: "p".into(),
        ..RegistryAuth::default()
    };
    let image = store.pull("app:1", &[secret]).await.expect("the third has it");
    assert_eq!(image.names, ["docker.io/library/app:1"]);
    assert!(image.digests[0].starts_with("docker.io/library/app@"));
    assert_eq!(empty.seen()[0].0, "/v2/official/app/manifests/1?ns=docker.io");
    assert!(empty.seen().iter().chain(&full.seen()).all(|(_, authorization)| authorization.is_empty()));
}

#[tokio::test]
async fn tls_is_checked_as_configured() {
    let directory = tempfile::tempdir().expect("a directory");
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()]).expect("a certificate");
    let key = rustls_pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a configuration");
    let stand = Stand::start_tls(tokio_rustls::TlsAcceptor::from(Arc::new(config))).await;
    stand.add("a", "1", &[layer(&[("f", "x")])]);
    let ca_file = directory.path().join("ca.pem");
    std::fs::write(&ca_file, cert.pem()).expect("writes");
    let name = format!("{}/a:1", stand.address);
    let host = stand.address;
    let mirror = format!("mirrors: {{'{host}': {{endpoint: ['https://{host}']}}}}\nconfigs: {{'{host}': {{tls: ");
    let store = open(directory.path(), &format!("{mirror}{{}}}}}}"));
    let error = store.pull(&name, &[]).await.expect_err("nobody knows the authority").to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
    for settings in [format!("{{ca_file: {}}}", ca_file.display()), "{insecure_skip_verify: true}".to_string()] {
        store.set_registries(image::Registries::parse(&format!("{mirror}{settings}}}}}")).expect("parses"));
        store.pull(&name, &[]).await.expect(&settings);
        store.remove(&name).await.expect("removes");
    }
    store.set_registries(image::Registries::parse(&format!("{mirror}{{ca_file: /missing.pem}}}}}}")).expect("parses"));
    let error = store.pull(&name, &[]).await.expect_err("no such file").to_string();
    assert!(error.contains("/missing.pem"), "{error}");
}

#[tokio::test]
async fn proxies_are_used_for_what_is_far() {
    let directory = tempfile::tempdir().expect("a directory");
    // To a proxy for plain http, a request is the same but for the whole URL; the stand serves both.
    let stand = Stand::start().await;
    stand.add("a", "1", &[layer(&[("f", "x")])]);
    let proxies = image::ProxySettings { http: format!("http://u:p@{}", stand.address), ..Default::default() };
    let registries = "mirrors: {far.example.com: {endpoint: ['http://far.example.com']}}";
    let store = image::ImageStore::open(image::ImageConfig {
        registries: image::Registries::parse(registries).expect("parses"),
        proxies,
        ..image::ImageConfig::new(directory.path())
    })
    .expect("opens");
    let image = store.pull("far.example.com/a:1", &[]).await.expect("pulls");
    assert_eq!(image.names, ["far.example.com/a:1"]);
    assert!(stand.seen().iter().all(|(url, _)| url.starts_with("http://far.example.com/v2/a/")), "{:?}", stand.seen());
}

/// A proxy for https makes a tunnel and sees nothing of what goes through it.
#[tokio::test]
async fn proxies_tunnel_tls() {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
    let directory = tempfile::tempdir().expect("a directory");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let proxy = tokio::spawn(async move {
        let mut requests = Vec::new();
        let (stream, _) = listener.accept().await.expect("a client");
        let mut stream = tokio::io::BufReader::new(stream);
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a line");
            if line.trim().is_empty() {
                break;
            }
            requests.push(line.trim().to_string());
        }
        stream.write_all(b"HTTP/1.1 403 Not For You\r\n\r\n").await.expect("writes");
        requests
    });
    let proxies = image::ProxySettings { https: format!("http://u:p@{address}"), ..Default::default() };
    let config = image::ImageConfig { proxies, ..image::ImageConfig::new(directory.path()) };
    let store = image::ImageStore::open(config).expect("opens");
    let error = store.pull("far.example.com/a:1", &[]).await.expect_err("the proxy refuses").to_string();
    assert!(error.contains("refuses far.example.com:443: HTTP/1.1 403 Not For You"), "{error}");
    let requests = proxy.await.expect("the proxy ends");
    assert_eq!(requests[0], "CONNECT far.example.com:443 HTTP/1.1");
    assert_eq!(requests[2], "Proxy-Authorization: Basic dTpw");
}
