//! `knarr runtime`: the container runtime alone, behind a CRI socket, for any kubelet.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use image::{ImageConfig, ImageStore, Registries};
use ipnet::IpNet;
use net::{Change, HostJournal, NodeNetwork};
use runtime::{Runtime, RuntimeConfig};
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::supervise::Supervisor;
use crate::{admin, logging, threads};

/// Flags of `knarr runtime`.
#[derive(Args, Clone)]
pub struct RuntimeFlags {
    /// Socket that CRI is served on.
    #[arg(long, default_value = "unix:///run/knarr/cri.sock", value_name = "ADDRESS")]
    pub listen: String,
    /// Folder that holds everything that must survive: images, records, what containers write.
    #[arg(long, short = 'd', default_value = "/var/lib/knarr", env = "KNARR_DATA_DIR", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Folder for sockets and the state of running containers.
    #[arg(long, default_value = "/run/knarr", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Control group of the runtime's own processes, and of pods for which the kubelet names none.
    #[arg(long, default_value = "knarr")]
    pub cgroup_root: String,
    /// Range of pod addresses, until the kubelet tells the node's.
    #[arg(long, value_name = "CIDR")]
    pub pod_cidr: Option<IpNet>,
    /// Ranges of pods and services, which pods reach with their own address.
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    pub cluster_ranges: Vec<IpNet>,
    /// Mirrors, credentials and certificates of registries, in the form of k3s.
    #[arg(long, default_value = "/etc/knarr/registries.yaml", value_name = "FILE")]
    pub private_registry: PathBuf,
    /// Log levels: error, warn, info, debug or per component, for example info,cri=debug.
    #[arg(long, default_value = "info", env = "KNARR_LOG_LEVEL")]
    pub log_level: String,
    /// Form of the log.
    #[arg(long, default_value = "text", value_parser = ["text", "json"])]
    pub log_format: String,
}

/// Serves until it is told to stop. Containers go on running, and the next run takes them over.
///
/// # Errors
/// Missing rights, data in use, or a socket that cannot be made.
pub fn run(flags: RuntimeFlags) -> Result<()> {
    let levels = logging::start(&flags.log_level, flags.log_format == "json")?;
    let runtime = threads::start(2)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        tokio::select! {
            ended = serve(flags, levels) => ended,
            _ = terminate.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
        }
    })
}

/// Path of a socket given as `unix:///path` or as the path itself.
///
/// # Errors
/// It is neither.
pub fn socket_path(address: &str) -> Result<PathBuf> {
    let path = address.strip_prefix("unix://").unwrap_or(address);
    if !path.starts_with('/') {
        bail!("{address:?} is no socket such as unix:///run/knarr/cri.sock");
    }
    Ok(path.into())
}

async fn serve(flags: RuntimeFlags, levels: logging::Levels) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("a container runtime needs root: it makes name spaces, control groups and network interfaces");
    }
    let socket = socket_path(&flags.listen)?;
    std::fs::create_dir_all(&flags.data_dir).with_context(|| format!("make data directory {}", flags.data_dir.display()))?;
    let journal = Arc::new(HostJournal::open(flags.data_dir.join("host.journal"))?);
    journal.record(Change::MountsBelow { dir: flags.run_dir.clone() }).context("write the host journal")?;
    if std::fs::read_dir(&flags.run_dir).map_or(true, |mut entries| entries.next().is_none()) {
        journal.record(Change::DirTree { path: flags.run_dir.clone() }).context("write the host journal")?;
    }
    let mut config = ImageConfig::new(&flags.data_dir);
    config.registries = Registries::load(&flags.private_registry)?;
    let images = ImageStore::open(config)?;
    let runtime =
        Runtime::open(RuntimeConfig { run_dir: flags.run_dir.join("pods"), cgroup_root: flags.cgroup_root.clone(), self_exe: None })?;
    for dir in runtime.cgroup_root().dirs() {
        journal.record(Change::CgroupTree { path: dir }).context("write the host journal")?;
    }
    let mtu = net::addresses()?.map_or(1500, |found| found.mtu);
    let network = NodeNetwork::open(mtu, flags.cluster_ranges.clone(), journal)?;
    let state = admin::State {
        levels,
        supervisor: Supervisor::new(CancellationToken::new()),
        images: Some(images.clone()),
        ready: None,
        client: None,
        files: Arc::default(),
        node: None,
    };
    let door = tokio::spawn(admin::run(flags.run_dir.join("knarr.sock"), state));
    let parts = cri::service::Parts {
        runtime,
        images,
        network,
        state_dir: flags.data_dir.join("cri"),
        pod_cidr: flags.pod_cidr,
        version: api::VERSION.to_owned(),
    };
    let listener = listen(&socket)?;
    tracing::info!(version = api::VERSION, socket = %socket.display(), "knarr runtime is running");
    tokio::select! {
        ended = cri::service::run(parts, listener) => ended.context("serve CRI"),
        ended = door => ended.context("serve the local socket")?,
    }
}

/// Whoever may connect may do anything on this machine: root alone.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("remove the socket of an earlier run"),
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).context("set the mode of the socket")?;
    Ok(listener)
}
