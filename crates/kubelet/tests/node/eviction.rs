//! Pods that must go: their own limits, and a node that runs out of disk.

use serde_json::json;

use crate::world::{IMAGE, World, condition, run};

/// A pod with a volume that the test fills from outside.
fn with_volume(limit: Option<&str>) -> serde_json::Value {
    let source = limit.map_or_else(|| json!({}), |limit| json!({"sizeLimit": limit}));
    json!({
        "containers": [{"name": "main", "image": IMAGE, "volumeMounts": [{"name": "cache", "mountPath": "/cache"}]}],
        "volumes": [{"name": "cache", "emptyDir": source}],
    })
}

fn fill(world: &World, pod: &serde_json::Value, bytes: usize) {
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let volume = world.kubelet_dir().join("pods").join(uid).join("volumes/kubernetes.io~empty-dir/cache");
    std::fs::write(volume.join("file"), vec![1; bytes]).expect("a file in the volume");
}

pub async fn a_volume_beyond_its_limit_costs_its_pod_the_place(world: World) {
    world.start("").await;
    let bystander = world.running("bystander", with_volume(Some("8Mi"))).await;
    let glutton = world.running("glutton", with_volume(Some("1Mi"))).await;
    for pod in [&bystander, &glutton] {
        fill(&world, pod, 2 << 20);
    }
    let evicted = world.pod("glutton", "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
    let message = "Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". ";
    assert_eq!(evicted["status"]["reason"], "Evicted");
    assert_eq!(evicted["status"]["message"], message);
    assert!(condition(&evicted, "DisruptionTarget").is_null(), "the pod itself is to blame");
    assert!(world.has_event("glutton", "Evicted", message).await);
    world.pod("bystander", "runs on", |pod| pod["status"]["phase"] == "Running").await;
}

/// `/etc/hosts` and termination messages are on the node's disk, and the container writes them (CVE-2020-8557).
pub async fn files_that_every_pod_has_count_as_well(world: World) {
    world.start("").await;
    let limited = json!({"containers": [{"name": "main", "image": IMAGE, "resources": {"limits": {"ephemeral-storage": "1Mi"}}}]});
    let files = [("hosts", "etc/hosts"), ("message", "containers/main/termination-log-0")];
    world.running("bystander", limited.clone()).await;
    for (name, file) in files {
        let pod = world.running(name, limited.clone()).await;
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        let file = world.kubelet_dir().join("pods").join(uid).join(file);
        assert!(file.is_file(), "{file:?}");
        std::fs::write(file, vec![1; 2 << 20]).expect("a file of the pod");
        let evicted = world.pod(name, "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
        assert_eq!(evicted["status"]["message"], "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. ");
    }
    world.pod("bystander", "runs on", |pod| pod["status"]["phase"] == "Running").await;
}

/// The node's disk is a small one of its own.
fn small_disk(world: &World) {
    let dir = world.kubelet_dir();
    std::fs::create_dir_all(&dir).expect("a folder");
    run(&format!("mount -t tmpfs -o size=64m tmpfs {}", dir.display()));
}

pub async fn a_full_disk_evicts_by_rank_and_keeps_critical_pods(world: World) {
    small_disk(&world);
    world.start("nodefs.available<32Mi").await;
    let mut important = with_volume(None);
    important["priorityClassName"] = "system-node-critical".into();
    let critical = world.running("critical", important).await;
    world.running("modest", with_volume(None)).await;
    let hog = world.running("hog", with_volume(None)).await;
    fill(&world, &critical, 8 << 20);
    fill(&world, &hog, 30 << 20);
    world.node("the node is short of disk", |node| condition(node, "DiskPressure")["status"] == "True").await;
    let evicted = world.pod("hog", "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
    let message = evicted["status"]["message"].as_str().expect("a message");
    assert_eq!(evicted["status"]["reason"], "Evicted");
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: 32Mi, available: "), "{message}");
    let target = condition(&evicted, "DisruptionTarget");
    assert_eq!((&target["status"], &target["reason"]), (&"True".into(), &"TerminationByKubelet".into()));
    assert_eq!(target["message"], message);
    world.pod("critical", "runs on", |pod| pod["status"]["phase"] == "Running").await;
    world.pod("modest", "runs on", |pod| pod["status"]["phase"] == "Running").await;
    assert!(world.has_event("node", "EvictionThresholdMet", "Attempting to reclaim ephemeral-storage").await);
}

pub async fn a_node_that_is_short_takes_no_more_pods(world: World) {
    small_disk(&world);
    world.start("nodefs.available<1Gi").await;
    world.node("the node is short of disk", |node| condition(node, "DiskPressure")["reason"] == "KubeletHasDiskPressure").await;
    world.create("late", json!({})).await;
    let refused = world.pod("late", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "Evicted");
    assert_eq!(refused["status"]["message"], "Pod was rejected: The node had condition: [DiskPressure]. ");
    world.running("critical", json!({"priorityClassName": "system-node-critical"})).await;
}

pub async fn a_soft_threshold_waits_and_gives_time(world: World) {
    small_disk(&world);
    let wait = std::time::Duration::from_secs(12);
    let policy = kubelet::eviction::Policy {
        soft: kubelet::eviction::Policy::soft("nodefs.available<32Mi", &[("nodefs.available".to_owned(), wait)].into())
            .expect("thresholds"),
        max_pod_grace: 20,
        ..kubelet::eviction::Policy::default()
    };
    world.start_as(|config| config.eviction = policy).await;
    let mut slow = with_volume(None);
    let script = "trap '/busybox sleep 1.5; exit 0' TERM; while true; do /busybox sleep 0.1; done";
    slow["containers"][0]["command"] = json!(["/busybox", "sh", "-c", script]);
    slow["containers"][0]["volumeMounts"].as_array_mut().expect("mounts").push(json!({"name": "tool", "mountPath": "/busybox"}));
    slow["volumes"].as_array_mut().expect("volumes").push(json!({"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}}));
    slow["terminationGracePeriodSeconds"] = 30.into();
    let hog = world.running("hog", slow).await;
    fill(&world, &hog, 36 << 20);
    let began = std::time::Instant::now();
    world.node("the node is short of disk", |node| condition(node, "DiskPressure")["status"] == "True").await;
    world.pod("hog", "runs on meanwhile", |pod| pod["status"]["phase"] == "Running").await;
    let evicted = world.pod("hog", "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
    assert!(began.elapsed() > wait, "{:?}", began.elapsed());
    assert_eq!(evicted["status"]["reason"], "Evicted");
    assert_eq!(evicted["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "it had its time to stop");
}

/// A pod that fills so much memory, by a program of the machine.
fn holder(megabytes: usize, request: &str) -> serde_json::Value {
    let script = format!("/busybox dd if=/dev/zero of=/filled/file bs=1000000 count={megabytes}; exec /busybox sleep 1000");
    let resources = if request.is_empty() { json!({}) } else { json!({"requests": {"memory": request}}) };
    json!({
        "containers": [{
            "name": "main", "image": IMAGE, "command": ["/busybox", "sh", "-c", script], "resources": resources,
            "volumeMounts": [{"name": "tool", "mountPath": "/busybox"}, {"name": "filled", "mountPath": "/filled"}],
        }],
        "volumes": [
            {"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}},
            {"name": "filled", "emptyDir": {"medium": "Memory"}},
        ],
    })
}

pub async fn a_pod_beyond_its_request_goes_when_memory_runs_out(world: World) {
    world.start_with("memory.available<100Mi", Some(600 << 20)).await;
    world.running("within", holder(150, "200Mi")).await;
    world.running("beyond", holder(150, "")).await;
    let seen = |summary: &serde_json::Value, name: &str| {
        let pods = summary["pods"].as_array().cloned().unwrap_or_default();
        let pod = pods.into_iter().find(|pod| pod["podRef"]["name"] == name).unwrap_or_default();
        (pod["memory"]["workingSetBytes"].as_u64().unwrap_or(0), pod["ephemeral-storage"]["usedBytes"].as_u64().unwrap_or(0))
    };
    let (memory, disk) = seen(&world.summary().await, "within");
    assert!(memory > 0 && disk > 0, "{memory} {disk}");
    world.pod("beyond", "runs on", |pod| pod["status"]["phase"] == "Running").await;
    // Together they leave enough; a third one does not.
    world.running("last", holder(240, "290Mi")).await;
    world.node("the node is short of memory", |node| condition(node, "MemoryPressure")["status"] == "True").await;
    let evicted = world.pod("beyond", "is evicted", |pod| pod["status"]["phase"] == "Failed").await;
    let message = evicted["status"]["message"].as_str().expect("a message");
    assert!(message.starts_with("The node was low on resource: memory. Threshold quantity: 100Mi, available: "), "{message}");
    assert!(
        message.contains("Container main was using ") && message.ends_with(", request is 0, has larger consumption of memory. "),
        "{message}"
    );
    world.pod("within", "runs on", |pod| pod["status"]["phase"] == "Running").await;
    world.pod("last", "runs on", |pod| pod["status"]["phase"] == "Running").await;
}
