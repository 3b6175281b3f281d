//! A conversation with the system bus: greeting, calls one after another, signals between them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use runtime::packets;
use tokio::io::unix::AsyncFd;

use super::wire::{CALL, ERROR, Malformed, Message, REPLY, SIGNAL, Writer};

/// How long a service may take to answer.
const PATIENCE: Duration = Duration::from_secs(25);

/// Why a call had no answer.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// The bus is not there, or went away.
    #[error("system bus")]
    Io(#[from] io::Error),
    /// What came is no message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The bus does not let us in.
    #[error("the system bus refused the greeting: {0}")]
    Greeting(String),
    /// The service refused.
    #[error("{member}: {error}")]
    Refused {
        /// What was asked.
        member: String,
        /// Name of the error.
        error: String,
    },
    /// The service did not answer in time.
    #[error("{0}: no answer")]
    Silent(String),
}

/// A call.
pub struct Call<'a> {
    /// Service.
    pub service: &'a str,
    /// Object.
    pub path: &'a str,
    /// Interface.
    pub interface: &'a str,
    /// Method.
    pub member: &'a str,
    /// Types of the arguments.
    pub signature: &'a str,
    /// Arguments.
    pub body: Writer,
}

/// A conversation.
pub struct Bus {
    socket: AsyncFd<OwnedFd>,
    serial: u32,
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
    signals: VecDeque<Message>,
}

impl Bus {
    /// Greets the bus at a socket.
    ///
    /// # Errors
    /// There is none, or it does not let us in.
    pub async fn connect(path: &Path) -> Result<Bus, BusError> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        let socket = packets::watch(OwnedFd::from(stream))?;
        let mut bus = Bus { socket, serial: 0, bytes: Vec::new(), descriptors: VecDeque::new(), signals: VecDeque::new() };
        let user: String = rustix::process::geteuid().as_raw().to_string().bytes().map(|byte| format!("{byte:02x}")).collect();
        bus.say(&format!("\0AUTH EXTERNAL {user}\r\n"), "OK").await?;
        bus.say("NEGOTIATE_UNIX_FD\r\n", "AGREE_UNIX_FD").await?;
        bus.send(b"BEGIN\r\n").await?;
        let interface = "org.freedesktop.DBus";
        let hello =
            Call { service: interface, path: "/org/freedesktop/DBus", interface, member: "Hello", signature: "", body: Writer::default() };
        bus.call(hello).await?;
        Ok(bus)
    }

    async fn say(&mut self, line: &str, expected: &str) -> Result<(), BusError> {
        self.send(line.as_bytes()).await?;
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = self.bytes.drain(..=end).collect();
                    return Ok::<_, BusError>(String::from_utf8_lossy(&line).trim().to_owned());
                }
                self.receive().await?;
            }
        });
        let answer = answer.await.map_err(|_| BusError::Silent("greeting".into()))??;
        if answer.starts_with(expected) { Ok(()) } else { Err(BusError::Greeting(answer)) }
    }

    /// Calls a method; its answer, with a descriptor where one came.
    ///
    /// # Errors
    /// The service refuses or does not answer.
    pub async fn call(&mut self, call: Call<'_>) -> Result<(Message, Option<OwnedFd>), BusError> {
        self.serial += 1;
        let serial = self.serial;
        let message = Message {
            kind: CALL,
            serial,
            path: call.path.into(),
            interface: call.interface.into(),
            member: call.member.into(),
            destination: call.service.into(),
            signature: call.signature.into(),
            body: call.body.0,
            ..Message::default()
        };
        self.send(&message.encode()).await?;
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                let (message, descriptor) = self.next().await?;
                match message.kind {
                    REPLY | ERROR if message.reply_to == serial => return Ok::<_, BusError>((message, descriptor)),
                    SIGNAL => self.signals.push_back(message),
                    _ => {}
                }
            }
        });
        let (answer, descriptor) = answer.await.map_err(|_| BusError::Silent(call.member.to_owned()))??;
        if answer.kind == ERROR {
            return Err(BusError::Refused { member: call.member.to_owned(), error: answer.error });
        }
        Ok((answer, descriptor))
    }

    /// The next signal.
    ///
    /// # Errors
    /// The bus went away.
    pub async fn signal(&mut self) -> Result<Message, BusError> {
        loop {
            if let Some(signal) = self.signals.pop_front() {
                return Ok(signal);
            }
            let (message, _nobody_asked_for_it) = self.next().await?;
            if message.kind == SIGNAL {
                return Ok(message);
            }
        }
    }

    /// The next message with its first descriptor.
    async fn next(&mut self) -> Result<(Message, Option<OwnedFd>), BusError> {
        loop {
            if let Some((message, size)) = Message::decode(&self.bytes)? {
                self.bytes.drain(..size);
                // Those of messages that nobody waits for are closed with them.
                let count = self.descriptors.len().min(message.descriptors as usize);
                let first = self.descriptors.drain(..count).next();
                return Ok((message, first));
            }
            self.receive().await?;
        }
    }

    async fn receive(&mut self) -> Result<(), BusError> {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.socket.readable().await?;
            match packets::receive(self.socket.get_ref().as_fd(), &mut buffer) {
                Ok((0, _)) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok((size, descriptors)) => {
                    self.bytes.extend_from_slice(&buffer[..size]);
                    self.descriptors.extend(descriptors);
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Messages are far smaller than the socket's room, so that one that does not fit means a bus that does not read.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), BusError> {
        Ok(packets::send(self.socket.get_ref().as_fd(), bytes, &[])?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real daemon where the machine has it: greeting, a call of its own, and a service that is not there.
    #[tokio::test]
    async fn a_real_bus_understands_us() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let address = format!("--address=unix:path={}", socket.display());
        let daemon = std::process::Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--nosyslog", &address])
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut daemon) = daemon else {
            println!("skipped: no dbus-daemon here");
            return;
        };
        let deadline = std::time::Instant::now() + PATIENCE;
        while !socket.exists() {
            assert!(std::time::Instant::now() < deadline, "the bus opens its socket");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let talked = async {
            let mut bus = Bus::connect(&socket).await?;
            let bus_name = "org.freedesktop.DBus";
            let ask = |member: &'static str, text: &str| {
                let mut body = Writer::default();
                body.text(text);
                Call { service: bus_name, path: "/org/freedesktop/DBus", interface: bus_name, member, signature: "s", body }
            };
            bus.call(ask("AddMatch", "type='signal',member='PrepareForShutdown'")).await?;
            let (owner, _) = bus.call(ask("GetNameOwner", bus_name)).await?;
            let unknown = bus.call(Call { service: "org.example.Nobody", ..ask("Anything", "x") }).await;
            Ok::<_, BusError>((super::super::wire::Reader::new(&owner.body).text(), unknown.map(drop)))
        };
        let talked = talked.await;
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let (owner, unknown) = talked.unwrap();
        assert_eq!(owner.as_deref(), Ok("org.freedesktop.DBus"));
        assert!(matches!(unknown, Err(BusError::Refused { ref error, .. }) if error.ends_with("ServiceUnknown")), "{unknown:?}");
    }
}
