//! Listening sockets and the loops that serve them.

use crate::engine::{Engine, Step};
use crate::wire::Carrier;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// TCP connections served at once.
const MOST_CONNECTIONS: usize = 512;
/// How long a TCP connection may be silent.
const SILENCE: Duration = Duration::from_secs(10);
/// Room for queries that arrive while none is read (over a restart).
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// How often a free port is looked for.
const CHOICES: usize = 64;

/// Open sockets. Somebody else may open and keep them, so that no query is lost over a restart.
#[derive(Debug, Default)]
pub struct Sockets {
    /// For datagrams.
    pub udp: Vec<UdpSocket>,
    /// For connections.
    pub tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Opens both kinds on each address. The address need not exist yet, and a predecessor may still listen on it.
    pub fn open(addresses: &[SocketAddr]) -> io::Result<Self> {
        let mut sockets = Self::default();
        for address in addresses {
            let (udp, tcp) = pair(*address)?;
            sockets.udp.push(udp);
            sockets.tcp.push(tcp);
        }
        Ok(sockets)
    }

    /// The same sockets once more: whoever keeps them open loses no query while nobody serves.
    pub fn try_clone(&self) -> io::Result<Self> {
        let udp = self.udp.iter().map(UdpSocket::try_clone);
        let tcp = self.tcp.iter().map(TcpListener::try_clone);
        Ok(Self { udp: udp.collect::<Result<_, _>>()?, tcp: tcp.collect::<Result<_, _>>()? })
    }

    /// Those of some held descriptors that are sockets at the wanted addresses. An address counts only if both of its
    /// kinds are there; whatever else was held is closed.
    pub fn from_held(held: Vec<OwnedFd>, wanted: &[SocketAddr]) -> Self {
        let mut sockets = Self::default();
        for socket in held {
            match sockopt::socket_type(&socket) {
                Ok(SocketType::DGRAM) => sockets.udp.push(UdpSocket::from(socket)),
                Ok(SocketType::STREAM) => sockets.tcp.push(TcpListener::from(socket)),
                _ => {}
            }
        }
        let at = |found: io::Result<SocketAddr>| found.ok().filter(|address| wanted.contains(address));
        let udp: Vec<SocketAddr> = sockets.udp.iter().filter_map(|socket| at(socket.local_addr())).collect();
        let tcp: Vec<SocketAddr> = sockets.tcp.iter().filter_map(|socket| at(socket.local_addr())).collect();
        let whole = |address: SocketAddr| udp.contains(&address) && tcp.contains(&address);
        sockets.udp.retain(|socket| socket.local_addr().is_ok_and(whole));
        sockets.tcp.retain(|socket| socket.local_addr().is_ok_and(whole));
        sockets
    }

    /// Adds others to these.
    pub fn extend(&mut self, others: Self) {
        self.udp.extend(others.udp);
        self.tcp.extend(others.tcp);
    }

    /// The descriptors, to be handed to whoever holds them for us.
    pub fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let udp = self.udp.iter().map(AsFd::as_fd);
        udp.chain(self.tcp.iter().map(AsFd::as_fd)).collect()
    }

    /// Where they listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// Both kinds of sockets at an address. Port 0 means "any": both then share one that the system chose, which may have to
