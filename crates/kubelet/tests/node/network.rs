//! Containers are made while their pod gets its network; none runs before it has it.

use http::Method;
use serde_json::{Value, json};

use crate::counted::{count, nothing_is_left};
use crate::world::{IMAGE, World, condition, run};

/// More than an interface takes.
const TOO_LARGE: u32 = 1 << 20;

pub async fn a_pod_without_network_does_not_run(world: World) {
    world.start_as(|config| config.pod_mtu = TOO_LARGE).await;
    let before = count(&world);
    world.create("cut-off", json!({})).await;
    // It is tried again, each time from the start.
    world.eventually_async("two failures are told", async || failures(&world).await >= 2).await;
    let pod = world.pod("cut-off", "waits", |pod| pod["status"]["containerStatuses"].is_array()).await;
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["state"]["waiting"]["reason"], "ContainerCreating", "{status:#}");
    assert_eq!(status["restartCount"], 0);
    let reasons = reasons(&world).await;
    assert!(!reasons.iter().any(|reason| ["Created", "Started", "Failed"].contains(&reason.as_str())), "{reasons:?}");
    // Pods of the host's network need none of their own.
    world.running("on-host", json!({"hostNetwork": true})).await;
    for name in ["cut-off", "on-host"] {
        world.delete(name).await;
    }
    nothing_is_left(&world, &before).await;
}

/// What the node leaves when it is killed while it makes a pod's network: a sandbox, and a part of an interface.
pub async fn a_network_that_was_half_made_is_made_anew(world: World) {
    let mut node = world.start_process().await;
    let late = json!([{"configMapRef": {"name": "late"}}]);
    world.create("early", json!({"containers": [{"name": "main", "image": IMAGE, "envFrom": late}]})).await;
    let waits = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = world.pod("early", "waits", |pod| waits(pod) && pod["status"]["podIP"].is_string()).await;
    let untouched = world.running("untouched", json!({})).await;
    node.kill().expect("a process");
    node.wait().expect("its end");
    run(&format!("ip route del {}", address(&pod)));
    let mut node = world.start_process().await;
    let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": "late"}});
    world.admin.call(Method::POST, "/api/v1/namespaces/default/configmaps", &map).await.expect("a map");
    let pod = world.pod("early", "runs", |pod| condition(pod, "Ready")["status"] == "True").await;
    let route = run(&format!("ip route show {}", address(&pod)));
    assert!(route.contains("knarr"), "{route}");
    let now = world.pod("untouched", "runs on", |pod| condition(pod, "Ready")["status"] == "True").await;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(id(&now), id(&untouched), "a pod with a network keeps its containers");
    for name in ["early", "untouched"] {
        world.delete(name).await;
    }
    node.kill().expect("a process");
    node.wait().expect("its end");
}

fn address(pod: &Value) -> &str {
    pod["status"]["podIP"].as_str().expect("an address")
}

async fn events(world: &World) -> Vec<Value> {
    let list = world.admin.call(Method::GET, "/api/v1/events", &Value::Null).await.expect("events");
    let of_pod = |event: &&Value| event["involvedObject"]["name"] == "cut-off";
    list["items"].as_array().expect("a list").iter().filter(of_pod).cloned().collect()
}

async fn reasons(world: &World) -> Vec<String> {
    events(world).await.iter().map(|event| event["reason"].as_str().unwrap_or_default().to_owned()).collect()
}

/// How often it was told that the network could not be made.
async fn failures(world: &World) -> i64 {
    let told = |event: &Value| {
        let message = event["message"].as_str().unwrap_or_default();
        message.starts_with("Failed to create pod sandbox: set up network: ").then(|| event["count"].as_i64().unwrap_or(1))
    };
    events(world).await.iter().filter_map(told).sum()
}
