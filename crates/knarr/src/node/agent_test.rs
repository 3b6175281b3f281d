//! Joining against a real API server with the real controllers: what a token opens, and how certificates are renewed.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use http::Method;
use pki::{BootstrapToken, ClusterPki, HotCert, IssueRequest, San, ServerToken, Usage};
use serde_json::Value;
use server::{Server, User};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::agent::{join, transport};
use super::credentials::Wanted;
use super::{Cluster, facts::Facts};
use crate::signer::ClusterSigner;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

struct World {
    dir: TempDir,
    address: String,
    token: ServerToken,
    pki: Arc<ClusterPki>,
    server: Arc<Server>,
    tasks: JoinSet<()>,
}

fn cluster() -> Cluster {
    Cluster {
        pods: "10.42.0.0/16".parse().unwrap(),
        services: "10.96.0.0/16".parse().unwrap(),
        dns: "10.96.0.10".parse().unwrap(),
        domain: "cluster.local".into(),
        overlay_port: 8472,
    }
}

async fn world() -> World {
    pki::install_provider();
    let dir = tempfile::tempdir().unwrap();
    let pki = Arc::new(ClusterPki::load_or_create(&dir.path().join("pki")).unwrap());
    let listener = TcpListener::bind(SocketAddr::new(LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let store = store::embedded::Options::new(dir.path().join("db"), client::header::stamp(), "test");
    let deps = server::Deps {
        store: Arc::new(store::embedded::Embedded::open(store).unwrap()),
        pki: pki.clone(),
        serving: pki.serving_cert("apiserver", "kube-apiserver", &[San::Ip(LOCAL)]).unwrap(),
        kubelet_client: pki.client_cert("kubelet-client", &pki::Subject::new("kubelet-client", &["system:masters"])).unwrap(),
        front_proxy: pki.front_proxy_cert("front-proxy-client").unwrap(),
    };
    let config = server::Config {
        listen: address,
        advertise: LOCAL,
        advertise_port: address.port(),
        service_cidrs: vec![cluster().services],
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
    let server = Server::new(config, deps).await.unwrap();
    let mut tasks = JoinSet::new();
    let serving = server.clone();
    tasks.spawn(async move { serving.serve(listener).await.unwrap() });
    let admin = server.client(User::new("admin", &["system:masters"]));
    let file = dir.path().join("token");
    crate::join::prepare(&admin, &cluster(), &pki, None, &file).await.unwrap();
    let approver = server.client(User::service_account("kube-system", crate::join::APPROVER));
    tasks.spawn(async move { crate::join::approve_serving(approver, tokio::sync::watch::channel(vec![LOCAL]).1).await.unwrap() });
    let config = controllers::Config {
        cluster_cidr: Some(cluster().pods),
        node_cidr_mask: 24,
        disabled: Vec::new(),
        root_ca: pki.server_ca.cert_pem().to_owned(),
        tokens: None,
        signer: Some(Arc::new(ClusterSigner::new(pki.clone()))),
        node_monitor_grace: Duration::from_secs(50),
        local_path_dir: None,
    };
    let accounts = server.clone();
    let deps = controllers::Deps {
        client: server.client(User::new("system:kube-controller-manager", &[])),
        client_as: Arc::new(move |name: &str| accounts.client(User::service_account("kube-system", name))),
        metrics: server.metric_sources(),
    };
    tasks.spawn(async move { controllers::run(config, deps).await.unwrap() });
    let token = ServerToken::parse(&std::fs::read_to_string(file).unwrap()).unwrap();
    World { dir, address: format!("https://{address}"), token, pki, server, tasks }
}

impl World {
    fn wanted(&self) -> Wanted {
        let dir = self.dir.path().join("agent");
        std::fs::create_dir_all(&dir).unwrap();
        Wanted::client("a", &dir)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_one_cluster_once() {
    let mut world = world().await;
    let (wanted, dir) = (world.wanted(), world.dir.path().join("agent"));
    let foreign = ServerToken { ca_hash: Some("0".repeat(64)), ..world.token.clone() };
    let unknown = ServerToken::pinned(world.pki.server_ca.cert_pem(), &BootstrapToken::generate());
    for (token, why) in [(Some(&foreign), "the token pins 000"), (Some(&unknown), "refuses the token"), (None, "has not joined yet")] {
        let refused = join(&world.address, token, &wanted, &dir).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        assert!(refused.contains(why), "{refused}");
        assert!(!wanted.file.exists());
    }

    let joined = join(&world.address, Some(&world.token), &wanted, &dir).await.unwrap();
    let node = Client::new(Arc::new(transport(&world.address, &joined.trust, Some(&joined.cert), None).unwrap()));
    let facts = joined.facts(&node).await.unwrap();
    assert_eq!(facts, Facts::of(&cluster(), world.pki.server_ca.cert_pem(), world.pki.client_ca.cert_pem()));
    let serving = Wanted::serving("a", &["192.0.2.7".parse().unwrap()], &dir).obtain(&node).await.unwrap();
    assert!(world.pki.server_ca.has_signed(&serving.current().chain[0]));
    let secrets = node.call(Method::GET, "/api/v1/namespaces/kube-system/secrets", &Value::Null).await;
    assert_eq!(secrets.unwrap_err().code, 403);

    // The next start needs neither token nor server.
    let first = joined.cert.current().cert_pem.clone();
    world.server.stop();
    world.tasks.shutdown().await;
    let again = join(&world.address, None, &wanted, &dir).await.unwrap();
    assert_eq!(again.cert.current().cert_pem, first);
    assert_eq!(again.facts(&node).await.unwrap(), facts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_renews_its_certificate_while_it_is_used() {
    let world = world().await;
    let wanted = world.wanted();
    let request = IssueRequest {
        subject: wanted.subject.clone(),
        sans: Vec::new(),
        usages: vec![Usage::DigitalSignature, Usage::ClientAuth],
        lifetime: Duration::from_secs(20),
    };
    let brief = world.pki.client_ca.issue(&request).unwrap();
    let cert = HotCert::new(brief.clone()).unwrap();
    let trust = pki::ServerTrust::Authorities(vec![world.pki.server_ca.cert_pem().to_owned()]);
    let transport = Arc::new(transport(&world.address, &trust, Some(&cert), None).unwrap());
    let client = Client::new(transport.clone());
    client.call(Method::GET, Facts::PATH, &Value::Null).await.unwrap();
    let mut replaced = cert.subscribe();
    let renewing = tokio::spawn(wanted.clone().keep_renewed(cert.clone(), client.clone(), move || transport.reconnect()));
    tokio::time::timeout(Duration::from_secs(60), replaced.changed()).await.expect("renewed in time").unwrap();
    let renewed = cert.current();
    assert!(renewed.not_after > brief.not_after);
    assert_eq!(wanted.load().unwrap().cert_pem, renewed.cert_pem);
    client.call(Method::GET, Facts::PATH, &Value::Null).await.unwrap();
    renewing.abort();
}
