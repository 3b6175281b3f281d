//! The controllers against a real API server: what users see when they change objects.

use base64::Engine as _;
use client::{DeleteOptions, Propagation, ResourceId};
use http::Method;
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
    world
        .merge(&DEPLOYMENTS, "default", "web", "", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}}))
        .await;
    let done = |one: &Value| {
        let progress =
            one["status"]["conditions"].as_array().into_iter().flatten().any(|condition| condition["reason"] == "NewReplicaSetAvailable");
        one["status"]["updatedReplicas"] == 3
            && one["status"]["replicas"] == 3
            && progress
            && one["status"]["observedGeneration"] == one["metadata"]["generation"]
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
    let sets = world
        .until_list("the set has no owner", &SETS, "default", |all| all.len() == 1 && all[0]["metadata"]["ownerReferences"].is_null())
        .await;
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
    let established = |one: &Value| {
        one["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    };
    world.until("the definition is served", &definitions, "", "things.example.com", established).await;
    world.create("/api/v1/namespaces", json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}})).await;
    world.until("an account", &ResourceId::new("", "v1", "serviceaccounts"), "gone", "default", |_| true).await;
    world.create("/apis/apps/v1/namespaces/gone/deployments", deployment("web", 2)).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "finalizers": ["example.com/keep"]}});
    world.create("/apis/example.com/v1/namespaces/gone/things", thing).await;
    world.until("two are available", &DEPLOYMENTS, "gone", "web", |one| one["status"]["availableReplicas"] == 2).await;
    world.admin.delete(&namespaces, "", "gone", &DeleteOptions::default()).await.unwrap();
    let waits = |one: &Value| {
        one["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "NamespaceFinalizersRemaining" && condition["status"] == "True")
    };
    world.until("the finalizer is shown", &namespaces, "", "gone", waits).await;
    let things = ResourceId::new("example.com", "v1", "things");
    world.merge(&things, "gone", "t", "", json!({"metadata": {"finalizers": null}})).await;
    world.until_list("the namespace is gone", &namespaces, "", |all| all.iter().all(|one| one["metadata"]["name"] != "gone")).await;
    assert!(world.list(&PODS, "gone").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_run_to_completion() {
    let mut world = World::start().await;
    world.run_pods();
    let jobs = ResourceId::new("batch", "v1", "jobs");
    let job = |name: &str, ends: &str, more: Value| {
        let mut spec = json!({"template": {"metadata": {"annotations": {"ends": ends}}, "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": spec})
    };
    let has = |kind: &'static str, reason: &'static str| {
        move |one: &Value| {
            one["status"]["conditions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|condition| condition["type"] == kind && condition["reason"] == reason)
        }
    };
    let path = "/apis/batch/v1/namespaces/default/jobs";
    world.create(path, job("many", "Succeeded", json!({"completions": 5, "parallelism": 2}))).await;
    let done = world.until("all succeeded", &jobs, "default", "many", has("Complete", "CompletionsReached")).await;
    assert_eq!(done["status"]["succeeded"], 5, "{done}");
    assert_eq!(done["status"]["uncountedTerminatedPods"], json!({}));
    world.create(path, job("indexed", "Succeeded", json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}))).await;
    let done = world.until("all indexes succeeded", &jobs, "default", "indexed", has("Complete", "CompletionsReached")).await;
    assert_eq!(done["status"]["completedIndexes"], "0-3");
    world.create(path, job("bad", "Failed", json!({"backoffLimit": 0}))).await;
    let done = world.until("it failed", &jobs, "default", "bad", has("Failed", "BackoffLimitExceeded")).await;
    assert_eq!(done["status"]["failed"], 1);
    world.create(path, job("short", "Succeeded", json!({"ttlSecondsAfterFinished": 0}))).await;
    world.until_list("it is removed", &jobs, "default", |all| all.len() == 3).await;
    world.until_list("no pod is tracked", &PODS, "default", |all| all.iter().all(|pod| pod["metadata"]["finalizers"].is_null())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn daemons_run_on_every_node() {
    let mut world = World::start().await;
    world.run_pods();
    let sets = ResourceId::new("apps", "v1", "daemonsets");
    let node = |name: &str| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    for name in ["one", "two"] {
        world.create("/api/v1/nodes", node(name)).await;
    }
    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template("d")},
    });
    world.create("/apis/apps/v1/namespaces/default/daemonsets", set).await;
    let available = |count: i32| {
        move |one: &Value| {
            one["status"]["numberAvailable"] == count
                && one["status"]["updatedNumberScheduled"] == count
                && one["status"]["observedGeneration"] == one["metadata"]["generation"]
        }
    };
    world.until("two are available", &sets, "default", "d", available(2)).await;
    world.create("/api/v1/nodes", node("three")).await;
    world.until("three are available", &sets, "default", "d", available(3)).await;
    world.merge(&sets, "default", "d", "", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}})).await;
    world.until("all are updated", &sets, "default", "d", available(3)).await;
    let pods = world.list(&PODS, "default").await;
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"), "{pods:?}");
    world.merge(&sets, "default", "d", "", json!({"spec": {"template": {"spec": {"nodeSelector": {"a": "b"}}}}})).await;
    world.until_list("all are gone", &PODS, "default", |pods| pods.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stateful_sets_keep_names_and_claims() {
    let mut world = World::start().await;
    world.run_pods();
    let sets = ResourceId::new("apps", "v1", "statefulsets");
    let claim =
        json!({"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"},
        "spec": {"replicas": 3, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}}, "template": template("db"), "volumeClaimTemplates": [claim]},
    });
    world.create("/apis/apps/v1/namespaces/default/statefulsets", set).await;
    world.until("three are available", &sets, "default", "db", |one| one["status"]["availableReplicas"] == 3).await;
    let names: Vec<Value> = world.list(&PODS, "default").await.iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["db-0", "db-1", "db-2"]);
    let claims = world.list(&ResourceId::new("", "v1", "persistentvolumeclaims"), "default").await;
    assert_eq!(claims.iter().map(|claim| claim["metadata"]["name"].clone()).collect::<Vec<_>>(), ["data-db-0", "data-db-1", "data-db-2"]);
    world.merge(&sets, "default", "db", "", json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "two"}]}}}})).await;
    let done = |one: &Value| {
        one["status"]["currentRevision"] == one["status"]["updateRevision"]
            && one["status"]["observedGeneration"] == one["metadata"]["generation"]
            && one["status"]["updatedReplicas"] == 3
    };
    world.until("the update is done", &sets, "default", "db", done).await;
    let pods = world.list(&PODS, "default").await;
    assert!(pods.iter().all(|pod| pod["spec"]["containers"][0]["image"] == "two"), "{pods:?}");
    world.merge(&sets, "default", "db", "", json!({"spec": {"replicas": 1}})).await;
    world.until_list("one is left", &PODS, "default", |pods| pods.len() == 1 && pods[0]["metadata"]["name"] == "db-0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn services_have_endpoints_and_budgets_count() {
    let mut world = World::start().await;
    world.run_pods();
    world.create("/apis/apps/v1/namespaces/default/deployments", deployment("web", 3)).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]}});
    world.create("/api/v1/namespaces/default/services", service).await;
    let endpoints = ResourceId::new("", "v1", "endpoints");
    let slices = ResourceId::new("discovery.k8s.io", "v1", "endpointslices");
    world
        .until("endpoints are there", &endpoints, "default", "web", |one| {
            one["subsets"][0]["addresses"].as_array().is_some_and(|all| all.len() == 3)
        })
        .await;
    let of = |all: &[Value], name: &str| {
        all.iter().filter(|one| one["metadata"]["labels"]["kubernetes.io/service-name"] == name).cloned().collect::<Vec<_>>()
    };
    world
        .until_list("a slice is there", &slices, "default", |all| {
            of(all, "web").iter().any(|one| one["endpoints"].as_array().is_some_and(|all| all.len() == 3))
        })
        .await;
    world
        .create(
            "/api/v1/namespaces/default/services",
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "manual"}, "spec": {"ports": [{"port": 80}]}}),
        )
        .await;
    let manual = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "manual"}, "subsets": [{"addresses": [{"ip": "1.2.3.4"}], "ports": [{"port": 80}]}]});
    world.create("/api/v1/namespaces/default/endpoints", manual).await;
    world
        .until_list("the slice is mirrored", &slices, "default", |all| {
            of(all, "manual").iter().any(|one| one["endpoints"][0]["addresses"][0] == "1.2.3.4")
        })
        .await;
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "web"}, "spec": {"maxUnavailable": "34%", "selector": {"matchLabels": {"app": "web"}}}});
    world.create("/apis/policy/v1/namespaces/default/poddisruptionbudgets", budget).await;
    let budgets = ResourceId::new("policy", "v1", "poddisruptionbudgets");
    let status =
        world.until("disruptions are allowed", &budgets, "default", "web", |one| one["status"]["disruptionsAllowed"] == 2).await["status"]
            .clone();
    assert_eq!((&status["expectedPods"], &status["desiredHealthy"], &status["currentHealthy"]), (&json!(3), &json!(1), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_get_volumes() {
    let world = World::start().await;
    let volumes = ResourceId::new("", "v1", "persistentvolumes");
    let claims = ResourceId::new("", "v1", "persistentvolumeclaims");
    let size = json!({"storage": "1Gi"});
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"},
        "spec": {"capacity": size, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/nowhere"}, "persistentVolumeReclaimPolicy": "Retain"},
    });
    world.create("/api/v1/persistentvolumes", volume).await;
    world.until("it is available", &volumes, "", "v", |one| one["status"]["phase"] == "Available").await;
    let claim = |name: &str, class: &str| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": size}, "storageClassName": class},
        })
    };
    let path = "/api/v1/namespaces/default/persistentvolumeclaims";
    world.create(path, claim("static", "")).await;
    let bound = world.until("the claim is bound", &claims, "default", "static", |one| one["status"]["phase"] == "Bound").await;
    assert_eq!((&bound["spec"]["volumeName"], &bound["status"]["capacity"]), (&json!("v"), &size));
    world.until("the volume is bound", &volumes, "", "v", |one| one["status"]["phase"] == "Bound").await;
    world.admin.delete(&claims, "default", "static", &DeleteOptions::default()).await.unwrap();
    world.until("the volume is released", &volumes, "", "v", |one| one["status"]["phase"] == "Released").await;
    world.admin.delete(&volumes, "", "v", &DeleteOptions::default()).await.unwrap();
    world.until_list("the volume is gone", &volumes, "", |all| all.is_empty()).await;

    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "here"}, "provisioner": "knarr.io/local-path", "volumeBindingMode": "WaitForFirstConsumer"});
    world.create("/apis/storage.k8s.io/v1/storageclasses", class).await;
    world
        .create(
            "/api/v1/nodes",
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one", "labels": {"kubernetes.io/hostname": "one"}}}),
        )
        .await;
    world.create(path, claim("dynamic", "here")).await;
    world.until("it waits", &claims, "default", "dynamic", |one| one["status"]["phase"] == "Pending").await;
    world
        .merge(&claims, "default", "dynamic", "", json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "one"}}}))
        .await;
    world.until("the claim is bound", &claims, "default", "dynamic", |one| one["status"]["phase"] == "Bound").await;
    world.admin.delete(&claims, "default", "dynamic", &DeleteOptions::default()).await.unwrap();
    world.until_list("the volume is gone too", &volumes, "", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_roles_are_kept_up() {
    let world = World::start().await;
    let quotas = ResourceId::new("", "v1", "resourcequotas");
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": {"hard": {"configmaps": "9", "pods": "3", "count/deployments.apps": "4"}}});
    world.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    world
        .until("the root certificate counts", &quotas, "default", "q", |one| {
            one["status"]["used"]["configmaps"] == "1" && one["status"]["used"]["pods"] == "0"
        })
        .await;
    world.create("/apis/apps/v1/namespaces/default/deployments", deployment("web", 2)).await;
    world
        .until("pods count", &quotas, "default", "q", |one| {
            one["status"]["used"]["pods"] == "2" && one["status"]["used"]["count/deployments.apps"] == "1"
        })
        .await;
    let roles = ResourceId::new("rbac.authorization.k8s.io", "v1", "clusterroles");
    let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let sum = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "sum"}, "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"part": "yes"}}]}, "rules": []});
    world.create(path, sum).await;
    let part = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "part", "labels": {"part": "yes"}}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]});
    world.create(path, part).await;
    world.until("the rules are summed up", &roles, "", "sum", |one| one["rules"][0]["resources"][0] == "pods").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_get_tokens_of_their_account() {
    let world = World::start().await;
    let secrets = ResourceId::new("", "v1", "secrets");
    let accounts = ResourceId::new("", "v1", "serviceaccounts");
    world
        .create(
            "/api/v1/namespaces/default/serviceaccounts",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}),
        )
        .await;
    let secret = |name: &str, account: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
            "metadata": {"name": name, "annotations": {"kubernetes.io/service-account.name": account}}})
    };
    let path = "/api/v1/namespaces/default/secrets";
    world.create(path, secret("robot-token", "robot")).await;
    world.create(path, secret("lost-token", "nobody")).await;
    let filled = world.until("a token", &secrets, "default", "robot-token", |one| one["data"]["token"].is_string()).await;
    let account = world.admin.call(Method::GET, "/api/v1/namespaces/default/serviceaccounts/robot", &json!(null)).await.unwrap();
    assert_eq!(filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account["metadata"]["uid"]);
    assert_eq!(filled["data"]["namespace"], "ZGVmYXVsdA==");
    assert!(filled["data"]["ca.crt"].is_string());
    let token = base64::engine::general_purpose::STANDARD.decode(filled["data"]["token"].as_str().unwrap()).unwrap();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": String::from_utf8(token).unwrap()}});
    let review = world.create("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:robot", "{review}");
    // Without their account they go.
    world.admin.delete(&accounts, "default", "robot", &DeleteOptions::default()).await.unwrap();
    world.until_list("both secrets are gone", &secrets, "default", |all| all.is_empty()).await;
}

