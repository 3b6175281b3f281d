//! Pods with users of their own (`hostUsers: false`): who they are inside, who they are to the node, and what stays shut.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Duration;

use runtime::{Bind, Capabilities, ExecSpec, IdMapping, ImageMount, Mount, PidMode, Sandbox, SandboxSpec, Source, User, UserNs, UserRef};

use crate::fixture::{Node, id, run, start};

/// First id of the pod on the node.
const BASE: u32 = 7 * 65536;

fn map() -> UserNs {
    let range = IdMapping { container_id: 0, host_id: BASE, size: 65536 };
    UserNs { uids: vec![range], gids: vec![range] }
}

fn spec(node: &Node) -> SandboxSpec {
    SandboxSpec { user_ns: Some(map()), ..node.sandbox_spec("pod") }
}

async fn sandbox(node: &mut Node) -> Sandbox {
    let spec = spec(node);
    node.runtime().create_sandbox(spec).await.expect("a sandbox")
}

/// The field of `/proc/<pid>/status` with the four user ids.
fn node_user(pid: i32) -> u32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("Uid:")).expect("users");
    line.split_whitespace().nth(1).expect("a user").parse().expect("a number")
}

pub async fn owners_are_shifted_and_the_node_is_a_stranger(mut node: Node) {
    let sandbox = sandbox(&mut node).await;
    for dir in ["data/sub", "plain", "image-a", "image-b"] {
        std::fs::create_dir_all(node.path(dir)).expect("a directory");
    }
    for file in ["data/file", "data/sub/file", "plain/file", "image-a/low", "image-b/high"] {
        std::fs::write(node.path(file), file).expect("a file");
    }
    let script = "cat /proc/self/uid_map; id -u; stat -c 'root %u %g' /bin/busybox; stat -c 'data %u' /data/file; stat -c 'sub %u' \
                  /sub/file; stat -c 'plain %u' /plain/file; stat -c 'image %u' /image/low /image/high; echo x > /data/new && echo \
                  rw; echo y > /plain/new 2>/dev/null || echo refused; echo z > /etc/new; stat -c 'shm %u' /dev/shm; echo s > \
                  /dev/shm/x && echo shm; echo n > /dev/null && echo null; head -c 4 /dev/urandom | wc -c; cat /proc/1/comm; echo out \
                  > /dev/stdout; stat -c 'mem %u' /mem; grep CapEff /proc/self/status; sleep 1000";
    let mut main = node.container("main", script);
    let bind = |source: Source, target: &str| Bind { source, id_mapped: true, ..Bind::new("", target) };
    main.mounts = vec![
        Mount::Bind(bind(Source::Path(node.path("data")), "/data")),
        Mount::Bind(bind(Source::Beneath { root: node.path("data"), path: "sub".into() }, "/sub")),
        Mount::Bind(Bind::new(node.path("plain"), "/plain")),
        Mount::Image(ImageMount { layers: vec![node.path("image-a"), node.path("image-b")], target: "/image".into(), sub_path: "".into() }),
        Mount::Tmpfs { target: "/mem".into(), size: None, mode: 0o755, read_only: false },
    ];
    let status = start(&sandbox, main).await;
    let pid = status.pid.expect("a process");
    assert_eq!(node_user(pid), BASE, "user 0 of the pod is nobody special on the node");
    crate::fixture::until("the script reaches its end", || node.log("main").contains("CapEff")).await;
    let text = node.log("main");
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words[..3], ["0", &BASE.to_string(), "65536"], "{text}");
    for line in [
        "root 0 0",
        "data 0",
        "sub 0",
        "plain 65534",
        "image 0",
        "rw",
        "refused",
        "shm 0",
        "shm",
        "null",
        "4",
        "sh",
        "out",
        "mem 0",
        "CapEff:\t00000000a80425fb",
    ] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    }
    // On the node's disk the volume belongs to the node's user 0, the writable layer to the pod's.
    assert_eq!(std::fs::metadata(node.path("data/new")).expect("written").uid(), 0);
    assert_eq!(std::fs::metadata(node.path("writable-main/upper/etc/new")).expect("written").uid(), BASE);
    // A command is the same user, sees its streams and can open them.
    let command = ["/bin/sh", "-c", "id -u; cat /proc/self/uid_map; echo again > /dev/stdout; echo e > /proc/1/oom_score_adj"];
    let command = command.map(String::from).to_vec();
    let output = sandbox.exec_sync(&id("main"), command, Some(Duration::from_secs(60)), 4096).await.expect("a command");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.starts_with("0\n") && said.contains(&BASE.to_string()) && said.contains("again"), "{said} {output:?}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn users_of_the_image_are_users_of_the_pod(mut node: Node) {
    let sandbox = sandbox(&mut node).await;
    std::fs::create_dir(node.path("data")).expect("a directory");
    std::os::unix::fs::chown(node.path("data"), None, Some(2000)).expect("owned by the group");
    std::fs::set_permissions(node.path("data"), std::fs::Permissions::from_mode(0o2775)).expect("writable");
    let mut web = node.container("web", "id -u; id -G; echo x > /data/x && echo wrote; echo out > /dev/stdout; echo err > /dev/stderr");
    web.user = User { user: UserRef::Name("web".into()), supplemental: vec![2000], ..User::default() };
    web.no_new_privs = true;
    web.mounts = vec![Mount::Bind(Bind { id_mapped: true, ..Bind::new(node.path("data"), "/data") })];
    let status = run(&sandbox, web).await;
    assert_eq!((status.user.uid, status.user.gid), (101, 102));
    let text = node.log("web");
    assert!(["101", "102 4 2000", "wrote", "out", "err"].iter().all(|line| text.lines().any(|found| found == *line)), "{text}");
    let written = std::fs::metadata(node.path("data/x")).expect("written");
    assert_eq!((written.uid(), written.gid()), (101, 2000), "the volume keeps the pod's numbers");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn what_the_pod_owns_it_may_change(mut node: Node) {
    let mut described = spec(&node);
    described.sysctls = [("net.ipv4.ip_local_port_range", "20000 30000"), ("kernel.shm_rmid_forced", "1")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
    let sandbox = node.runtime().create_sandbox(described).await.expect("a sandbox");
    // With CAP_SYS_ADMIN and CAP_NET_ADMIN over itself, and over nothing of the node.
    let script = "cat /proc/sys/net/ipv4/ip_local_port_range /proc/sys/kernel/shm_rmid_forced; hostname; ip addr add 10.9.9.9/32 dev lo && \
                  echo addressed; mount -t tmpfs none /tmp && echo mounted; hostname other && hostname; mknod /tmp/null c 1 3 \
                  2>/dev/null || echo no-nodes; mount -t proc proc /tmp && ls /tmp | head -n 1; echo 1 > /tmp/sys/kernel/panic || echo \
                  not-the-node; cat /proc/sys/net/ipv4/ping_group_range";
    let mut main = node.container("main", script);
    main.capabilities = Capabilities::from_pod(&["ALL".into()], &[], false);
    main.masked_paths.clear();
    main.read_only_paths.clear();
    let status = run(&sandbox, main).await;
    let text = node.log("main");
    for line in ["20000\t30000", "1", "host-pod", "addressed", "mounted", "other", "no-nodes", "not-the-node"] {
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text} {status:?}");
    }
    sandbox.destroy().await.expect("destroyed");
}

