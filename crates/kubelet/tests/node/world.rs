//! A server and a node in one process, with a network of one interface that leads nowhere.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Group, Layout};
use client::{Client, Connect, HttpTransport, PatchKind, ResourceId};
use http::Method;
use image::{ImageConfig, ImageStore};
use kubelet::{Config, Deps, ImageGc};
use net::HostJournal;
use pki::{ClusterPki, San, ServerTrust};
use runtime::{Runtime, RuntimeConfig};
use serde_json::{Value, json};
use server::{Server, User};
use tokio::sync::watch;

/// How long anything may take: on an emulated machine, pulls that failed while it was slow wait for minutes.
const PATIENCE: Duration = Duration::from_secs(300);
/// The node's first address.
pub const ADDRESS: &str = "192.0.2.10";
/// The image of all pods.
pub const IMAGE: &str = "knarr.io/demo:1";
pub const PODS: ResourceId = ResourceId::new("", "v1", "pods");
pub const NODES: ResourceId = ResourceId::new("", "v1", "nodes");
const NODE: &str = "node";
/// Argument of a run that is only a node; folder and port of the server follow.
pub const PROCESS: &str = "--node";

/// A server, and the folder for a node.
pub struct World {
    pub folder: PathBuf,
    /// May do everything.
    pub admin: Client,
    server: Arc<Server>,
    port: u16,
    pub pki: Arc<ClusterPki>,
}

/// Runs a command of the host and expects that it works.
pub fn run(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).output().expect("a shell");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The control group of a test's node.
pub fn group(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().replace('.', "-")
}

/// Ends whatever is left in the control groups of a test's node.
pub fn remove_groups(folder: &Path) -> bool {
    let layout = Arc::new(Layout::detect().expect("control groups"));
    let group = Group::new(layout, &group(folder)).expect("a plain name");
    let _none_is_fine = group.kill_all();
    group.remove(Duration::from_secs(30)).is_ok()
}

