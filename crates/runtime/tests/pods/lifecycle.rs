//! Life and death of containers and sandboxes.

use std::time::Duration;

use runtime::{
    ContainerEventKind, ContainerState, CreateContainerError, CreateSandboxError, NameSpace, NetNs, PidMode, Rootfs, StartError,
    StopOutcome,
};

use crate::fixture::{Node, id, run, running, start, until};

pub async fn output_and_exit_codes_are_kept(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    for (name, script, code, reason) in [
        ("zero", "echo hello; echo problem >&2; echo -n end", 0, "Completed"),
        ("three", "exit 3", 3, "Error"),
        ("killed", "kill -9 $$; sleep 10", 137, "Error"),
    ] {
        let argv = if name == "killed" { "sh -c 'kill -9 $$'; exit $?" } else { script };
        let status = run(&sandbox, node.container(name, argv)).await;
        assert_eq!(status.state, ContainerState::Exited);
        assert_eq!(status.exit.expect("an exit").code, code, "{name}");
        assert_eq!(status.reason, reason);
        assert!(status.created_at <= status.started_at.expect("a start"));
        assert!(status.started_at <= status.finished_at);
        assert!(!status.oom_killed);
    }
    let text = node.log("zero");
    assert!(text.contains("hello\n") && text.contains("problem\n") && text.contains("end"), "{text:?}");
    let raw = std::fs::read_to_string(node.log_path("zero")).expect("a log");
    let line = raw.lines().find(|line| line.ends_with("hello")).expect("the line");
    assert_eq!(&line[30..], " stdout F hello");
    assert_eq!(line.as_bytes()[29], b'Z');
    assert_eq!(sandbox.status().await.expect("a list").len(), 3);
    sandbox.destroy().await.expect("destroyed");
}

