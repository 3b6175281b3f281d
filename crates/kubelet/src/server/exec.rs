//! Commands in containers: `exec` over SPDY or WebSocket, and `run` with the output as the answer.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use runtime::{ExecError, ExecSpec};
use stream::{Body, ExitStatus, RemoteCommand, RemoteCommandOptions, accept_remote_command};

use super::follow::{Pipes, Terminal};
use super::route::{self, Target, query_all};
use super::text;
use crate::Kubelet;

/// Output of `run` that is kept.
const MAX_OUTPUT: usize = 16 << 20;

/// Serves an exec.
pub async fn serve(kubelet: &Arc<Kubelet>, target: &Target, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or("").to_owned();
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let options = match RemoteCommandOptions::from_query(Some(&query)) {
        Ok(options) => options,
        Err(message) => return text(StatusCode::BAD_REQUEST, &message),
    };
    let (tty, argv) = (options.tty, query_all(&query, "command"));
    let (response, pending) = match accept_remote_command(request, options) {
        Ok(accepted) => accepted,
        Err(rejection) => return rejection,
    };
    tokio::spawn(async move {
        let Ok(command) = pending.await else {
            return;
        };
        let (status, sink) =
            if tty { with_terminal(&sandbox, &id, argv, command).await } else { with_pipes(&sandbox, &id, argv, command).await };
        if let Err(error) = sink.finish(status).await {
            tracing::debug!(%error, "exec: the outcome was not told");
        }
    });
    response
}

async fn with_pipes(
    sandbox: &runtime::Sandbox,
    id: &runtime::ContainerId,
    argv: Vec<String>,
    command: RemoteCommand,
) -> (ExitStatus, stream::StatusSink) {
    let RemoteCommand { stdin, stdout, stderr, status: sink, closed, .. } = command;
    let mut pipes = match Pipes::new(stdin.is_some(), stdout.is_some(), stderr.is_some()) {
        Ok(pipes) => pipes,
        Err(error) => return (ExitStatus::internal(error.to_string()), sink),
    };
    let spec =
        ExecSpec { argv, stdin: pipes.give_stdin(), stdout: pipes.give_stdout(), stderr: pipes.give_stderr(), ..ExecSpec::default() };
    let mut handle = match sandbox.exec(id, spec).await {
        Ok(handle) => handle,
        Err(error) => return (failure(&error), sink),
    };
    let copying = pipes.copy(stdin, stdout, stderr);
    let exit = tokio::select! {
        exit = handle.wait() => exit,
        () = closed.cancelled() => {
            let _ = handle.kill(9).await;
            handle.wait().await
        }
    };
    copying.finish().await;
    (exit.map_or_else(|error| failure(&error), |exit| ExitStatus::from_code(exit.code)), sink)
}

async fn with_terminal(
    sandbox: &runtime::Sandbox,
    id: &runtime::ContainerId,
    argv: Vec<String>,
    command: RemoteCommand,
) -> (ExitStatus, stream::StatusSink) {
    let RemoteCommand { stdin, stdout, mut resize, status: sink, closed, .. } = command;
    let spec = ExecSpec { argv, tty: true, ..ExecSpec::default() };
    let mut handle = match sandbox.exec(id, spec).await {
        Ok(handle) => handle,
        Err(error) => return (failure(&error), sink),
    };
    let Some(terminal) = handle.take_terminal().and_then(|fd| Terminal::new(fd).ok()) else {
        return (ExitStatus::internal("the command has no terminal"), sink);
    };
    let copying = terminal.copy(stdin, stdout);
    let exit = loop {
        tokio::select! {
            exit = handle.wait() => break exit,
            Some(size) = resize.recv() => {
                let _ = handle.resize(size.width, size.height).await;
            }
            () = closed.cancelled() => {
                let _ = handle.kill(9).await;
                break handle.wait().await;
            }
        }
    };
    copying.finish().await;
    (exit.map_or_else(|error| failure(&error), |exit| ExitStatus::from_code(exit.code)), sink)
}

fn failure(error: &ExecError) -> ExitStatus {
    ExitStatus::internal(format!("error executing command in container: {error}"))
}

/// Serves `run`: the command's output is the answer.
pub async fn run(kubelet: &Arc<Kubelet>, target: &Target, query: &str) -> Response<Body> {
    let (sandbox, id) = match route::running(kubelet, target).await {
        Ok(found) => found,
        Err(response) => return *response,
    };
    let given = query_all(query, "cmd").join(" ");
    let argv = given.split_whitespace().map(str::to_owned).collect();
    match sandbox.exec_sync(&id, argv, Some(Duration::from_secs(120)), MAX_OUTPUT).await {
        Ok(output) => text(StatusCode::OK, &String::from_utf8_lossy(&[output.stdout, output.stderr].concat())),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}
