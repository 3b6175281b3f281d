//! Processors that are a pod's own, as its processes and those of others see them.

use std::time::Duration;

use kubelet::placement::{Options, Words};
use serde_json::{Value, json};

use crate::world::{IMAGE, World};

/// A pod of the class Guaranteed with one processor.
fn with_processor() -> Value {
    let resources = json!({"limits": {"cpu": "1", "memory": "64Mi"}});
    json!({"containers": [{"name": "main", "image": IMAGE, "resources": resources}]})
}

fn allowed(world: &World, pod: &Value) -> String {
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.process(pod, "main"))).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.expect("a list of processors").trim().to_owned()
}

async fn until_allowed(world: &World, pod: &Value, wanted: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while allowed(world, pod) != wanted {
        assert!(tokio::time::Instant::now() < deadline, "in vain: {wanted} instead of {}", allowed(world, pod));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn whole_processors_are_a_pods_own(world: World) {
    if std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default().trim() != "0-1" {
        println!("skipped: made for a machine with two processors");
        return;
    }
    let words = Words { cpu_policy: "static".into(), reserved_cpus: "0".into(), topology_policy: "restricted".into(), ..Words::default() };
    world.start_as(|config| config.placement = Options::parse(&words).expect("options")).await;
    world
        .node("one processor is kept", |node| node["status"]["capacity"]["cpu"] == "2" && node["status"]["allocatable"]["cpu"] == "1")
        .await;
    let shares = world.running("shares", json!({})).await;
    assert_eq!(allowed(&world, &shares), "0-1");
    let owner = world.running("owner", with_processor()).await;
    assert_eq!(allowed(&world, &owner), "1");
    until_allowed(&world, &shares, "0").await;
    let late = world.running("late", json!({})).await;
    assert_eq!(allowed(&world, &late), "0");
    world.create("second", with_processor()).await;
    let refused = world.pod("second", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "TopologyAffinityError");
    assert_eq!(refused["status"]["message"], "Pod was rejected: Resources cannot be allocated with Topology locality");
    let state: Value =
        serde_json::from_slice(&std::fs::read(world.kubelet_dir().join("cpu_manager_state")).expect("a file")).expect("JSON");
    assert_eq!((&state["policyName"], &state["defaultCpuSet"]), (&"static".into(), &"0".into()));
    assert_eq!(state["entries"][owner["metadata"]["uid"].as_str().expect("a uid")], json!({"main": "1"}));
    world.delete("owner").await;
    for pod in [&shares, &late] {
        until_allowed(&world, pod, "0-1").await;
    }
    let again = world.running("again", with_processor()).await;
    assert_eq!(allowed(&world, &again), "1");
}
