//! The controllers against a real API server: what users see when they change objects.

use client::{DeleteOptions, Propagation, ResourceId};
use serde_json::{Value, json};

mod world;

use world::World;

const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const SETS: ResourceId = ResourceId::new("apps", "v1", "replicasets");
const DEPLOYMENTS: ResourceId = ResourceId::new("apps", "v1", "deployments");

fn template(label: &str) -> Value {
    json!({"metadata": {"labels": {"app": label}}, "spec": {"containers": [{"name": "c", "image": "one"}]}})
}

fn deployment(name: &str, replicas: i32) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template(name)},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn deployments_roll_and_scale() {
    let mut world = World::start().await;
    world.run_pods();
    world.create("/apis/apps/v1/namespaces/default/deployments", deployment("web", 3)).await;
    world.until("three are available", &DEPLOYMENTS, "default", "web", |one| one["status"]["availableReplicas"] == 3).await;
    world.merge(&DEPLOYMENTS, "default", "web", "", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}})).await;
    let done = |one: &Value| {
        let progress = one["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["reason"] == "NewReplicaSetAvailable");
        one["status"]["updatedReplicas"] == 3 && one["status"]["replicas"] == 3 && progress && one["status"]["observedGeneration"] == one["metadata"]["generation"]
    };
    world.until("the roll is done", &DEPLOYMENTS, "default", "web", done).await;
    let sets = world.list(&SETS, "default").await;
    assert_eq!(sets.len(), 2);
    world.merge(&DEPLOYMENTS, "default", "web", "", json!({"spec": {"replicas": 1}})).await;
    let pods = world.until_list("one pod is left", &PODS, "default", |pods| pods.len() == 1).await;
    assert_eq!(pods[0]["spec"]["containers"][0]["image"], "two");
    let options = DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::default() };
    world.admin.delete(&DEPLOYMENTS, "default", "web", &options).await.unwrap();
}
