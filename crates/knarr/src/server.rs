//! `knarr server`: the whole control plane and a node in one process.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::Client;
use pki::{AuthInfo, ClusterPki, HotCert, Kubeconfig, San, Subject, TokenAuthority};
use server::{Server, User};
use store::Store;
use store::embedded::{Embedded, Options};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::flags::ServerFlags;
use crate::leading::Leaders;
use crate::listen::listen;
use crate::node::{self, Access, Cluster, Machine};
use crate::server_address::{self, Follower, KubeletCert};
use crate::signer::ClusterSigner;
use crate::supervise::Supervisor;
use crate::{admin, bundled, datastore, join, leading, logging, process, threads};

/// Runs a server until it is told to stop. Containers go on running.
///
/// # Errors
/// Bad flags, an occupied port, missing rights or a data directory in use; nothing is left half-started.
pub fn run(flags: ServerFlags) -> Result<()> {
    let levels = logging::start(&flags.node.log_level, flags.node.log_format == "json")?;
    let runtime = threads::start(threads::of_control_plane())?;
    runtime.block_on(serve(flags, levels))
}

async fn serve(flags: ServerFlags, levels: logging::Levels) -> Result<()> {
    let stop = CancellationToken::new();
    flags.check()?;
    let cluster = cluster(&flags)?;
    let listener = listen(flags.listen()).await.with_context(|| format!("listen on {} (is another server running?)", flags.listen()))?;
    let with_node = !flags.disabled("node");
    let data = &flags.node.data_dir;
    std::fs::create_dir_all(data).with_context(|| format!("make data directory {}", data.display()))?;
    let security = flags.security.settings()?;
    let (pki, store) = open_store(&flags, security.encryption.clone()).await?;
    let machine = if with_node { Some(Machine::open(&flags.node).await?) } else { None };
    let ips = match &machine {
        Some(machine) => machine.ips.clone(),
        None => node::node_ips(&flags.node)?,
    };
    let advertise = flags.advertise_address.unwrap_or(ips[0]);
    let certificates = Certificates::make(&pki, &flags, &cluster, advertise, &ips)?;
    let supervisor = Supervisor::new(stop.clone());
    certificates.keep_renewed(&supervisor);
    let server =
        Server::new(server_config(&flags, advertise, security)?, certificates.deps(store, &pki)).await.context("start the API server")?;
    process::show(&server.metric_sources(), "server", machine.as_ref().map(|machine| machine.runtime.cgroup_root()));
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve(listener).await }
    });
    let admin_client = server.client(User::new("system:admin", &["system:masters"]));
    write_kubeconfig(&flags, &pki, advertise)?;
    bundled::node_network(&admin_client).await.context("let nodes read services")?;
    let token_file = data.join("token");
    join::prepare(&admin_client, &cluster, &pki, flags.token.as_deref(), &token_file).await?;
    let leaders = Leaders::default();
    start_control_plane(&flags, &cluster, &server, &pki, &leaders, &supervisor)?;
    let reserved = watch::Sender::new(reserved(&cluster, advertise, &ips));
    start_approver(&server, reserved.subscribe(), &supervisor);
    let (ready, kubelet) = match &machine {
        Some(machine) => {
            start_node(&flags, &cluster, machine, &server, &pki, &supervisor).map(|(ready, cert)| (Some(ready), Some(cert)))?
        }
        None => (None, None),
    };
    if flags.node.node_ip.is_empty() {
        let serving = certificates.serving.clone();
        server_address::follow(
            Follower {
                flags: flags.clone(),
                cluster: cluster.clone(),
                server: server.clone(),
                pki: pki.clone(),
                serving,
                kubelet,
                reserved,
            },
            &supervisor,
        );
    }
    if !flags.disabled("local-storage") {
        bundled::storage(&admin_client).await.context("make the storage class for volumes of this machine")?;
    }
    if !flags.disabled("dns") {
        bundled::dns(&admin_client, cluster.dns, &ips).await.context("make the Service of the cluster DNS")?;
    }
    let state = admin::State {
        levels,
        supervisor: supervisor.clone(),
        images: machine.as_ref().and_then(|machine| machine.images.store()),
        ready: ready.map(Arc::new),
        client: Some(admin_client),
        files: server.reloads(),
        node: machine.as_ref().map(|machine| machine.name.clone()),
    };
    let socket = flags.node.run_dir.join("knarr.sock");
    supervisor.run("admin", move || Box::pin(admin::run(socket.clone(), state.clone())));
    tracing::info!(version = api::VERSION, address = %flags.listen(), kubeconfig = %flags.write_kubeconfig.display(), "knarr server is running");
    tracing::info!(
        "further nodes join with: knarr agent --server https://{} --token-file FILE (a copy of {})",
        SocketAddr::new(advertise, flags.https_listen_port),
        token_file.display()
    );
    let mut serving = serving;
    let ended = wait_for_end(&mut serving).await;
    if serving.is_finished() {
        server.stop();
    } else {
        leaders.give_up().await;
        // What runs is finished, for as long as the API server waits for it.
        server.shut_down(Duration::ZERO).await;
        drop(serving.await);
    }
    supervisor.shut_down().await;
    ended
}

