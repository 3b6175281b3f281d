//! Controllers that hear of everything two seconds late, as on a slow network, never make a pod too many: they remember
//! what they have written until their view shows it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use client::{Change, Client, ListWatch, PatchKind, ResourceId, Selection, Transport};
use futures_util::future::BoxFuture;
use futures_util::{StreamExt, stream};
use http::{Method, Request, Response};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

mod world;

use world::World;

const LATE: Duration = Duration::from_secs(2);
const PODS: ResourceId = ResourceId::new("", "v1", "pods");
const SETS: ResourceId = ResourceId::new("apps", "v1", "replicasets");
const DEPLOYMENTS: ResourceId = ResourceId::new("apps", "v1", "deployments");
const STATEFUL_SETS: ResourceId = ResourceId::new("apps", "v1", "statefulsets");
const DAEMON_SETS: ResourceId = ResourceId::new("apps", "v1", "daemonsets");
const JOBS: ResourceId = ResourceId::new("batch", "v1", "jobs");

/// Answers calls at once and tells of every change two seconds after it.
struct Late(Client);

impl Transport for Late {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        self.0.transport().call(request)
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        Box::pin(async move {
            let mut watch = self.0.transport().list_watch(selection).await?;
            let (send, receive) = tokio::sync::mpsc::unbounded_channel();
            let mut changes = watch.changes;
            tokio::spawn(async move {
                while let Some(change) = changes.next().await {
                    if send.send((Instant::now() + LATE, change)).is_err() {
                        return;
                    }
                }
            });
            let late = stream::unfold(receive, |mut receive| async {
                let (due, change) = receive.recv().await?;
                tokio::time::sleep_until(due).await;
                Some((change, receive))
            });
            watch.changes = Box::pin(late);
            Ok(watch)
        })
    }
}

/// The pods of one application, as somebody sees them who is told at once.
#[derive(Debug, Default, Clone)]
struct Seen {
    /// All that were ever created.
    created: HashSet<Box<str>>,
    /// Those that neither leave nor are finished.
    active: HashSet<Box<str>>,
    /// The most that were active at one time.
    most: usize,
}

/// Counts pods by their label `app`.
#[derive(Clone, Default)]
struct Auditor(Arc<Mutex<HashMap<String, Seen>>>);

impl Auditor {
    async fn start(admin: &Client) -> Auditor {
        let auditor = Auditor::default();
        let mut watch = admin.list_watch(Selection::of::<Pod>()).await.unwrap();
        let own = auditor.clone();
        tokio::spawn(async move {
            while let Some(Ok(change)) = watch.changes.next().await {
                let (entry, gone) = match &change {
                    Change::Put(entry) => (entry, entry.header.deletion_timestamp.is_some()),
                    Change::Deleted(entry) => (entry, true),
                    Change::Progress(_) => continue,
                };
                let pod: Value = serde_json::from_slice(&entry.bytes).unwrap();
                let ended = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
                let mut all = own.0.lock();
                let seen = all.entry(entry.header.label("app").unwrap_or_default().to_owned()).or_default();
                seen.created.insert(entry.header.uid.clone());
                if gone || ended {
                    seen.active.remove(&entry.header.uid);
                } else {
                    seen.active.insert(entry.header.uid.clone());
                    seen.most = seen.most.max(seen.active.len());
                }
            }
        });
        auditor
    }

    fn seen(&self, app: &str) -> Seen {
        self.0.lock().get(app).cloned().unwrap_or_default()
    }

    /// How many were created, and the most at one time.
    #[track_caller]
    fn check(&self, app: &str, created: usize, most: usize) {
        let seen = self.seen(app);
        assert_eq!((seen.created.len(), seen.most), (created, most), "{app}: pods created, most at one time");
    }
}

fn template(app: &str) -> Value {
    json!({"metadata": {"labels": {"app": app}}, "spec": {"containers": [{"name": "c", "image": "one"}]}})
}

fn workload(api_version: &str, kind: &str, app: &str, more: Value) -> Value {
    let mut spec = json!({"selector": {"matchLabels": {"app": app}}, "template": template(app)});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": app}, "spec": spec})
}

fn settled(replicas: i64) -> impl Fn(&Value) -> bool {
    move |one| {
        one["status"]["readyReplicas"] == replicas
            && one["status"]["replicas"] == replicas
            && one["status"]["observedGeneration"] == one["metadata"]["generation"]
    }
}

async fn scale(world: &World, resource: &ResourceId, app: &str, replicas: i64) {
    world.merge(resource, "default", app, "", json!({"spec": {"replicas": replicas}})).await;
}

/// Everything that has happened so far has come to the controllers when this one's pod has.
async fn all_is_told(world: &World, marker: &str) {
    world.create("/apis/apps/v1/namespaces/default/replicasets", workload("apps/v1", "ReplicaSet", marker, json!({"replicas": 1}))).await;
    world.until("the marker is there", &SETS, "default", marker, settled(1)).await;
}