const ATTACHMENTS: ResourceId = ResourceId::new("storage.k8s.io", "v1", "volumeattachments");
const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const CLASSES: ResourceId = ResourceId::new("storage.k8s.io", "v1", "volumeattributesclasses");
const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");

/// A volume of a driver and its claim.
async fn claim_with_volume(world: &World, name: &str) {
    let modes = json!(["ReadWriteOnce"]);
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {
            "accessModes": modes, "resources": {"requests": {"storage": "1Mi"}}, "volumeName": format!("pv-{name}"), "storageClassName": "",
        },
    });
    world.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{name}")},
        "spec": {"accessModes": modes, "capacity": {"storage": "1Mi"}, "csi": {"driver": "folders.example.com", "volumeHandle": name}},
    });
    world.create("/api/v1/persistentvolumes", volume).await;
    world.until("the claim is bound", &CLAIMS, "default", name, |claim| claim["status"]["phase"] == "Bound").await;
}

/// A pod on a node that uses a claim.
async fn pod_with_claim(world: &World, name: &str, node: &str, claim: &str) {
    let spec = json!({
        "nodeName": node, "containers": [{"name": "c", "image": "one"}], "terminationGracePeriodSeconds": 0,
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    });
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
    world.create("/api/v1/namespaces/default/pods", pod).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn volumes_are_attached_and_detached_when_the_node_has_let_go() {
    let world = World::start().await;
    let ready = json!([{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]);
    for node in ["n1", "n2"] {
        world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
        world.merge(&NODES, "", node, "status", json!({"status": {"conditions": ready}})).await;
    }
    let foreign = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": "of-somebody-else"},
        "spec": {"attacher": "other", "nodeName": "n1", "source": {"persistentVolumeName": "none"}},
    });
    world.create("/apis/storage.k8s.io/v1/volumeattachments", foreign).await;
    for (name, lets_go) in [("calm", true), ("lost", false)] {
        claim_with_volume(&world, name).await;
        pod_with_claim(&world, name, "n1", name).await;
        let source = format!("pv-{name}");
        let ours = |one: &Value| one["spec"]["source"]["persistentVolumeName"] == *source;
        let all = world.until_list("it is to be attached", &ATTACHMENTS, "", |all| all.iter().any(ours)).await;
        let attachment = all.into_iter().find(ours).expect("the attachment");
        assert_eq!((&attachment["spec"]["attacher"], &attachment["spec"]["nodeName"]), (&json!("folders.example.com"), &json!("n1")));
        let own = attachment["metadata"]["name"].as_str().expect("a name").to_owned();
        world.merge(&ATTACHMENTS, "", &own, "status", json!({"status": {"attached": true}})).await;
        let volume = format!("kubernetes.io/csi/folders.example.com^{name}");
        let shows = |node: &Value| node["status"]["volumesAttached"].as_array().into_iter().flatten().any(|one| one["name"] == *volume);
        world.until("the node may use it", &NODES, "", "n1", shows).await;
        world.merge(&NODES, "", "n1", "status", json!({"status": {"volumesInUse": [volume]}})).await;
        // Another node has to wait for a volume that only one may have.
        let second = format!("{name}-second");
        pod_with_claim(&world, &second, "n2", name).await;
        let events = ResourceId::new("", "v1", "events");
        let told = |event: &Value| event["reason"] == "FailedAttachVolume" && event["involvedObject"]["name"] == *second;
        world.until_list("the second pod hears why it waits", &events, "default", |all| all.iter().any(told)).await;
        let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
        world.admin.delete(&PODS, "default", &second, &now).await.unwrap();
        world.admin.delete(&PODS, "default", name, &now).await.unwrap();
        world.until_list("the pod is gone", &PODS, "default", |all| all.is_empty()).await;
        let kept = world.until("the attachment stays", &ATTACHMENTS, "", &own, |_| true).await;
        assert!(kept["metadata"]["deletionTimestamp"].is_null());
        if lets_go {
            world.merge(&NODES, "", "n1", "status", json!({"status": {"volumesInUse": null}})).await;
        } else {
            let taint = json!([{"key": "node.kubernetes.io/out-of-service", "value": "off", "effect": "NoExecute"}]);
            world.merge(&NODES, "", "n1", "", json!({"spec": {"taints": taint}})).await;
        }
        let only_foreign = |all: &[Value]| all.len() == 1 && all[0]["metadata"]["name"] == "of-somebody-else";
        world.until_list("it is detached", &ATTACHMENTS, "", only_foreign).await;
        world.until("the node does not show it", &NODES, "", "n1", |node| !shows(node)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_that_two_nodes_ask_for_at_once_is_given_to_one() {
    let world = World::start().await;
    for node in ["n1", "n2"] {
        world.create("/api/v1/nodes", json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": node}})).await;
    }
    let names: Vec<String> = (0..8).map(|number| format!("v{number}")).collect();
    for name in &names {
        claim_with_volume(&world, name).await;
    }
    for name in &names {
        let (one, other) = (format!("{name}-one"), format!("{name}-other"));
        tokio::join!(pod_with_claim(&world, &one, "n1", name), pod_with_claim(&world, &other, "n2", name));
    }
    let events = ResourceId::new("", "v1", "events");
    let waits = |all: &[Value], name: &String| {
        let about = |event: &Value| event["involvedObject"]["name"].as_str().is_some_and(|pod| pod.starts_with(&format!("{name}-")));
        all.iter().any(|event| event["reason"] == "FailedAttachVolume" && about(event))
    };
    world.until_list("one pod of each volume waits", &events, "default", |all| names.iter().all(|name| waits(all, name))).await;
    let attachments = world.until_list("all are attached", &ATTACHMENTS, "", |all| all.len() >= names.len()).await;
    let mut volumes: Vec<&str> = attachments.iter().filter_map(|one| one["spec"]["source"]["persistentVolumeName"].as_str()).collect();
    volumes.sort_unstable();
    assert_eq!(volumes, names.iter().map(|name| format!("pv-{name}")).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn classes_of_volume_attributes_stay_as_long_as_claims_name_them() {
    let world = World::start().await;
    let class = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttributesClass", "metadata": {"name": "fast"}, "driverName": "folders.example.com",
        "parameters": {"iops": "9"},
    });
    let made = world.create("/apis/storage.k8s.io/v1/volumeattributesclasses", class).await;
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/vac-protection"]));
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "one"},
        "spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "volumeAttributesClassName": "fast",
            "storageClassName": "none",
        },
    });
    world.create("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    world.admin.delete(&CLASSES, "", "fast", &DeleteOptions::default()).await.unwrap();
    world.until("the class waits", &CLASSES, "", "fast", |class| !class["metadata"]["deletionTimestamp"].is_null()).await;
    world.admin.delete(&CLAIMS, "default", "one", &DeleteOptions::default()).await.unwrap();
    world.until_list("the class is gone", &CLASSES, "", |all| all.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expressions_that_do_not_fit_are_told() {
    let world = World::start().await;
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "tabs.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "tabs", "kind": "Tab"}, "versions": [{
            "name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                "spec": {"type": "object", "properties": {"replicas": {"type": "string"}}}}}}}]},
    });
    world.create("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition).await;
    let definitions = ResourceId::new("apiextensions.k8s.io", "v1", "customresourcedefinitions");
    let established = |one: &Value| {
        one["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
    };
    world.until("it is served", &definitions, "", "tabs.stable.example.com", established).await;
    let policies = ResourceId::new("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies");
    let policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy", "metadata": {"name": "checked"},
        "spec": {
            "matchConstraints": {"resourceRules": [
                {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments", "replicasets"]},
                {"apiGroups": ["stable.example.com"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["tabs"]},
            ]},
            "validations": [{"expression": "object.spec.replicas > '1'"}, {"expression": "object.metadata.name != 'x'"}],
        },
    });
    world.create("/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies", policy).await;
    let seen =
        |one: &Value| one["status"]["observedGeneration"] == one["metadata"]["generation"] && one["status"]["observedGeneration"] == 1;
    let checked = world.until("the policy was looked at", &policies, "", "checked", seen).await;
    let warnings = checked["status"]["typeChecking"]["expressionWarnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!(warnings[0]["fieldRef"], "spec.validations[0].expression");
    let text = warnings[0]["warning"].as_str().unwrap();
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.split_once(": ERROR: ").map(|(kind, _)| kind)).collect();
    assert_eq!(kinds, ["apps/v1, Kind=Deployment", "apps/v1, Kind=ReplicaSet"], "{text}");
    world.merge(&policies, "", "checked", "", json!({"spec": {"validations": [{"expression": "has(object.spec)"}]}})).await;
    let well = |one: &Value| one["status"]["observedGeneration"] == 2 && one["status"]["typeChecking"]["expressionWarnings"].is_null();
    world.until("nothing is doubtful any more", &policies, "", "checked", well).await;
}
