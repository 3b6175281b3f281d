//! Logs in WebSocket messages, as upstream's readers agree on protocols and frame what they send.

mod server;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use stream::Body;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Body>, hyper::Error> {
    let pieces = ["first\n", "second\n"].map(Bytes::from);
    let source = futures_util::stream::iter(pieces);
    Ok(match stream::ws::send_bytes(request, source) {
        Ok((response, work)) => {
            tokio::spawn(work);
            response
        }
        Err(refused) => refused,
    })
}

/// Opens a WebSocket by hand: the head of the answer, and the connection.
async fn open(protocols: &str) -> (String, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (connection, _) = listener.accept().await.unwrap();
        let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(connection), service_fn(answer));
        serving.with_upgrades().await.unwrap();
    });
    let (head, connection) = server::upgrade(address, &format!("GET / HTTP/1.1\r\n{}", server::web_socket(protocols))).await;
    (head.to_lowercase(), connection)
}

#[tokio::test]
async fn protocols_and_frames() {
    for (offered, agreed) in [("binary.k8s.io", "binary.k8s.io"), ("other, base64.binary.k8s.io", "base64.binary.k8s.io"), ("", "")] {
        let (head, connection) = open(offered).await;
        assert!(head.starts_with("http/1.1 101"), "{offered}: {head}");
        let named = head.lines().find_map(|line| line.strip_prefix("sec-websocket-protocol: "));
        assert_eq!(named.unwrap_or(""), agreed);
        let mut socket = WebSocketStream::from_raw_socket(connection, Role::Client, None).await;
        let first = socket.next().await.unwrap().unwrap();
        assert!(first.is_empty(), "the stream begins with an empty message");
        let mut pieces = Vec::new();
        loop {
            match socket.next().await.unwrap().unwrap() {
                Message::Binary(bytes) => pieces.extend_from_slice(&bytes),
                Message::Text(text) => {
                    use base64::Engine;
                    let engine = base64::engine::general_purpose::STANDARD;
                    pieces.extend(engine.decode(text.as_bytes()).unwrap());
                }
                Message::Close(_) => break,
                other => panic!("{other:?}"),
            }
        }
        let text = String::from_utf8(pieces).unwrap();
        assert_eq!(text, "first\nsecond\n", "{offered}");
    }
}

#[tokio::test]
async fn unknown_protocols_are_refused() {
    let (head, _) = open("v4.channel.k8s.io").await;
    assert!(head.starts_with("http/1.1 403"), "{head}");
}
