//! The proxy and the overlay against objects that come and go, on real interfaces and rules.

#[path = "../../net/tests/world/mod.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use api::Status;
use bytes::Bytes;
use client::{Change, Client, ListWatch, Selection, Transport};
use futures_util::future::BoxFuture;
use proxy::{Config, Deps, overlay};
use serde_json::{Value, json};
use std::sync::Mutex;
use store::{Entry, Revision};
use tokio::sync::{mpsc, watch};
use world::{Node, Space, World, wire};

/// Objects as an API server would hand them out, kept in memory.
#[derive(Default)]
struct Objects {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    revision: u64,
    /// By plural and `namespace/name`.
    entries: BTreeMap<(String, String), (Value, Arc<Entry>)>,
    watchers: Vec<(String, mpsc::UnboundedSender<Change>)>,
}

impl Objects {
    fn put(&self, plural: &str, object: Value) {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        let revision = Revision(state.revision);
        let rest = [object["metadata"]["namespace"].as_str(), object["metadata"]["name"].as_str()]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
            .join("/");
        let resource = match plural {
            "endpointslices" => client::ResourceId::new("discovery.k8s.io", "v1", "endpointslices"),
            "nodes" => client::ResourceId::new("", "v1", "nodes"),
            _ => client::ResourceId::new("", "v1", "services"),
        };
        let key = resource.store_kind().key(rest.as_str());
        let raw = Bytes::from(object.to_string());
        let (bytes, header) = client::header::stamp()(&key, raw, revision).unwrap();
        let entry = Arc::new(Entry::new(key, revision, revision, bytes, header));
        state.entries.insert((plural.into(), rest), (object, entry.clone()));
        state.tell(plural, &Change::Put(entry));
    }

    fn delete(&self, plural: &str, rest: &str) {
        let mut state = self.state.lock().unwrap();
        let (_, entry) = state.entries.remove(&(plural.to_owned(), rest.to_owned())).unwrap();
        state.tell(plural, &Change::Deleted(entry));
    }
}

impl State {
    fn tell(&mut self, plural: &str, change: &Change) {
        self.watchers.retain(|(of, watcher)| of != plural || watcher.send(change.clone()).is_ok());
    }
}

impl Transport for Objects {
    /// Only annotations of nodes are ever patched here.
    fn call(&self, request: http::Request<Bytes>) -> BoxFuture<'_, Result<http::Response<Bytes>, Status>> {
        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
        let patch: Value = serde_json::from_slice(request.body()).unwrap();
        let found = self.state.lock().unwrap().entries.get(&("nodes".to_owned(), name)).cloned();
        let (mut node, _) = found.unwrap();
        for (key, value) in patch["metadata"]["annotations"].as_object().unwrap() {
            node["metadata"]["annotations"][key] = value.clone();
        }
        self.put("nodes", node.clone());
        Box::pin(async move { Ok(http::Response::new(Bytes::from(node.to_string()))) })
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        let mut state = self.state.lock().unwrap();
        let plural = selection.resource.plural.to_string();
        let name = selection.fields.strip_prefix("metadata.name=").map(str::to_owned);
        let of_plural = state.entries.iter().filter(|((of, _), _)| *of == plural);
        let initial = of_plural.filter(|((_, rest), _)| name.as_ref().is_none_or(|name| name == rest));
        let initial = initial.map(|(_, (_, entry))| entry.clone()).collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        state.watchers.push((plural, sender));
        let changes = futures_util::stream::unfold(receiver, |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) });
        let revision = Revision(state.revision.max(1));
        Box::pin(async move { Ok(ListWatch { initial, revision, changes: Box::pin(changes) }) })
    }
}

fn service(name: &str, more: Value) -> Value {
    let mut object = json!({"metadata": {"namespace": "ns", "name": name}, "spec": {
        "clusterIP": "10.43.0.10", "clusterIPs": ["10.43.0.10"], "ports": [{"name": "web", "port": 80}]}});
    for (key, value) in more.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

fn slice(name: &str, of: &str, addresses: &[&str]) -> Value {
    let ends: Vec<Value> = addresses
        .iter()
        .map(|address| {
            let node = if address.starts_with("10.42.0.") { "node" } else { "other" };
            json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
        })
        .collect();
    json!({"metadata": {"namespace": "ns", "name": name, "labels": {"kubernetes.io/service-name": of}},
           "addressType": "IPv4", "endpoints": ends, "ports": [{"name": "web", "port": 8080, "protocol": "TCP"}]})
}

/// Runs something in a name space until the test ends.
fn start<F: Future<Output = anyhow::Result<()>>>(space: &Space, make: impl FnOnce() -> F + Send + 'static) {
    let space = space.clone();
    std::thread::spawn(move || {
        space.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let result = runtime.block_on(make());
            panic!("ended: {result:?}");
        });
    });
}

fn eventually(what: &str, check: impl Fn() -> bool) {
    let start = Instant::now();
    while !check() {
        assert!(start.elapsed() < world::PATIENCE, "{what}");
        std::thread::yield_now();
    }
}

/// What is answered; nothing if nobody does.
fn get(space: &Space, address: &str, path: &str) -> String {
    let address = address.parse().unwrap();
    space.run(|| {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, world::ANSWER) else {
            return String::new();
        };
        // A listener that closes may have taken the connection, which is reset then.
        let mut answer = String::new();
        let asked = write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").and_then(|()| stream.read_to_string(&mut answer));
        asked.map_or_else(|_| String::new(), |_| answer)
    })
}

