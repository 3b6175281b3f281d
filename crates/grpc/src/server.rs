//! The serving side: connections of a Unix socket, each call given to a function by its path.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};

use super::authority::Lenient;
use super::{Code, Failure, MAX_MESSAGE, encode, framed, unframed};

/// What a call is answered with.
pub enum Reply {
    /// One message.
    One(Vec<u8>),
    /// Messages as they come, until the caller goes.
    Many(BoxStream<'static, Vec<u8>>),
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves a socket until the future is dropped. `answer` gets the path of a call and its message.
pub async fn serve<F, A>(listener: UnixListener, answer: F)
where
    F: Fn(String, Bytes) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let answer = Arc::new(answer);
    loop {
        match listener.accept().await {
            Ok((connection, _)) => {
                tokio::spawn(converse(connection, answer.clone()));
            }
            Err(error) => {
                // Out of descriptors, usually: others need a moment to finish.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse<F, A>(connection: UnixStream, answer: Arc<F>)
where
    F: Fn(String, Bytes) -> A + Send + Sync + 'static,
    A: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer.clone();
        async move {
            let path = request.uri().path().to_owned();
            let outcome = match message(request.into_body()).await {
                // A call goes on when its caller hangs up: half a sandbox would be nobody's.
                Ok(message) => tokio::spawn(answer(path, message))
                    .await
                    .unwrap_or_else(|error| Err(Failure::new(Code::Internal, format!("the call did not end: {error}")))),
                Err(failure) => Err(failure),
            };
            Ok::<_, Infallible>(respond(outcome))
        }
    });
    let outcome = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(Lenient::new(connection)), service)
        .await;
    if let Err(error) = outcome {
        tracing::debug!(%error, "a gRPC connection ended");
    }
}

async fn message(mut body: Incoming) -> Result<Bytes, Failure> {
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Failure::internal(&error))?;
        if let Ok(data) = frame.into_data() {
            buffer.extend_from_slice(&data);
        }
        if let Some(message) = unframed(&mut buffer, MAX_MESSAGE)? {
            return Ok(message);
        }
        if buffer.len() > MAX_MESSAGE + 5 {
            break;
        }
    }
    Err(Failure::new(Code::InvalidArgument, "the call has no message"))
}

fn respond(outcome: Result<Reply, Failure>) -> Response<Body> {
    let mut response = match outcome {
        Ok(Reply::One(message)) => {
            let frames = [Ok(Frame::data(framed(&message))), Ok(Frame::trailers(status(None)))];
            Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync())
        }
        Ok(Reply::Many(messages)) => {
            let data = messages.map(|message| Ok(Frame::data(framed(&message))));
            let end = stream::once(async { Ok(Frame::trailers(status(None))) });
            Response::new(StreamBody::new(data.chain(end)).boxed_unsync())
        }
        Err(failure) => {
            let mut response = Response::new(http_body_util::Empty::new().boxed_unsync());
            *response.headers_mut() = status(Some(&failure));
            response
        }
    };
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn status(failure: Option<&Failure>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", HeaderValue::from(failure.map_or(0, |failure| failure.code.number())));
    if let Some(message) = failure.and_then(|failure| HeaderValue::from_str(&encode(&failure.message)).ok()) {
        headers.insert("grpc-message", message);
    }
    headers
}