/// The cluster's authorities and keys, and its store: of this machine, or etcd for several servers.
async fn open_store(flags: &ServerFlags, encryption: Option<Arc<server::Encryption>>) -> Result<(Arc<ClusterPki>, Arc<dyn Store>)> {
    let (data, folder) = (&flags.node.data_dir, flags.node.data_dir.join("pki"));
    if flags.datastore_endpoint.is_empty() {
        let pki = Arc::new(ClusterPki::load_or_create(&folder)?);
        let mut options = Options::new(data.join("db"), client::header::stamp(), api::VERSION);
        if let Some(encryption) = encryption {
            options.cipher = encryption;
        }
        return Ok((pki, Arc::new(Embedded::open(options)?)));
    }
    if data.join("db").exists() {
        bail!("{} has a store of its own; --datastore-endpoint needs another --data-dir", data.display());
    }
    let cipher: Arc<dyn store::Cipher> = encryption.map_or(Arc::new(store::Plain) as Arc<dyn store::Cipher>, |encryption| encryption);
    let pair = (flags.datastore_certfile.as_deref(), flags.datastore_keyfile.as_deref());
    let options = datastore::options(flags.datastore_endpoint.clone(), flags.datastore_cafile.as_deref(), pair, cipher)?;
    let token = flags.token.as_deref().context("--datastore-endpoint needs --token")?;
    datastore::share(&options, token, &folder).await.context("share authorities and keys over etcd")?;
    let pki = Arc::new(ClusterPki::load_or_create(&folder)?);
    Ok((pki, Arc::new(store::etcd::Etcd::open(options).await.context("open etcd")?)))
}

/// Waits for a signal to stop, or for the API server to end by itself.
async fn wait_for_end(serving: &mut tokio::task::JoinHandle<Result<()>>) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = serving => ended.context("the API server ended")?,
    }
}

fn cluster(flags: &ServerFlags) -> Result<Cluster> {
    let services = flags.service_cidr;
    let tenth = services.hosts().nth(9);
    let Some(dns) = flags.cluster_dns.or(tenth) else {
        bail!("the service range {services} has no tenth address for the cluster DNS; give one with --cluster-dns");
    };
    if !services.contains(&dns) {
        bail!("the address {dns} of the cluster DNS is not in the service range {services}");
    }
    if services.contains(&flags.cluster_cidr.network()) || flags.cluster_cidr.contains(&services.network()) {
        bail!("the ranges of pods ({}) and services ({services}) overlap", flags.cluster_cidr);
    }
    Ok(Cluster { pods: flags.cluster_cidr, services, dns, domain: flags.cluster_domain.clone(), overlay_port: flags.overlay_port })
}

/// The range of node ports.
///
/// # Errors
/// The flag is no range.
pub fn node_ports(flags: &ServerFlags) -> Result<(u16, u16)> {
    let range = flags.service_node_port_range.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
    let Some(node_ports) = range.filter(|(first, last)| first <= last) else {
        bail!("{:?} is no range of ports such as 30000-32767", flags.service_node_port_range);
    };
    Ok(node_ports)
}

/// Mode of the administrator's kubeconfig.
///
/// # Errors
/// The flag is no mode.
pub fn kubeconfig_mode(flags: &ServerFlags) -> Result<u32> {
    let text = &flags.write_kubeconfig_mode;
    u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o777).with_context(|| format!("{text:?} is no mode such as 600"))
}