pub async fn signals_end_and_stop_kills_after_grace(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("polite", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")).await;
    start(&sandbox, node.container("deaf", "trap '' TERM; echo ready; while :; do sleep 0.01; done")).await;
    until("both are ready", || node.log("polite").contains("ready") && node.log("deaf").contains("ready")).await;
    let outcome = sandbox.stop(&id("polite"), 15, Duration::from_secs(10)).await.expect("stopped");
    assert!(matches!(outcome, StopOutcome::Ended(exit) if exit.code == 7), "{outcome:?}");
    let outcome = sandbox.stop(&id("deaf"), 15, Duration::from_millis(100)).await.expect("stopped");
    assert!(matches!(outcome, StopOutcome::Killed(exit) if exit.code == 137 && exit.signal == Some(9)), "{outcome:?}");
    assert!(matches!(sandbox.stop(&id("deaf"), 15, Duration::ZERO).await.expect("again"), StopOutcome::Ended(_)));
    sandbox.kill(&id("deaf"), 15).await.expect("a signal to the dead is no error");
    assert!(sandbox.kill(&id("nobody"), 15).await.is_err());
    sandbox.destroy().await.expect("destroyed");
}

pub async fn missing_programs_are_start_errors(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    std::fs::write(node.path("layer/bin/data"), "x").expect("a file");
    for (name, argv, text) in [
        ("a", "nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("b", "/bin/nosuch", "exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory"),
        ("c", "/bin/data", "permission denied"),
        ("d", "/etc", "is a directory"),
    ] {
        let spec = node.program(name, &[argv]);
        sandbox.create_container(spec).await.expect("created");
        let error = sandbox.start(&id(name)).await.expect_err("no such program");
        assert!(matches!(&error, StartError::Exec(found) if found.contains(text)), "{error}");
        let status = sandbox.container(&id(name)).await.expect("a status");
        assert_eq!((status.state, status.exit.expect("an exit").code), (ContainerState::Exited, 128));
        assert_eq!(status.reason, "StartError");
        assert!(status.message.contains(text), "{}", status.message);
        let again = sandbox.start(&id(name)).await.expect_err("ended");
        assert!(matches!(again, StartError::NotCreated(_)), "{again}");
    }
    sandbox.destroy().await.expect("destroyed");
}

pub async fn events_tell_start_and_exit(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut events = sandbox.events();
    let mut spec = node.container("main", "exit 4");
    spec.labels.insert("app".into(), "demo".into());
    start(&sandbox, spec).await;
    let first = events.recv().await.expect("an event");
    assert_eq!(&first.sandbox, sandbox.id());
    assert!(matches!(first.kind, ContainerEventKind::Started(s) if s.pid.is_some() && s.labels["app"] == "demo"));
    let second = events.recv().await.expect("an event");
    assert!(matches!(second.kind, ContainerEventKind::Exited(s) if s.exit.is_some_and(|e| e.code == 4)));
    sandbox.destroy().await.expect("destroyed");
    let last = events.recv().await.expect("an event");
    assert_eq!(last.kind, ContainerEventKind::SandboxLost);
}

pub async fn removed_and_destroyed_pods_leave_nothing(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("runs", "sleep 1000 & sleep 1000")).await;
    run(&sandbox, node.container("done", "true")).await;
    sandbox.create_container(node.container("created", "true")).await.expect("created");
    assert!(sandbox.remove(&id("runs")).await.is_err(), "a running container is not removed");
    sandbox.remove(&id("done")).await.expect("removed");
    sandbox.remove(&id("done")).await.expect("removed twice");
    sandbox.remove(&id("created")).await.expect("removed before its start");
    let names: Vec<String> = sandbox.status().await.expect("a list").into_iter().map(|s| s.id.to_string()).collect();
    assert_eq!(names, ["runs"]);
    assert!(!sandbox.container_cgroup(&id("done")).exists());
    run(&sandbox, node.container("done", "true")).await;
    let keeper = sandbox.pid();
    sandbox.destroy().await.expect("destroyed");
    // Its control group is empty a moment before the last of a process is gone.
    until("the keeper's end", || !running(keeper)).await;
    let left = std::fs::read_dir(node.path("run")).expect("run directory").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
    assert_eq!(left, [".points"], "mount points are no pod's own");
    let again = node.sandbox("pod").await;
    again.destroy().await.expect("destroyed");
}

pub async fn sandboxes_and_containers_are_unique(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let spec = node.sandbox_spec("pod");
    let error = node.runtime().create_sandbox(spec).await.expect_err("exists");
    assert!(matches!(error, CreateSandboxError::Exists(_)), "{error}");
    sandbox.create_container(node.container("one", "true")).await.expect("created");
    let error = sandbox.create_container(node.container("one", "true")).await.expect_err("exists");
    assert!(matches!(error, CreateContainerError::Exists(_)), "{error}");
    sandbox.start(&id("one")).await.expect("the first one is unharmed");
    sandbox.destroy().await.expect("destroyed");
}

/// Whoever starts us may ignore signals; the C library has what it starts ignore two of its own.
pub async fn programs_begin_with_no_signal_ignored_or_blocked(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let look = ["/bin/grep", "-E", "Sig(Blk|Ign|Cgt)", "/proc/self/status"];
    let begun = node.output(&sandbox, node.program("begun", &look)).await;
    crate::fixture::start(&sandbox, node.container("runs", "sleep 1000")).await;
    let command = sandbox.exec_sync(&id("runs"), look.map(String::from).to_vec(), None, 4096).await.expect("output");
    for text in [begun, String::from_utf8_lossy(&command.stdout).into_owned()] {
        assert_eq!(text.matches("\t0000000000000000\n").count(), 3, "{text}");
    }
    sandbox.destroy().await.expect("destroyed");
}

pub async fn name_spaces_are_shared_as_asked(mut node: Node) {
    let mut spec = node.sandbox_spec("pod");
    spec.sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
    spec.sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
    let sandbox = node.runtime().create_sandbox(spec).await.expect("a sandbox");
    let look = "for n in net uts ipc pid mnt cgroup; do readlink /proc/self/ns/$n; done; hostname; cat \
                /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shm_rmid_forced; echo pid $$; ip link show lo";
    let one = node.output(&sandbox, node.container("one", look)).await;
    let two = node.output(&sandbox, node.container("two", look)).await;
    let (one, two): (Vec<&str>, Vec<&str>) = (one.lines().collect(), two.lines().collect());
    for (place, name) in ["net", "uts", "ipc", "pid", "mnt", "cgroup"].iter().enumerate() {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a name space");
        assert_ne!(one[place], own.to_str().expect("text"), "{name} is not ours");
        // Numbers of name spaces that are gone are used again, so only sameness can be told from containers that ended.
        assert!(place >= 3 || one[place] == two[place], "{name}: {} {}", one[place], two[place]);
    }
    assert_eq!(&one[6..10], ["host-pod", "1", "1", "pid 1"]);
    assert!(one[10].contains("UP"), "{}", one[10]);

    for name in ["a", "b"] {
        let mut spec = node.container(name, "echo pid $$; sleep 1000");
        spec.pid = PidMode::Pod;
        start(&sandbox, spec).await;
    }
    let listed = sandbox.exec_sync(&id("a"), vec!["ps".into()], None, 1 << 16).await.expect("ps");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.matches("sleep 1000").count() >= 2 && !listed.contains("keeper"), "{listed}");
    let mut target = node.container("debug", "ps");
    target.pid = PidMode::Target(id("a"));
    let listed = node.output(&sandbox, target).await;
    assert!(listed.contains("sleep 1000"), "{listed}");
    sandbox.destroy().await.expect("destroyed");

    let mut spec = node.sandbox_spec("host");
    (spec.net, spec.ipc, spec.uts) = (NetNs::Host, NameSpace::Host, NameSpace::Host);
    let sandbox = node.runtime().create_sandbox(spec).await.expect("a sandbox");
    let mut spec = node.container("host", look);
    spec.pid = PidMode::Host;
    let found = node.output(&sandbox, spec).await;
    for (line, name) in found.lines().zip(["net", "uts", "ipc", "pid"]) {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).expect("a name space");
        assert_eq!(line, own.to_str().expect("text"), "{name} is ours");
    }
    sandbox.destroy().await.expect("destroyed");
}

