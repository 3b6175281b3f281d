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

#[tokio::test(flavor = "multi_thread")]
async fn dependents_follow_their_owners() {
    let mut world = World::start().await;
    world.run_pods();
    for (policy, name) in [(Propagation::Background, "back"), (Propagation::Foreground, "front")] {
        world.create("/apis/apps/v1/namespaces/default/deployments", deployment(name, 2)).await;
        world.until("two are available", &DEPLOYMENTS, "default", name, |one| one["status"]["availableReplicas"] == 2).await;
        let options = DeleteOptions { propagation: Some(policy), ..DeleteOptions::default() };
        world.admin.delete(&DEPLOYMENTS, "default", name, &options).await.unwrap();
        world.until_list("the deployment is gone", &DEPLOYMENTS, "default", |all| all.is_empty()).await;
        world.until_list("the sets are gone", &SETS, "default", |all| all.is_empty()).await;
        world.until_list("the pods are gone", &PODS, "default", |all| all.is_empty()).await;
    }
    world.create("/apis/apps/v1/namespaces/default/deployments", deployment("kept", 1)).await;
    world.until("one is available", &DEPLOYMENTS, "default", "kept", |one| one["status"]["availableReplicas"] == 1).await;
    let options = DeleteOptions { propagation: Some(Propagation::Orphan), ..DeleteOptions::default() };
    world.admin.delete(&DEPLOYMENTS, "default", "kept", &options).await.unwrap();
    world.until_list("the deployment is gone", &DEPLOYMENTS, "default", |all| all.is_empty()).await;
    let sets = world.until_list("the set has no owner", &SETS, "default", |all| all.len() == 1 && all[0]["metadata"]["ownerReferences"].is_null()).await;
    assert_eq!(sets[0]["status"]["replicas"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_goes_with_everything_in_it() {
    let mut world = World::start().await;
    world.run_pods();
    let namespaces = ResourceId::new("", "v1", "namespaces");
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "things.example.com"},
        "spec": {
            "group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    world.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let definitions = ResourceId::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let established = |one: &Value| one["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    world.until("the definition is served", &definitions, "", "things.example.com", established).await;
    world.create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}})).await;
    world.until("an account", &ResourceId::new("", "v1", "serviceaccounts"), "gone", "default", |_| true).await;
    world.create("/apis/apps/v1/namespaces/gone/deployments", deployment("web", 2)).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "finalizers": ["example.com/keep"]}});
    world.create("/apis/example.com/v1/namespaces/gone/things", thing).await;
    world.until("two are available", &DEPLOYMENTS, "gone", "web", |one| one["status"]["availableReplicas"] == 2).await;
    world.admin.delete(&namespaces, "", "gone", &DeleteOptions::default()).await.unwrap();
    let waits = |one: &Value| one["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["type"] == "NamespaceFinalizersRemaining" && condition["status"] == "True");
    world.until("the finalizer is shown", &namespaces, "", "gone", waits).await;
    let things = ResourceId::new("example.com", "v1", "things");
    world.merge(&things, "gone", "t", "", json!({"metadata": {"finalizers": null}})).await;
    world.until_list("the namespace is gone", &namespaces, "", |all| all.iter().all(|one| one["metadata"]["name"] != "gone")).await;
    assert!(world.list(&PODS, "gone").await.is_empty());
}
