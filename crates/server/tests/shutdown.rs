//! A server that is told to stop: it says so, finishes what runs, ends watches, takes nothing new and is gone in time.

mod server_under_test;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use pki::ServerTrust;
use rustls_pki_types::ServerName;
use serde_json::Value;
use server_under_test::UnderTest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A connection that speaks as the admin.
async fn connect(test: &UnderTest, address: SocketAddr) -> std::io::Result<TlsStream<TcpStream>> {
    let pki = pki::ClusterPki::load_or_create(&test.dir().join("pki")).unwrap();
    let admin = pki.client_cert("admin", &pki::Subject::new("admin", &["system:masters"])).unwrap();
    let trust = ServerTrust::Authorities(vec![pki.server_ca.cert_pem().to_owned()]);
    let config = pki::client_config(&trust, Some(&admin), &["http/1.1"]).unwrap();
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await
}

/// Reads until the text has come.
async fn until(stream: &mut TlsStream<TcpStream>, text: &str) -> String {
    let (mut all, mut buffer) = (Vec::new(), [0_u8; 4096]);
    let end = Instant::now() + Duration::from_secs(10);
    while !String::from_utf8_lossy(&all).contains(text) {
        let left = end.saturating_duration_since(Instant::now());
        let count = tokio::time::timeout(left, stream.read(&mut buffer)).await.expect("it comes in time").unwrap_or(0);
        assert!(count > 0, "the end came before {text:?}: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&all).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_ends_in_order() {
    let test = UnderTest::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn({
        let server = test.server.clone();
        async move { server.serve(listener).await }
    });
    // A watch that lasts, and a write whose body comes slowly.
    let mut watching = connect(&test, address).await.unwrap();
    watching.write_all(b"GET /api/v1/namespaces?watch=true HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    until(&mut watching, "kube-system").await;
    let body = r#"{"metadata": {"name": "slow"}}"#;
    let mut writing = connect(&test, address).await.unwrap();
    let head = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    writing.write_all(head.as_bytes()).await.unwrap();
    writing.write_all(&body.as_bytes()[..10]).await.unwrap();
    // While it only says that it will go, everything is served.
    let began = Instant::now();
    let delay = Duration::from_millis(700);
    let ending = tokio::spawn({
        let server = test.server.clone();
        async move { server.shut_down(delay).await }
    });
    let ready = |code: u16| async move { code };
    loop {
        let (code, _) = test.call(Method::GET, "/readyz", "application/json", "").await;
        if ready(code).await == 500 {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    assert_eq!(test.call(Method::GET, "/livez", "application/json", "").await.0, 200);
    let mut late = connect(&test, address).await.unwrap();
    late.write_all(b"GET /version HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(until(&mut late, "gitVersion").await.starts_with("HTTP/1.1 200"));
    ending.await.unwrap();
    assert!(began.elapsed() >= delay);
    // Then watches end, connections that do nothing are closed, and new ones are not taken.
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), watching.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the watch ended");
    assert!(String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "and in order: {}", String::from_utf8_lossy(&rest));
    let closed = tokio::time::timeout(Duration::from_secs(5), late.read_to_end(&mut Vec::new())).await;
    assert!(closed.is_ok(), "an idle connection is closed");
    let end = Instant::now() + Duration::from_secs(5);
    while connect(&test, address).await.is_ok() {
        assert!(Instant::now() < end, "new connections are refused");
    }
    // What had begun is finished.
    assert!(!serving.is_finished());
    writing.write_all(&body.as_bytes()[10..]).await.unwrap();
    let answer = until(&mut writing, "slow").await;
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    tokio::time::timeout(Duration::from_secs(5), serving).await.unwrap().unwrap().unwrap();
    let stored: Value = test.get("/api/v1/namespaces/default/configmaps/slow").await;
    assert_eq!(stored["metadata"]["name"], "slow");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_end_is_cut_off() {
    let test = UnderTest::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = test.server.clone();
    let serving = tokio::spawn(async move { server.serve(listener).await });
    let mut writing = connect(&test, address).await.unwrap();
    let head =
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{";
    writing.write_all(head.as_bytes()).await.unwrap();
    let began = Instant::now();
    test.server.shut_down(Duration::ZERO).await;
    // The server under test waits a second for what runs.
    tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
}
