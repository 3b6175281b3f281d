//! Programs of the node at moments of a container's life: each where it belongs, and what becomes of a container when one fails.

use std::path::Path;
use std::time::Duration;

use runtime::{ContainerSpec, ContainerState, CreateContainerError, Hook, HookKind, StartError, UserRef};
use serde_json::Value;

use crate::fixture::{Node, id, start};

fn hook(kind: HookKind, script: &str) -> Hook {
    let args = ["sh", "-c", script].map(str::to_owned).into();
    Hook { kind, path: "/bin/sh".into(), args, env: vec!["PATH=/bin:/usr/bin".into()], timeout: Some(Duration::from_secs(60)) }
}

/// Notes its input and where it runs, on the node.
fn noting(folder: &Path, kind: HookKind, more: &str) -> Hook {
    let at = folder.join(kind.to_string());
    let script = format!("cat > {0}.json; readlink /proc/self/ns/net /proc/self/ns/mnt > {0}.where; {more}", at.display());
    hook(kind, &script)
}

fn state(folder: &Path, kind: HookKind) -> Value {
    let text = std::fs::read(folder.join(format!("{kind}.json"))).unwrap_or_else(|error| panic!("{kind}: {error}"));
    serde_json::from_slice(&text).expect("a state")
}

fn place(folder: &Path, kind: HookKind) -> Vec<String> {
    let text = std::fs::read_to_string(folder.join(format!("{kind}.where"))).expect("a place");
    text.lines().map(str::to_owned).collect()
}

fn spaces(process: &str) -> Vec<String> {
    let link = |name: &str| std::fs::read_link(format!("/proc/{process}/ns/{name}")).expect("a name space").display().to_string();
    ["net", "mnt"].map(link).into()
}

pub async fn hooks_run_where_they_belong(mut node: Node) {
    let folder = node.path("told");
    std::fs::create_dir(&folder).expect("a folder");
    let sandbox = node.sandbox("pod").await;
    let root = node.path("run").canonicalize().expect("a folder").join("pod/c/main");
    let script = "cat /tmp/by-hook /tmp/by-start; touch /x 2>/dev/null && echo writable; exec sleep 1000";
    let mut spec = node.container("main", script);
    spec.annotations.insert("example.com/a".into(), "b".into());
    spec.read_only_root = true;
    spec.user.user = UserRef::Id(1000);
    spec.mounts.push(runtime::Mount::Tmpfs { target: "/tmp".into(), size: None, mode: 0o1777, read_only: false });
    let inside = format!(
        "echo $$ > {}/own-pid; test -d {1}/proc/1 && echo by hook > {1}/tmp/by-hook; touch {1}/made",
        folder.display(),
        root.display()
    );
    spec.hooks = vec![
        noting(&folder, HookKind::Poststop, ""),
        noting(&folder, HookKind::CreateRuntime, &format!("test -e {}/prestart.json", folder.display())),
        noting(&folder, HookKind::Prestart, ""),
        noting(&folder, HookKind::CreateContainer, &inside),
        hook(HookKind::StartContainer, "grep -q created && id -u > /tmp/by-start"),
        noting(&folder, HookKind::Poststart, ""),
    ];
    let main = id("main");
    let created = sandbox.create_container(spec).await.expect("created");
    let (node_spaces, pid) = (spaces("self"), created.pid.expect("a process"));
    assert!(!folder.join("poststart.json").exists());
    sandbox.start(&main).await.expect("started");
    crate::fixture::until("its output", || node.log("main").lines().count() == 2).await;
    assert_eq!(node.log("main"), "by hook\n1000\n");
    for (kind, status) in [
        (HookKind::Prestart, "creating"),
        (HookKind::CreateRuntime, "creating"),
        (HookKind::CreateContainer, "creating"),
        (HookKind::Poststart, "running"),
    ] {
        let state = state(&folder, kind);
        assert_eq!((&state["status"], &state["pid"]), (&status.into(), &pid.into()), "{kind}");
        assert_eq!((&state["id"], &state["annotations"]["example.com/a"]), (&"pod-main".into(), &"b".into()), "{kind}");
        let wanted = if kind == HookKind::CreateContainer { spaces(&pid.to_string()) } else { node_spaces.clone() };
        assert_eq!(place(&folder, kind), wanted, "{kind}");
    }
    assert_ne!(
        std::fs::read_to_string(folder.join("own-pid")).expect("a number").trim(),
        pid.to_string(),
        "it sees the container's processes"
    );
    let bundle = state(&folder, HookKind::CreateRuntime)["bundle"].as_str().expect("a path").to_owned();
    let config: Value = serde_json::from_slice(&std::fs::read(format!("{bundle}/config.json")).expect("a description")).expect("json");
    assert_eq!(config["root"]["path"], root.to_str().expect("text"));
    assert_eq!(config["hooks"]["createRuntime"][0]["path"], "/bin/sh");
    assert!(node.path("writable-main/upper/made").exists(), "the root is writable for hooks");

    assert!(!folder.join("poststop.json").exists());
    sandbox.stop(&main, 9, Duration::ZERO).await.expect("stopped");
    sandbox.remove(&main).await.expect("removed");
    assert_eq!(state(&folder, HookKind::Poststop)["status"], "stopped");
    assert!(!Path::new(&bundle).exists());

    // Who goes with the pod has a last hook, too.
    std::fs::remove_file(folder.join("poststop.json")).expect("a file");
    let mut late = node.container("late", "exec sleep 1000");
    late.hooks = vec![noting(&folder, HookKind::Poststop, "")];
    start(&sandbox, late).await;
    sandbox.destroy().await.expect("destroyed");
    assert_eq!(state(&folder, HookKind::Poststop)["id"], "pod-late");
}

