//! `knarr exec`: a program inside a container, with input and terminal if asked for.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::termios::{OptionalActions, Termios};
use stream::client::{ClientError, RemoteProcess, remote_command};
use stream::{ByteReader, ExitStatus, RemoteCommandOptions, TerminalSize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use super::logs;
use crate::access::{Access, escape};
use crate::connection::refusal;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// The pod, or something with pods: x, pod/x, deployment/web.
    target: String,
    /// Container; the only one where absent.
    #[arg(long, short = 'c')]
    container: Option<String>,
    /// Hand the input on.
    #[arg(long, short = 'i')]
    stdin: bool,
    /// With a terminal.
    #[arg(long, short = 't')]
    tty: bool,
    /// The program and its arguments, after `--`.
    #[arg(required = true, last = true)]
    command: Vec<String>,
}

/// Carries the command out; the exit code is the program's.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let cluster = flags.access.connect()?;
    let pod = logs::pod(&cluster, &flags.target).await?;
    let container = match &flags.container {
        Some(container) => container.clone(),
        None => logs::default_container(&cluster, &pod).await?,
    };
    let tty = flags.tty && std::io::stdin().is_terminal();
    let options = RemoteCommandOptions { stdin: flags.stdin, stdout: true, stderr: !tty, tty, creation_timeout: Duration::from_secs(30) };
    let mut words = vec![("container", escape(&container))];
    words.extend(flags.command.iter().map(|word| ("command", escape(word))));
    let words: Vec<(&str, &str)> = words.iter().map(|(key, word)| (*key, word.as_str())).collect();
    let path = format!("/api/v1/namespaces/{}/pods/{}/exec?{}", escape(&cluster.namespace), escape(&pod), options.to_query(&words));
    let request = cluster.request(&path).body(())?;
    let process = match remote_command(cluster.dial().await?, request, &options).await {
        Ok(process) => process,
        Err(ClientError::Refused { body, .. }) => bail!("{}", refusal(body.as_bytes())),
        Err(error) => return Err(error.into()),
    };
    let raw = if tty && flags.stdin { Some(RawTerminal::enter()?) } else { None };
    let status = converse(process, tty).await;
    drop(raw);
    match status? {
        ExitStatus::Success => Ok(ExitCode::SUCCESS),
        ExitStatus::ExitCode(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(1))),
        ExitStatus::Failure { message, .. } => bail!("{message}"),
    }
}

async fn converse(process: RemoteProcess, tty: bool) -> Result<ExitStatus> {
    let RemoteProcess { stdin, stdout, stderr, control } = process;
    if let Some(mut writer) = stdin {
        // The input may never end; the program's end ends us.
        tokio::spawn(async move {
            let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut writer).await;
            let _ = writer.shutdown().await;
        });
    }
    let outputs = async { tokio::try_join!(copy(stdout, tokio::io::stdout()), copy(stderr, tokio::io::stderr())) };
    if tty {
        let mut resized = signal(SignalKind::window_change())?;
        tokio::pin!(outputs);
        loop {
            if let Some(size) = terminal_size() {
                let _ = control.resize(size).await;
            }
            tokio::select! {
                done = &mut outputs => { done?; break; }
                _ = resized.recv() => {}
            }
        }
    } else {
        outputs.await?;
    }
    Ok(control.wait().await?)
}

async fn copy(reader: Option<ByteReader>, mut out: impl tokio::io::AsyncWrite + Unpin) -> Result<()> {
    let Some(mut reader) = reader else { return Ok(()) };
    let mut buffer = vec![0; 32 << 10];
    loop {
        let read = reader.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        out.write_all(&buffer[..read]).await?;
        out.flush().await?;
    }
}

fn terminal_size() -> Option<TerminalSize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(TerminalSize { width: size.ws_col, height: size.ws_row })
}

/// Our terminal hands every key on, until this is dropped.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<RawTerminal> {
        let before = rustix::termios::tcgetattr(std::io::stdin()).context("read the terminal's settings")?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).context("change the terminal's settings")?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
