//! The holder itself: our own executable under another first argument, with one thread, which waits in one `poll` call.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use cgroup::{Group, Layout};
use runtime::packets;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::SocketFlags;

use super::WORD;
use super::conversation::{DONE, KEEP, TAKE};

/// What the process says when it can be spoken to.
pub const LISTENING: &str = "listening";

/// Lives as the holder if this process was started as such; returns otherwise.
pub fn dispatch() {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == WORD) {
        let (Some(path), Some(group)) = (arguments.next(), arguments.next()) else {
            eprintln!("the socket holder is started by knarr with the paths of its socket and its control group");
            std::process::exit(64);
        };
        let code = match hold(Path::new(&path), &group.to_string_lossy()) {
            Ok(never) => match never {},
            Err(error) => {
                // Until it listens, whoever started it hears this.
                println!("{error:#}");
                1
            }
        };
        std::process::exit(code);
    }
}

fn hold(path: &Path, group: &str) -> Result<std::convert::Infallible> {
    runtime::reexec::outlive(c"knarr-sockets")?;
    // Only root asks, and the socket's folder may be open to others.
    rustix::process::umask(Mode::from_raw_mode(0o177));
    let own = rustix::process::getpid().as_raw_nonzero().get();
    Group::new(Arc::new(Layout::detect()?), group)?.add_pid(own).context("enter the control group")?;
    let listener = packets::listen(path).context("listen")?;
    println!("{LISTENING}");
    std::io::stdout().flush().context("tell that we listen")?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).context("open /dev/null")?;
    rustix::stdio::dup2_stdout(&null).context("let the output go")?;
    let (mut held, mut clients) = (Vec::new(), Vec::new());
    loop {
        wait(&listener, &clients)?;
        while let Ok(client) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            if packets::peer_uid(&client).is_ok_and(|uid| uid == rustix::process::geteuid().as_raw()) {
                clients.push(client);
            }
        }
        clients.retain(|client| match answer(client, &mut held) {
            Ok(()) => true,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        });
    }
}

fn wait(listener: &OwnedFd, clients: &[OwnedFd]) -> Result<()> {
    let mut watched: Vec<PollFd<'_>> = std::iter::once(listener).chain(clients).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
    match poll(&mut watched, None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error).context("wait for requests"),
    }
}

/// Answers what a client asked for. Errors end the conversation, but for "nothing was asked".
fn answer(client: &OwnedFd, held: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut buffer = [0; 64];
    let (size, fds) = packets::receive(client.as_fd(), &mut buffer)?;
    match &buffer[..size] {
        TAKE => {
            let copies: Vec<_> = held.iter().map(AsFd::as_fd).collect();
            packets::send(client.as_fd(), DONE, &copies)
        }
        KEEP => {
            *held = fds;
            packets::send(client.as_fd(), DONE, &[])
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}
