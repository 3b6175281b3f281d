//! What the node follows: its rules when somebody removes them, its address when it changes.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::world::{IMAGE, World, run};

/// Waits for a condition of this machine.
async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn rules() -> String {
    // Handles differ in a table that was made anew.
    run("nft list ruleset")
}

pub async fn removed_rules_come_back(world: World) {
    world.start("").await;
    let ports = json!([{"containerPort": 80, "hostPort": 8080}]);
    world.running("served", json!({"containers": [{"name": "main", "image": IMAGE, "ports": ports}]})).await;
    let before = rules();
    assert!(before.contains("8080") && before.contains("masquerade"), "{before}");
    for _ in 0..3 {
        run("nft flush ruleset");
        until("the rules are back", async || rules() == before).await;
    }
}

pub async fn a_changed_address_reaches_status_pods_and_the_own_api(world: World) {
    world.start("").await;
    world.running("plain", json!({})).await;
    let port = |address: &'static str| async move { tokio::net::TcpStream::connect((address, 10250)).await.is_ok() };
    assert!(port(crate::world::ADDRESS).await);
    assert!(world.log("plain").await.is_ok_and(|log| log.contains("version 1")));
    let changed = Instant::now();
    run("ip addr flush dev up0 && ip addr add 192.0.2.77/24 dev up0 && ip route replace default dev up0");
    world
        .node("the node has the new address", |node| {
            let addresses = node["status"]["addresses"].as_array().cloned().unwrap_or_default();
            let internal: Vec<_> = addresses.iter().filter(|one| one["type"] == "InternalIP").collect();
            internal.len() == 1 && internal[0]["address"] == "192.0.2.77"
        })
        .await;
    until("the own API answers there", async || port("192.0.2.77").await).await;
    until("the server reaches the node there", async || world.log("plain").await.is_ok_and(|log| log.contains("version 1"))).await;
    world.pod("plain", "shows the new address", |pod| pod["status"]["hostIP"] == "192.0.2.77").await;
    assert!(changed.elapsed() < Duration::from_secs(10), "{:?}", changed.elapsed());
}