/// The node that all pods are bound to, and its heartbeat: pods of a node that is not there or not heard of would be taken away.
async fn keep_node(world: &World) {
    world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node"}})).await;
    let nodes = ResourceId::new("", "v1", "nodes");
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Test", "message": "it is there"}]}});
    world.merge(&nodes, "", "node", "status", ready).await;
    let admin = world.admin.clone();
    tokio::spawn(async move {
        let leases = ResourceId::new("coordination.k8s.io", "v1", "leases");
        loop {
            let now = Timestamp::now().to_string();
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "node", "namespace": "kube-node-lease"},
                "spec": {"holderIdentity": "node", "leaseDurationSeconds": 40, "renewTime": now}});
            let apply = PatchKind::Apply { manager: "test".into(), force: true };
            admin.patch(&leases, "kube-node-lease", "node", "", &apply, &lease).await.ok();
            tokio::time::sleep(Duration::from_secs(5)).await;
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_too_many_is_made() {
    let mut world = World::start_through(|client| Client::new(Arc::new(Late(client)))).await;
    let auditor = Auditor::start(&world.admin).await;
    world.run_pods();
    let sets = "/apis/apps/v1/namespaces/default/replicasets";
    keep_node(&world).await;
    world.create(sets, workload("apps/v1", "ReplicaSet", "set", json!({"replicas": 5}))).await;
    world.create("/apis/apps/v1/namespaces/default/deployments", workload("apps/v1", "Deployment", "web", json!({"replicas": 4}))).await;
    let stateful = workload("apps/v1", "StatefulSet", "db", json!({"replicas": 3, "serviceName": "db", "podManagementPolicy": "Parallel"}));
    world.create("/apis/apps/v1/namespaces/default/statefulsets", stateful).await;
    let mut agent = workload("apps/v1", "DaemonSet", "agent", json!({}));
    agent["spec"]["template"]["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
    world.create("/apis/apps/v1/namespaces/default/daemonsets", agent).await;
    let ending = |ends: &str, spec: Value| {
        let mut job = json!({"template": {"metadata": {"labels": {"app": "none"}, "annotations": {"ends": ends}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        job.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        job
    };
    for (name, ends, spec) in [
        ("job", "Succeeded", json!({"completions": 6, "parallelism": 3})),
        ("indexed", "Succeeded", json!({"completions": 4, "parallelism": 4, "completionMode": "Indexed"})),
        ("fails", "Failed", json!({"completions": 1, "backoffLimit": 0})),
    ] {
        let mut spec = ending(ends, spec);
        spec["template"]["metadata"]["labels"]["app"] = name.into();
        let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec});
        world.create("/apis/batch/v1/namespaces/default/jobs", job).await;
    }
    world.until("the set is there", &SETS, "default", "set", settled(5)).await;
    world.until("the deployment is there", &DEPLOYMENTS, "default", "web", settled(4)).await;
    world.until("the stateful set is there", &STATEFUL_SETS, "default", "db", settled(3)).await;
    world.until("the agent is there", &DAEMON_SETS, "default", "agent", |one| one["status"]["numberReady"] == 1).await;
    auditor.check("set", 5, 5);
    auditor.check("web", 4, 4);
    auditor.check("db", 3, 3);
    auditor.check("agent", 1, 1);

    // Up, down and up again before anything of it was heard; and a new version of the deployment meanwhile.
    for replicas in [12, 4, 8] {
        scale(&world, &SETS, "set", replicas).await;
    }
    let image = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}});
    world.merge(&DEPLOYMENTS, "default", "web", "", image.clone()).await;
    world.merge(&STATEFUL_SETS, "default", "db", "", image.clone()).await;
    world.merge(&DAEMON_SETS, "default", "agent", "", image).await;
    world.until("the set has eight", &SETS, "default", "set", settled(8)).await;
    let rolled = |one: &Value| one["status"]["updatedReplicas"] == 4 && settled(4)(one);
    world.until("the deployment has rolled", &DEPLOYMENTS, "default", "web", rolled).await;
    let rolled = |one: &Value| one["status"]["updatedReplicas"] == 3 && settled(3)(one);
    world.until("the stateful set has rolled", &STATEFUL_SETS, "default", "db", rolled).await;
    let rolled = |one: &Value| one["status"]["updatedNumberScheduled"] == 1 && one["status"]["numberReady"] == 1;
    world.until("the agent has rolled", &DAEMON_SETS, "default", "agent", rolled).await;
    // Two of the wishes may have been heard at once, so that there were never twelve; but never more.
    let seen = auditor.seen("set");
    assert!(seen.most <= 12 && seen.created.len() <= 5 + 7 + 4, "{} created, {} at one time", seen.created.len(), seen.most);
    // A quarter of four more than wanted may be there during a roll.
    auditor.check("web", 8, 5);
    auditor.check("db", 6, 3);
    auditor.check("agent", 2, 1);
    // Each pod of a job counts once, however late its end is heard.
    for (name, done) in [("job", "Complete"), ("indexed", "Complete"), ("fails", "Failed")] {
        let over = |one: &Value| {
            one["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == done && condition["status"] == "True")
        };
        world.until("the job is over", &JOBS, "default", name, over).await;
    }
    auditor.check("job", 6, 3);
    auditor.check("indexed", 4, 4);
    auditor.check("fails", 1, 1);

    // Pods that somebody deletes are replaced one by one, and no other.
    let before = auditor.seen("set").created.len();
    let pods = world.list(&PODS, "default").await;
    let mine = pods.iter().filter(|pod| pod["metadata"]["labels"]["app"] == "set").map(|pod| pod["metadata"]["name"].as_str().unwrap());
    for name in mine.take(3) {
        world.admin.call(Method::DELETE, &PODS.path("default", name, ""), &Value::Null).await.unwrap();
    }
    all_is_told(&world, "first-marker").await;
    world.until("the set has eight again", &SETS, "default", "set", settled(8)).await;
    scale(&world, &SETS, "set", 0).await;
    scale(&world, &DEPLOYMENTS, "web", 1).await;
    world.until("the set is empty", &SETS, "default", "set", |one| one["status"]["replicas"] == 0).await;
    world.until("the deployment is small", &DEPLOYMENTS, "default", "web", settled(1)).await;
    all_is_told(&world, "second-marker").await;
    let seen = auditor.seen("set");
    assert_eq!((seen.created.len(), seen.active.len()), (before + 3, 0), "created, left");
    assert!(seen.most <= 12);
    auditor.check("web", 8, 5);
    assert_eq!(auditor.seen("web").active.len(), 1);
}