fn server_config(flags: &ServerFlags, advertise: IpAddr, security: server::Security) -> Result<server::Config> {
    Ok(server::Config {
        listen: flags.listen(),
        advertise,
        advertise_port: flags.https_listen_port,
        service_cidrs: vec![flags.service_cidr],
        node_ports: node_ports(flags)?,
        issuers: vec![format!("https://kubernetes.default.svc.{}", flags.cluster_domain)],
        audiences: Vec::new(),
        old_token_keys: Vec::new(),
        anonymous: flags.security.anonymous_auth,
        token_file: flags.security.token_auth_file.clone(),
        max_in_flight: 600,
        request_timeout: Duration::from_secs(60),
        drain_timeout: Duration::from_secs(5),
        event_ttl: Duration::from_secs(3600),
        sans: flags.tls_san.clone(),
        cluster_domain: flags.cluster_domain.clone(),
        security,
    })
}

/// Name of the API server's certificate.
pub const SERVING: &str = "kube-apiserver";

/// Names and addresses that the API server answers to.
///
/// # Errors
/// The service range has no address.
pub fn sans(flags: &ServerFlags, cluster: &Cluster, advertise: IpAddr, ips: &[IpAddr]) -> Result<Vec<San>> {
    let first = cluster.services.hosts().next().context("the service range has an address")?;
    let mut sans: Vec<San> = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(San::parse).to_vec();
    sans.push(San::Dns(format!("kubernetes.default.svc.{}", cluster.domain)));
    sans.push(San::Dns(rustix::system::uname().nodename().to_string_lossy().to_lowercase()));
    sans.extend([IpAddr::from([127, 0, 0, 1]), first, advertise].into_iter().chain(ips.iter().copied()).map(San::Ip));
    sans.extend(flags.tls_san.iter().map(|san| San::parse(san)));
    Ok(sans)
}

/// Certificates of the server, renewed while it runs.
struct Certificates {
    serving: Arc<HotCert>,
    kubelet_client: Arc<HotCert>,
    front_proxy: Arc<HotCert>,
}

impl Certificates {
    fn make(pki: &ClusterPki, flags: &ServerFlags, cluster: &Cluster, advertise: IpAddr, ips: &[IpAddr]) -> Result<Certificates> {
        Ok(Certificates {
            serving: pki.serving_cert(SERVING, SERVING, &sans(flags, cluster, advertise, ips)?)?,
            kubelet_client: pki.client_cert(
                "kube-apiserver-kubelet-client",
                &Subject::new("kube-apiserver-kubelet-client", &["kubeadm:cluster-admins", "system:masters"]),
            )?,
            front_proxy: pki.front_proxy_cert("front-proxy-client")?,
        })
    }

    fn keep_renewed(&self, supervisor: &Supervisor) {
        for (name, certificate) in
            [("serving", &self.serving), ("kubelet-client", &self.kubelet_client), ("front-proxy", &self.front_proxy)]
        {
            let certificate = certificate.clone();
            supervisor.run(&format!("certificate {name}"), move || {
                let certificate = certificate.clone();
                Box::pin(async move {
                    certificate.keep_renewed().await;
                    Ok(())
                })
            });
        }
    }

    fn deps(&self, store: Arc<dyn Store>, pki: &Arc<ClusterPki>) -> server::Deps {
        server::Deps {
            store,
            pki: pki.clone(),
            serving: self.serving.clone(),
            kubelet_client: self.kubelet_client.clone(),
            front_proxy: self.front_proxy.clone(),
        }
    }
}

/// The administrator's kubeconfig, readable by its owner only unless told otherwise.
fn write_kubeconfig(flags: &ServerFlags, pki: &ClusterPki, advertise: IpAddr) -> Result<()> {
    let path = &flags.write_kubeconfig;
    let issued = pki.client_cert("admin", &Subject::new("system:admin", &["system:masters"]))?.current();
    let host = if flags.bind_address.is_unspecified() { "127.0.0.1".to_owned() } else { advertise.to_string() };
    let address = format!("https://{host}:{}", flags.https_listen_port);
    let config = Kubeconfig::single(
        "knarr",
        &address,
        pki.server_ca.cert_pem(),
        "knarr-admin",
        AuthInfo::client_cert(&issued.cert_pem, &issued.key_pem),
    );
    if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
        std::fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    }
    config.write(path)?;
    let mode = kubeconfig_mode(flags)?;
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
        .with_context(|| format!("set the mode of {}", path.display()))
}