impl World {
    pub async fn new(folder: &Path) -> World {
        run("ip link set lo up && ip link add up0 type veth peer name cable0 && ip link set cable0 up && ip link set up0 up");
        run(&format!("ip addr add {ADDRESS}/24 dev up0 && ip route add default dev up0"));
        pki::install_provider();
        let pki = Arc::new(ClusterPki::load_or_create(&folder.join("pki")).expect("keys"));
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let certificate = |name: &str| pki.client_cert(name, &pki::Subject::new(name, &["system:masters"])).expect("a certificate");
        let options = store::embedded::Options::new(folder.join("store"), client::header::stamp(), "test");
        let deps = server::Deps {
            store: Arc::new(store::embedded::Embedded::open(options).expect("a store")),
            pki: pki.clone(),
            serving: pki.serving_cert("apiserver", "kube-apiserver", &[San::Ip(local)]).expect("a certificate"),
            kubelet_client: certificate("kubelet-client"),
            front_proxy: pki.front_proxy_cert("front-proxy-client").expect("a certificate"),
        };
        let config = server::Config {
            listen: SocketAddr::new(local, 0),
            advertise: ADDRESS.parse().expect("an address"),
            advertise_port: 6443,
            service_cidrs: vec!["10.96.0.0/16".parse().expect("a range")],
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
        let server = Server::new(config, deps).await.expect("a server");
        let admin = server.client(User::new("admin", &["system:masters"]));
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}, "automountServiceAccountToken": false});
        admin.call(Method::POST, "/api/v1/namespaces/default/serviceaccounts", &account).await.expect("an account");
        let listener = tokio::net::TcpListener::bind((local, 0)).await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let serving = server.clone();
        tokio::spawn(async move { serving.serve(listener).await.expect("a server") });
        World { folder: folder.to_owned(), admin, server, port, pki }
    }

    /// Where the node keeps its pods.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.folder.join("kubelet")
    }

    /// Starts the node and waits until it is ready.
    pub async fn start(&self, eviction_hard: &str) {
        self.start_with(eviction_hard, None).await;
    }

    /// As `start`, with so much memory.
    pub async fn start_with(&self, eviction_hard: &str, memory_bytes: Option<i64>) {
        let hard = kubelet::eviction::parse(eviction_hard).expect("thresholds");
        self.start_as(|config| (config.eviction_hard, config.memory_bytes) = (hard, memory_bytes)).await;
    }

    /// Starts a node that nothing is evicted from, unless the change says otherwise.
    pub async fn start_as(&self, change: impl FnOnce(&mut Config)) {
        let metrics = self.server.metric_sources();
        let (mut config, deps) = node(&self.folder, &self.pki, self.server.client(User::node(NODE)), metrics, "", None).await;
        change(&mut config);
        let (ready, _) = watch::channel(false);
        tokio::spawn(async move { kubelet::run(config, deps, ready).await.expect("a node") });
        self.welcome().await;
    }

    /// Starts the node as a process of its own, which may be killed, and waits until it is ready.
    pub async fn start_process(&self) -> Child {
        let exe = std::env::current_exe().expect("own program");
        let child = Command::new(exe).arg(PROCESS).arg(&self.folder).arg(self.port.to_string()).spawn().expect("a process");
        self.welcome().await;
        child
    }

    async fn welcome(&self) {
        self.until("the node registers", &NODES, "", NODE, |_| true).await;
        let range = json!({"spec": {"podCIDR": "10.42.0.0/24", "podCIDRs": ["10.42.0.0/24"]}});
        self.admin.patch(&NODES, "", NODE, "", &PatchKind::Merge, &range).await.expect("a range");
        self.until("the node is ready", &NODES, "", NODE, |node| condition(node, "Ready")["status"] == "True").await;
    }

    /// Creates a pod on the node, of one container that serves unless the spec says otherwise.
    pub async fn create(&self, name: &str, spec: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
            "spec": {"nodeName": NODE, "terminationGracePeriodSeconds": 1, "containers": [{"name": "main", "image": IMAGE}]},
        });
        for (field, value) in spec.as_object().expect("a spec") {
            pod["spec"][field] = value.clone();
        }
        self.admin.call(Method::POST, "/api/v1/namespaces/default/pods", &pod).await.expect("a pod");
    }

    /// Creates a pod and waits until it runs.
    pub async fn running(&self, name: &str, spec: Value) -> Value {
        self.create(name, spec).await;
        self.pod(name, "runs", |pod| condition(pod, "Ready")["status"] == "True").await
    }

    /// Waits until a pod is as described.
    pub async fn pod(&self, name: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(&format!("{name} {what}"), &PODS, "default", name, is).await
    }

    /// Waits until the node is as described.
    pub async fn node(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        self.until(what, &NODES, "", NODE, is).await
    }

    /// Waits until an object is gone.
    pub async fn gone(&self, resource: &ResourceId, namespace: &str, name: &str) {
        let path = resource.path(namespace, name, "");
        let there = async || self.admin.call(Method::GET, &path, &Value::Null).await.is_ok();
        self.eventually_async(&format!("{name} is gone"), async || !there().await).await;
    }

    /// Waits for a condition.
    pub async fn eventually(&self, what: &str, is: impl Fn() -> bool) {
        self.eventually_async(what, async || is()).await;
    }

    /// Waits for a condition that has to ask.
    pub async fn eventually_async(&self, what: &str, is: impl AsyncFn() -> bool) {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !is().await {
            assert!(tokio::time::Instant::now() < deadline, "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until an object is as described.
    pub async fn until(&self, what: &str, resource: &ResourceId, namespace: &str, name: &str, is: impl Fn(&Value) -> bool) -> Value {
        let path = resource.path(namespace, name, "");
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut last = Value::Null;
        while tokio::time::Instant::now() < deadline {
            last = self.admin.call(Method::GET, &path, &Value::Null).await.unwrap_or_default();
            if !last.is_null() && is(&last) {
                return last;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("in vain: {what}: {last:#}");
    }

    /// The first process of a pod's container.
    pub fn process(&self, pod: &Value, container: &str) -> i32 {
        let path = format!("{}/{container}-0", self.pod_group(pod));
        let layout = Arc::new(Layout::detect().expect("control groups"));
        let pids = Group::new(layout, &path).expect("a plain name").all_pids().expect("processes");
        pids.into_iter().min().expect("a process")
    }

    /// The control group of a pod.
    pub fn pod_group(&self, pod: &Value) -> String {
        let class = match pod["status"]["qosClass"].as_str() {
            Some("Guaranteed") => "",
            Some("Burstable") => "burstable/",
            _ => "besteffort/",
        };
        let uid = pod["metadata"]["uid"].as_str().expect("a uid");
        format!("{}/kubepods/{class}pod{uid}", group(&self.folder))
    }

    /// Deletes a pod and waits until it is gone.
    pub async fn delete(&self, name: &str) {
        self.admin.call(Method::DELETE, &PODS.path("default", name, ""), &Value::Null).await.expect("a deletion");
        self.gone(&PODS, "default", name).await;
    }

    /// What the node measures.
    pub async fn summary(&self) -> Value {
        let path = format!("{}/stats/summary", NODES.path("", NODE, "proxy"));
        self.admin.call(Method::GET, &path, &Value::Null).await.expect("a summary")
    }

    /// What the server gives as the log of a pod, which it gets from the node.
    pub async fn log(&self, name: &str) -> Result<String, u16> {
        let admin = self.server.in_process(User::new("admin", &["system:masters"]));
        let request = http::Request::get(format!("{}/log", PODS.path("default", name, ""))).body(bytes::Bytes::new()).expect("a request");
        match client::Transport::call(&*admin, request).await {
            Ok(reply) if reply.status().is_success() => Ok(String::from_utf8_lossy(reply.body()).into_owned()),
            Ok(reply) => Err(reply.status().as_u16()),
            Err(status) => Err(status.code),
        }
    }

    /// The events about an object.
    pub async fn events(&self, name: &str) -> Vec<Value> {
        let list = self.admin.call(Method::GET, "/api/v1/events", &Value::Null).await.expect("events");
        let events = list["items"].as_array().expect("a list").iter();
        events.filter(|event| event["involvedObject"]["name"] == name).cloned().collect()
    }

    /// When the node's lease was last renewed.
    pub async fn renewed(&self) -> Value {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{NODE}");
        self.admin.call(Method::GET, &path, &Value::Null).await.expect("a lease")["spec"]["renewTime"].clone()
    }

    /// Whether an event of this reason and message was recorded.
    pub async fn has_event(&self, name: &str, reason: &str, message: &str) -> bool {
        let list = self.admin.call(Method::GET, "/api/v1/events", &Value::Null).await.expect("events");
        let events = list["items"].as_array().expect("a list").iter();
        events.into_iter().any(|event| event["involvedObject"]["name"] == name && event["reason"] == reason && event["message"] == message)
    }
}

/// What a node of this folder is made of.
async fn node(
    folder: &Path,
    pki: &ClusterPki,
    client: Client,
    metrics: client::metrics::Sources,
    eviction_hard: &str,
    memory_bytes: Option<i64>,
) -> (Config, Deps) {
    let images = ImageStore::open(ImageConfig::new(folder.join("data"))).expect("an image store");
    image::demo::import_demo(&images).await.expect("the demo image");
    let cgroup_root = group(folder);
    let runtime = Runtime::open(RuntimeConfig { run_dir: folder.join("run"), cgroup_root, self_exe: None }).expect("a runtime");
    let address: IpAddr = ADDRESS.parse().expect("an address");
    let serving = pki.serving_cert("kubelet", "system:node:node", &[San::Ip(address), San::Dns(NODE.into())]).expect("a certificate");
    let deps = Deps {
        client,
        runtime: runtime.into(),
        images: images.into(),
        journal: Arc::new(HostJournal::open(folder.join("journal")).expect("a journal")),
        serving: Arc::new(pki::server_config(&serving, true, &["http/1.1"]).expect("a configuration")),
        client_ca: pki.client_ca.cert_pem().to_owned(),
        metrics,
    };
    let config = Config {
        node_name: NODE.into(),
        node_ips: vec![address],
        follow_addresses: true,
        root_dir: folder.join("kubelet"),
        log_dir: folder.join("logs/pods"),
        container_log_dir: folder.join("logs/containers"),
        listen: SocketAddr::new(address, 10250),
        cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
        cluster_domain: "cluster.local".into(),
        resolv_conf: "/etc/resolv.conf".into(),
        max_pods: 110,
        pod_pids_limit: None,
        user_ids_per_pod: 65536,
        cpu_milli: None,
        memory_bytes,
        labels: Vec::new(),
        taints: Vec::new(),
        pod_manifests: None,
        log_max_size: 10 << 20,
        log_max_files: 5,
        cluster_ranges: Vec::new(),
        pod_mtu: 1450,
        eviction_hard: kubelet::eviction::parse(eviction_hard).expect("thresholds"),
        eviction: kubelet::eviction::Policy::default(),
        shutdown: kubelet::shutdown::Config::new(Vec::new()),
        swap: kubelet::swap::Config { behavior: kubelet::swap::Behavior::NoSwap, fail_on: false },
        credential_providers: Vec::new(),
        image_access: kubelet::image_access::Policy::default(),
        image_gc: ImageGc { high_percent: 100, low_percent: 100, min_age: Duration::from_secs(120) },
        placement: kubelet::placement::Options::default(),
        version: "v1.36.0".into(),
        written: serde_json::Value::Null,
    };
    (config, deps)
}

/// Runs the node of this folder until it is killed, with a server of another process.
pub async fn process(folder: &Path, port: &str) {
    pki::install_provider();
    let pki = ClusterPki::load_or_create(&folder.join("pki")).expect("keys");
    let cert = pki.client_cert("node", &pki::Subject::new("system:node:node", &["system:nodes"])).expect("a certificate");
    let trust = ServerTrust::Authorities(vec![pki.server_ca.cert_pem().to_owned()]);
    let tls = Arc::new(pki::client_config(&trust, Some(&cert), &["h2"]).expect("a configuration"));
    let connect = Connect { server: format!("https://127.0.0.1:{port}"), tls, token: None };
    let client = Client::new(Arc::new(HttpTransport::new(connect).expect("a transport")));
    let (config, deps) = node(folder, &pki, client, client::metrics::Sources::default(), "", None).await;
    let (ready, _) = watch::channel(false);
    kubelet::run(config, deps, ready).await.expect("a node");
}

/// A condition of an object.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.find(|condition| condition["type"] == kind).unwrap_or(&Value::Null)
}
