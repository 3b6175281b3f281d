//! A real server over a real store in a directory of its own, called in process.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use bytes::Bytes;
use client::Transport;
use http::{Method, Request};
use pki::{ClusterPki, San};
use serde_json::Value;
use server::{Config, Deps, InProcess, Server, User};
use tempfile::TempDir;

/// A server and a user who may do everything.
#[allow(dead_code, reason = "not every test uses all of it")]
pub struct UnderTest {
    /// The server.
    pub server: Arc<Server>,
    admin: Arc<InProcess>,
    _dir: TempDir,
}

#[allow(dead_code, reason = "not every test uses all of it")]
impl UnderTest {
    /// A fresh server.
    pub async fn start() -> UnderTest {
        UnderTest::start_in(tempfile::tempdir().unwrap(), server::Security::default()).await
    }

    /// Where everything of it is.
    pub fn dir(&self) -> &std::path::Path {
        self._dir.path()
    }

    /// A server in a folder that may have been used before.
    pub async fn start_in(dir: TempDir, security: server::Security) -> UnderTest {
        pki::install_provider();
        let pki = Arc::new(ClusterPki::load_or_create(&dir.path().join("pki")).unwrap());
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let serving = pki.serving_cert("apiserver", "kube-apiserver", &[San::Ip(local)]).unwrap();
        let kubelet_client = pki.client_cert("kubelet-client", &pki::Subject::new("kubelet-client", &["system:masters"])).unwrap();
        let front_proxy = pki.front_proxy_cert("front-proxy-client").unwrap();
        let mut options = store::embedded::Options::new(dir.path().join("store"), client::header::stamp(), "test");
        if let Some(encryption) = &security.encryption {
            options.cipher = encryption.clone();
        }
        let store = Arc::new(store::embedded::Embedded::open(options).unwrap());
        let config = Config {
            listen: SocketAddr::new(local, 0),
            advertise: "192.0.2.1".parse().unwrap(),
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
            security,
        };
        let server = Server::new(config, Deps { store, pki, serving, kubelet_client, front_proxy }).await.unwrap();
        let admin = server.in_process(User::new("admin", &["system:masters"]));
        UnderTest { server, admin, _dir: dir }
    }

    /// A call of the admin: code and body.
    pub async fn call(&self, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        self.call_as(&self.admin, method, path, content_type, body).await
    }

    /// A call of somebody.
    pub async fn call_as(&self, user: &InProcess, method: Method, path: &str, content_type: &str, body: impl Into<Bytes>) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", content_type).body(body.into()).unwrap();
        match user.call(request).await {
            Ok(reply) => (reply.status().as_u16(), serde_json::from_slice(reply.body()).unwrap_or(Value::Null)),
            Err(status) => (status.code, Status::to_value(&status)),
        }
    }

    /// Creates an object and expects that it works.
    pub async fn create(&self, path: &str, object: &Value) -> Value {
        let (code, body) = self.call(Method::POST, path, "application/json", object.to_string()).await;
        assert_eq!(code, 201, "{path}: {body}");
        body
    }

    /// Reads an object and expects that it is there.
    pub async fn get(&self, path: &str) -> Value {
        let (code, body) = self.call(Method::GET, path, "application/json", "").await;
        assert_eq!(code, 200, "{path}: {body}");
        body
    }
}
