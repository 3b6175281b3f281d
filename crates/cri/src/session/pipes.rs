//! Copies between a caller's streams and the descriptors that a container has.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use stream::{ByteReader, ByteWriter};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::task::JoinHandle;

/// How long output may still come after a command has ended: processes that it left behind may hold the pipes.
const AFTERWARDS: Duration = Duration::from_millis(500);

/// Pipes for a command without terminal.
pub struct Pipes {
    stdin: (Option<OwnedFd>, Option<pipe::Sender>),
    stdout: (Option<OwnedFd>, Option<pipe::Receiver>),
    stderr: (Option<OwnedFd>, Option<pipe::Receiver>),
}

impl Pipes {
    /// The pipes that are asked for.
    ///
    /// # Errors
    /// No descriptors left.
    pub fn new(stdin: bool, stdout: bool, stderr: bool) -> io::Result<Pipes> {
        let mut pipes = Pipes { stdin: (None, None), stdout: (None, None), stderr: (None, None) };
        if stdin {
            let (sender, receiver) = pipe::pipe()?;
            pipes.stdin = (Some(receiver.into_blocking_fd()?), Some(sender));
        }
        for (wanted, place) in [(stdout, &mut pipes.stdout), (stderr, &mut pipes.stderr)] {
            if wanted {
                let (sender, receiver) = pipe::pipe()?;
                *place = (Some(sender.into_blocking_fd()?), Some(receiver));
            }
        }
        Ok(pipes)
    }

    /// The container's end of its input.
    pub fn give_stdin(&mut self) -> Option<OwnedFd> {
        self.stdin.0.take()
    }

    /// The container's end of its output.
    pub fn give_stdout(&mut self) -> Option<OwnedFd> {
        self.stdout.0.take()
    }

    /// The container's end of its error output.
    pub fn give_stderr(&mut self) -> Option<OwnedFd> {
        self.stderr.0.take()
    }

    /// Copies until all streams have ended.
    pub fn copy(self, stdin: Option<ByteReader>, stdout: Option<ByteWriter>, stderr: Option<ByteWriter>) -> Copying {
        let input = match (stdin, self.stdin.1) {
            (Some(mut from), Some(mut to)) => Some(tokio::spawn(async move {
                let _ = tokio::io::copy(&mut from, &mut to).await;
            })),
            _ => None,
        };
        let mut outputs = Vec::new();
        for (from, to) in [(self.stdout.1, stdout), (self.stderr.1, stderr)] {
            if let (Some(from), Some(to)) = (from, to) {
                outputs.push(tokio::spawn(output(from, to)));
            }
        }
        Copying { input, outputs }
    }
}

async fn output(mut from: impl AsyncRead + Unpin, mut to: ByteWriter) {
    let mut buffer = vec![0; 32 << 10];
    loop {
        match from.read(&mut buffer).await {
            // A terminal whose last process is gone reads as an error.
            Ok(0) | Err(_) => break,
            Ok(count) => {
                if to.write_all(&buffer[..count]).await.is_err() || to.flush().await.is_err() {
                    break;
                }
            }
        }
    }
    let _ = to.shutdown().await;
}

/// Copies that are going on.
pub struct Copying {
    input: Option<JoinHandle<()>>,
    outputs: Vec<JoinHandle<()>>,
}

impl Copying {
    /// Waits until the output is through, then stops.
    pub async fn finish(self) {
        if let Some(input) = &self.input {
            input.abort();
        }
        for mut output in self.outputs {
            if tokio::time::timeout(AFTERWARDS, &mut output).await.is_err() {
                output.abort();
            }
        }
    }
}

/// Our end of a terminal.
pub struct Terminal {
    reader: tokio::fs::File,
    writer: tokio::fs::File,
}

impl Terminal {
    /// Wraps the descriptor.
    ///
    /// # Errors
    /// It cannot be duplicated.
    pub fn new(fd: OwnedFd) -> io::Result<Terminal> {
        let writer = fd.try_clone()?;
        rustix::io::ioctl_fionbio(&fd, false)?;
        Ok(Terminal { reader: tokio::fs::File::from_std(fd.into()), writer: tokio::fs::File::from_std(writer.into()) })
    }

    /// Copies both ways until the terminal is gone.
    pub fn copy(self, stdin: Option<ByteReader>, stdout: Option<ByteWriter>) -> Copying {
        let mut writer = self.writer;
        let input = stdin.map(|mut from| {
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(count) = from.read(&mut buffer).await {
                    if count == 0 || writer.write_all(&buffer[..count]).await.is_err() || writer.flush().await.is_err() {
                        break;
                    }
                }
            })
        });
        let outputs = stdout.map(|to| tokio::spawn(output(self.reader, to))).into_iter().collect();
        Copying { input, outputs }
    }
}
