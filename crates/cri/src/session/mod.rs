//! Streams of a caller joined with a pod of our runtime: commands, attached sessions, forwarded ports.
//!
//! The kubelet's own API and the streaming server of CRI both end here; they differ only in how a caller is let in.

mod pipes;

use runtime::{AttachSpec, ContainerId, ExecError, ExecSpec, Sandbox};
use stream::{ExitStatus, PortForward, RemoteCommand, StatusSink};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use pipes::{Pipes, Terminal};

/// Runs a command for a caller until either is gone, and tells how it ended.
pub async fn exec(sandbox: &Sandbox, id: &ContainerId, argv: Vec<String>, tty: bool, command: RemoteCommand) {
    let (status, sink) = if tty { with_terminal(sandbox, id, argv, command).await } else { with_pipes(sandbox, id, argv, command).await };
    if let Err(error) = sink.finish(status).await {
        tracing::debug!(%error, "exec: the outcome was not told");
    }
}

async fn with_pipes(sandbox: &Sandbox, id: &ContainerId, argv: Vec<String>, command: RemoteCommand) -> (ExitStatus, StatusSink) {
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

async fn with_terminal(sandbox: &Sandbox, id: &ContainerId, argv: Vec<String>, command: RemoteCommand) -> (ExitStatus, StatusSink) {
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

/// Joins a caller with a running container until either is gone.
pub async fn attach(sandbox: &Sandbox, id: &ContainerId, command: RemoteCommand) {
    let RemoteCommand { stdin, stdout, stderr, mut resize, status: sink, closed } = command;
    let outcome = async {
        let mut pipes = Pipes::new(false, stdout.is_some(), stderr.is_some()).map_err(|error| error.to_string())?;
        let spec = AttachSpec { stdin: stdin.is_some(), stdout: pipes.give_stdout(), stderr: pipes.give_stderr() };
        let mut handle = sandbox.attach(id, spec).await.map_err(|error| error.to_string())?;
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
                    let _ = sandbox.resize_tty(id, size.width, size.height).await;
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
}

/// Carries one forwarded connection to a port of the pod.
pub async fn forward(sandbox: Sandbox, forward: PortForward) {
    let PortForward { port, mut reader, mut writer, error } = forward;
    let stream = match sandbox.dial(port).await {
        Ok(stream) => stream,
        Err(why) => {
            let _ = error.fail(&format!("failed to connect to localhost:{port} inside namespace of the pod: {why}")).await;
            return;
        }
    };
    let (mut from_pod, mut to_pod) = stream.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut reader, &mut to_pod).await;
        let _ = to_pod.shutdown().await;
    };
    let down = async {
        let _ = tokio::io::copy(&mut from_pod, &mut writer).await;
        let _ = writer.shutdown().await;
    };
    tokio::join!(up, down);
    drop(error);
}
