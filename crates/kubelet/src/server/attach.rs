//! Attaching to a running container: its own input and copies of its output.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use runtime::AttachSpec;
use stream::{Body, ExitStatus, RemoteCommand, RemoteCommandOptions, accept_remote_command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::follow::Pipes;
use super::route::{self, Target};
use super::text;
use crate::Kubelet;

/// Serves an attach.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let options = match RemoteCommandOptions::from_query(request.uri().query()) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let (response, pending) = match accept_remote_command(request, options) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection,
    };
    tokio::spawn(async move {
        let Ok(command) = pending.await else {
            return;
        };
        let RemoteCommand { stdin, stdout, stderr, mut resize, status: sink, closed } = command;
        let outcome = async {
            let mut pipes = Pipes::new(false, stdout.is_some(), stderr.is_some()).map_err(|error| error.to_string())?;
            let spec = AttachSpec { stdin: stdin.is_some(), stdout: pipes.give_stdout(), stderr: pipes.give_stderr() };
            let mut handle = sandbox.attach(&id, spec).await.map_err(|error| error.to_string())?;
            let input = stdin.zip(handle.take_stdin()).map(|(mut from, to)| {
                tokio::spawn(async move {
                    let mut to = tokio::fs::File::from_std(to.into());
                    let mut buffer = vec![0; 4096];
                    while let Ok(count) = from.read(&mut buffer).await {
                        if count == 0 || to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                            break;
                        }
                    }
                })
            });
            let copying = pipes.copy(None, stdout, stderr);
            let exit = loop {
                tokio::select! {
                    exit = handle.wait() => break exit.map_err(|error| error.to_string()),
                    Some(size) = resize.recv() => {
                        let _ = sandbox.resize_tty(&id, size.width, size.height).await;
                    }
                    () = closed.cancelled() => break Err("the caller is gone".to_owned()),
                }
            };
            if let Some(input) = input {
                input.abort();
            }
            copying.finish().await;
            exit
        };
        let status = match outcome.await {
            Ok(_) => ExitStatus::Success,
            Err(error) => ExitStatus::internal(error),
        };
        if let Err(error) = sink.finish(status).await {
            tracing::debug!(%error, "attach: the outcome was not told");
        }
    });
    response
}
