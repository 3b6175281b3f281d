//! The ordered way out of a connection: many writers put pieces in, one task writes them.
//!
//! Invariant: pieces leave in the order in which they were put in, across all channels. So an outcome that is put in
//! after the last output can never overtake it, and dropping a writer ends its channel after all that it wrote.
//! A writer needs a permit for each piece of data, which bounds what waits here; control pieces need none.

use bytes::Bytes;
use futures_util::ready;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::PollSemaphore;

/// The largest piece of data.
const PIECE: usize = 32 * 1024;
/// Pieces that may wait for the connection, all channels together.
const WAITING: usize = 32;
/// Pieces that may wait for a reader of one channel.
pub(crate) const READ_AHEAD: usize = 32;

/// One piece on its way out. `C` is what the protocol sends besides data.
pub(crate) enum Piece<C> {
    /// Data of a channel; `fin` ends the channel.
    Data { channel: u32, bytes: Bytes, fin: bool, _permit: Option<OwnedSemaphorePermit> },
    /// Something of the protocol's own.
    Control(C),
    /// The connection ends here.
    Close,
}

/// The way in. Cheap to clone.
pub(crate) struct Outbox<C> {
    sender: mpsc::UnboundedSender<Piece<C>>,
    permits: Arc<Semaphore>,
}

impl<C> Clone for Outbox<C> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), permits: self.permits.clone() }
    }
}

impl<C: Send + 'static> Outbox<C> {
    /// The way in and the end that the writing task holds.
    pub(crate) fn new() -> (Self, mpsc::UnboundedReceiver<Piece<C>>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { sender, permits: Arc::new(Semaphore::new(WAITING)) }, receiver)
    }

    /// Puts a control piece in; false when the connection is gone.
    pub(crate) fn control(&self, control: C) -> bool {
        self.sender.send(Piece::Control(control)).is_ok()
    }

    /// Puts data in without waiting for room: for small things that end something.
    pub(crate) fn data(&self, channel: u32, bytes: Bytes, fin: bool) -> bool {
        self.sender.send(Piece::Data { channel, bytes, fin, _permit: None }).is_ok()
    }

    /// Ends the connection after everything put in so far.
    pub(crate) fn close(&self) {
        // If the connection is gone already there is nothing left to close.
        let _ = self.sender.send(Piece::Close);
    }

    /// A writer for one channel.
    pub(crate) fn writer(&self, channel: u32) -> ChannelWriter<C> {
        let permits = PollSemaphore::new(self.permits.clone());
        ChannelWriter { outbox: self.clone(), permits, channel, ended: false }
    }
}

/// Writes one channel. Dropping it ends the channel.
pub(crate) struct ChannelWriter<C: Send + 'static> {
    outbox: Outbox<C>,
    permits: PollSemaphore,
    channel: u32,
    ended: bool,
}

impl<C: Send + 'static> ChannelWriter<C> {
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.outbox.data(self.channel, Bytes::new(), true);
        }
    }
}

impl<C: Send + 'static> AsyncWrite for ChannelWriter<C> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if self.ended || self.outbox.sender.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let permit = ready!(self.permits.poll_acquire(context));
        let size = buffer.len().min(PIECE);
        let bytes = Bytes::copy_from_slice(&buffer[..size]);
        let piece = Piece::Data { channel: self.channel, bytes, fin: false, _permit: permit };
        let sent = self.outbox.sender.send(piece);
        Poll::Ready(sent.map(|()| size).map_err(|_| io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end();
        Poll::Ready(Ok(()))
    }
}

impl<C: Send + 'static> Drop for ChannelWriter<C> {
    fn drop(&mut self) {
        self.end();
    }
}

/// Reads one channel: pieces until the sender is dropped; an error piece ends it badly.
pub(crate) struct ChannelReader {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

/// What feeds a `ChannelReader`.
pub(crate) type ChannelFeed = mpsc::Sender<io::Result<Bytes>>;

impl ChannelReader {
    /// A reader and what feeds it.
    pub(crate) fn new() -> (ChannelFeed, Self) {
        let (sender, pieces) = mpsc::channel(READ_AHEAD);
        (sender, Self { pieces, current: Bytes::new() })
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.current.is_empty() {
            match ready!(self.pieces.poll_recv(context)) {
                Some(piece) => self.current = piece?,
                None => return Poll::Ready(Ok(())),
            }
        }
        let size = self.current.len().min(buffer.remaining());
        buffer.put_slice(&self.current.split_to(size));
        Poll::Ready(Ok(()))
    }
}
