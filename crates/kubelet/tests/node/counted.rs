//! What pods take of a machine, counted before and after, so that whatever stays behind shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use cgroup::{Group, Layout};

use crate::world::{World, group, run};

/// What there is of pods on a test's machine.
#[derive(Debug, PartialEq, Eq)]
pub struct Counted {
    mounts: Vec<String>,
    groups: BTreeSet<String>,
    /// Processes of pods and their keepers.
    processes: usize,
    /// Name spaces of these processes.
    spaces: usize,
    links: Vec<String>,
    /// Folders of pods, of their sandboxes and of what they keep in memory.
    folders: BTreeSet<String>,
}

fn whole(folder: &Path) -> Group {
    Group::new(Arc::new(Layout::detect().expect("control groups")), &group(folder)).expect("a plain name")
}

fn command_line(pid: i32) -> Vec<u8> {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

/// The keeper of a pod.
pub fn keeper(world: &World, uid: &str) -> i32 {
    let title = format!("knarr keeper {uid}");
    let pids = whole(&world.folder).all_pids().expect("processes");
    pids.into_iter().find(|pid| command_line(*pid).starts_with(title.as_bytes())).expect("a keeper")
}

fn below(directory: &Path, top: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            found.insert(path.strip_prefix(top).unwrap_or(&path).display().to_string());
            below(&path, top, found);
        }
    }
}

fn names(directory: &Path, found: &mut BTreeSet<String>) {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    // Mount points that are made ahead are for all pods.
    found.extend(entries.map(|entry| entry.path().display().to_string()).filter(|name| !name.ends_with("/.points")));
}

/// Counts.
pub fn count(world: &World) -> Counted {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let place = |line: &str| line.split(' ').nth(4).unwrap_or_default().to_owned();
    let group = whole(&world.folder);
    let mut groups = BTreeSet::new();
    for directory in group.child("kubepods").expect("a plain name").dirs() {
        below(&directory, &directory, &mut groups);
    }
    // Classes of pods stay.
    groups.retain(|name| name.contains("pod"));
    let (mut processes, mut spaces) = (0, BTreeSet::new());
    let pods = group.child("kubepods").and_then(|pods| pods.all_pids()).unwrap_or_default();
    for pid in group.all_pids().unwrap_or_default() {
        if pods.contains(&pid) || command_line(pid).starts_with(b"knarr keeper ") {
            processes += 1;
            for kind in ["net", "mnt", "pid", "ipc", "uts", "cgroup", "user"] {
                spaces.extend(std::fs::read_link(format!("/proc/{pid}/ns/{kind}")));
            }
        }
    }
    let links = run("ip -o link").lines().filter_map(|line| line.split(": ").nth(1).map(str::to_owned)).collect();
    let mut folders = BTreeSet::new();
    for directory in ["kubelet/pods", "kubelet/memory", "run", "logs/pods", "logs/containers"] {
        names(&world.folder.join(directory), &mut folders);
    }
    Counted { mounts: mounts.lines().map(place).collect(), groups, processes, spaces: spaces.len(), links, folders }
}

/// Waits until there is again what there was.
pub async fn nothing_is_left(world: &World, before: &Counted) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let now = count(world);
        if now == *before {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "before: {before:#?}\nnow: {now:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
