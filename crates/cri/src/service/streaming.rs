//! The server of streams: a call of CRI prepares one and gets an address, whoever connects to the address gets the stream.
//!
//! It listens on loopback only. An address works once and for a minute.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use rand::Rng;
use runtime::{ContainerId, Sandbox};
use stream::{Body, PortForwardOptions, RemoteCommandOptions, accept_port_forward, accept_remote_command, full_body};
use tokio::net::TcpListener;

use super::Service;
use crate::messages::*;
use crate::session;
use grpc::{Code, Failure};

/// How long an address may wait for its caller.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a caller may take to open its streams.
const OPENING: Duration = Duration::from_secs(30);
/// Addresses that may wait at a time.
const MOST: usize = 1000;

/// What a caller gets.
enum Prepared {
    Exec { sandbox: Sandbox, id: ContainerId, argv: Vec<String>, options: RemoteCommandOptions },
    Attach { sandbox: Sandbox, id: ContainerId, options: RemoteCommandOptions },
    PortForward { sandbox: Sandbox },
}

/// The server and what waits for its callers.
pub(super) struct Streaming {
    address: SocketAddr,
    listener: Mutex<Option<TcpListener>>,
    waiting: Mutex<HashMap<String, (Instant, Prepared)>>,
}

impl Streaming {
    pub(super) async fn open() -> std::io::Result<Streaming> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        Ok(Streaming { address: listener.local_addr()?, listener: Mutex::new(Some(listener)), waiting: Mutex::default() })
    }

    fn prepare(&self, path: &str, prepared: Prepared) -> Result<String, Failure> {
        let mut waiting = self.waiting.lock();
        waiting.retain(|_, (since, _)| since.elapsed() < PATIENCE);
        if waiting.len() >= MOST {
            return Err(Failure::new(Code::Unavailable, "too many streams wait for their callers"));
        }
        let token: [u8; 24] = rand::rng().random();
        let token = URL_SAFE_NO_PAD.encode(token);
        waiting.insert(token.clone(), (Instant::now(), prepared));
        Ok(format!("http://{}/{path}/{token}", self.address))
    }

    fn take(&self, token: &str) -> Option<Prepared> {
        let (since, prepared) = self.waiting.lock().remove(token)?;
        (since.elapsed() < PATIENCE).then_some(prepared)
    }
}

impl Service {
    pub(super) async fn exec(&self, request: ExecRequest) -> Result<ExecResponse, Failure> {
        let (container, sandbox) = self.running(&request.container_id)?;
        let options = options(request.stdin, request.stdout, request.stderr, request.tty)?;
        let prepared = Prepared::Exec { sandbox, id: container.status.id, argv: request.cmd, options };
        Ok(ExecResponse { url: self.streaming.prepare("exec", prepared)? })
    }

    pub(super) async fn attach(&self, request: AttachRequest) -> Result<AttachResponse, Failure> {
        let (container, sandbox) = self.running(&request.container_id)?;
        let options = options(request.stdin, request.stdout, request.stderr, request.tty)?;
        let prepared = Prepared::Attach { sandbox, id: container.status.id, options };
        Ok(AttachResponse { url: self.streaming.prepare("attach", prepared)? })
    }

    pub(super) async fn port_forward(&self, request: PortForwardRequest) -> Result<PortForwardResponse, Failure> {
        let sandbox = self.pod(&request.pod_sandbox_id)?.sandbox;
        let stopped = || Failure::new(Code::FailedPrecondition, format!("sandbox {:?} is not running", request.pod_sandbox_id));
        let prepared = Prepared::PortForward { sandbox: sandbox.ok_or_else(stopped)? };
        Ok(PortForwardResponse { url: self.streaming.prepare("portforward", prepared)? })
    }
}

fn options(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<RemoteCommandOptions, Failure> {
    if !stdin && !stdout && !stderr {
        return Err(Failure::new(Code::InvalidArgument, "one of stdin, stdout, or stderr must be set"));
    }
    if tty && stderr {
        return Err(Failure::new(Code::InvalidArgument, "tty and stderr cannot both be true"));
    }
    Ok(RemoteCommandOptions { stdin, stdout, stderr, tty, creation_timeout: OPENING })
}

/// Serves streams until the future is dropped.
pub(super) async fn run(service: Arc<Service>) {
    let listener = service.streaming.listener.lock().take();
    let Some(listener) = listener else { return };
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, usually: others need a moment to finish.
                tracing::warn!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = service.clone();
        tokio::spawn(async move {
            let _without = stream.set_nodelay(true);
            let answer = service_fn(move |request| {
                let service = service.clone();
                async move { Ok::<_, std::convert::Infallible>(answer(&service, request)) }
            });
            let outcome = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(OPENING)
                .serve_connection(TokioIo::new(stream), answer)
                .with_upgrades()
                .await;
            if let Err(error) = outcome {
                tracing::debug!(%error, "a connection for a stream ended");
            }
        });
    }
}

fn answer(service: &Service, request: Request<Incoming>) -> Response<Body> {
    let token = request.uri().path().rsplit('/').next().unwrap_or("");
    let Some(prepared) = service.streaming.take(token) else {
        let mut response = Response::new(full_body("404 page not found\n"));
        *response.status_mut() = StatusCode::NOT_FOUND;
        return response;
    };
    let outcome = match prepared {
        Prepared::Exec { sandbox, id, argv, options } => {
            let tty = options.tty;
            accept_remote_command(request, options).map(|(response, pending)| {
                tokio::spawn(async move {
                    if let Ok(command) = pending.await {
                        session::exec(&sandbox, &id, argv, tty, command).await;
                    }
                });
                response
            })
        }
        Prepared::Attach { sandbox, id, options } => accept_remote_command(request, options).map(|(response, pending)| {
            tokio::spawn(async move {
                if let Ok(command) = pending.await {
                    session::attach(&sandbox, &id, command).await;
                }
            });
            response
        }),
        Prepared::PortForward { sandbox } => {
            accept_port_forward(request, PortForwardOptions { creation_timeout: OPENING }).map(|(response, pending)| {
                tokio::spawn(async move {
                    let Ok(mut session) = pending.await else { return };
                    while let Some(forward) = session.next().await {
                        tokio::spawn(session::forward(sandbox.clone(), forward));
                    }
                });
                response
            })
        }
    };
    outcome.unwrap_or_else(|rejection| rejection)
}