/// be chosen again, since it is chosen for datagrams and may be taken for connections.
fn pair(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut choices = if address.port() == 0 { CHOICES } else { 1 };
    loop {
        let udp = socket(address, SocketType::DGRAM)?;
        // Who may not exceed the system's limit gets the limit; a smaller buffer is no reason not to serve.
        if sockopt::set_socket_recv_buffer_size_force(&udp, RECEIVE_BUFFER).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&udp, RECEIVE_BUFFER);
        }
        rustix::net::bind(&udp, &address)?;
        let udp = UdpSocket::from(udp);
        let tcp = socket(address, SocketType::STREAM)?;
        let listening = rustix::net::bind(&tcp, &udp.local_addr()?).and_then(|()| rustix::net::listen(&tcp, 128));
        choices -= 1;
        match listening {
            Ok(()) => return Ok((udp, TcpListener::from(tcp))),
            Err(rustix::io::Errno::ADDRINUSE) if choices > 0 => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn socket(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    // With these the system may choose a port that somebody else chose to share, so not where it chooses.
    sockopt::set_socket_reuseaddr(&socket, address.port() != 0)?;
    sockopt::set_socket_reuseport(&socket, address.port() != 0)?;
    if address.is_ipv4() {
        sockopt::set_ip_freebind(&socket, true)?;
    } else {
        sockopt::set_ipv6_v6only(&socket, true)?;
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    Ok(socket)
}

/// Serves until the future is dropped or a socket breaks.
pub(crate) async fn serve(engine: Arc<Engine>, sockets: Sockets) -> io::Result<()> {
    let mut loops = JoinSet::new();
    for socket in sockets.udp {
        socket.set_nonblocking(true)?;
        let socket = tokio::net::UdpSocket::from_std(socket)?;
        loops.spawn(serve_udp(engine.clone(), Arc::new(socket)));
    }
    let slots = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    for listener in sockets.tcp {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loops.spawn(serve_tcp(engine.clone(), listener, slots.clone()));
    }
    match loops.join_next().await {
        Some(Ok(outcome)) => outcome,
        Some(Err(error)) => Err(io::Error::other(error)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "no sockets to serve")),
    }
}

/// A query leaves the socket after its answer: should we be killed in between, our successor finds it there. Only those
/// that wait for an upstream are taken first, since they must not hold up the others.
async fn serve_udp(engine: Arc<Engine>, socket: Arc<tokio::net::UdpSocket>) -> io::Result<()> {
    let (mut query, mut taken) = (vec![0; 4096], vec![0; 4096]);
    loop {
        let (size, from) = match socket.peek_from(&mut query).await {
            Ok(received) => received,
            // What an earlier answer ran into (nobody listens there any more) is told here; it concerns no query.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        answer(&engine, &socket, &query[..size], from).await;
        // While a successor takes over there may be two of us, and then this may be another one.
        if let Ok((length, who)) = socket.try_recv_from(&mut taken)
            && (who, &taken[..length]) != (from, &query[..size])
        {
            answer(&engine, &socket, &taken[..length], who).await;
        }
    }
}

async fn answer(engine: &Arc<Engine>, socket: &Arc<tokio::net::UdpSocket>, query: &[u8], from: SocketAddr) {
    match engine.start(query, Carrier::Udp) {
        Step::Done(None) => {}
        Step::Done(Some(answer)) => send(socket, &answer, from).await,
        Step::Later(pending) => {
            let (engine, socket) = (engine.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(answer) = engine.complete(*pending).await {
                    send(&socket, &answer, from).await;
                }
            });
        }
    }
}

/// An asker that cannot be reached asks again; nothing else can be done.
async fn send(socket: &tokio::net::UdpSocket, answer: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(answer, to).await {
        tracing::debug!(%to, %error, "answer not sent");
    }
}

async fn serve_tcp(engine: Arc<Engine>, listener: tokio::net::TcpListener, slots: Arc<Semaphore>) -> io::Result<()> {
    loop {
        let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                // Out of descriptors, most likely: others have to close theirs first.
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let engine = engine.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_connection(&engine, stream).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(slot);
        });
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

async fn serve_connection(engine: &Engine, mut stream: tokio::net::TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let reading = async {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            Ok::<_, io::Error>(query)
        };
        let query = match tokio::time::timeout(SILENCE, reading).await {
            Ok(Ok(query)) => query,
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(()),
        };
        let answer = match engine.start(&query, Carrier::Tcp) {
            Step::Done(answer) => answer,
            Step::Later(pending) => engine.complete(*pending).await,
        };
        let Some(answer) = answer else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
    }
}
