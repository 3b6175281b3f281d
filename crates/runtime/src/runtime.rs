//! The door: opens the runtime, makes sandboxes, finds those that outlived us.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Group, Layout};
use tokio::sync::broadcast;

use crate::error::{CreateSandboxError, OpenError, SandboxError};
use crate::hooks::bundle;
use crate::keeper::state::{self, Files};
use crate::reexec::Zygote;
use crate::sandbox::Sandbox;
use crate::spec::{SandboxId, SandboxSpec};
use crate::status::{ContainerEvent, ContainerStatus};

/// Where the runtime keeps things.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Directory of sockets and states, one folder per sandbox; lost at reboot is fine (`/run/knarr/pods`).
    pub run_dir: PathBuf,
    /// Top group of this node below the visible cgroup root, e.g. `knarr`; may be empty.
    pub cgroup_root: String,
    /// The program that calls [`crate::reexec::dispatch`]; none is our own executable.
    pub self_exe: Option<PathBuf>,
}

/// The container runtime of one node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runtime {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    run_dir: PathBuf,
    root: Group,
    keepers: Group,
    zygote: Zygote,
    events: broadcast::Sender<ContainerEvent>,
}

/// What [`Runtime::recover`] found.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Sandboxes whose keepers live; their containers never stopped.
    pub sandboxes: Vec<Sandbox>,
    /// Sandboxes whose keepers are gone. Their processes, mounts and groups have been removed; these are the last words.
    pub lost: Vec<LostSandbox>,
}

/// A sandbox whose keeper is gone.
#[derive(Debug)]
pub struct LostSandbox {
    /// What it was.
    pub spec: SandboxSpec,
    /// Its containers; those that had not ended are `Exited` with reason `ContainerStatusUnknown`.
    pub containers: Vec<ContainerStatus>,
}

impl Runtime {
    /// Prepares the run directory and the cgroup root, and starts the process that keepers are forked from, in such a way
    /// that no container can ever write to the program itself.
    pub fn open(config: RuntimeConfig) -> Result<Self, OpenError> {
        let failed = |source| OpenError::RunDir { path: config.run_dir.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&config.run_dir).map_err(failed)?;
        let run_dir = config.run_dir.canonicalize().map_err(failed)?;
        let layout = Arc::new(Layout::detect().map_err(OpenError::Cgroup)?);
        let root = Group::new(layout, &config.cgroup_root).map_err(OpenError::Cgroup)?;
        let keepers = root.child("keepers").map_err(OpenError::Cgroup)?;
        keepers.create_top().map_err(OpenError::Cgroup)?;
        let path = config.self_exe.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let executable =
            crate::sys::memfd::protected_program("knarr", &path).map_err(|source| OpenError::Executable { path: path.clone(), source })?;
        let zygote = Zygote::start_from(executable, keepers.path()).map_err(|source| OpenError::Executable { path, source })?;
        let (events, _) = broadcast::channel(4096);
        Ok(Self { inner: Arc::new(Inner { run_dir, root, keepers, zygote, events }) })
    }

    /// Events of all sandboxes. A receiver that lags must read the states again.
    pub fn events(&self) -> broadcast::Receiver<ContainerEvent> {
        self.inner.events.subscribe()
    }

    /// The group that all paths of cgroups are relative to.
    pub fn cgroup_root(&self) -> &Group {
        &self.inner.root
    }