#[test]
fn services_are_followed() {
    let mut world = World::new();
    let node = Node::new(&mut world, "node");
    let outside = world.space("outside");
    wire(&node.space, "192.0.2.1/24", &outside, "192.0.2.9/24", "wire0");
    let one = node.pod(&mut world, "one", "10.42.0.2");
    let two = node.pod(&mut world, "two", "10.42.0.3");
    let objects = Arc::new(Objects::default());
    objects.put("services", service("web", json!({})));
    objects.put("endpointslices", slice("web-1", "web", &["10.42.0.2"]));
    let config = Config {
        node_name: "node".into(),
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        own_addresses: vec![],
        mtu: None,
        healthz: Some("192.0.2.1:10256".parse().unwrap()),
    };
    let deps = Deps { client: Client::new(objects.clone()), journal: Arc::new(node.journal.clone()) };
    let (ready, is_ready) = watch::channel(false);
    start(&node.space, move || proxy::run(config, deps, ready));
    eventually("the proxy is ready", || *is_ready.borrow());

    let answerers = || (0..20).filter_map(|_| Some(two.ask("10.43.0.10:80").ok()?.0)).collect::<BTreeSet<_>>();
    assert_eq!(answerers(), BTreeSet::from(["one".to_owned()]), "served once ready");
    objects.put("endpointslices", slice("web-2", "web", &["10.42.0.3"]));
    eventually("a second slice counts", || answerers().len() == 2);
    objects.delete("endpointslices", "ns/web-1");
    eventually("a slice that is gone does not", || answerers() == BTreeSet::from(["two".to_owned()]));
    objects.put("endpointslices", slice("web-2", "other", &["10.42.0.3"]));
    eventually("a slice goes to another service", || answerers().is_empty());
    objects.put("endpointslices", slice("web-2", "web", &["10.42.0.3"]));

    objects.put(
        "services",
        service(
            "web",
            json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
        "ports": [{"name": "web", "port": 80, "nodePort": 30080}]}),
        ),
    );
    eventually("a node port opens", || outside.ask("192.0.2.1:30080").is_ok());
    assert_eq!(outside.ask("192.0.2.1:30080").unwrap(), ("two".into(), "192.0.2.9".parse().unwrap()));
    eventually("a local endpoint is healthy", || get(&outside, "192.0.2.1:31000", "/").starts_with("HTTP/1.1 200"));
    assert!(get(&outside, "192.0.2.1:31000", "/").contains(r#""localEndpoints":1"#));
    objects.put("endpointslices", slice("web-2", "web", &["10.42.1.3"]));
    eventually("no local endpoint is not", || get(&outside, "192.0.2.1:31000", "/").starts_with("HTTP/1.1 503"));
    assert!(get(&outside, "192.0.2.1:10256", "/healthz").starts_with("HTTP/1.1 200"));

    objects.put("endpointslices", slice("web-2", "web", &["10.42.0.2"]));
    eventually("endpoints come back", || answerers() == BTreeSet::from(["one".to_owned()]));
    node.space.command("nft flush ruleset");
    eventually("a flushed table comes back", || two.ask("10.43.0.10:80").is_ok());
    objects.delete("services", "ns/web");
    eventually("the service goes", || two.ask("10.43.0.10:80").is_err());
    eventually("its health port, too", || get(&outside, "192.0.2.1:31000", "/").is_empty());
    let _ = one;
}

#[test]
fn nodes_find_each_other() {
    let mut world = World::new();
    let (one, two) = (Node::new(&mut world, "node1"), Node::new(&mut world, "node2"));
    wire(&one.space, "192.0.2.1/24", &two.space, "192.0.2.2/24", "wire0");
    let objects = Arc::new(Objects::default());
    let node = |number: u32, spec: Value| {
        json!({"metadata": {"name": format!("node{number}")}, "spec": spec,
               "status": {"addresses": [{"type": "InternalIP", "address": format!("192.0.2.{number}")}]}})
    };
    objects.put("nodes", node(1, json!({"podCIDR": "10.42.1.0/24", "podCIDRs": ["10.42.1.0/24"]})));
    for (number, of) in [(1, &one), (2, &two)] {
        let overlay = net::OverlayConfig::STANDARD;
        let config = overlay::Config { node_name: format!("node{number}"), overlay };
        let deps = overlay::Deps { client: Client::new(objects.clone()), journal: Arc::new(of.journal.clone()) };
        start(&of.space, move || overlay::run(config, deps));
    }
    let here = one.pod(&mut world, "here", "10.42.1.2");
    let there = two.pod(&mut world, "there", "10.42.2.2");
    objects.put("nodes", node(2, json!({})));
    let devices = || one.space.command("ip -br link").contains("knarr.vxlan");
    assert!(!devices(), "a lone node needs no device");
    objects.put("nodes", node(2, json!({"podCIDR": "10.42.2.0/24"})));
    eventually("the nodes know each other", || devices() && one.space.command("ip route").contains("10.42.2.0/24"));
    eventually("both ways", || two.space.command("ip route").contains("10.42.1.0/24"));
    assert_eq!(here.ask("10.42.2.2:8080").unwrap().0, "there");
    assert_eq!(there.ask("10.42.1.2:8080").unwrap().0, "here");
    objects.delete("nodes", "node2");
    eventually("a node goes", || !one.space.command("ip route").contains("10.42.2.0/24"));
}
