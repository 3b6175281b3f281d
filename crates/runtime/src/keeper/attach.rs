//! Attached sessions: copies of a container's output as it appears.
//!
//! A session that does not keep up makes the container wait, as with other runtimes: what it has not taken is kept, and
//! the stream is not read until it has.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, EventFlags};

use super::logs::Stream;
use super::{Asker, Keeper, Token};
use crate::protocol::{Failure, Message, Notice, Reply};
use crate::spec::ContainerId;
use crate::status::{ContainerState, ExitStatus};

/// One session.
pub(super) struct Attach {
    pub number: u32,
    pub client: u32,
    container: u32,
    outputs: [Sink; 2],
    /// The container has ended; the session goes on until it has taken what is behind.
    ended: Option<ExitStatus>,
}

/// One of its streams.
#[derive(Default)]
struct Sink {
    fd: Option<OwnedFd>,
    behind: Vec<u8>,
}

impl Sink {
    /// Writes what is behind; whether all of it is gone now.
    fn flush(&mut self) -> bool {
        while let Some(fd) = self.fd.as_ref().filter(|_| !self.behind.is_empty()) {
            match rustix::io::write(fd, &self.behind) {
                Ok(size) => drop(self.behind.drain(..size)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return false,
                // The session has closed this stream.
                Err(_) => {
                    self.fd = None;
                    self.behind.clear();
                }
            }
        }
        true
    }
}

fn index(stream: Stream) -> usize {
    usize::from(stream == Stream::Error)
}

impl Keeper {
    pub(super) fn attach(
        &mut self,
        asker: Asker,
        id: &ContainerId,
        [stdin, stdout, stderr]: [bool; 3],
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Reply>, Failure> {
        let place = self.place(id)?;
        if self.containers[place].status.state == ContainerState::Exited {
            return Err(Failure::WrongState("container has ended".into()));
        }
        let number = self.number();
        let mut outputs = [Sink::default(), Sink::default()];
        let mut given = fds.into_iter();
        for (sink, wanted, token) in [(0, stdout, Token::AttachOutput), (1, stderr, Token::AttachErrorOutput)] {
            if !wanted {
                continue;
            }
            let fd = given.next().ok_or_else(|| Failure::Invalid("a stream was announced but not given".into()))?;
            crate::sys::set_nonblocking(&fd).map_err(|error| Failure::Failed(error.to_string()))?;
            // Ordinary files cannot be waited for and need not be.
            let _file = epoll::add(&self.epoll, &fd, token.with(number), EventFlags::ONESHOT);
            outputs[sink].fd = Some(fd);
        }
        let container = &mut self.containers[place];
        let input = if stdin { Some(container.input()?) } else { None };
        self.attached.push(Attach { number, client: asker.client, container: container.number, outputs, ended: None });
        let fds: Vec<_> = input.iter().map(AsFd::as_fd).collect();
        self.reply(asker, Reply::Attach { attach: u64::from(number) }, &fds);
        Ok(None)
    }

    pub(super) fn copy_to_attached(&mut self, place: usize, container: u32, stream: Stream, text: &[u8]) {
        let mut behind = Vec::new();
        for attach in self.attached.iter_mut().filter(|attach| attach.container == container) {
            let sink = &mut attach.outputs[index(stream)];
            if sink.fd.is_none() {
                continue;
            }
            sink.behind.extend_from_slice(text);
            if !sink.flush() {
                behind.push(attach.number);
            }
        }
        if !behind.is_empty() && self.containers[place].status.pid.is_some() {
            self.listen(container, stream, false);
        }
        for number in behind {
            self.wait_for(number, stream);
        }
    }

    /// A session can take more.
    pub(super) fn attach_writable(&mut self, number: u32, stream: Stream) {
        let Some(attach) = self.attached.iter_mut().find(|attach| attach.number == number) else { return };
        let (container, ended) = (attach.container, attach.ended);
        let sink = &mut attach.outputs[index(stream)];
        if !sink.flush() {
            self.wait_for(number, stream);
        } else if ended.is_some() {
            self.finish_attached();
        } else {
            self.resume(container, stream);
        }
    }

    /// Asks to hear when a session can take more.
    fn wait_for(&self, number: u32, stream: Stream) {
        let Some(attach) = self.attached.iter().find(|attach| attach.number == number) else { return };
        if let Some(fd) = &attach.outputs[index(stream)].fd {
            let token = if stream == Stream::Output { Token::AttachOutput } else { Token::AttachErrorOutput };
            let _file = epoll::modify(&self.epoll, fd, token.with(number), EventFlags::OUT | EventFlags::ONESHOT);
        }
    }

    /// Reads on once no session of the container is behind.
    fn resume(&self, container: u32, stream: Stream) {
        let mut sessions = self.attached.iter().filter(|attach| attach.container == container);
        if sessions.all(|attach| attach.outputs[index(stream)].behind.is_empty()) {
            self.listen(container, stream, true);
        }
    }

    pub(super) fn detach(&mut self, number: u32) {
        let Some(place) = self.attached.iter().position(|attach| attach.number == number) else { return };
        let attach = self.attached.remove(place);
        for stream in [Stream::Output, Stream::Error] {
            if !attach.outputs[index(stream)].behind.is_empty() {
                self.resume(attach.container, stream);
            }
        }
    }

    /// The container has ended: its sessions get what is behind, and then hear of the end.
    pub(super) fn end_attached(&mut self, container: u32, exit: ExitStatus) {
        let mut behind = Vec::new();
        for attach in self.attached.iter_mut().filter(|attach| attach.container == container) {
            attach.ended = Some(exit);
            for stream in [Stream::Output, Stream::Error] {
                if !attach.outputs[index(stream)].flush() {
                    behind.push((attach.number, stream));
                }
            }
        }
        for (number, stream) in behind {
            self.wait_for(number, stream);
        }
        self.finish_attached();
    }

    /// Lets go of the sessions of ended containers that have taken everything.
    fn finish_attached(&mut self) {
        let mut finished = Vec::new();
        self.attached.retain(|attach| match attach.ended {
            Some(exit) if attach.outputs.iter().all(|sink| sink.behind.is_empty()) => {
                finished.push((attach.client, attach.number, exit));
                false
            }
            _ => true,
        });
        for (client, number, exit) in finished {
            let notice = Notice::AttachEnded { attach: u64::from(number), exit };
            self.send(client, 0, &Message::Notice(notice), &[]);
        }
    }
}
