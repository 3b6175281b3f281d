//! A server with one pod, whose commands are a few lines of Rust: enough of an API server for kubectl and our client.
#![allow(dead_code, reason = "each test file uses a part")]

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::time::Duration;
use stream::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Serves on a port of its own until the test ends.
pub async fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(|request| async { Ok::<_, hyper::Error>(serve(request)) });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    address
}

/// Asks a server for an upgrade with these lines: the head of its answer, and the connection.
pub async fn upgrade(to: SocketAddr, lines: &str) -> (String, TcpStream) {
    let mut connection = TcpStream::connect(to).await.unwrap();
    connection.write_all(format!("{lines}\r\nHost: x\r\nConnection: Upgrade\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(connection.read_u8().await.unwrap());
    }
    (String::from_utf8(answer).unwrap(), connection)
}

/// The lines of a WebSocket's upgrade, with the protocols that are offered.
pub fn web_socket(protocols: &str) -> String {
    let lines = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    if protocols.is_empty() { lines.to_owned() } else { format!("{lines}\r\nSec-WebSocket-Protocol: {protocols}") }
}

/// Hands every request through to `target` with `proxy_upgrade`, as the API server does.
pub async fn start_proxy(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                let backend = TcpStream::connect(target).await.unwrap();
                proxy_upgrade(request, backend).await
            });
            let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service);
            tokio::spawn(connection.with_upgrades());
        }
    });
    address
}

fn serve(request: Request<Incoming>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/exec") || path.ends_with("/attach") {
        let command = commands(request.uri().query().unwrap_or_default());
        let options = match RemoteCommandOptions::from_query(request.uri().query()) {
            Ok(options) => options,
            Err(text) => {
                return Response::builder().status(400).body(full_body(text)).unwrap();
            }
        };
        let tty = options.tty;
        let (response, pending) = match accept_remote_command(request, options) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection,
        };
        tokio::spawn(async move { run(pending.await.unwrap(), &command, tty).await });
        return response;
    }
    if path.ends_with("/portforward") {
        let options = PortForwardOptions { creation_timeout: Duration::from_secs(60) };
        let (response, pending) = match accept_port_forward(request, options) {
            Ok(accepted) => accepted,
            Err(rejection) => return rejection,
        };
        tokio::spawn(async move {
            let mut session = pending.await.unwrap();
            while let Some(forward) = session.next().await {
                tokio::spawn(shout(forward));
            }
        });
        return response;
    }
    let json = match path.as_str() {
        "/api" => r#"{"kind":"APIVersions","versions":["v1"]}"#,
        "/apis" => r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#,
        "/api/v1" => {
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get","list"],"shortNames":["po"]}]}"#
        }
        "/api/v1/namespaces/default/pods/x" => {
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"x","namespace":"default"},"spec":{"containers":[{"name":"c","stdin":true,"tty":false}]},"status":{"phase":"Running"}}"#
        }
        _ => {
            return Response::builder().status(404).body(full_body("no such page")).unwrap();
        }
    };
    Response::builder().header("content-type", "application/json").body(full_body(json)).unwrap()
}

fn commands(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.strip_prefix("command="));
    pairs.map(|text| text.replace('+', " ")).collect()
}

/// The commands: `fail N`, `both`, `big N`, `size`, `vanish`; anything else is `cat`.
async fn run(mut command: RemoteCommand, words: &[String], tty: bool) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let status = match words[..] {
        ["fail", code] => ExitStatus::from_code(code.parse().unwrap()),
        ["both"] => {
            command.stdout.as_mut().unwrap().write_all(b"to stdout\n").await.unwrap();
            command.stderr.as_mut().unwrap().write_all(b"to stderr\n").await.unwrap();
            ExitStatus::Success
        }
        ["big", count] => {
            let piece = vec![b'x'; 100_000];
            for _ in 0..count.parse().unwrap() {
                command.stdout.as_mut().unwrap().write_all(&piece).await.unwrap();
            }
            ExitStatus::Success
        }
        ["size"] => {
            assert!(tty);
            let size = command.resize.recv().await.unwrap();
            let text = format!("{}x{}", size.width, size.height);
            command.stdout.as_mut().unwrap().write_all(text.as_bytes()).await.unwrap();
            ExitStatus::Success
        }
        ["vanish"] => return,
        _ => {
            let mut stdin = command.stdin.take().unwrap();
            tokio::io::copy(&mut stdin, command.stdout.as_mut().unwrap()).await.unwrap();
            ExitStatus::Success
        }
    };
    drop((command.stdout, command.stderr));
    command.status.finish(status).await.unwrap();
}

/// Answers in capitals until the caller ends; port 99 fails.
async fn shout(mut forward: PortForward) {
    if forward.port == 99 {
        forward.error.fail("nobody listens on port 99").await.unwrap();
        return;
    }
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let size = forward.reader.read(&mut buffer).await.unwrap_or(0);
        if size == 0 {
            break;
        }
        let text = Bytes::from(buffer[..size].to_ascii_uppercase());
        if forward.writer.write_all(&text).await.is_err() {
            break;
        }
    }
}