    /// Makes a sandbox: starts its keeper, which makes the name spaces.
    pub async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, CreateSandboxError> {
        let (id, ours) = (spec.id.clone(), spec.owns_group());
        // A few small files and directories in memory: cheaper done here than handed to another thread.
        let (spec, files, parent, socket) = self.prepare(spec)?;
        let sandbox = Sandbox::connect(spec, files.clone(), parent.clone(), socket, self.inner.events.clone());
        let ready = match sandbox {
            Ok(sandbox) => sandbox.handshake().await.map(|()| sandbox),
            Err(source) => Err(SandboxError::Io(source)),
        };
        match ready {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                let said = fs::read_to_string(files.log()).unwrap_or_default();
                files.remove();
                if ours {
                    parent.remove_if_empty();
                }
                Err(match (error, said.trim()) {
                    (SandboxError::Refused(text), _) => CreateSandboxError::Setup(text),
                    (SandboxError::Io(source), _) => CreateSandboxError::Spawn(source),
                    (_, said) => CreateSandboxError::Setup(format!("keeper of {id} ended early: {said}")),
                })
            }
        }
    }

    /// Finds the sandboxes that an earlier run of ours has left, and clears away those without a keeper.
    pub async fn recover(&self) -> Recovered {
        let mut recovered = Recovered::default();
        let entries = fs::read_dir(&self.inner.run_dir);
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(id) = SandboxId::new(entry.file_name().to_string_lossy()) else { continue };
            let files = Files::new(entry.path());
            let spec = match state::read_sandbox(&files) {
                Ok(spec) if spec.id == id => spec,
                outcome => {
                    tracing::warn!(sandbox = %id, ?outcome, "sandbox without a readable description is removed");
                    files.remove();
                    continue;
                }
            };
            match self.reconnect(&spec, &files).await {
                Ok(sandbox) => recovered.sandboxes.push(sandbox),
                Err(error) => {
                    tracing::warn!(sandbox = %id, %error, "keeper is gone, its sandbox is cleared away");
                    let containers = state::last_words(&files);
                    self.clear(&spec, &files, &containers).await;
                    recovered.lost.push(LostSandbox { spec, containers });
                }
            }
        }
        self.end_strays(&recovered.sandboxes);
        recovered
    }

    /// Ends keepers whose folders are gone, as after a loss of `/run`; their containers end with them.
    fn end_strays(&self, known: &[Sandbox]) {
        for pid in self.inner.keepers.pids().unwrap_or_default() {
            // Processes that were forked ahead have no name of their own yet.
            let keeps = fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"knarr keeper "));
            let stray = keeps && known.iter().all(|sandbox| sandbox.pid() != pid);
            if stray && let Some(process) = rustix::process::Pid::from_raw(pid) {
                tracing::warn!(pid, "keeper without a sandbox is ended");
                let _gone = rustix::process::kill_process(process, rustix::process::Signal::KILL);
            }
        }
    }

    fn prepare(&self, spec: SandboxSpec) -> Result<(SandboxSpec, Files, Group, OwnedFd), CreateSandboxError> {
        let files = Files::new(self.inner.run_dir.join(spec.id.as_str()));
        let failed = |path: &Path, source| CreateSandboxError::Directory { path: path.to_owned(), source };
        match fs::DirBuilder::new().mode(0o700).create(files.dir()) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {
                return Err(CreateSandboxError::Exists(spec.id.to_string()));
            }
            Err(source) => return Err(failed(files.dir(), source)),
        }
        match self.prepare_in(&spec, &files) {
            Ok((parent, socket)) => Ok((spec, files, parent, socket)),
            Err(error) => {
                files.remove();
                Err(error)
            }
        }
    }

    fn prepare_in(&self, spec: &SandboxSpec, files: &Files) -> Result<(Group, OwnedFd), CreateSandboxError> {
        let failed = |path: &Path, source| CreateSandboxError::Directory { path: path.to_owned(), source };
        if let Some(dir) = &spec.log_dir {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(|e| failed(dir, e))?;
        }
        let parent = self.parent_group(spec).map_err(CreateSandboxError::Cgroup)?;
        parent.create().map_err(CreateSandboxError::Cgroup)?;
        state::write_sandbox(files, spec, parent.path()).map_err(|e| failed(files.dir(), e))?;
        let socket = self.inner.zygote.keeper(spec, files.dir()).map_err(CreateSandboxError::Spawn)?;
        Ok((parent, socket))
    }

    /// Has the keeper of the next sandbox started ahead, for when there is time: the first container of the one before runs.
    pub fn make_ahead(&self) {
        self.inner.zygote.ahead();
    }

    async fn reconnect(&self, spec: &SandboxSpec, files: &Files) -> Result<Sandbox, SandboxError> {
        let socket = crate::sys::socket::connect(&files.socket()).map_err(SandboxError::Io)?;
        let parent = self.parent_group(spec).map_err(SandboxError::Cgroup)?;
        let sandbox = Sandbox::connect(spec.clone(), files.clone(), parent, socket, self.inner.events.clone()).map_err(SandboxError::Io)?;
        sandbox.handshake().await?;
        Ok(sandbox)
    }

    fn parent_group(&self, spec: &SandboxSpec) -> Result<Group, cgroup::Error> {
        match spec.cgroup_parent.strip_prefix('/') {
            Some(absolute) => Group::new(self.inner.root.layout().clone(), absolute),
            None => self.inner.root.child(&spec.cgroup_parent),
        }
    }

    async fn clear(&self, spec: &SandboxSpec, files: &Files, containers: &[ContainerStatus]) {
        let Ok(parent) = self.parent_group(spec) else { return };
        let ours = spec.owns_group();
        let ids: Vec<String> = containers.iter().map(|c| c.id.to_string()).collect();
        let files = files.clone();
        let cleared = tokio::task::spawn_blocking(move || {
            clear_groups(&parent, &ids);
            bundle::hooked(&files, &ids).iter().for_each(|spec| bundle::after_end(&files, spec));
            files.remove();
            if ours {
                parent.remove_if_empty();
            }
        });
        if cleared.await.is_err() {
            tracing::error!(sandbox = %spec.id, "clearing a sandbox away panicked");
        }
    }
}

/// Kills and removes the groups of containers whose keeper is gone.
pub(crate) fn clear_groups(parent: &Group, ids: &[String]) {
    for id in ids {
        let Ok(group) = parent.child(id) else { continue };
        if !group.exists() {
            continue;
        }
        let cleared = group.kill_all().and_then(|()| group.remove(Duration::from_secs(10)));
        if let Err(error) = cleared {
            tracing::warn!(container = id, %error, "group of a lost container could not be removed");
        }
    }
}
