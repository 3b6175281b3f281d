//! Spoiled frames on real connections, WebSocket and SPDY, behind an upgrade as good as any: the server loses no more than that
//! connection, nothing in it panics, and whoever comes next is served.
//!
//! `PROPTEST_CASES` is how many connections are tried; each run takes other bytes, and a failure names their seed.

mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stream::client::*;
use stream::spdy::{Frame, HeaderList, HeaderWriter, encode_data, encode_frame};
use stream::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than any connection takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A masked frame, as clients send it.
fn frame(code: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80 | code];
    match bytes.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        long => {
            out.push(0x80 | 126);
            out.extend((long as u16).to_be_bytes());
        }
    }
    // A mask of zeros leaves the bytes as they are.
    out.extend([0; 4]);
    out.extend(bytes);
    out
}

/// What a well-behaved caller of `cat` sends over WebSocket: input, a size, pings, the end of input, a farewell.
fn web_socket() -> Vec<u8> {
    let resize = [&[4][..], br#"{"Width":80,"Height":25}"#].concat();
    let input = [&[0][..], &[b'x'; 300]].concat();
    [frame(2, &[0, b'h', b'i']), frame(9, b"ping"), frame(2, &resize), frame(2, &input), frame(2, &[255, 0]), frame(8, &[3, 232])].concat()
}

/// The same over SPDY.
fn spdy() -> Vec<u8> {
    let (mut writer, mut out) = (HeaderWriter::default(), Vec::new());
    for (number, kind) in ["error", "stdin", "stdout", "stderr"].iter().enumerate() {
        let headers = HeaderList::new(&[("streamtype", kind)]);
        encode_frame(&Frame::SynStream { stream: 1 + 2 * number as u32, fin: false, headers }, &mut writer, &mut out);
    }
    encode_data(3, b"some input", false, &mut out);
    encode_frame(&Frame::Ping { id: 1 }, &mut writer, &mut out);
    encode_data(3, b"", true, &mut out);
    encode_frame(&Frame::RstStream { stream: 7, status: 5 }, &mut writer, &mut out);
    encode_frame(&Frame::GoAway { last_stream: 0 }, &mut writer, &mut out);
    out
}

fn spoil(dice: &mut StdRng, bytes: &mut Vec<u8>) {
    for _ in 0..dice.random_range(0..6) {
        let at = dice.random_range(0..bytes.len());
        match dice.random_range(0..4) {
            0 => bytes[at] = dice.random(),
            1 => bytes[at] ^= 1 << dice.random_range(0..8),
            2 => drop(bytes.drain(at..(at + dice.random_range(1..20)).min(bytes.len()))),
            _ => drop(bytes.splice(at..at, (0..dice.random_range(1..20)).map(|_| dice.random::<u8>()))),
        }
        if bytes.is_empty() {
            bytes.push(dice.random());
        }
    }
}

/// Upgrades a connection, sends bytes in pieces, and reads until the server ends it.
async fn send(to: SocketAddr, upgrade: &str, path: &str, bytes: &[u8], piece: usize) {
    let method = if upgrade.contains("websocket") { "GET" } else { "POST" };
    let (answer, mut connection) = server::upgrade(to, &format!("{method} {path} HTTP/1.1\r\n{upgrade}")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let (mut reader, mut writer) = connection.split();
    let writing = async {
        for piece in bytes.chunks(piece) {
            // The server may have had enough.
            if writer.write_all(piece).await.is_err() {
                break;
            }
        }
        let _ended = writer.shutdown().await;
    };
    let mut rest = Vec::new();
    let (_, _read) = tokio::join!(writing, reader.read_to_end(&mut rest));
}

static PANICS: AtomicUsize = AtomicUsize::new(0);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spoiled_frames_end_their_connection_alone() {
    let cases = std::env::var("PROPTEST_CASES").map_or(200, |cases| cases.parse().unwrap());
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // The commands of this test's own server unwrap what they are given; the crate's code may not panic.
        if info.location().is_some_and(|location| location.file().contains("src/")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
            before(info);
        }
    }));
    let server = server::start().await;
    let exec = "/api/v1/namespaces/default/pods/x/exec?command=cat&stdin=true&stdout=true&stderr=true";
    let forward = "/api/v1/namespaces/default/pods/x/portforward";
    let spdy_upgrade = |protocol: &str| format!("Upgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: {protocol}");
    let kinds = [
        (server::web_socket("v5.channel.k8s.io"), exec, web_socket()),
        (server::web_socket("v4.channel.k8s.io"), exec, web_socket()),
        (spdy_upgrade("v4.channel.k8s.io"), exec, spdy()),
        (spdy_upgrade("portforward.k8s.io"), forward, spdy()),
    ];
    for _ in 0..cases {
        let seed: u64 = rand::random();
        let mut dice = StdRng::seed_from_u64(seed);
        let (upgrade, path, good) = &kinds[dice.random_range(0..kinds.len())];
        let mut bytes = good.clone();
        spoil(&mut dice, &mut bytes);
        let piece = dice.random_range(1..64);
        let sent = tokio::time::timeout(PATIENCE, send(server, upgrade, path, &bytes, piece)).await;
        assert!(sent.is_ok(), "the server keeps a connection of seed {seed}: {upgrade}");
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "seed {seed}: {upgrade}");
    }
    let options = RemoteCommandOptions { stdin: false, stdout: true, stderr: true, tty: false, creation_timeout: PATIENCE };
    let request = Request::get(format!("/api/v1/namespaces/default/pods/x/exec?{}", options.to_query(&[("command", "both")])));
    let process = remote_command(TcpStream::connect(server).await.unwrap(), request.header("host", "x").body(()).unwrap(), &options);
    let mut text = String::new();
    process.await.unwrap().stdout.unwrap().read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "to stdout\n");
}
