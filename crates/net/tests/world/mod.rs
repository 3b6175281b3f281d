//! Real network name spaces as hosts, pods and outside machines, all gone when a test ends.
#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use net::{HostJournal, NetnsRef, PodAttachment, PodNetwork, PodNetworkConfig, netns};

/// How long anything that should work may take, on however busy a machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a single connection may take; less, so that whoever waits for a change can try again.
pub const ANSWER: Duration = Duration::from_secs(20);

/// A directory with name spaces in it.
pub struct World {
    dir: tempfile::TempDir,
    spaces: Vec<PathBuf>,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), spaces: Vec::new() }
    }

    /// A new name space.
    pub fn space(&mut self, name: &str) -> Space {
        let path = self.dir.path().join(name);
        netns::create(&path).unwrap();
        self.spaces.push(path.clone());
        Space { path }
    }

    /// A journal of its own.
    pub fn journal(&self, name: &str) -> HostJournal {
        HostJournal::open(self.dir.path().join(name)).unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in &self.spaces {
            netns::remove(space).unwrap();
        }
    }
}

/// One name space.
#[derive(Clone)]
pub struct Space {
    path: PathBuf,
}

impl Space {
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn netns(&self) -> NetnsRef<'_> {
        NetnsRef::Path(&self.path)
    }

    /// Runs something inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        netns::within(self.netns(), f).unwrap()
    }

    /// Runs a command inside and returns what it printed.
    pub fn command(&self, line: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-c", line]).output().unwrap());
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Serves TCP and UDP on a port: the answer is `name client-address`. Ends with the process.
    pub fn serve(&self, port: u16, name: &str) {
        let (tcp, udp) = self.run(|| {
            let any = SocketAddr::from(([0u16; 8], port));
            (TcpListener::bind(any).unwrap(), UdpSocket::bind(any).unwrap())
        });
        let answer = |name: &str, client: SocketAddr| format!("{name} {}", client.ip().to_canonical());
        let tcp_name = name.to_owned();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let client = stream.peer_addr().unwrap();
                let _ = stream.write_all(answer(&tcp_name, client).as_bytes());
            }
        });
        let udp_name = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, client)) = udp.recv_from(&mut buffer) {
                udp.send_to(answer(&udp_name, client).as_bytes(), client).unwrap();
            }
        });
    }

    /// Connects and reads the answer: who answered, and whom it took us for.
    pub fn ask(&self, to: &str) -> std::io::Result<(String, IpAddr)> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, ANSWER)?;
            stream.set_read_timeout(Some(ANSWER))?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(parse(&answer))
        })
    }

    /// The same over UDP, from a socket of its own or the one given.
    pub fn ask_udp(&self, socket: &UdpSocket, to: &str) -> std::io::Result<(String, IpAddr)> {
        let to: SocketAddr = to.parse().unwrap();
        socket.send_to(b"?", to)?;
        let mut buffer = [0; 128];
        let (length, from) = socket.recv_from(&mut buffer)?;
        assert_eq!(from, to, "the answer comes from where the question went");
        Ok(parse(std::str::from_utf8(&buffer[..length]).unwrap()))
    }

    pub fn udp(&self, wait: Duration) -> UdpSocket {
        let socket = self.run(|| UdpSocket::bind(("0.0.0.0", 0)).unwrap());
        socket.set_read_timeout(Some(wait)).unwrap();
        socket
    }
}

fn parse(answer: &str) -> (String, IpAddr) {
    let (name, client) = answer.split_once(' ').expect("an answer has two words");
    (name.to_owned(), client.parse().unwrap())
}

/// A node with pods.
pub struct Node {
    pub space: Space,
    pub journal: HostJournal,
    pub pods: PodNetwork,
}

impl Node {
    pub fn new(world: &mut World, name: &str) -> Self {
        let space = world.space(name);
        let journal = world.journal(&format!("{name}.journal"));
        let config = PodNetworkConfig { mtu: 1450 };
        let pods = space.run(|| PodNetwork::open(config, &journal).unwrap());
        Self { space, journal, pods }
    }

    /// A pod that serves its name on port 8080.
    pub fn pod(&self, world: &mut World, name: &str, address: &str) -> Space {
        let space = world.space(name);
        let attachment = PodAttachment { uid: name.into(), addresses: vec![address.parse().unwrap()] };
        self.pods.attach(space.netns(), &attachment).unwrap();
        space.serve(8080, name);
        space
    }
}

/// Joins two name spaces by a wire.
pub fn wire(one: &Space, one_address: &str, other: &Space, other_address: &str, name: &str) {
    one.command(&format!(
        "ip link add {name} type veth peer name {name} netns {} && ip addr add {one_address} dev {name} && ip link set {name} up",
        other.path().display()
    ));
    other.command(&format!("ip addr add {other_address} dev {name} && ip link set {name} up"));
}
