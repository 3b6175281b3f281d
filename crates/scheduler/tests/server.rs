//! The scheduler against a real API server, with its own user's rights.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, DeleteOptions, PatchKind, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use pki::{ClusterPki, San};
use serde_json::{Value, json};
use server::{Server, User};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");
const EVENTS: ResourceId = ResourceId::new("", "v1", "events");

struct World {
    admin: Client,
    _tasks: JoinSet<()>,
    _dir: TempDir,
    server: Arc<Server>,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.stop();
    }
}

impl World {
    async fn start() -> World {
        pki::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let pki = Arc::new(ClusterPki::load_or_create(&dir.path().join("pki")).unwrap());
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let serving = pki.serving_cert("apiserver", "kube-apiserver", &[San::Ip(local)]).unwrap();
        let kubelet_client = pki.client_cert("kubelet-client", &pki::Subject::new("kubelet-client", &["system:masters"])).unwrap();
        let front_proxy = pki.front_proxy_cert("front-proxy-client").unwrap();
        let options = store::embedded::Options::new(dir.path().join("store"), client::header::stamp(), "test");
        let store = Arc::new(store::embedded::Embedded::open(options).unwrap());
        let config = server::Config {
            listen: SocketAddr::new(local, 0),
            advertise: local,
            advertise_port: 6443,
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: (30000, 32767),
            issuers: vec!["https://kubernetes.default.svc.cluster.local".into()],
            audiences: Vec::new(),
            old_token_keys: Vec::new(),
            anonymous: true,
            token_file: None,
            max_in_flight: 400,
            request_timeout: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(1),
            event_ttl: Duration::from_secs(3600),
            sans: Vec::new(),
            cluster_domain: "cluster.local".into(),
            security: server::Security::default(),
        };
        let server = Server::new(config, server::Deps { store, pki, serving, kubelet_client, front_proxy }).await.unwrap();
        let admin = server.client(User::new("admin", &["system:masters"]));
        let mut tasks = JoinSet::new();
        let deps = scheduler::Deps { client: server.client(User::new("system:kube-scheduler", &[])), metrics: server.metric_sources() };
        tasks.spawn(async move { scheduler::run(scheduler::Config { name: "default-scheduler".into() }, deps).await.unwrap() });
        let world = World { admin, _tasks: tasks, _dir: dir, server };
        world.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
        world
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        self.admin.call(Method::POST, path, &object).await.unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    async fn node(&self, name: &str, cpu: &str) {
        let resources = json!({"cpu": cpu, "memory": "8Gi", "pods": "110"});
        let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {"allocatable": resources, "capacity": resources}});
        self.create("/api/v1/nodes", node.clone()).await;
        self.admin.patch(&NODES, "", name, "status", &PatchKind::Merge, &json!({"status": node["status"]})).await.unwrap();
        // What admission puts on a new node until it is ready.
        self.admin.patch(&NODES, "", name, "", &PatchKind::Merge, &json!({"spec": {"taints": null}})).await.unwrap();
    }

    async fn pod(&self, name: &str, cpu: &str, extra: Value) -> Value {
        let mut spec = json!({"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}], "terminationGracePeriodSeconds": 0});
        spec.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
        self.create("/api/v1/namespaces/default/pods", json!({"metadata": {"name": name}, "spec": spec})).await
    }

    /// Waits until objects are as described.
    async fn until(&self, what: &str, resource: &ResourceId, are: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut last = Vec::new();
        let found = tokio::time::timeout(PATIENCE, async {
            loop {
                let mut watch = self.admin.list_watch(Selection::all(resource.clone())).await.unwrap();
                loop {
                    let list = self.admin.call(Method::GET, &resource.collection_path(""), &Value::Null).await.unwrap();
                    last = list["items"].as_array().cloned().unwrap_or_default();
                    if are(&last) {
                        return;
                    }
                    if watch.changes.next().await.is_none_or(|change| change.is_err()) {
                        break;
                    }
                }
            }
        })
        .await;
        assert!(found.is_ok(), "{what} did not come true: {}", serde_json::to_string_pretty(&last).unwrap());
        last
    }

    async fn until_pod(&self, what: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let pods = self.until(what, &PODS, |pods| pods.iter().any(|pod| pod["metadata"]["name"] == name && is(pod))).await;
        pods.into_iter().find(|pod| pod["metadata"]["name"] == name).unwrap()
    }
}

fn scheduled(pod: &Value) -> &Value {
    pod["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "PodScheduled")
        .unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_bound_or_told_why_not() {
    let world = World::start().await;
    world.pod("p", "1", Value::Null).await;
    let pod = world.until_pod("it is told", "p", |pod| scheduled(pod)["status"] == "False").await;
    assert_eq!(
        (&scheduled(&pod)["reason"], &scheduled(&pod)["message"]),
        (&json!("Unschedulable"), &json!("no nodes available to schedule pods"))
    );
    assert!(scheduled(&pod)["lastTransitionTime"].is_string(), "{pod}");
    // A node that is too small changes the reason, one that fits ends the wait.
    world.node("small", "500m").await;
    let small =
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    world.until_pod("the reason follows", "p", |pod| scheduled(pod)["message"] == small).await;
    world.node("large", "2").await;
    let pod = world.until_pod("it is bound", "p", |pod| pod["spec"]["nodeName"] == "large").await;
    assert_eq!(scheduled(&pod)["status"], "True");
    let said =
        |events: &[Value], reason: &str, message: &str| events.iter().any(|event| event["reason"] == reason && event["message"] == message);
    let events = world
        .until("events tell", &EVENTS, |events| {
            said(events, "Scheduled", "Successfully assigned default/p to large") && said(events, "FailedScheduling", small)
        })
        .await;
    let scheduled = events.iter().find(|event| event["reason"] == "Scheduled").unwrap();
    assert_eq!((&scheduled["type"], &scheduled["source"]["component"]), (&json!("Normal"), &json!("default-scheduler")));
    // Gates hold a pod back until the last is gone; other schedulers' pods are left alone.
    world.pod("gated", "100m", json!({"schedulingGates": [{"name": "example.com/wait"}]})).await;
    world.pod("other", "100m", json!({"schedulerName": "other"})).await;
    world.pod("next", "100m", Value::Null).await;
    world.until_pod("the next is bound", "next", |pod| pod["spec"]["nodeName"].is_string()).await;
    let pods = world.until("both wait", &PODS, |_| true).await;
    for pod in pods.iter().filter(|pod| pod["metadata"]["name"] == "gated" || pod["metadata"]["name"] == "other") {
        assert!(pod["spec"]["nodeName"].is_null(), "{pod}");
    }
    let open = json!({"spec": {"schedulingGates": null}});
    world.admin.patch(&PODS, "default", "gated", "", &PatchKind::Merge, &open).await.unwrap();
    world.until_pod("the gate is open", "gated", |pod| pod["spec"]["nodeName"].is_string()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn important_pods_make_room() {
    let world = World::start().await;
    world.node("a", "1").await;
    world.create("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"metadata": {"name": "high"}, "value": 1000})).await;
    let low = world.pod("low", "1", json!({"terminationGracePeriodSeconds": 30})).await;
    world.until_pod("it is bound", "low", |pod| pod["spec"]["nodeName"] == "a").await;
    let high = world.pod("high", "1", json!({"priorityClassName": "high"})).await;
    let victim = world.until_pod("the victim goes", "low", |pod| pod["metadata"]["deletionTimestamp"].is_string()).await;
    let condition = victim["status"]["conditions"].as_array().unwrap().iter().find(|one| one["type"] == "DisruptionTarget").unwrap();
    assert_eq!(condition["reason"], "PreemptionByScheduler");
    assert_eq!(condition["message"], "default-scheduler: preempting to accommodate a higher priority pod");
    world.until_pod("the node is reserved", "high", |pod| pod["status"]["nominatedNodeName"] == "a").await;
    let told = format!("Preempted by pod {} on node a", high["metadata"]["uid"].as_str().unwrap());
    world
        .until("the victim is told", &EVENTS, |events| {
            events.iter().any(|event| {
                event["reason"] == "Preempted" && event["message"] == told && event["involvedObject"]["uid"] == low["metadata"]["uid"]
            })
        })
        .await;
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    world.admin.delete(&PODS, "default", "low", &now).await.unwrap();
    world.until_pod("the room is used", "high", |pod| pod["spec"]["nodeName"] == "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pods_fill_nodes_evenly() {
    let world = World::start().await;
    for name in ["a", "b", "c", "d"] {
        world.node(name, "10").await;
    }
    let pods: Vec<_> = (0..80).map(|number| async move { format!("p{number}") }).collect();
    for name in pods {
        world.pod(&name.await, "500m", Value::Null).await;
    }
    let pods =
        world.until("all are bound", &PODS, |pods| pods.len() == 80 && pods.iter().all(|pod| pod["spec"]["nodeName"].is_string())).await;
    for name in ["a", "b", "c", "d"] {
        assert_eq!(pods.iter().filter(|pod| pod["spec"]["nodeName"] == name).count(), 20);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_made_where_the_pod_goes() {
    let world = World::start().await;
    world.node("a", "1").await;
    world
        .create(
            "/apis/storage.k8s.io/v1/storageclasses",
            json!({"metadata": {"name": "late"}, "provisioner": "example.com", "volumeBindingMode": "WaitForFirstConsumer"}),
        )
        .await;
    let volumes = json!({"volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]});
    world.pod("p", "100m", volumes).await;
    let missing = "0/1 nodes are available: persistentvolumeclaim \"data\" not found. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    world.until_pod("the claim is missed", "p", |pod| scheduled(pod)["message"] == missing).await;
    let size = json!({"requests": {"storage": "1Gi"}});
    world.create("/api/v1/namespaces/default/persistentvolumeclaims", json!({"metadata": {"name": "data"}, "spec": {"storageClassName": "late", "accessModes": ["ReadWriteOnce"], "resources": size}})).await;
    world
        .until("the provisioner is told", &CLAIMS, |claims| {
            claims.iter().any(|claim| claim["metadata"]["annotations"]["volume.kubernetes.io/selected-node"] == "a")
        })
        .await;
    // What the provisioner and the controller of volumes do.
    let volume = json!({
        "metadata": {"name": "made"},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "late", "hostPath": {"path": "/data"}, "claimRef": {"namespace": "default", "name": "data"}},
    });
    world.create("/api/v1/persistentvolumes", volume).await;
    let bind = json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}}, "spec": {"volumeName": "made"}});
    world.admin.patch(&CLAIMS, "default", "data", "", &PatchKind::Merge, &bind).await.unwrap();
    world.until_pod("it is bound", "p", |pod| pod["spec"]["nodeName"] == "a").await;
}
