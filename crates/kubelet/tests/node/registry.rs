//! A registry as users have it, behind a relay that can die in the middle of an answer.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use crate::images::{DebianRegistry, docker_archive, noise};
use crate::world::{World, run};

/// The way to a registry.
pub struct Relay {
    /// Where nodes ask.
    pub address: SocketAddr,
    registry: SocketAddr,
    left: Arc<AtomicI64>,
    /// Bytes of answers since the last start.
    pub answered: Arc<AtomicI64>,
    task: Option<AbortHandle>,
}

impl Relay {
    /// Nobody listens yet.
    pub async fn new(registry: SocketAddr) -> Relay {
        let address = TcpListener::bind("127.0.0.1:0").await.and_then(|listener| listener.local_addr()).expect("a port");
        Relay { address, registry, left: Arc::default(), answered: Arc::default(), task: None }
    }

    /// Listens, and dies after so many bytes of answers.
    pub async fn start(&mut self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
        self.answered.store(0, Ordering::SeqCst);
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        let (registry, left, answered) = (self.registry, self.left.clone(), self.answered.clone());
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while left.load(Ordering::SeqCst) > 0 {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (near, _) = accepted.expect("a connection");
                        connections.spawn(pass(near, registry, left.clone(), answered.clone()));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        self.task = Some(task.abort_handle());
    }

    /// Whether it has died.
    pub fn is_dead(&self) -> bool {
        self.task.as_ref().is_none_or(AbortHandle::is_finished)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

async fn pass(near: TcpStream, registry: SocketAddr, left: Arc<AtomicI64>, answered: Arc<AtomicI64>) -> std::io::Result<()> {
    let far = TcpStream::connect(registry).await?;
    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
    let asking = async { tokio::io::copy(&mut near_read, &mut far_write).await.map(drop) };
    let answering = async {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let got = far_read.read(&mut buffer).await?;
            if got == 0 || left.fetch_sub(got as i64, Ordering::SeqCst) < got as i64 {
                return Ok(());
            }
            near_write.write_all(&buffer[..got]).await?;
            answered.fetch_add(got as i64, Ordering::SeqCst);
        }
    };
    tokio::select! {
        ended = asking => ended,
        ended = answering => ended,
    }
}

/// Puts an image that serves, with so many bytes beside, into a registry.
pub fn push(world: &World, registry: &DebianRegistry, name: &str, bytes: usize) {
    let layers = world.folder.join("data/images/layers");
    let tar = world.folder.join("demo.tar");
    run(&format!("tar -C {}/$(ls {} | head -n 1) -cf {} .", layers.display(), layers.display(), tar.display()));
    let demo = std::fs::read(&tar).expect("an archive");
    let ballast = crate::images::layer_of_bytes("ballast", &noise(bytes));
    registry.push(&docker_archive(&[(&[name], &[demo, ballast])]), &format!("docker.io/{name}"), name);
}

/// Processes of this machine whose command line holds a text.
pub fn processes(text: &str) -> usize {
    let output = Command::new("pgrep").args(["-cf", "--", text]).output().expect("pgrep");
    String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
}
