//! The real kubectl, over WebSocket and over SPDY, directly and through the proxy. Skipped where there is no kubectl.

mod server;

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

fn kubectl(to: SocketAddr, websocket: bool, args: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", "/nonexistent");
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket.to_string());
    command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket.to_string());
    command.arg(format!("--server=http://{to}")).arg("--cache-dir=/nonexistent").args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs kubectl. Before 1.36 it may read before it has made its streams, where the other side is quick and the machine
/// busy; it says so, has lost what was sent, and is asked again.
async fn run(to: SocketAddr, websocket: bool, args: &[&str], input: &[u8]) -> Output {
    for _ in 0..5 {
        let output = once(to, websocket, args, input).await;
        if !String::from_utf8_lossy(&output.stderr).contains("Unknown stream id") {
            return output;
        }
    }
    panic!("{args:?}: kubectl does not know the streams that it made");
}

async fn once(to: SocketAddr, websocket: bool, args: &[&str], input: &[u8]) -> Output {
    let mut child = kubectl(to, websocket, args).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // A command may end before it has read everything.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("kubectl hangs").unwrap()
}

fn present() -> bool {
    std::process::Command::new("kubectl").arg("version").arg("--client").output().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exec_and_attach() {
    if !present() {
        eprintln!("no kubectl");
        return;
    }
    let server = server::start().await;
    let proxy = server::start_proxy(server).await;
    for (to, websocket) in [(server, true), (server, false), (proxy, true), (proxy, false)] {
        let both = run(to, websocket, &["exec", "x", "--", "both"], b"").await;
        let (out, err) = (String::from_utf8_lossy(&both.stdout), String::from_utf8_lossy(&both.stderr));
        assert_eq!((out.as_ref(), err.as_ref()), ("to stdout\n", "to stderr\n"), "websocket {websocket}");
        assert!(both.status.success());

        let failed = run(to, websocket, &["exec", "x", "--", "fail", "7"], b"").await;
        assert_eq!(failed.status.code(), Some(7), "{}", String::from_utf8_lossy(&failed.stderr));

        let input: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
        let cat = run(to, websocket, &["exec", "-i", "x", "--", "cat"], &input).await;
        assert!(cat.stdout == input, "{} bytes: {}", cat.stdout.len(), String::from_utf8_lossy(&cat.stderr));

        // A command that ends without reading its input: the outcome arrives nevertheless.
        let unread = run(to, websocket, &["exec", "-i", "x", "--", "fail", "3"], &vec![b'x'; 20_000_000]).await;
        assert_eq!(unread.status.code(), Some(3), "{}", String::from_utf8_lossy(&unread.stderr));

        let attached = run(to, websocket, &["attach", "-i", "x"], b"typed").await;
        assert_eq!(String::from_utf8_lossy(&attached.stdout), "typed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn port_forward() {
    if !present() {
        eprintln!("no kubectl");
        return;
    }
    let server = server::start().await;
    let proxy = server::start_proxy(server).await;
    for (to, websocket) in [(server, true), (server, false), (proxy, true), (proxy, false)] {
        let mut child: Child = kubectl(to, websocket, &["port-forward", "pod/x", ":80", ":99", "--address=127.0.0.1"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut ports = Vec::new();
        while ports.len() < 2 {
            let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.unwrap().unwrap().unwrap();
            // "Forwarding from 127.0.0.1:40123 -> 80"
            let port: u16 = line.split([':', ' ']).nth(3).unwrap().parse().unwrap();
            ports.push(port);
        }
        let talk = |port: u16, text: String| async move {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut reader, mut writer) = socket.split();
            let sending = async {
                // A connection that fails may be reset while we write.
                let _ = writer.write_all(text.as_bytes()).await;
                let _ = writer.shutdown().await;
            };
            let mut answer = String::new();
            let _ = tokio::join!(sending, reader.read_to_string(&mut answer));
            answer
        };
        let long = "abc".repeat(200_000);
        let (a, b) = tokio::join!(talk(ports[0], "one".into()), talk(ports[0], long.clone()));
        assert_eq!(a, "ONE");
        assert!(b == long.to_uppercase(), "{} bytes", b.len());
        assert_eq!(talk(ports[1], "x".into()).await, "");
        child.start_kill().unwrap();
        let mut errors = String::new();
        child.stderr.take().unwrap().read_to_string(&mut errors).await.unwrap();
        assert!(errors.contains("nobody listens on port 99"), "{errors}");
        child.wait().await.unwrap();
    }
}
