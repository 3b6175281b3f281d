//! The socket holder: a small process that keeps listening sockets open while knarr restarts.
//!
//! A query that arrives while nobody serves waits in the kernel as long as somebody holds its socket. So one small
//! single-threaded process holds a second descriptor of each; the next knarr takes them over and answers what waits. The
//! holder reads nothing itself. It lives in the node's control groups and ends with them; one that dies is replaced.
//!
//! ```text
//! knarr    -- opens sockets -- keep(sockets) -------------- kill -9      knarr -- take --> sockets -- answers
//! holder      started ------- holds them ------------------------------------------------- holds them
//! kernel                                       queries wait in the sockets
//! ```

mod conversation;
mod process;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use cgroup::Group;
use dns::Sockets;
use parking_lot::Mutex;
use tokio::sync::watch;

use conversation::Conversation;
pub use process::dispatch;

/// Control group of the process below the node's.
pub const GROUP: &str = "sockets";

/// First argument of the process.
pub const WORD: &str = "socket-holder";

/// Sockets that outlive this process.
pub struct Held {
    path: PathBuf,
    group: Group,
    wanted: Vec<SocketAddr>,
    sockets: Mutex<Option<Sockets>>,
    opened: watch::Sender<bool>,
}

impl Held {
    /// Sockets at these addresses, held by a process that is reached through a socket in `run_dir` and lives in a control
    /// group below `root`. Nothing is opened yet.
    ///
    /// # Errors
    /// The group cannot be named.
    pub fn new(run_dir: &Path, root: &Group, wanted: Vec<SocketAddr>) -> Result<Arc<Held>> {
        let group = root.child(GROUP).context("name the control group of the socket holder")?;
        Ok(Arc::new(Held { path: path(run_dir), group, wanted, sockets: Mutex::new(None), opened: watch::Sender::new(false) }))
    }

    /// The sockets once more: those that were held while we were away, the others opened anew.
    ///
    /// # Errors
    /// An address that cannot be listened on.
    pub fn sockets(&self) -> io::Result<Sockets> {
        let mut sockets = self.sockets.lock();
        let ours = match sockets.take() {
            Some(ours) => ours,
            None => self.take_over()?,
        };
        let copy = ours.try_clone()?;
        *sockets = Some(ours);
        self.opened.send_replace(true);
        Ok(copy)
    }

    fn take_over(&self) -> io::Result<Sockets> {
        let mut sockets = match Conversation::begin(&self.path).and_then(|holder| holder.map(|holder| holder.take()).transpose()) {
            Ok(None) => {
                // One whose socket was removed still receives queries, which nobody reads.
                if self.group.exists() {
                    self.group.kill_all().map_err(io::Error::other)?;
                }
                Sockets::default()
            }
            Ok(Some(held)) => Sockets::from_held(held, &self.wanted),
            Err(error) => {
                // Sockets of a holder that does not answer would go on receiving queries that nobody reads.
                tracing::warn!(%error, "the socket holder does not answer, ending it");
                conversation::end(&self.path)?;
                Sockets::default()
            }
        };
        let held = sockets.addresses();
        let missing: Vec<SocketAddr> = self.wanted.iter().filter(|address| !held.contains(address)).copied().collect();
        tracing::info!(held = held.len(), opened = missing.len(), "DNS sockets");
        sockets.extend(Sockets::open(&missing)?);
        Ok(sockets)
    }

    /// Has the sockets held, once they are open, until the holder is gone.
    ///
    /// # Errors
    /// The holder cannot be started, or is gone.
    pub async fn keep(self: Arc<Held>) -> Result<()> {
        let mut opened = self.opened.subscribe();
        opened.wait_for(|opened| *opened).await.context("nobody opens the sockets")?;
        let held = self.clone();
        let holder = tokio::task::spawn_blocking(move || held.hand_over()).await.context("the thread panicked")??;
        let socket = runtime::packets::watch(holder.into_socket()).context("watch the socket holder")?;
        // It never says anything unasked: readable means that it is gone.
        let _gone = socket.readable().await.context("watch the socket holder")?;
        bail!("the socket holder is gone")
    }

    fn hand_over(&self) -> Result<Conversation> {
        let sockets = self.sockets().context("open the sockets")?;
        let holder = match Conversation::begin(&self.path).context("find the socket holder")? {
            Some(holder) => holder,
            None => {
                self.start()?;
                Conversation::begin(&self.path).context("find the socket holder")?.context("the socket holder ended at once")?
            }
        };
        holder.keep(&sockets.descriptors()).context("hand the sockets over")?;
        Ok(holder)
    }

    /// What is started forks once more and ends when its other half listens.
    fn start(&self) -> Result<()> {
        self.group.create_top().context("make the control group of the socket holder")?;
        let _stale = std::fs::remove_file(&self.path);
        let mut command = Command::new("/proc/self/exe");
        command.env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        std::os::unix::process::CommandExt::arg0(&mut command, "knarr");
        let started = command.arg(WORD).arg(&self.path).arg(self.group.path()).output().context("start the socket holder")?;
        let said = String::from_utf8_lossy(&started.stdout);
        match said.trim() {
            process::LISTENING => Ok(()),
            "" => bail!("the socket holder did not start: {}", started.status),
            why => bail!("the socket holder did not start: {why}"),
        }
    }
}

/// Ends the holder of a run directory, if there is one; its sockets close.
///
/// # Errors
/// It cannot be ended.
pub fn end(run_dir: &Path) -> Result<()> {
    conversation::end(&path(run_dir)).context("end the socket holder")
}

fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("sockets.sock")
}
