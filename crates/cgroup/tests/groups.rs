//! Real groups on the machine's own control groups: made, limited, joined, read and removed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cgroup::{DeviceRule, Group, Layout, Limits};

fn group(name: &str) -> Group {
    let layout = Arc::new(Layout::detect().expect("control groups are mounted"));
    Group::new(layout, &format!("knarr-test-{}-{name}", std::process::id())).expect("a plain name")
}

#[test]
fn limits_read_back_as_written() {
    let top = group("limits");
    let leaf = top.child("burstable/pod1/main").expect("a plain name");
    leaf.create().expect("create");
    leaf.create().expect("create again");
    let limits = Limits {
        cpu_shares: Some(204),
        cpu_quota: Some(20_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        swap_limit: Some(0),
        pids_limit: Some(33),
        cpuset_cpus: Some("0".into()),
        devices: Some(DeviceRule::defaults()),
        ..Limits::default()
    };
    leaf.apply(&limits).expect("apply");
    let found = leaf.limits().expect("read back");
    assert_eq!(found.cpu_quota, limits.cpu_quota);
    assert_eq!(found.cpu_period, limits.cpu_period);
    assert_eq!(found.memory_limit, limits.memory_limit);
    assert_eq!(found.pids_limit, limits.pids_limit);
    assert_eq!(found.cpuset_cpus, limits.cpuset_cpus);
    for (memory, swap) in [(256 << 20, 0), (32 << 20, 0), (-1, -1)] {
        let limits = Limits { memory_limit: Some(memory), swap_limit: Some(swap), ..Limits::default() };
        leaf.apply(&limits).expect("resize");
        assert_eq!(leaf.limits().expect("read back").memory_limit, Some(memory));
    }
    top.remove(Duration::from_secs(60)).expect("remove");
    assert!(!leaf.exists() && !top.exists());
}

#[test]
fn a_group_is_joined_counted_killed_and_removed() {
    let text = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let only = |kind: &str| text.lines().filter(|line| line.contains(kind)).collect::<Vec<_>>().join("\n");
    let views = [text.clone(), only(" - cgroup "), only(" - cgroup2 ")];
    for (number, view) in views.iter().enumerate() {
        // A machine has what it has; a view that is empty there is tried elsewhere.
        let Ok(layout) = Layout::from_mountinfo(view) else { continue };
        live_and_die(Arc::new(layout), number);
    }
}

fn live_and_die(layout: Arc<Layout>, number: usize) {
    let version = layout.version();
    let name = format!("knarr-test-{}-kill{number}", std::process::id());
    let top = Group::new(layout, &name).expect("a plain name");
    let leaf = top.child("ctr").expect("a plain name");
    leaf.create().expect("create");
    let mut child = Command::new("/bin/busybox")
        .args(["sh", "-c", "read joined; while :; do /bin/busybox sleep 1000; done"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("busybox runs");
    leaf.add_pid(child.id() as i32).expect("join");
    child.stdin.take().expect("its input").write_all(b"yes\n").expect("written");
    let deadline = Instant::now() + Duration::from_secs(60);
    while leaf.all_pids().expect("processes").len() < 2 {
        assert!(Instant::now() < deadline, "the processes are not counted on {version:?}");
    }
    assert!(leaf.pids().expect("pids").contains(&(child.id() as i32)));
    leaf.stats().expect("stats");
    assert!(leaf.remove(Duration::from_millis(20)).is_err(), "a group in use stays");
    assert_eq!(leaf.oom_kills().expect("oom kills"), 0);
    leaf.set_frozen(true).expect("frozen");
    leaf.set_frozen(false).expect("thawed");
    leaf.kill_all().expect("kill");
    child.wait().expect("reap");
    top.remove(Duration::from_secs(60)).expect("remove");
    assert!(top.dirs().iter().all(|dir| !dir.exists()), "{version:?}");
}

#[test]
fn paths_cannot_leave_the_root() {
    let layout = Arc::new(Layout::detect().expect("control groups are mounted"));
    for path in ["../x", "a/../b", "a//b", "./a"] {
        assert!(Group::new(layout.clone(), path).is_err(), "{path}");
    }
}

#[test]
fn the_unified_hierarchy_filters_devices_by_a_program() {
    let top = group("devices");
    if top.unified_dir().is_none() {
        return;
    }
    let leaf = top.child("ctr").expect("a plain name");
    leaf.create().expect("create");
    let rule = |kind, major, minor, access: &str| DeviceRule { kind, major, minor, access: access.into() };
    leaf.attach_device_filter(&[rule('c', Some(1), Some(3), "rw"), rule('c', Some(1), Some(8), "r"), rule('b', None, None, "m")])
        .expect("attach");
    let procs = leaf.unified_dir().expect("a directory").join("cgroup.procs");
    let check = |script: &str| {
        let script = format!("echo $$ > {}; {script}", procs.display());
        Command::new("/bin/busybox").args(["sh", "-c", &script]).stderr(Stdio::null()).status().expect("runs").success()
    };
    for (script, allowed) in
        [("exec 3<>/dev/null", true), ("exec 3<>/dev/zero", false), ("exec 3</dev/random", true), ("exec 3<>/dev/random", false)]
    {
        assert_eq!(check(script), allowed, "{script}");
    }
    top.remove(Duration::from_secs(60)).expect("remove");
}
