//! `knarr uninstall`: leaves the machine as it was found.
//!
//! Containers are ended through the runtime, and then the host journal is walked backwards: links, tables, addresses,
//! sysctls, mounts, control groups and folders. The journal knows them all, since nothing is made before it is written.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use net::HostJournal;
use runtime::{Runtime, RuntimeConfig};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::net::UnixStream;

use super::Local;
use crate::access::ADMIN;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    local: Local,
    /// Data folder, as given to the server or agent.
    #[arg(long, short = 'd', default_value = "/var/lib/knarr", env = "KNARR_DATA_DIR", value_name = "DIR")]
    data_dir: PathBuf,
    /// Control group, as given to the server or agent.
    #[arg(long, default_value = "knarr")]
    cgroup_root: String,
    /// The administrator's kubeconfig, which goes with the data.
    #[arg(long, default_value = ADMIN, value_name = "FILE")]
    write_kubeconfig: PathBuf,
    /// Remove the data, too: objects, images, certificates.
    #[arg(long)]
    data: bool,
    /// End a running server or agent first.
    #[arg(long)]
    force: bool,
}

/// Carries the command out; exit code 1 says that something was left behind.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("only root can undo what a node did to this machine");
    }
    if let Some(pid) = running(&flags.local.socket()).await {
        if !flags.force {
            bail!("a server or agent is running (process {}); stop it first, or say --force", pid.as_raw_nonzero());
        }
        end(pid)?;
    }
    let file = flags.data_dir.join("host.journal");
    let mut left = 0;
    if file.exists() {
        let journal = HostJournal::open(&file)?;
        if flags.local.run_dir.join("pods").is_dir() {
            end_pods(&flags).await;
        }
        let failures = journal.replay_backwards();
        left = failures.len();
        failures.iter().for_each(|failure| eprintln!("knarr: not undone: {:?}: {}", failure.change, failure.error));
    } else {
        println!("{} holds no host journal: nothing on this machine was changed from it", flags.data_dir.display());
    }
    if flags.data && left == 0 {
        remove(&flags.data_dir)?;
        remove(&flags.write_kubeconfig)?;
    }
    match left {
        0 => println!("this machine is as it was found"),
        _ => println!("{left} changes could not be undone; run this again when what holds them is gone"),
    }
    Ok(if left == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The process behind the admin socket.
async fn running(socket: &Path) -> Option<Pid> {
    let stream = UnixStream::connect(socket).await.ok()?;
    Pid::from_raw(stream.peer_cred().ok()?.pid()?)
}

/// Asks a process to end, and insists after ten seconds.
fn end(pid: Pid) -> Result<()> {
    let process = pidfd_open(pid, PidfdFlags::empty()).context("open the running process")?;
    for signal in [Signal::TERM, Signal::KILL] {
        pidfd_send_signal(&process, signal).context("signal the running process")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&left)) {
                Ok(0) => break,
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for the running process"),
            }
        }
    }
    bail!("the running process does not end")
}

/// Ends every pod by its keeper, which takes the mounts and groups of the pod with it.
async fn end_pods(flags: &Flags) {
    let config = RuntimeConfig { run_dir: flags.local.run_dir.join("pods"), cgroup_root: flags.cgroup_root.clone(), self_exe: None };
    let runtime = match Runtime::open(config) {
        Ok(runtime) => runtime,
        Err(error) => {
            // The control groups of the journal still end every process.
            eprintln!("knarr: the container runtime cannot be opened: {error}");
            return;
        }
    };
    for sandbox in runtime.recover().await.sandboxes {
        let id = sandbox.id().clone();
        if let Err(error) = sandbox.destroy().await {
            eprintln!("knarr: pod {id} did not end well: {error}");
        }
    }
}

fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}
