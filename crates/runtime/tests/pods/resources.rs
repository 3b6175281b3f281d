//! Limits, accounts and the out-of-memory killer.

use cgroup::Limits;

use crate::fixture::{Node, id, run, start, words};

pub async fn limits_are_applied_and_updated(mut node: Node) {
    if !node.has_controllers() {
        return;
    }
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "sleep 1000");
    spec.limits = Limits {
        cpu_shares: Some(102),
        cpu_quota: Some(50_000),
        cpu_period: Some(100_000),
        memory_limit: Some(64 << 20),
        pids_limit: Some(20),
        ..Limits::default()
    };
    start(&sandbox, spec).await;
    let main = id("main");
    let found = sandbox.resources(&main).expect("limits");
    assert_eq!((found.cpu_quota, found.memory_limit, found.pids_limit), (Some(50_000), Some(64 << 20), Some(20)));
    let inside = |script: &str| {
        let command = vec!["sh".into(), "-c".into(), script.to_owned()];
        let (sandbox, main) = (sandbox.clone(), main.clone());
        async move {
            let output = sandbox.exec_sync(&main, command, None, 4096).await.expect("output");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
    };
    let memory = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max";
    assert_eq!(inside(memory).await, (64 << 20).to_string(), "the container sees its own limit");
    let limits = Limits { memory_limit: Some(96 << 20), cpu_quota: Some(20_000), ..Limits::default() };
    sandbox.update_resources(&main, limits).await.expect("updated");
    assert_eq!(inside(memory).await, (96 << 20).to_string());
    assert_eq!(sandbox.resources(&main).expect("limits").cpu_quota, Some(20_000));
    let writes = "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes || echo 1 > /sys/fs/cgroup/memory.max";
    sandbox.exec_sync(&main, vec!["sh".into(), "-c".into(), writes.into()], None, 10).await.expect("output");
    assert_eq!(inside(memory).await, (96 << 20).to_string(), "and cannot change it");
    let stats = sandbox.stats(&main).expect("stats");
    assert!(stats.pids >= 1 && stats.memory.usage > 0 && stats.cpu_usage_ns > 0, "{stats:?}");
    let bomb = "i=0; while [ $i -lt 40 ]; do sleep 5 & i=$((i+1)); done; echo survived";
    let output = sandbox.exec_sync(&main, vec!["sh".into(), "-c".into(), bomb.into()], None, 4096).await.expect("output");
    assert!(!output.exit.success(), "a fork bomb meets the pids limit: {output:?}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn memory_hogs_are_flagged(mut node: Node) {
    if !node.has_controllers() {
        return;
    }
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.program("hog", &["dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"]);
    spec.limits.memory_limit = Some(32 << 20);
    spec.limits.swap_limit = Some(0);
    let status = run(&sandbox, spec).await;
    assert!(status.oom_killed, "{status:?}");
    assert_eq!((status.reason.as_str(), status.exit.expect("an exit").code), ("OOMKilled", 137));
    let mut small = node.program("small", &["true"]);
    small.limits.memory_limit = Some(32 << 20);
    assert!(!run(&sandbox, small).await.oom_killed);
    sandbox.destroy().await.expect("destroyed");
}

pub async fn devices_are_limited(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let script = "mknod /tmp/disk b 254 0; head -c 1 /tmp/disk >/dev/null && echo open; echo ok > /dev/null && echo null";
    assert_eq!(node.output(&sandbox, node.container("plain", script)).await.trim_end().lines().last(), Some("null"));
    assert!(!node.log("plain").contains("open"), "{}", node.log("plain"));
    let mut spec = node.container("given", "test -c /dev/mine && head -c 4 /dev/mine | wc -c; ls -l /dev/mine");
    spec.devices = vec![runtime::Device::new("/dev/zero", "/dev/mine", "r")];
    assert!(node.output(&sandbox, spec).await.starts_with('4'));
    let mut privileged =
        node.container("privileged", "ls /dev | wc -l; test -w /sys/kernel && touch /sys/x; mount -t tmpfs x /tmp && echo mounted");
    privileged.privileged = true;
    privileged.capabilities = runtime::Capabilities::from_pod(&[], &[], true);
    (privileged.masked_paths, privileged.read_only_paths) = (vec![], vec![]);
    let text = node.output(&sandbox, privileged).await;
    assert!(text.contains("mounted"), "{text}");
    assert!(text.lines().next().and_then(|n| n.parse::<u32>().ok()).is_some_and(|n| n > 20), "{text}");
    sandbox.destroy().await.expect("destroyed");
    let _unused = words("");
}
