//! Names that are not the cluster's: asked of the node's own name servers, never of ourselves.

use crate::memory::Memory;
use crate::wire::{Answer, Asked, ask, read_answer};
use hickory_proto::op::{Message, Query, ResponseCode};
use parking_lot::Mutex;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;

/// How long one server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Questions that may wait for servers at once.
const MOST_WAITING: usize = 1024;
/// The file is looked at again for a question that comes this long after the last look.
const FILE_AGE: Duration = Duration::from_secs(5);
/// The stub of systemd-resolved, which knows the real servers only through this other file.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
const STUB_FILE: &str = "/run/systemd/resolve/resolv.conf";

/// Where to ask about names outside of the cluster.
#[derive(Clone, Debug)]
pub enum Upstream {
    /// The servers of a `resolv.conf`, which is read again when it changes.
    ResolvConf(PathBuf),
    /// These servers.
    Servers(Vec<SocketAddr>),
}

/// Asks upstream servers and remembers answers.
pub(crate) struct Forwarder {
    upstream: Upstream,
    /// Our own addresses, which are never asked.
    own: Vec<SocketAddr>,
    file: Mutex<File>,
    /// The server that answered last; it is asked first.
    good: AtomicUsize,
    memory: Mutex<Memory>,
    waiting: Semaphore,
}

#[derive(Default)]
struct File {
    looked: Option<Instant>,
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    pub(crate) fn new(upstream: Upstream, own: Vec<SocketAddr>, remembered: usize) -> Self {
        Self {
            upstream,
            own,
            file: Mutex::default(),
            good: AtomicUsize::new(0),
            memory: Mutex::new(Memory::new(remembered)),
            waiting: Semaphore::new(MOST_WAITING),
        }
    }

    /// An answer that is remembered.
    pub(crate) fn remembered(&self, asked: &Asked, question: &Query) -> Option<Answer> {
        self.memory.lock().get(question, wants_dnssec(asked), Instant::now())
    }

    /// Asks the servers, one after the other.
    pub(crate) async fn resolve(&self, asked: &Asked, question: &Query) -> Answer {
        if let Some(answer) = self.remembered(asked, question) {
            return answer;
        }
        let servers = self.servers();
        if servers.is_empty() {
            return Answer::code(ResponseCode::Refused);
        }
        let Ok(_slot) = self.waiting.try_acquire() else {
            return Answer::code(ResponseCode::ServFail);
        };
        let first = self.good.load(Ordering::Relaxed);
        for offset in 0..servers.len() {
            let position = (first + offset) % servers.len();
            let server = servers[position];
            match tokio::time::timeout(PATIENCE, ask_server(server, asked, question)).await {
                Ok(Ok(message)) => {
                    self.good.store(position, Ordering::Relaxed);
                    let answer = Answer {
                        code: message.metadata.response_code,
                        authoritative: false,
                        answers: message.answers,
                        authorities: message.authorities,
                        additionals: message.additionals,
                    };
                    self.memory.lock().put(question, wants_dnssec(asked), &answer, Instant::now());
                    return answer;
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "upstream name server failed"),
                Err(_) => tracing::debug!(%server, "upstream name server did not answer in time"),
            }
        }
        Answer::code(ResponseCode::ServFail)
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let path = match &self.upstream {
            Upstream::Servers(servers) => return servers.clone(),
            Upstream::ResolvConf(path) => path,
        };
        let mut file = self.file.lock();
        if file.looked.is_none_or(|looked| looked.elapsed() >= FILE_AGE) {
            file.looked = Some(Instant::now());
            let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
            if modified.is_none() || modified != file.modified {
                file.modified = modified;
                file.servers = read_file(path, &self.own);
            }
        }
        file.servers.clone()
    }
}

fn wants_dnssec(asked: &Asked) -> bool {
    asked.edns.as_ref().is_some_and(|edns| edns.flags().dnssec_ok)
}

/// The servers of a file, without ourselves.
fn read_file(path: &Path, own: &[SocketAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot read the upstream name servers");
        String::new()
    });
    let mut addresses = name_servers(&text);
    if addresses.contains(&STUB)
        && let Ok(text) = std::fs::read_to_string(STUB_FILE)
    {
        addresses.retain(|address| *address != STUB);
        addresses.extend(name_servers(&text));
    }
    let servers = addresses.into_iter().map(|address| SocketAddr::new(address, 53));
    servers.filter(|server| !own.iter().any(|own| is_same(*own, *server))).collect()
}

/// Whether asking `server` would ask whoever listens on `own`.
fn is_same(own: SocketAddr, server: SocketAddr) -> bool {
    let everywhere = own.ip().is_unspecified() && server.ip().is_loopback();
    own.port() == server.port() && (own.ip() == server.ip() || everywhere)
}

fn name_servers(text: &str) -> Vec<IpAddr> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    lines.filter_map(|rest| rest.split_whitespace().next()?.parse().ok()).collect()
}

async fn ask_server(server: SocketAddr, asked: &Asked, question: &Query) -> io::Result<Message> {
    // A random id and a random port for every question: guessing an answer takes both.
    let id: u16 = rand::random();
    let query = ask(asked, question, id).ok_or(io::ErrorKind::InvalidData)?;
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = [0; 4096];
    loop {
        let size = socket.recv(&mut buffer).await?;
        let Some(message) = read_answer(&buffer[..size], id, question) else {
            continue;
        };
        if message.metadata.truncation {
            return ask_by_tcp(server, &query, id, question).await;
        }
        return Ok(message);
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8], id: u16, question: &Query) -> io::Result<Message> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes).await?;
    read_answer(&bytes, id, question).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_name_servers_but_never_ourselves() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let text = "# comment\nsearch a b\nnameserver 10.0.0.1\nnameserver 10.96.0.10 \nnameserver ::1\nnameserver x\n";
        std::fs::write(temp.path(), text).unwrap();
        let cases = [
            ("10.96.0.10:53", vec!["10.0.0.1:53", "[::1]:53"]),
            ("10.96.0.10:5353", vec!["10.0.0.1:53", "10.96.0.10:53", "[::1]:53"]),
            ("0.0.0.0:53", vec!["10.0.0.1:53", "10.96.0.10:53"]),
        ];
        for (own, expected) in cases {
            let expected: Vec<SocketAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(read_file(temp.path(), &[own.parse().unwrap()]), expected, "{own}");
        }
    }
}
