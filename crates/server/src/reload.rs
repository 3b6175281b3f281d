//! Configuration files that are read again when they change: audit policy, authentication, authorization, encryption,
//! certificates.
//!
//! A file that cannot be used changes nothing: what was read before stays, and the log, `knarr status` and the metrics
//! say so. Changes are told by the kernel, so nothing runs while nobody writes.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use sha2::{Digest, Sha256};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio_util::sync::CancellationToken;

/// Writers need a moment for all they write.
const SETTLE: Duration = Duration::from_millis(100);
/// How often a file is looked at where the kernel does not tell.
const POLL: Duration = Duration::from_secs(5);

/// Files whose reading upstream counts, too.
const UPSTREAM: &[&str] = &["audit_policy", "authentication", "authorization", "encryption"];

/// How a file was read last.
#[derive(Clone, Debug, Default)]
pub struct FileState {
    /// What the file is for.
    pub what: &'static str,
    /// Why it could not be used, empty if it could.
    pub error: String,
    /// How often it was taken over since the start.
    pub taken: u64,
    /// How often it was refused.
    pub refused: u64,
    /// When it was last looked at, in seconds since the epoch.
    pub at: i64,
}

/// All files of a server that are read again when they change.
#[derive(Default)]
pub struct Reloads {
    states: Mutex<BTreeMap<PathBuf, FileState>>,
}

impl Reloads {
    /// What became of each file.
    pub fn states(&self) -> BTreeMap<PathBuf, FileState> {
        self.states.lock().clone()
    }

    /// Follows a file whose content at the start is known. `apply` takes over new content or says why it cannot.
    pub fn follow(
        self: &Arc<Self>,
        what: &'static str,
        path: &Path,
        content: &[u8],
        shutdown: CancellationToken,
        apply: impl Fn(&[u8]) -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.follow_all(what, &[path], Some(digest([content])), shutdown, move |contents| apply(&contents[0]));
    }

    /// Follows files that only make sense together, such as a certificate and its key; they are shown under the name of the
    /// first. `seen` is the digest of their contents at the start; without one they are taken over once more.
    pub fn follow_all(
        self: &Arc<Self>,
        what: &'static str,
        paths: &[&Path],
        seen: Option<[u8; 32]>,
        shutdown: CancellationToken,
        apply: impl Fn(&[Vec<u8>]) -> Result<(), String> + Send + Sync + 'static,
    ) {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        let now = jiff::Timestamp::now().as_second();
        self.states.lock().insert(paths[0].clone(), FileState { what, at: now, ..FileState::default() });
        let follower = Follower { reloads: self.clone(), what, paths, seen: Mutex::new(seen), apply };
        tokio::spawn(async move { shutdown.run_until_cancelled(follower.run()).await });
    }

    /// Everything in the text format of Prometheus: the same names that upstream has, one for each sort of file.
    pub fn render(&self, out: &mut String) {
        let states = self.states();
        if states.is_empty() {
            return;
        }
        let line = |out: &mut String, text: String| writeln!(out, "{text}").expect("a string takes all text");
        for state in states.values().filter(|state| UPSTREAM.contains(&state.what)) {
            let name = format!("apiserver_{}_config_controller_automatic_reload", state.what);
            line(out, format!("# TYPE {name}s_total counter"));
            line(out, format!("{name}s_total{{status=\"success\"}} {}", state.taken));
            line(out, format!("{name}s_total{{status=\"failure\"}} {}", state.refused));
            line(out, format!("# TYPE {name}_last_timestamp_seconds gauge"));
            let status = if state.error.is_empty() { "success" } else { "failure" };
            line(out, format!("{name}_last_timestamp_seconds{{status=\"{status}\"}} {}", state.at));
        }
        line(out, "# TYPE knarr_config_file_usable gauge".into());
        for (path, state) in &states {
            let file = path.display().to_string().replace('\\', "\\\\").replace('"', "\\\"");
            let usable = u8::from(state.error.is_empty());
            line(out, format!("knarr_config_file_usable{{kind=\"{}\",file=\"{file}\"}} {usable}", state.what));
        }
    }
}

struct Follower<A> {
    reloads: Arc<Reloads>,
    what: &'static str,
    paths: Vec<PathBuf>,
    /// Digest of what was last looked at; none after a failure to read.
    seen: Mutex<Option<[u8; 32]>>,
    apply: A,
}

fn digest<'a>(contents: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut all = Sha256::new();
    for content in contents {
        all.update((content.len() as u64).to_be_bytes());
        all.update(content);
    }
    all.finalize().into()
}

impl<A: Fn(&[Vec<u8>]) -> Result<(), String>> Follower<A> {
    async fn run(self) {
        let mut told = self.watch().inspect_err(|error| tracing::warn!(file = %self.paths[0].display(), %error, "looking at the file every few seconds, since changes are not told")).ok();
        loop {
            // What was written between the first reading and the watch counts, too.
            self.look();
            match &mut told {
                Some((notify, _)) => {
                    let mut events = [0; 4096];
                    if notify.read(&mut events).await.is_err() {
                        told = None;
                    }
                    tokio::time::sleep(SETTLE).await;
                }
                None => tokio::time::sleep(POLL).await,
            }
            if let Some((_, watches)) = &told {
                // Folders behind links may have been exchanged.
                self.add_all(watches).ok();
            }
        }
    }

    fn watch(&self) -> std::io::Result<(pipe::Receiver, std::os::fd::OwnedFd)> {
        let notify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let watches = notify.try_clone()?;
        self.add_all(&watches)?;
        Ok((pipe::Receiver::from_owned_fd_unchecked(notify)?, watches))
    }

    /// The folder of each file, and that of what a link leads to.
    fn add_all(&self, watches: &std::os::fd::OwnedFd) -> std::io::Result<()> {
        let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO | WatchFlags::CREATE;
        for path in self.paths.iter().flat_map(|path| [Some(path.clone()), std::fs::canonicalize(path).ok()]).flatten() {
            let parent = path.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
            inotify::add_watch(watches, parent, flags)?;
        }
        Ok(())
    }

    fn look(&self) {
        let read: std::io::Result<Vec<Vec<u8>>> = self.paths.iter().map(std::fs::read).collect();
        let now = read.as_ref().ok().map(|contents| digest(contents.iter().map(Vec::as_slice)));
        if now.is_some() && *self.seen.lock() == now {
            return;
        }
        *self.seen.lock() = now;
        let result = read.map_err(|error| format!("cannot read it: {error}")).and_then(|contents| (self.apply)(&contents));
        let mut states = self.reloads.states.lock();
        let state = states.entry(self.paths[0].clone()).or_default();
        let (what, file) = (self.what, self.paths[0].display());
        state.at = jiff::Timestamp::now().as_second();
        match result {
            Ok(()) => {
                state.taken += 1;
                state.error.clear();
                tracing::info!(what, %file, "configuration file taken over");
            }
            Err(error) if error == state.error => {}
            Err(error) => {
                state.refused += 1;
                tracing::error!(what, %file, %error, "configuration file refused, the old one stays");
                state.error = error;
            }
        }
    }
}
