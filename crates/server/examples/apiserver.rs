//! A server of its own over a temporary store, to try the API before anything else exists: prints the path of a kubeconfig.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use pki::{AuthInfo, ClusterPki, HotCert, Kubeconfig, San, Subject};
use server::{Config, Deps, Server};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    pki::install_provider();
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_writer(std::io::stderr).init();
    let dir =
        std::env::args().nth(1).map_or_else(|| std::env::temp_dir().join(format!("knarr-apiserver-{}", std::process::id())), Into::into);
    std::fs::create_dir_all(&dir)?;
    let pki = Arc::new(ClusterPki::load_or_create(&dir.join("pki"))?);
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let sans = [San::Ip(local), San::parse("localhost"), San::parse("10.96.0.1"), San::parse("kubernetes")];
    let serving: Arc<HotCert> = pki.serving_cert("apiserver", "kube-apiserver", &sans)?;
    let admin = pki.client_cert("admin", &Subject::new("kubernetes-admin", &["system:masters"]))?;
    let kubelet_client = pki.client_cert("kubelet-client", &Subject::new("kube-apiserver-kubelet-client", &["system:masters"]))?;
    let front_proxy = pki.front_proxy_cert("front-proxy-client")?;
    let options = store::embedded::Options::new(dir.join("store"), client::header::stamp(), "example");
    let store = Arc::new(store::embedded::Embedded::open(options)?);
    let port = std::env::args().nth(2).and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = tokio::net::TcpListener::bind(SocketAddr::new(local, port)).await?;
    let address = listener.local_addr()?;
    let config = Config {
        listen: address,
        advertise: "192.0.2.1".parse()?,
        advertise_port: address.port(),
        service_cidrs: vec!["10.96.0.0/16".parse()?],
        node_ports: (30000, 32767),
        issuers: vec!["https://kubernetes.default.svc.cluster.local".into()],
        audiences: Vec::new(),
        old_token_keys: Vec::new(),
        anonymous: true,
        token_file: None,
        max_in_flight: 400,
        request_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(5),
        event_ttl: Duration::from_secs(3600),
        sans: Vec::new(),
        cluster_domain: "cluster.local".into(),
        security: server::Security::default(),
    };
    let started = std::time::Instant::now();
    let deps = Deps { store, pki: pki.clone(), serving, kubelet_client, front_proxy };
    let server = Server::new(config, deps).await?;
    let admin = admin.current();
    let kubeconfig = Kubeconfig::single(
        "knarr",
        &format!("https://{address}"),
        pki.server_ca.cert_pem(),
        "admin",
        AuthInfo::client_cert(&admin.cert_pem, &admin.key_pem),
    );
    let path = dir.join("kubeconfig");
    kubeconfig.write(&path)?;
    println!("{} (ready after {:?})", path.display(), started.elapsed());
    let stop = server.clone();
    tokio::spawn(async move {
        tokio::signal::ctrl_c().await.ok();
        stop.stop();
    });
    server.serve(listener).await
}
