//! Peers that ask for more than anybody needs: streams, answers that they never read, messages without end. They are cut off
//! before they cost the server anything.

mod server;

use std::time::Duration;

use bytes::BytesMut;
use stream::spdy::{Connection, Decoder, Event, Frame, HeaderList, HeaderWriter, Role, encode_frame};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);
/// More than a connection has.
const STREAMS: u32 = 2049;
/// What a stream that is one too many is answered with (SPDY 3.1, 2.6.3).
const REFUSED: u32 = 3;

#[tokio::test]
async fn one_stream_too_many_is_refused() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (_connection, _streams) = Connection::start(theirs, Role::Server);
    let (mut writer, mut bytes) = (HeaderWriter::default(), Vec::new());
    for number in 0..STREAMS {
        let frame = Frame::SynStream { stream: 1 + 2 * number, fin: false, headers: HeaderList::default() };
        encode_frame(&frame, &mut writer, &mut bytes);
    }
    let (mut reading, mut writing) = tokio::io::split(ours);
    let sent = async { writing.write_all(&bytes).await.unwrap() };
    let answered = async {
        let (mut decoder, mut buffer, mut accepted, mut refused) = (Decoder::default(), BytesMut::new(), 0, 0);
        while accepted + refused < STREAMS {
            match decoder.decode(&mut buffer).unwrap() {
                Some(Event::Control(Frame::SynReply { .. })) => accepted += 1,
                Some(Event::Control(Frame::RstStream { status, .. })) if status == REFUSED => refused += 1,
                Some(other) => panic!("{other:?}"),
                None => assert_ne!(reading.read_buf(&mut buffer).await.unwrap(), 0),
            }
        }
        refused
    };
    let (_, refused) = tokio::time::timeout(PATIENCE, async { tokio::join!(sent, answered) }).await.unwrap();
    assert_eq!(refused, 1);
}

#[tokio::test]
async fn answers_that_nobody_reads_end_the_connection() {
    // Next to nothing of the answers fits.
    let (mut ours, theirs) = tokio::io::duplex(64);
    let (connection, _streams) = Connection::start(theirs, Role::Server);
    let (mut writer, mut ping) = (HeaderWriter::default(), Vec::new());
    encode_frame(&Frame::Ping { id: 1 }, &mut writer, &mut ping);
    let closed = connection.closed();
    let asking = async { while ours.write_all(&ping).await.is_ok() {} };
    let ended = async {
        tokio::select! {
            () = closed.cancelled() => {}
            () = asking => {}
        }
    };
    // Without an end, this asks for ever.
    tokio::time::timeout(PATIENCE, ended).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_is_too_long_ends_the_connection_before_it_came() {
    let server = server::start().await;
    let path = "/api/v1/namespaces/default/pods/x/exec?command=cat&stdin=true&stdout=true";
    let lines = format!("GET {path} HTTP/1.1\r\n{}", server::web_socket("v5.channel.k8s.io"));
    let (answer, mut connection) = server::upgrade(server, &lines).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    // The head of a masked message of a byte more than a mebibyte.
    let mut head = vec![0x82, 0xff];
    head.extend(((1u64 << 20) + 1).to_be_bytes());
    head.extend([0; 4]);
    connection.write_all(&head).await.unwrap();
    let mut rest = Vec::new();
    let _read = tokio::time::timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("the server waits for the rest");
}
