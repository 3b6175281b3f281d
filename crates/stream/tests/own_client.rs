//! Our client against our server, directly and through the byte-level proxy.

mod server;

use http::Request;
use std::net::SocketAddr;
use std::time::Duration;
use stream::client::*;
use stream::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn options(stdin: bool, tty: bool) -> RemoteCommandOptions {
    RemoteCommandOptions { stdin, stdout: true, stderr: !tty, tty, creation_timeout: Duration::from_secs(60) }
}

async fn exec(to: SocketAddr, command: &str, options: &RemoteCommandOptions) -> Result<RemoteProcess, ClientError> {
    let words: Vec<(&str, &str)> = command.split(' ').map(|word| ("command", word)).collect();
    let path = format!("/api/v1/namespaces/default/pods/x/exec?{}", options.to_query(&words));
    let request = Request::get(path).header("host", "x").body(()).unwrap();
    remote_command(TcpStream::connect(to).await.unwrap(), request, options).await
}

async fn text(reader: Option<ByteReader>) -> String {
    let mut text = String::new();
    reader.unwrap().read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn remote_commands() {
    let server = server::start().await;
    for to in [server, server::start_proxy(server).await] {
        let process = exec(to, "both", &options(false, false)).await.unwrap();
        assert_eq!(text(process.stdout).await, "to stdout\n");
        assert_eq!(text(process.stderr).await, "to stderr\n");
        assert_eq!(process.control.wait().await.unwrap(), ExitStatus::Success);

        let process = exec(to, "fail 42", &options(false, false)).await.unwrap();
        assert_eq!(process.control.wait().await.unwrap(), ExitStatus::ExitCode(42));

        let mut process = exec(to, "cat", &options(true, false)).await.unwrap();
        let mut stdin = process.stdin.take().unwrap();
        stdin.write_all(b"hello").await.unwrap();
        stdin.shutdown().await.unwrap();
        assert_eq!(text(process.stdout).await, "hello");
        assert_eq!(process.control.wait().await.unwrap(), ExitStatus::Success);

        let process = exec(to, "big 300", &options(false, false)).await.unwrap();
        assert_eq!(text(process.stdout).await.len(), 30_000_000);
        assert_eq!(process.control.wait().await.unwrap(), ExitStatus::Success);

        let process = exec(to, "size", &options(false, true)).await.unwrap();
        process.control.resize(TerminalSize { width: 120, height: 40 }).await.unwrap();
        assert_eq!(text(process.stdout).await, "120x40");

        let process = exec(to, "vanish", &options(false, false)).await.unwrap();
        assert!(matches!(process.control.wait().await, Err(StreamError::Closed)));
    }
}

#[tokio::test]
async fn refusals_are_plain_answers() {
    let server = server::start().await;
    for to in [server, server::start_proxy(server).await] {
        let nothing = RemoteCommandOptions { stdout: false, stderr: false, ..options(false, false) };
        let Err(ClientError::Refused { code, body }) = exec(to, "x", &nothing).await else { panic!("accepted") };
        assert_eq!((code, body.as_str()), (400, "you must specify at least 1 of stdin, stdout, stderr"));
        let cases: [(&[(&str, &str)], u16, &str); 5] = [
            (&[], 400, "unable to upgrade: \"X-Stream-Protocol-Version\" is required"),
            (&[("x-stream-protocol-version", "v4.channel.k8s.io")], 400, "missing upgrade headers"),
            (&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1"), ("x-stream-protocol-version", "v9")], 403, "client supports [v9]"),
            (&[("connection", "Upgrade"), ("upgrade", "websocket"), ("sec-websocket-version", "8")], 400, "version"),
            (
                &[
                    ("connection", "Upgrade"),
                    ("upgrade", "websocket"),
                    ("sec-websocket-version", "13"),
                    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
                    ("sec-websocket-protocol", "v9.channel.k8s.io"),
                ],
                403,
                "unable to negotiate protocol",
            ),
        ];
        for (headers, code, words) in cases {
            let mut text = "GET /exec?stdout=1 HTTP/1.1\r\nhost: x\r\n".to_owned();
            headers.iter().for_each(|(name, value)| text.push_str(&format!("{name}: {value}\r\n")));
            let mut socket = TcpStream::connect(to).await.unwrap();
            socket.write_all(format!("{text}\r\n").as_bytes()).await.unwrap();
            let mut answer = vec![0; 4096];
            let mut size = 0;
            while !String::from_utf8_lossy(&answer[..size]).contains(words) {
                let more = socket.read(&mut answer[size..]).await.unwrap();
                assert!(more > 0, "{}", String::from_utf8_lossy(&answer[..size]));
                size += more;
            }
            assert!(answer.starts_with(format!("HTTP/1.1 {code}").as_bytes()), "{headers:?}");
        }
    }
}

#[tokio::test]
async fn forwarded_ports() {
    let server = server::start().await;
    for to in [server, server::start_proxy(server).await] {
        let request = Request::get("/api/v1/namespaces/default/pods/x/portforward").header("host", "x").body(()).unwrap();
        let forwarder = PortForwarder::connect(TcpStream::connect(to).await.unwrap(), request).await.unwrap();
        let mut first = forwarder.open(80).await.unwrap();
        let mut second = forwarder.open(81).await.unwrap();
        for (port, words) in [(&mut second, "second"), (&mut first, "first")] {
            port.writer.write_all(words.as_bytes()).await.unwrap();
            port.writer.shutdown().await.unwrap();
        }
        for (port, words) in [(first, "FIRST"), (second, "SECOND")] {
            assert_eq!(text(Some(port.reader)).await, words);
            assert_eq!(text(Some(port.error)).await, "");
        }
        let failing = forwarder.open(99).await.unwrap();
        assert_eq!(text(Some(failing.error)).await, "nobody listens on port 99");
        forwarder.close().await.unwrap();
    }
}

/// The form of before tunnelling: two channels a port, each starting with the port's number.
#[tokio::test]
async fn forwarded_ports_in_channels() {
    use futures_util::{SinkExt, StreamExt};
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;
    let server = server::start().await;
    for to in [server, server::start_proxy(server).await] {
        let url = format!("ws://{to}/api/v1/namespaces/default/pods/x/portforward?ports=80&ports=99");
        let mut request = url.into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "v4.channel.k8s.io".parse().unwrap());
        let stream = TcpStream::connect(to).await.unwrap();
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        socket.send(Message::Binary(b"\0hello".as_slice().into())).await.unwrap();
        let mut channels = vec![Vec::new(); 4];
        while channels[0].len() < 7 || channels[3].len() < 26 {
            let Message::Binary(message) = socket.next().await.unwrap().unwrap() else {
                continue;
            };
            channels[usize::from(message[0])].extend_from_slice(&message[1..]);
        }
        assert_eq!(channels[0], b"\x50\0HELLO");
        assert_eq!((channels[1].as_slice(), channels[2].as_slice()), (b"\x50\0".as_slice(), b"\x63\0".as_slice()));
        assert_eq!(channels[3], b"\x63\0nobody listens on port 99");
        socket.close(None).await.unwrap();
        while let Some(Ok(_)) = socket.next().await {}
    }
}
