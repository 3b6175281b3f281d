//! A SPDY connection over any byte stream: one task reads, one writes, streams are ordinary readers and writers.

use super::frame::{Decoder, Event, Frame, encode_data, encode_frame};
use super::headers::{HeaderList, HeaderWriter};
use crate::outbox::{ChannelFeed, ChannelReader, Outbox, Piece};
use crate::{ByteReader, ByteWriter, StreamError};
use bytes::BytesMut;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Streams that a peer may have open at once.
const MOST_STREAMS: usize = 2048;
/// Answers to a peer (pings, replies) that may wait before we take it for hostile.
const MOST_ANSWERS: usize = 4096;
/// Output is gathered up to this size before it is written.
const GATHER: usize = 64 * 1024;
/// How long a peer may take to hang up after we closed.
const LINGER: Duration = Duration::from_secs(5);
const REFUSED_STREAM: u32 = 3;
const INVALID_STREAM: u32 = 2;

/// Which side we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Opens streams with odd ids.
    Client,
    /// Opens streams with even ids.
    Server,
}

/// A running connection. Cheap to clone; it lives until it is closed or the peer goes.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    outbox: Outbox<Frame>,
    feeds: Mutex<HashMap<u32, Slot>>,
    next_id: AtomicU32,
    answers: AtomicUsize,
    /// The peer is gone or the connection failed.
    closed: CancellationToken,
    /// Everything up to our own close has been written.
    written: CancellationToken,
}

/// A stream as the tasks know it.
struct Slot {
    /// `None` once the peer has ended its side.
    feed: Option<ChannelFeed>,
    local_open: bool,
}

/// A stream with its headers.
pub struct Stream {
    /// Its id.
    pub id: u32,
    /// The headers it was opened with.
    pub headers: HeaderList,
    /// From the peer.
    pub reader: ByteReader,
    /// To the peer; `shutdown` or dropping it ends our side.
    pub writer: ByteWriter,
}

impl Connection {
    /// Starts the tasks of a connection. The receiver yields the streams that the peer opens (accepted already).
    pub fn start<T>(io: T, role: Role) -> (Self, mpsc::Receiver<Stream>)
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (outbox, pieces) = Outbox::new();
        let shared = Arc::new(Shared {
            outbox,
            feeds: Mutex::default(),
            next_id: AtomicU32::new(if role == Role::Client { 1 } else { 2 }),
            answers: AtomicUsize::new(0),
            closed: CancellationToken::new(),
            written: CancellationToken::new(),
        });
        let (incoming, streams) = mpsc::channel(MOST_STREAMS);
        let (read_half, write_half) = tokio::io::split(io);
        tokio::spawn(write_all(shared.clone(), write_half, pieces));
        tokio::spawn(read_all(shared.clone(), role, read_half, incoming));
        (Self { shared }, streams)
    }

    /// Opens a stream.
    pub fn open(&self, headers: HeaderList) -> Result<Stream, StreamError> {
        let id = self.shared.next_id.fetch_add(2, Ordering::Relaxed);
        let stream = self.shared.add(id, headers.clone(), false);
        let opened = self.shared.outbox.control(Frame::SynStream { stream: id, fin: false, headers });
        if opened { Ok(stream) } else { Err(StreamError::Closed) }
    }

    /// Cancelled when the peer is gone.
    pub fn closed(&self) -> CancellationToken {
        self.shared.closed.clone()
    }

    /// Closes after everything written so far, without waiting.
    pub fn hang_up(&self) {
        self.shared.outbox.close();
    }

    /// Says goodbye after everything written so far and waits until it is on its way.
    pub async fn close(&self) -> Result<(), StreamError> {
        self.shared.outbox.control(Frame::GoAway { last_stream: 0 });
        self.shared.outbox.close();
        tokio::select! {
            () = self.shared.written.cancelled() => Ok(()),
            () = self.shared.closed.cancelled() => match self.shared.written.is_cancelled() {
                true => Ok(()),
                false => Err(StreamError::Closed),
            }
        }
    }
}