pub async fn processes_are_shared_within_the_pod(mut node: Node) {
    let sandbox = sandbox(&mut node).await;
    let mut first = node.container("first", "sleep 1000");
    first.pid = PidMode::Pod;
    start(&sandbox, first).await;
    let mut second = node.container("second", "ps -o pid,args; ps -o user,args | grep -q '/pause' && echo pause; kill -9 -1; echo after");
    second.pid = PidMode::Pod;
    run(&sandbox, second).await;
    let text = node.log("second");
    assert!(text.contains("sleep 1000") && text.lines().any(|line| line == "pause"), "{text}");
    assert_eq!(sandbox.wait(&id("first")).await.expect("an end").signal, Some(9), "the neighbour could be killed");
    let mut third = node.container("third", "id -u");
    third.pid = PidMode::Host;
    let refused = sandbox.create_container(third).await.expect_err("the node's processes");
    assert!(refused.to_string().contains("share the node's processes"), "{refused}");
    let mut terminal = node.container("terminal", "tty; stat -c 'tty %u' $(tty); sleep 1000");
    terminal.tty = true;
    start(&sandbox, terminal).await;
    crate::fixture::until("the terminal is looked at", || node.log("terminal").contains("tty 0")).await;
    let exec = ExecSpec { tty: true, ..ExecSpec::new(["/bin/sh", "-c", "tty && exit 7"].map(String::from).to_vec()) };
    let exit = sandbox.exec(&id("terminal"), exec).await.expect("a command").wait().await.expect("an end");
    assert_eq!(exit.code, 7);
    sandbox.destroy().await.expect("destroyed");
}

pub async fn what_cannot_be_mapped_is_refused(mut node: Node) {
    let mut none = spec(&node);
    none.user_ns = Some(UserNs { uids: vec![IdMapping { container_id: 1, host_id: BASE, size: 10 }], ..map() });
    let refused = node.runtime().create_sandbox(none).await.expect_err("no user 0");
    assert!(refused.to_string().contains("user 0 of the pod is not mapped"), "{refused}");
    let mut host = spec(&node);
    host.net = runtime::NetNs::Host;
    let refused = node.runtime().create_sandbox(host).await.expect_err("the node's network");
    assert!(refused.to_string().contains("network and IPC of its own"), "{refused}");
    // A file system that cannot shift owners: the refusal names what was to be mounted.
    let sandbox = sandbox(&mut node).await;
    let mut main = node.container("main", "true");
    main.mounts = vec![Mount::Bind(Bind { id_mapped: true, ..Bind::new("/proc/sys", "/data") })];
    let refused = sandbox.create_container(main).await.expect_err("proc");
    assert!(refused.to_string().contains("shift the owners of /data"), "{refused}");
    sandbox.destroy().await.expect("destroyed");
}
