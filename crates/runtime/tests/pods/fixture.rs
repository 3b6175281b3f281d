//! A node in a folder of its own: run directory, cgroup root, a busybox image.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgroup::{Group, Layout};
use runtime::{ContainerId, ContainerSpec, ContainerStatus, LogSpec, Rootfs, Runtime, RuntimeConfig, Sandbox, SandboxId, SandboxSpec};
use tempfile::TempDir;

/// A runtime with its own folders.
pub struct Node {
    pub runtime: Option<Runtime>,
    pub dir: Arc<TempDir>,
    pub name: String,
}

/// What a node must not leave behind.
pub struct Traces {
    dir: Arc<TempDir>,
    name: String,
}

impl Node {
    /// Makes the folders and the image. The runtime is opened by [`Node::runtime`].
    pub fn new(name: &str) -> Self {
        let dir = Arc::new(tempfile::Builder::new().prefix("knarr-pods-").tempdir().expect("a folder"));
        let name = format!("knarr-test-{}-{name}", std::process::id());
        image(&dir.path().join("layer"));
        Self { runtime: None, dir, name }
    }

    pub fn traces(&self) -> Traces {
        Traces { dir: self.dir.clone(), name: self.name.clone() }
    }

    pub fn config(&self) -> RuntimeConfig {
        RuntimeConfig { run_dir: self.dir.path().join("run"), cgroup_root: self.name.clone(), self_exe: None }
    }

    pub fn runtime(&mut self) -> Runtime {
        if self.runtime.is_none() {
            self.runtime = Some(Runtime::open(self.config()).expect("the runtime opens"));
        }
        self.runtime.clone().expect("just opened")
    }

    /// Whether memory, processors and processes can be limited here.
    pub fn has_controllers(&mut self) -> bool {
        let runtime = self.runtime();
        let layout = runtime.cgroup_root().layout();
        let all = ["cpu", "memory", "pids"].iter().all(|name| layout.has(name));
        if !all {
            println!("  without limits: the hierarchy has no controllers for them");
        }
        all
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn sandbox_spec(&self, id: &str) -> SandboxSpec {
        let mut spec = SandboxSpec::new(SandboxId::new(id).expect("a name"), format!("kubepods/burstable/pod{id}"));
        spec.hostname = format!("host-{id}");
        spec.log_dir = Some(self.path("logs").join(id));
        spec
    }

    pub async fn sandbox(&mut self, id: &str) -> Sandbox {
        let spec = self.sandbox_spec(id);
        self.runtime().create_sandbox(spec).await.expect("a sandbox")
    }

    /// A container that runs a shell script.
    pub fn container(&self, id: &str, script: &str) -> ContainerSpec {
        self.program(id, &["/bin/sh", "-c", script])
    }

    pub fn program(&self, id: &str, argv: &[&str]) -> ContainerSpec {
        let rootfs = Rootfs::Overlay { layers: vec![self.path("layer")], writable: self.path(&format!("writable-{id}")) };
        let argv = argv.iter().map(|word| (*word).to_owned()).collect();
        let mut spec = ContainerSpec::new(ContainerId::new(id).expect("a name"), rootfs, argv);
        spec.log = Some(LogSpec { path: self.log_path(id), max_size: 0, max_files: 0 });
        spec
    }

    pub fn log_path(&self, id: &str) -> PathBuf {
        self.path("logs").join("pod").join(id).join("0.log")
    }

    /// The text of a container's log without times and tags; partial records are joined.
    pub fn log(&self, id: &str) -> String {
        read_log(&self.log_path(id))
    }

    /// Runs a script to its end and gives its output.
    pub async fn output(&self, sandbox: &Sandbox, spec: ContainerSpec) -> String {
        let id = spec.id.clone();
        run(sandbox, spec).await;
        self.log(id.as_str())
    }
}

pub fn read_log(path: &Path) -> String {
    let mut text = String::new();
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let mut fields = line.splitn(4, ' ');
        let (tag, record) = (fields.nth(2).expect("a tag"), fields.next().unwrap_or(""));
        text.push_str(record);
        if tag == "F" {
            text.push('\n');
        }
    }
    text
}

