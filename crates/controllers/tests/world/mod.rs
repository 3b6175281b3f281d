//! A real API server in this process with all controllers beside it, and a node that runs every pod at once.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Client, PatchKind, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use pki::{ClusterPki, San};
use serde_json::{Value, json};
use server::{Server, User};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster without containers.
pub struct World {
    /// A client that may do everything.
    pub admin: Client,
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
    /// A fresh cluster.
    #[allow(dead_code, reason = "not every test uses all of it")]
    pub async fn start() -> World {
        World::start_through(|client| client).await
    }

    /// A fresh cluster whose controllers reach the API server through something.
    pub async fn start_through(through: fn(Client) -> Client) -> World {
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
        let root_ca = pki.server_ca.cert_pem().to_owned();
        let issuers = config.issuers.clone();
        let tokens = pki::TokenAuthority::new(pki.service_account_key.clone(), &[], &issuers).unwrap().into();
        let server = Server::new(config, server::Deps { store, pki, serving, kubelet_client, front_proxy }).await.unwrap();
        let admin = server.client(User::new("admin", &["system:masters"]));
        let mut tasks = JoinSet::new();
        let config = controllers::Config {
            cluster_cidr: Some("10.42.0.0/16".parse().unwrap()),
            node_cidr_mask: 24,
            disabled: Vec::new(),
            root_ca,
            tokens: Some(tokens),
            signer: None,
            node_monitor_grace: Duration::from_secs(50),
            local_path_dir: Some("/var/lib/knarr-test/volumes".into()),
        };
        let accounts = server.clone();
        let deps = controllers::Deps {
            client: through(server.client(User::new("system:kube-controller-manager", &[]))),
            client_as: Arc::new(move |name: &str| through(accounts.client(User::service_account("kube-system", name)))),
            metrics: server.metric_sources(),
        };
        tasks.spawn(async move { controllers::run(config, deps).await.unwrap() });
        let world = World { admin, _tasks: tasks, _dir: dir, server };
        world.until("the default account", &ResourceId::new("", "v1", "serviceaccounts"), "default", "default", |_| true).await;
        world
    }

    /// Starts a node that says of every pod that it runs and is ready, and lets it go when asked.
    pub fn run_pods(&mut self) {
        let admin = self.admin.clone();
        self._tasks.spawn(async move {
            let mut watch = admin.list_watch(Selection::of::<Pod>()).await.unwrap();
            for entry in std::mem::take(&mut watch.initial) {
                serve_pod(&admin, &entry).await;
            }
            while let Some(Ok(change)) = watch.changes.next().await {
                if let Change::Put(entry) = change {
                    serve_pod(&admin, &entry).await;
                }
            }
        });
    }

    /// Creates an object of a path and gives what the server made of it.
    pub async fn create(&self, path: &str, object: Value) -> Value {
        self.admin.call(Method::POST, path, &object).await.unwrap_or_else(|status| panic!("{path}: {status}"))
    }

    /// Patches an object.
    pub async fn merge(&self, resource: &ResourceId, namespace: &str, name: &str, subresource: &str, patch: Value) {
        self.admin.patch(resource, namespace, name, subresource, &PatchKind::Merge, &patch).await.unwrap();
    }

    /// Waits until an object is as described.
    pub async fn until(&self, what: &str, resource: &ResourceId, namespace: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let list = self.until_list(what, resource, namespace, |all| all.iter().any(|one| one["metadata"]["name"] == name && is(one))).await;
        list.into_iter().find(|one| one["metadata"]["name"] == name).unwrap()
    }

    /// Waits until the objects of a namespace are as described, and gives them as they were then.
    pub async fn until_list(&self, what: &str, resource: &ResourceId, namespace: &str, are: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let mut selection = Selection::all(resource.clone());
        if !namespace.is_empty() {
            selection = selection.in_namespace(namespace);
        }
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = Vec::new();
        let found = tokio::time::timeout_at(deadline, async {
            loop {
                let mut watch = self.admin.list_watch(selection.clone()).await.unwrap();
                loop {
                    last = self.list(resource, namespace).await;
                    if are(&last) {
                        return;
                    }
                    let Some(Ok(_)) = watch.changes.next().await else {
                        break;
                    };
                }
            }
        })
        .await;
        assert!(found.is_ok(), "{what} did not come true: {}", serde_json::to_string_pretty(&last).unwrap());
        last
    }

    /// The objects of a namespace.
    pub async fn list(&self, resource: &ResourceId, namespace: &str) -> Vec<Value> {
        let list = self.admin.call(Method::GET, &resource.collection_path(namespace), &Value::Null).await.unwrap();
        list["items"].as_array().cloned().unwrap_or_default()
    }
}

async fn serve_pod(admin: &Client, entry: &store::Entry) {
    let pods = ResourceId::new("", "v1", "pods");
    let (namespace, name) = (&*entry.header.namespace, &*entry.header.name);
    let pod: Value = serde_json::from_slice(&entry.bytes).unwrap();
    if entry.header.deletion_timestamp.is_some() {
        let options = client::DeleteOptions { grace_period_seconds: Some(0), ..client::DeleteOptions::uid(&*entry.header.uid) };
        admin.delete(&pods, namespace, name, &options).await.ok();
    } else if pod["spec"]["nodeName"].is_null() {
        let pinned = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"][0]["matchFields"]
            [0]["values"][0];
        let node = pinned.as_str().unwrap_or("node");
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": namespace}, "target": {"kind": "Node", "name": node}});
        admin.call(Method::POST, &format!("{}/binding", pods.path(namespace, name, "")), &binding).await.ok();
    } else if pod["status"]["phase"] == "Pending" {
        let now = format!("{:.0}", k8s_openapi::jiff::Timestamp::now());
        let ends = pod["metadata"]["annotations"]["ends"].as_str();
        let mut status = json!({"phase": ends.unwrap_or("Running"), "podIPs": [{"ip": "10.42.0.5"}], "podIP": "10.42.0.5"});
        if ends.is_none() {
            status["conditions"] = json!([{"type": "Ready", "status": "True", "lastTransitionTime": now}]);
        }
        admin.patch(&pods, namespace, name, "status", &PatchKind::Strategic, &json!({"status": status})).await.ok();
    }
}
