//! Pods of a RuntimeClass: who asks for another runtime relies on what sets it apart, and must not get ours.

use http::Method;
use serde_json::json;

use crate::counted::{count, nothing_is_left};
use crate::world::{IMAGE, World};

pub async fn a_pod_of_another_runtime_does_not_run_in_ours(world: World) {
    world.start("").await;
    let before = count(&world);
    let class = json!({"kind": "RuntimeClass", "apiVersion": "node.k8s.io/v1", "metadata": {"name": "boxed"}, "handler": "boxed"});
    world.admin.call(Method::POST, "/apis/node.k8s.io/v1/runtimeclasses", &class).await.expect("a class");
    let spec = json!({"runtimeClassName": "boxed", "containers": [{"name": "main", "image": IMAGE}]});
    world.create("boxed", spec).await;
    let text = "Failed to create pod sandbox: failed to get sandbox runtime: no runtime for \"boxed\" is configured";
    world.eventually_async("it is refused", async || world.has_event("boxed", "FailedCreatePodSandBox", text).await).await;
    let pod = world.pod("boxed", "waits", |pod| pod["status"]["phase"] == "Pending").await;
    assert!(pod["status"]["containerStatuses"][0]["state"]["running"].is_null());
    world.admin.call(Method::DELETE, "/apis/node.k8s.io/v1/runtimeclasses/boxed", &json!({})).await.expect("no class any more");
    let text = "Failed to create pod sandbox: runtimeclass.node.k8s.io \"boxed\" not found";
    world.eventually_async("its class is missed", async || world.has_event("boxed", "FailedCreatePodSandBox", text).await).await;
    world.delete("boxed").await;
    nothing_is_left(&world, &before).await;
}
