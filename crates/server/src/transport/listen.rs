//! The listener: TLS, HTTP/1.1 and HTTP/2 on one port, bounded and drained at the end.

use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::authenticate::Connection;
use crate::pipeline;
use crate::server::Server;

/// Connections at once.
const MAX_CONNECTIONS: usize = 10_000;
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the headers of a request may take.
const HEADERS: Duration = Duration::from_secs(32);
/// Streams of one HTTP/2 connection: a test suite opens hundreds of watches over one.
const STREAMS: u32 = 1000;

/// Serves connections until the server stops.
pub async fn serve(server: &Arc<Server>, listener: TcpListener) -> anyhow::Result<()> {
    let tls = pki::server_config(&server.deps.serving, true, &["h2", "http/1.1"])?;
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let http = Arc::new(builder());
    loop {
        let place = places.clone().acquire_owned().await?;
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = server.shutdown.cancelled() => break,
        };
        let (server, acceptor, http, watcher) = (server.clone(), acceptor.clone(), http.clone(), graceful.watcher());
        tokio::spawn(async move {
            let _place = place;
            let Some((stream, connection)) = handshake(stream, peer, &acceptor).await else {
                server.metrics.handshakes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                return;
            };
            let service = service_fn(move |request| {
                let (server, connection) = (server.clone(), connection.clone());
                // Boxed: the connection moves it around, and keeps its place for as long as the answer is being sent.
                Box::pin(async move { Ok::<_, std::convert::Infallible>(pipeline::call_from_network(&server, &connection, request).await) })
            });
            let serving = http.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(serving).await {
                tracing::debug!(%peer, error = %error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(server.config.drain_timeout, graceful.shutdown()).await.is_err() {
        tracing::warn!("some requests were cut off at the end of the drain time");
    }
    Ok(())
}

async fn handshake(
    stream: TcpStream,
    peer: std::net::SocketAddr,
    acceptor: &TlsAcceptor,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, Arc<Connection>)> {
    stream.set_nodelay(true).ok();
    let accepted = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await;
    match accepted {
        Ok(Ok(stream)) => {
            let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec).unwrap_or_default();
            Some((stream, Arc::new(Connection::new(peer, chain))))
        }
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "TLS handshake failed");
            None
        }
        Err(_) => None,
    }
}

/// Windows are large because a stream that is read slowly must not stall the others of its connection.
fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 << 10);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(25 << 20)
        .max_header_list_size(64 << 10)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}
