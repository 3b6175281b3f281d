//! Plugins that announce themselves by a socket in `plugins_registry`: asked who they are, handed to whoever knows their
//! kind, and told how it went.
//!
//! A new kind of plugin is one more line of [`KINDS`].

use std::collections::HashMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use grpc::client::Channel;
use rustix::fs::inotify;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::Kubelet;
use crate::csi::messages::{Empty, InfoRequest, PluginInfo, RegistrationStatus};

/// Kinds of plugins that have somebody who knows them.
static KINDS: &[PluginKind] = &[crate::csi::register::kind(), crate::devices::kind()];

/// How long a plugin may take to answer.
const CALL: Duration = Duration::from_secs(10);
/// Shortest and longest time until a plugin that did not register is asked again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(120));

/// A kind of plugin.
#[derive(Clone, Copy)]
pub struct PluginKind {
    /// As the plugin names it, for example `CSIPlugin`.
    pub name: &'static str,
    /// Takes a plugin on; the text of a failure is told to it.
    pub register: for<'a> fn(&'a Arc<Kubelet>, &'a Plugin) -> BoxFuture<'a, Result<(), String>>,
    /// Its socket is gone.
    pub gone: for<'a> fn(&'a Arc<Kubelet>, &'a Plugin) -> BoxFuture<'a, ()>,
}

/// A plugin that has said who it is.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Its name, of a driver or resource.
    pub name: String,
    /// Socket of the plugin's own service.
    pub endpoint: PathBuf,
    /// Versions of its interface.
    pub versions: Vec<String>,
}

/// What is known of a socket. One that is made anew is another one.
struct Known {
    identity: (u64, i64, i64),
    registered: Option<(PluginKind, Plugin)>,
    retry: Duration,
}

/// Follows the folder until the future is dropped.
///
/// # Errors
/// The folder cannot be made or watched.
pub async fn run(kubelet: &Arc<Kubelet>) -> Result<()> {
    let folder = kubelet.config.root_dir.join("plugins_registry");
    std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let notify = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).context("watch plugins")?;
    let flags = inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::MOVED_FROM | inotify::WatchFlags::DELETE;
    inotify::add_watch(&notify, &folder, flags).with_context(|| format!("watch {}", folder.display()))?;
    let mut events = pipe::Receiver::from_owned_fd_unchecked(notify).context("watch plugins")?;
    let mut known = HashMap::new();
    let mut buffer = [0; 4096];
    loop {
        let again = look(kubelet, &folder, &mut known).await;
        let later = async {
            match again {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            read = events.read(&mut buffer) => { read.context("watch plugins")?; }
            () = later => {}
        }
    }
}

/// Takes over what the folder has now. Says when to look again, if somebody did not register.
async fn look(kubelet: &Arc<Kubelet>, folder: &Path, known: &mut HashMap<PathBuf, Known>) -> Option<Duration> {
    let found = sockets(folder);
    let left: Vec<PathBuf> =
        known.iter().filter(|(path, one)| found.get(*path) != Some(&one.identity)).map(|(path, _)| path.clone()).collect();
    for path in left {
        if let Some((kind, plugin)) = known.remove(&path).and_then(|one| one.registered) {
            // A registrar that restarts has a new socket and the same plugin, which is not gone.
            if found.contains_key(&path) {
                continue;
            }
            tracing::info!(kind = kind.name, plugin = plugin.name, "plugin is gone");
            (kind.gone)(kubelet, &plugin).await;
        }
    }
    let mut again = None;
    for (path, identity) in found {
        let one = known.entry(path.clone()).or_insert(Known { identity, registered: None, retry: RETRY.0 });
        if one.registered.is_some() {
            continue;
        }
        match register(kubelet, &path).await {
            Ok(registered) => one.registered = Some(registered),
            Err(error) => {
                tracing::warn!(socket = %path.display(), error, "plugin was not registered");
                again = Some(again.map_or(one.retry, |wait: Duration| wait.min(one.retry)));
                one.retry = (one.retry * 2).min(RETRY.1);
            }
        }
    }
    again
}

fn sockets(folder: &Path) -> HashMap<PathBuf, (u64, i64, i64)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let socket = |entry: std::fs::DirEntry| {
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let metadata = entry.metadata().ok().filter(|metadata| metadata.file_type().is_socket() && !hidden)?;
        Some((entry.path(), (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())))
    };
    entries.filter_map(socket).collect()
}

async fn register(kubelet: &Arc<Kubelet>, socket: &Path) -> Result<(PluginKind, Plugin), String> {
    let channel = Channel::new(socket);
    let info: PluginInfo =
        channel.call("/pluginregistration.Registration/GetInfo", &InfoRequest {}, Some(CALL)).await.map_err(|error| error.to_string())?;
    let endpoint = if info.endpoint.is_empty() { socket.to_owned() } else { PathBuf::from(&info.endpoint) };
    let plugin = Plugin { name: info.name, endpoint, versions: info.versions };
    let result = match KINDS.iter().find(|kind| kind.name == info.kind) {
        Some(kind) => (kind.register)(kubelet, &plugin).await.map(|()| *kind),
        None => Err(format!("no handler registered for plugin type: {} at socket {}", info.kind, socket.display())),
    };
    let error = result.as_ref().err().cloned().unwrap_or_default();
    let status = RegistrationStatus { registered: result.is_ok(), error };
    let told = channel.call("/pluginregistration.Registration/NotifyRegistrationStatus", &status, Some(CALL)).await;
    let kind = result?;
    told.map(|Empty {}| ()).map_err(|error| error.to_string())?;
    tracing::info!(kind = kind.name, plugin = plugin.name, "plugin registered");
    Ok((kind, plugin))
}