pub async fn bad_set_ups_are_refused_and_leave_nothing(mut node: Node) {
    let mut spec = node.sandbox_spec("bad");
    spec.sysctls.insert("kernel.panic".into(), "1".into());
    let error = node.runtime().create_sandbox(spec).await.expect_err("not name-spaced");
    assert!(error.to_string().contains("kernel.panic"), "{error}");
    let sandbox = node.sandbox("pod").await;
    let mut unknown = node.container("user", "true");
    unknown.user.user = runtime::UserRef::Name("nobody-here".into());
    let error = sandbox.create_container(unknown).await.expect_err("no such user");
    assert!(matches!(&error, CreateContainerError::Invalid(text) if text.contains("nobody-here")), "{error}");
    let mut missing = node.container("root", "true");
    missing.rootfs = Rootfs::Directory(node.path("nowhere"));
    let error = sandbox.create_container(missing).await.expect_err("no root");
    assert!(matches!(&error, CreateContainerError::Setup(text) if text.contains("nowhere")), "{error}");
    let mut filter = node.container("filter", "true");
    filter.seccomp = runtime::Seccomp::Custom("{".into());
    let error = sandbox.create_container(filter).await.expect_err("no profile");
    assert!(matches!(&error, CreateContainerError::Invalid(_)), "{error}");
    assert!(sandbox.status().await.expect("a list").is_empty());
    for name in ["user", "root", "filter"] {
        assert!(!sandbox.container_cgroup(&id(name)).exists(), "{name}");
        run(&sandbox, node.container(name, "true")).await;
    }
    sandbox.destroy().await.expect("destroyed");
}