fn start_control_plane(
    flags: &ServerFlags,
    cluster: &Cluster,
    server: &Arc<Server>,
    pki: &Arc<ClusterPki>,
    leaders: &Leaders,
    supervisor: &Supervisor,
) -> Result<()> {
    let is_only = flags.datastore_endpoint.is_empty();
    if !flags.disabled("controllers") {
        let config = controllers::Config {
            cluster_cidr: Some(cluster.pods),
            node_cidr_mask: if cluster.pods.addr().is_ipv4() {
                24.max(cluster.pods.prefix_len())
            } else {
                64.max(cluster.pods.prefix_len())
            },
            disabled: Vec::new(),
            root_ca: pki.server_ca.cert_pem().to_owned(),
            tokens: Some(Arc::new(TokenAuthority::new(pki.service_account_key.clone(), &[], &[server.tokens().issuer().to_owned()])?)),
            signer: Some(Arc::new(ClusterSigner::new(pki.clone()))),
            node_monitor_grace: Duration::from_secs(50),
            local_path_dir: (!flags.disabled("local-storage")).then(|| flags.node.data_dir.join("storage")),
        };
        let (server, leaders) = (server.clone(), leaders.clone());
        supervisor.run("controllers", move || {
            let leaders = leaders.clone();
            let as_account = server.clone();
            let client_as: Arc<dyn Fn(&str) -> Client + Send + Sync> =
                Arc::new(move |name: &str| as_account.client(User::service_account("kube-system", name)));
            let client = server.client(User::new("system:kube-controller-manager", &[]));
            let work =
                controllers::run(config.clone(), controllers::Deps { client: client.clone(), client_as, metrics: server.metric_sources() });
            Box::pin(async move { leading::alone(is_only, "kube-controller-manager", &client, &leaders, work).await })
        });
    }
    if !flags.disabled("scheduler") {
        let (server, leaders) = (server.clone(), leaders.clone());
        supervisor.run("scheduler", move || {
            let leaders = leaders.clone();
            let client = server.client(User::new("system:kube-scheduler", &[]));
            let work = scheduler::run(
                scheduler::Config { name: "default-scheduler".into() },
                scheduler::Deps { client: client.clone(), metrics: server.metric_sources() },
            );
            Box::pin(async move { leading::alone(is_only, "kube-scheduler", &client, &leaders, work).await })
        });
    }
    Ok(())
}

/// Addresses of the servers, which no node gets.
pub fn reserved(cluster: &Cluster, advertise: IpAddr, ips: &[IpAddr]) -> Vec<IpAddr> {
    ips.iter().copied().chain([advertise, cluster.dns]).chain(cluster.services.hosts().next()).collect()
}

/// Serving certificates of joining nodes.
fn start_approver(server: &Arc<Server>, reserved: watch::Receiver<Vec<IpAddr>>, supervisor: &Supervisor) {
    let server = server.clone();
    supervisor.run("serving-approver", move || {
        let client = server.client(User::service_account("kube-system", join::APPROVER));
        Box::pin(join::approve_serving(client, reserved.clone()))
    });
}

fn start_node(
    flags: &ServerFlags,
    cluster: &Cluster,
    machine: &Machine,
    server: &Arc<Server>,
    pki: &Arc<ClusterPki>,
    supervisor: &Supervisor,
) -> Result<(node::Ready, KubeletCert)> {
    let kubelet = KubeletCert::make(pki, &machine.name, &machine.ips)?;
    let access = Access {
        node: server.client(User::node(&machine.name)),
        proxy: server.client(User::new("system:kube-proxy", &[])),
        serving: kubelet.cert.clone(),
        client_ca: pki.client_ca.cert_pem().to_owned(),
        metrics: server.metric_sources(),
    };
    let ready = node::start(&flags.node, cluster, machine, access, |name| flags.disabled(name), supervisor)?;
    Ok((ready, kubelet))
}