pub async fn hooks_that_fail_end_their_container(mut node: Node) {
    let folder = node.path("told");
    std::fs::create_dir(&folder).expect("a folder");
    let sandbox = node.sandbox("pod").await;
    let with = |node: &Node, name: &str, failing: Hook| -> ContainerSpec {
        let mut spec = node.container(name, "exec sleep 1000");
        spec.hooks = vec![failing, hook(HookKind::Poststop, &format!("touch {}/{name}", folder.display()))];
        spec
    };
    for kind in [HookKind::Prestart, HookKind::CreateRuntime, HookKind::CreateContainer] {
        let name = kind.to_string().to_lowercase();
        let refused = sandbox.create_container(with(&node, &name, hook(kind, "echo no such card >&2; exit 4"))).await;
        let Err(CreateContainerError::Setup(text)) = refused else { panic!("{kind}: {refused:?}") };
        assert_eq!(text, format!("error running {kind} hook \"/bin/sh\": exit status: 4, stderr: no such card"));
        assert!(folder.join(&name).exists(), "{kind}: the last hook runs all the same");
        assert!(sandbox.container(&id(&name)).await.is_err(), "{kind}");
        assert!(!sandbox.container_cgroup(&id(&name)).exists(), "{kind}");
    }
    sandbox.create_container(with(&node, "start", hook(HookKind::StartContainer, "exit 5"))).await.expect("created");
    let refused = sandbox.start(&id("start")).await;
    assert!(matches!(&refused, Err(StartError::Exec(text)) if text.contains("startContainer hook")), "{refused:?}");
    sandbox.create_container(with(&node, "post", hook(HookKind::Poststart, "exit 6"))).await.expect("created");
    let refused = sandbox.start(&id("post")).await;
    assert!(matches!(&refused, Err(StartError::Exec(text)) if text.contains("poststart hook")), "{refused:?}");
    let status = sandbox.container(&id("post")).await.expect("a status");
    assert_eq!(status.state, ContainerState::Exited);
    let mut late = hook(HookKind::CreateRuntime, "exec sleep 1000");
    late.timeout = Some(Duration::from_millis(100));
    let refused = sandbox.create_container(with(&node, "late", late)).await;
    assert!(matches!(&refused, Err(CreateContainerError::Setup(text)) if text.contains("killed after 100ms")), "{refused:?}");
    sandbox.destroy().await.expect("destroyed");
    for name in ["start", "post", "late"] {
        assert!(folder.join(name).exists(), "{name}");
    }
}

pub async fn a_described_device_is_as_described(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "stat -c '%a %u %g %t:%T' /dev/mine /dev/same; head -c 2 /dev/mine | wc -c");
    let described = runtime::DeviceNode { number: Some(('c', 1, 5)), mode: Some(0o640), uid: Some(7), gid: Some(8) };
    let host = runtime::DeviceNode { mode: Some(0o604), ..runtime::DeviceNode::default() };
    spec.devices = vec![
        runtime::Device { node: described, ..runtime::Device::new("/dev/nowhere", "/dev/mine", "rw") },
        runtime::Device { node: host, ..runtime::Device::new("/dev/zero", "/dev/same", "r") },
    ];
    assert_eq!(node.output(&sandbox, spec).await, "640 7 8 1:5\n604 0 0 1:5\n2\n");
    sandbox.destroy().await.expect("destroyed");
}