/// Creates, starts and waits.
pub async fn run(sandbox: &Sandbox, spec: ContainerSpec) -> ContainerStatus {
    let id = spec.id.clone();
    start(sandbox, spec).await;
    sandbox.wait(&id).await.expect("an end");
    sandbox.container(&id).await.expect("a status")
}

pub async fn start(sandbox: &Sandbox, spec: ContainerSpec) -> ContainerStatus {
    let id = spec.id.clone();
    sandbox.create_container(spec).await.expect("created");
    sandbox.start(&id).await.expect("started")
}

/// Whether a process is there and has not ended.
pub fn running(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ") && !stat.contains(") X "))
}

/// Waits for a condition, however busy the machine is.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub fn id(name: &str) -> ContainerId {
    ContainerId::new(name).expect("a name")
}

pub fn words(text: &str) -> Vec<String> {
    text.split(' ').map(String::from).collect()
}

fn image(layer: &Path) {
    for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "home/web", "var"] {
        std::fs::create_dir_all(layer.join(dir)).expect("a directory of the image");
    }
    std::fs::copy("/bin/busybox", layer.join("bin/busybox")).expect("busybox-static is installed");
    for name in [
        "sh", "echo", "cat", "sleep", "id", "ls", "env", "pwd", "mkdir", "touch", "kill", "grep", "head", "dd", "stty", "mount",
        "hostname", "ip", "nc", "true", "false", "stat", "df", "mknod", "readlink", "seq", "printf", "tty", "ps", "ln", "rm", "wc",
        "httpd", "unshare", "trap", "test", "yes", "tr", "setsid", "chmod", "umask", "tail",
    ] {
        symlink("busybox", layer.join("bin").join(name)).expect("a link of the image");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102:Web:/home/web:/bin/sh\n";
    std::fs::write(layer.join("etc/passwd"), passwd).expect("passwd");
    std::fs::write(layer.join("etc/group"), "root:x:0:\nweb:x:102:\nlogs:x:4:web\n").expect("group");
}

impl Traces {
    /// Ends and removes what is there.
    pub fn clear(&self) {
        let layout = Arc::new(Layout::detect().expect("control groups"));
        let group = Group::new(layout, &self.name).expect("a plain name");
        let _none_is_fine = group.kill_all();
        if let Err(error) = group.remove(Duration::from_secs(60)) {
            println!("  control groups stay: {error}");
        }
    }

    /// Nothing of the node is left: processes, cgroups, mounts.
    pub fn assert_clean(&self) {
        let layout = Arc::new(Layout::detect().expect("control groups"));
        let group = Group::new(layout, &self.name).expect("a plain name");
        // What was killed may take a moment to end, the longer the more memory it had.
        let deadline = Instant::now() + Duration::from_secs(60);
        while group.all_pids().is_ok_and(|pids| !pids.is_empty()) && Instant::now() < deadline {
            std::thread::yield_now();
        }
        let processes = group.all_pids().unwrap_or_default();
        let _wait_for_the_last = group.kill_all();
        let pods = group.child("kubepods/burstable").expect("a plain name");
        let mut left: Vec<String> = Vec::new();
        for dir in pods.dirs() {
            left.extend(
                std::fs::read_dir(dir)
                    .into_iter()
                    .flatten()
                    .flatten()
                    .filter_map(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()).then(|| entry.path().display().to_string())),
            );
        }
        let _gone = group.remove(Duration::from_secs(60));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
        let folder = self.dir.path().to_str().expect("text");
        let mounts: Vec<&str> = mounts.lines().filter(|line| line.contains(folder)).collect();
        assert!(processes.is_empty(), "processes are left: {processes:?}");
        assert!(left.is_empty(), "cgroups are left: {left:?}");
        assert!(mounts.is_empty(), "mounts are left: {mounts:?}");
    }
}
