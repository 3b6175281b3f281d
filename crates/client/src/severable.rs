//! A connection that can be cut from this side. An HTTP/2 connection outlives its handles as long as watches run over it, and a
//! connection whose own address is gone says nothing for a long while: so it is cut where its bytes are read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;

/// A stream that fails once it is cut.
pub struct Severable<S> {
    stream: S,
    /// Comes to its end when the stream is cut; taken then.
    cut: Option<BoxFuture<'static, ()>>,
}

impl<S> Severable<S> {
    /// Cut when something is sent from now on. A sender that is dropped says nothing.
    pub fn new(stream: S, mut orders: watch::Receiver<()>) -> Severable<S> {
        let cut = async move {
            if orders.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        Severable { stream, cut: Some(cut.boxed()) }
    }

    fn is_cut(&mut self, context: &mut Context<'_>) -> bool {
        if self.cut.as_mut().is_some_and(|cut| cut.poll_unpin(context).is_ready()) {
            self.cut = None;
        }
        self.cut.is_none()
    }
}

fn aborted() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the connection was given up")
}

impl<S: AsyncRead + Unpin> AsyncRead for Severable<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_cut(context) {
            return Poll::Ready(Err(aborted()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Severable<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.cut.is_none() {
            return Poll::Ready(Err(aborted()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, parts: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if self.cut.is_none() {
            return Poll::Ready(Err(aborted()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_waiting_reader_hears_of_the_cut_and_not_of_a_dropped_sender() {
        let (near, mut far) = tokio::io::duplex(64);
        let orders = watch::Sender::new(());
        let mut stream = Severable::new(near, orders.subscribe());
        let mut buffer = [0; 4];
        far.write_all(b"one ").await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        let reader = tokio::spawn(async move {
            let read = stream.read(&mut buffer).await;
            (read.unwrap_err().kind(), stream.write(b"x").await.unwrap_err().kind())
        });
        tokio::task::yield_now().await;
        orders.send_replace(());
        let ended = tokio::time::timeout(Duration::from_secs(30), reader).await.unwrap().unwrap();
        assert_eq!(ended, (io::ErrorKind::ConnectionAborted, io::ErrorKind::ConnectionAborted));

        let (near, mut far) = tokio::io::duplex(64);
        let orders = watch::Sender::new(());
        let mut stream = Severable::new(near, orders.subscribe());
        drop(orders);
        let reader = tokio::spawn(async move { stream.read_exact(&mut [0; 4]).await });
        tokio::task::yield_now().await;
        far.write_all(b"two ").await.unwrap();
        assert_eq!(reader.await.unwrap().unwrap(), 4);
    }
}
