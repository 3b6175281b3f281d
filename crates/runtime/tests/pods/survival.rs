//! Violent ends: of the main process, of a keeper.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use runtime::{ContainerEventKind, ContainerState, Runtime, RuntimeConfig};

use crate::fixture::{Node, id, read_log, run, running, start, until};

/// First argument of a main process that is going to be killed.
pub const CHILD: &str = "main-child";

/// Lives as a main process: makes two containers, tells about them, waits for its end.
pub fn child(arguments: &[String]) -> ! {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    let mut node = Node::new("child");
    let (run_dir, cgroup_root, logs) = (&arguments[0], &arguments[1], &arguments[2]);
    let config = RuntimeConfig { run_dir: run_dir.into(), cgroup_root: cgroup_root.clone(), self_exe: None };
    tokio.block_on(async {
        node.runtime = Some(Runtime::open(config).expect("the runtime opens"));
        let mut spec = node.sandbox_spec("pod");
        spec.labels.insert("kept".into(), "yes".into());
        let sandbox = node.runtime().create_sandbox(spec).await.expect("a sandbox");
        for (name, script) in [("long", "n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done"), ("short", "read x; exit 42")] {
            let mut spec = node.container(name, script);
            spec.log.as_mut().expect("a log").path = PathBuf::from(logs).join(name);
            spec.stdin = true;
            let status = start(&sandbox, spec).await;
            println!("{}", status.pid.expect("a process"));
        }
        let handle = sandbox.exec(&id("long"), runtime::ExecSpec::new(vec!["sleep".into(), "777".into()])).await;
        println!("{}", node.path("").display());
        let _alive = handle.expect("runs");
        std::future::pending::<()>().await;
    });
    unreachable!("the main process is killed")
}

pub async fn containers_outlive_the_main_process(mut node: Node) {
    let (run_dir, logs) = (node.path("run"), node.path("logs"));
    let mut child = Command::new("/proc/self/exe")
        .args([CHILD, run_dir.to_str().expect("text"), &node.name, logs.to_str().expect("text")])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a main process");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut next = || lines.next().expect("a line").expect("text");
    let (long, short): (i32, i32) = (next().parse().expect("a number"), next().parse().expect("a number"));
    let folder = next();
    child.kill().expect("killed");
    child.wait().expect("reaped");
    let before = read_log(&logs.join("long")).lines().count();
    until("the log grows without a main process", || read_log(&logs.join("long")).lines().count() > before + 3).await;
    let group = node.runtime().cgroup_root().clone();
    let command = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    until("its commands have ended with it", || !group.all_pids().expect("processes").iter().any(|pid| command(pid).contains("777"))).await;
    // One of them ends while nobody listens.
    rustix::process::kill_process(rustix::process::Pid::from_raw(short).expect("a process"), rustix::process::Signal::KILL)
        .expect("killed");

    let recovered = node.runtime().recover().await;
    assert!(recovered.lost.is_empty(), "{:?}", recovered.lost);
    let [sandbox] = &recovered.sandboxes[..] else { panic!("one sandbox") };
    assert_eq!(sandbox.spec().labels["kept"], "yes");
    assert_eq!(sandbox.wait(&id("short")).await.expect("its exit was kept").signal, Some(9));
    let status = sandbox.container(&id("long")).await.expect("a status");
    assert_eq!((status.state, status.pid), (ContainerState::Running, Some(long)));
    assert!(sandbox.exec_sync(&id("long"), vec!["true".into()], None, 10).await.expect("a command").exit.success());
    run(sandbox, node.container("new", "true")).await;
    sandbox.clone().destroy().await.expect("destroyed");
    std::fs::remove_dir_all(folder).expect("the child's folder");
    assert!(node.runtime().recover().await.sandboxes.is_empty());
}

pub async fn a_lost_keeper_takes_only_its_own_pod(mut node: Node) {
    let victim = node.sandbox("victim").await;
    let other = node.sandbox("other").await;
    let mut events = victim.events();
    let mut pids = Vec::new();
    for (sandbox, name) in [(&victim, "one"), (&victim, "two"), (&other, "three")] {
        let status = start(sandbox, node.container(name, "sleep 1000 & sleep 1000")).await;
        pids.push(status.pid.expect("a process"));
    }
    run(&victim, node.container("done", "exit 3")).await;
    kill(victim.pid());
    victim.lost().await;
    until("its containers are gone", || !running(pids[0]) && !running(pids[1])).await;
    assert!(running(pids[2]), "the other pod is untouched");
    while events.recv().await.expect("an event").kind != ContainerEventKind::SandboxLost {}
    let statuses = victim.status().await.expect("the last known states");
    let code = |name: &str| statuses.iter().find(|s| s.id == id(name)).and_then(|s| s.exit).expect("an exit").code;
    assert_eq!((code("one"), code("done")), (255, 3));
    assert!(victim.exec_sync(&id("one"), vec!["true".into()], None, 1).await.is_err());
    victim.destroy().await.expect("cleared away");

    let again = node.sandbox("victim").await;
    run(&again, node.container("one", "true")).await;
    let pid = again.pid();
    drop(again);
    kill(pid);
    until("the keeper is gone", || !running(pid)).await;
    let recovered = node.runtime().recover().await;
    assert_eq!(recovered.sandboxes.len(), 1);
    assert_eq!(recovered.lost.len(), 1);
    assert_eq!(recovered.lost[0].containers[0].exit.expect("an exit").code, 0);
    other.destroy().await.expect("destroyed");
}

pub async fn a_lost_run_directory_ends_its_pods(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let status = start(&sandbox, node.container("main", "sleep 1000")).await;
    // What is mounted there goes with it; newer kernels need no mount for a pod's memory.
    let _not_mounted = rustix::mount::unmount(node.path("run/pod/shm"), rustix::mount::UnmountFlags::DETACH);
    std::fs::remove_dir_all(node.path("run/pod")).expect("lost");
    let kept = node.sandbox("kept").await;
    let recovered = node.runtime().recover().await;
    assert_eq!((recovered.sandboxes.len(), recovered.lost.len()), (1, 0));
    until("the stray is gone", || !running(status.pid.expect("a process"))).await;
    sandbox.lost().await;
    sandbox.destroy().await.expect("cleared away");
    kept.destroy().await.expect("destroyed");
    let parent = node.runtime().cgroup_root().child("kubepods/burstable/podpod").expect("a plain name");
    parent.remove(std::time::Duration::from_secs(60)).expect("the kubelet's part");
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}