impl Shared {
    fn feeds(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Slot>> {
        // No code panics while it holds the lock, and the map has no invariant across entries.
        self.feeds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, id: u32, headers: HeaderList, peer_done: bool) -> Stream {
        let (feed, reader) = ChannelReader::new();
        let slot = Slot { feed: (!peer_done).then_some(feed), local_open: true };
        self.feeds().insert(id, slot);
        let writer = self.outbox.writer(id);
        Stream { id, headers, reader: Box::new(reader), writer: Box::new(writer) }
    }

    /// An answer to the peer. A peer that asks without ever reading the answers is cut off.
    fn answer(&self, frame: Frame) -> Result<(), StreamError> {
        if self.answers.fetch_add(1, Ordering::Relaxed) >= MOST_ANSWERS {
            return Err(StreamError::Protocol("too many frames without reading the answers".into()));
        }
        if self.outbox.control(frame) { Ok(()) } else { Err(StreamError::Closed) }
    }

    fn peer_done(&self, id: u32) {
        let mut feeds = self.feeds();
        if let Some(slot) = feeds.get_mut(&id) {
            slot.feed = None;
            if !slot.local_open {
                feeds.remove(&id);
            }
        }
    }

    fn local_done(&self, id: u32) {
        let mut feeds = self.feeds();
        if let Some(slot) = feeds.get_mut(&id) {
            slot.local_open = false;
            if slot.feed.is_none() {
                feeds.remove(&id);
            }
        }
    }
}

async fn read_all<T: AsyncRead>(shared: Arc<Shared>, role: Role, mut io: ReadHalf<T>, incoming: mpsc::Sender<Stream>) {
    let reading = async {
        let mut decoder = Decoder::default();
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        loop {
            while let Some(event) = decoder.decode(&mut buffer).map_err(|e| StreamError::Protocol(e.to_string()))? {
                handle(&shared, role, &incoming, event).await?;
            }
            if io.read_buf(&mut buffer).await? == 0 {
                return Ok::<(), StreamError>(());
            }
        }
    };
    let lingering = async {
        shared.written.cancelled().await;
        tokio::time::sleep(LINGER).await;
    };
    let outcome = tokio::select! {
        outcome = reading => outcome,
        () = lingering => Ok(()),
    };
    if let Err(error) = &outcome {
        tracing::debug!(%error, "SPDY connection ended");
    }
    let lost: Vec<Slot> = shared.feeds().drain().map(|(_, slot)| slot).collect();
    for feed in lost.into_iter().filter_map(|slot| slot.feed) {
        // A reader that is full sees the end of the channel a little later, without the error.
        let _ = feed.try_send(Err(io::ErrorKind::ConnectionReset.into()));
    }
    shared.closed.cancel();
    shared.outbox.close();
}

async fn handle(shared: &Shared, role: Role, incoming: &mpsc::Sender<Stream>, event: Event) -> Result<(), StreamError> {
    match event {
        Event::Data { stream, bytes, fin } => {
            let feed = shared.feeds().get(&stream).and_then(|slot| slot.feed.clone());
            if let Some(feed) = feed.filter(|_| !bytes.is_empty()) {
                tokio::select! {
                    // A reader that was dropped does not want the data.
                    _ = feed.send(Ok(bytes)) => {}
                    // We have closed: what still comes is only read to find the peer's end.
                    () = shared.written.cancelled() => {}
                }
            }
            if fin {
                shared.peer_done(stream);
            }
        }
        Event::Control(Frame::SynStream { stream, fin, headers }) => {
            let from_client = stream % 2 == 1;
            if stream == 0 || from_client == (role == Role::Client) || shared.feeds().contains_key(&stream) {
                return Err(StreamError::Protocol(format!("stream {stream} cannot be opened")));
            }
            if shared.feeds().len() >= MOST_STREAMS || incoming.is_closed() {
                return shared.answer(Frame::RstStream { stream, status: REFUSED_STREAM });
            }
            let accepted = shared.add(stream, headers, fin);
            shared.answer(Frame::SynReply { stream, fin: false, headers: HeaderList::default() })?;
            if incoming.try_send(accepted).is_err() {
                shared.answer(Frame::RstStream { stream, status: INVALID_STREAM })?;
            }
        }
        Event::Control(Frame::SynReply { stream, fin: true, .. } | Frame::Headers { stream, fin: true, .. }) => {
            shared.peer_done(stream);
        }
        Event::Control(Frame::RstStream { stream, .. }) => {
            let slot = shared.feeds().remove(&stream);
            if let Some(feed) = slot.and_then(|slot| slot.feed) {
                let _ = feed.try_send(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Event::Control(Frame::Ping { id }) => {
            let from_client = id % 2 == 1;
            if from_client != (role == Role::Client) {
                shared.answer(Frame::Ping { id })?;
            }
        }
        // After a GOAWAY the peer opens no streams; those open go on until it hangs up.
        Event::Control(_) => {}
    }
    Ok(())
}

async fn write_all<T: AsyncWrite>(shared: Arc<Shared>, mut io: WriteHalf<T>, mut pieces: mpsc::UnboundedReceiver<Piece<Frame>>) {
    let mut headers = HeaderWriter::default();
    let mut out = Vec::with_capacity(4096);
    let mut closing = false;
    while !closing {
        let Some(first) = pieces.recv().await else {
            break;
        };
        let mut next = Some(first);
        let mut done = Vec::new();
        while let Some(piece) = next.take() {
            match piece {
                Piece::Data { channel, bytes, fin, _permit } => {
                    encode_data(channel, &bytes, fin, &mut out);
                    if fin {
                        done.push(channel);
                    }
                }
                Piece::Control(frame) => {
                    if !matches!(frame, Frame::SynStream { .. } | Frame::GoAway { .. }) {
                        shared.answers.fetch_sub(1, Ordering::Relaxed);
                    }
                    encode_frame(&frame, &mut headers, &mut out);
                }
                Piece::Close => {
                    closing = true;
                    break;
                }
            }
            if out.len() < GATHER {
                next = pieces.try_recv().ok();
            }
        }
        let written = async {
            io.write_all(&out).await?;
            io.flush().await
        };
        if written.await.is_err() {
            break;
        }
        out.clear();
        done.into_iter().for_each(|id| shared.local_done(id));
    }
    // Writers see the end of the connection from here on.
    pieces.close();
    // The peer may be gone already; then there is nobody to tell.
    let _ = io.shutdown().await;
    shared.written.cancel();
}
