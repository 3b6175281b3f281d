//! Encryption with a KMS plugin behind a unix socket: seeds, new keys, a plugin that is gone.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use server::{Encryption, Security};
use tempfile::TempDir;

mod server_under_test;

use server_under_test::UnderTest;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

/// A plugin that seals by turning every bit around. `key` is the name of its current key.
struct Plugin {
    key: Arc<Mutex<String>>,
    encrypted: Arc<AtomicUsize>,
    decrypted: Arc<AtomicUsize>,
}

fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat()
}

/// The bytes of a field of a short message.
fn find(message: &[u8], number: u8) -> Vec<u8> {
    let mut rest = message;
    while let [tag, length, tail @ ..] = rest {
        let (value, after) = tail.split_at(usize::from(*length));
        if tag >> 3 == number {
            return value.to_vec();
        }
        rest = after;
    }
    Vec::new()
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| !byte).collect()
}

impl Plugin {
    async fn start(path: &Path) -> Plugin {
        let plugin = Plugin { key: Arc::new(Mutex::new("first".into())), encrypted: Arc::default(), decrypted: Arc::default() };
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        let (key, encrypted, decrypted) = (plugin.key.clone(), plugin.encrypted.clone(), plugin.decrypted.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (key, encrypted, decrypted) = (key.clone(), encrypted.clone(), decrypted.clone());
                let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (key, encrypted, decrypted) = (key.lock().unwrap().clone(), encrypted.clone(), decrypted.clone());
                    async move {
                        let method = request.uri().path().to_owned();
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let message = &body[5..];
                        let note = [field(1, b"note.example.com"), field(2, b"kept")].concat();
                        let answer = match method.as_str() {
                            "/v2.KeyManagementService/Status" => [field(1, b"v2"), field(2, b"ok"), field(3, key.as_bytes())].concat(),
                            "/v2.KeyManagementService/Encrypt" => {
                                encrypted.fetch_add(1, Ordering::SeqCst);
                                [field(1, &turned(&find(message, 1))), field(2, key.as_bytes()), field(3, &note)].concat()
                            }
                            _ => {
                                decrypted.fetch_add(1, Ordering::SeqCst);
                                assert_eq!(find(message, 4), note);
                                field(1, &turned(&find(message, 1)))
                            }
                        };
                        let mut framed = BytesMut::from(&[0u8][..]);
                        framed.extend_from_slice(&u32::try_from(answer.len()).unwrap().to_be_bytes());
                        framed.extend_from_slice(&answer);
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", HeaderValue::from_static("0"));
                        let frames =
                            [Ok::<_, std::convert::Infallible>(Frame::data(framed.freeze())), Ok(Frame::<Bytes>::trailers(trailers))];
                        let body = StreamBody::new(futures_util::stream::iter(frames));
                        Ok::<_, std::convert::Infallible>(
                            Response::builder().header("content-type", "application/grpc").body(body).unwrap(),
                        )
                    }
                });
                tokio::spawn(async move {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                        .ok();
                });
            }
        });
        plugin
    }
}

fn configuration(dir: &Path, socket: &Path) {
    let file = json!({
        "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [
            {"kms": {"apiVersion": "v2", "name": "plugin", "endpoint": format!("unix://{}", socket.display())}}, {"identity": {}}]}],
    });
    std::fs::write(dir.join("encryption.yaml"), file.to_string()).unwrap();
}

async fn start(dir: TempDir) -> UnderTest {
    let encryption = Encryption::load(&dir.path().join("encryption.yaml")).unwrap();
    UnderTest::start_in(dir, Security { encryption: Some(encryption), ..Security::default() }).await
}

fn copy(test: &UnderTest) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp").arg("-a").arg(format!("{}/.", test.dir().display())).arg(copy.path()).status().unwrap();
    assert!(status.success());
    copy
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_seals_one_seed_for_many_values() {
    let sockets = tempfile::tempdir().unwrap();
    let socket = sockets.path().join("kms.sock");
    let plugin = Plugin::start(&socket).await;
    let dir = tempfile::tempdir().unwrap();
    configuration(dir.path(), &socket);
    let test = start(dir).await;
    for index in 0..20 {
        let name = format!("s{index}");
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "data": {"a": STANDARD.encode("sealed-words")}});
        test.create(SECRETS, &secret).await;
    }
    assert_eq!((plugin.encrypted.load(Ordering::SeqCst), plugin.decrypted.load(Ordering::SeqCst)), (1, 0));

    // After a crash the seed is opened once; the new key gets a seed of its own.
    *plugin.key.lock().unwrap() = "second".into();
    let again = start(copy(&test)).await;
    assert_eq!(again.get(&format!("{SECRETS}/s7")).await["data"]["a"], STANDARD.encode("sealed-words"));
    assert_eq!(plugin.decrypted.load(Ordering::SeqCst), 1);
    let new = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "new"}});
    again.create(SECRETS, &new).await;
    assert_eq!(plugin.encrypted.load(Ordering::SeqCst), 2);

    // Without the plugin nothing can be read: the store does not open, and says why.
    let lost = copy(&again);
    configuration(lost.path(), &sockets.path().join("nobody.sock"));
    let mut options = store::embedded::Options::new(lost.path().join("store"), client::header::stamp(), "test");
    options.cipher = Encryption::load(&lost.path().join("encryption.yaml")).unwrap();
    assert!(store::embedded::Embedded::open(options).is_err());
}
