//! `knarr kubelet`: the node alone, told by flags and a KubeletConfiguration. It brings its own runtime and pod network,
//! so that it stands for the kubelet together with containerd and the network plugin; with a container runtime endpoint it
//! stands for the kubelet alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use api::Quantity;
use clap::Parser;
use client::metrics::Sources;
use client::{Client, HttpTransport};
use ipnet::IpNet;
use kubelet::eviction::Policy;
use kubelet::shutdown::Period;
use kubelet::swap::{Behavior, Config as SwapConfig};
use pki::{AuthInfo, HotCert, Kubeconfig, San};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::access::{Access, reach};
use super::component_config::{Fields, read};
use super::endpoint::{Plain, pair, self_signed};
use super::flags::{Flag, Values, harmless, harmless_switch, only, only_switch, switch, used};
use crate::flags::NodeFlags;
use crate::node::credentials::Wanted;
use crate::node::{self, Cluster, Machine};
use crate::supervise::Supervisor;

/// Flags of its own.
pub const FLAGS: &[Flag] = &[
    used("config", "KubeletConfiguration."),
    used("kubeconfig", "Where the API server is, and who the node is there."),
    used("bootstrap-kubeconfig", "Who asks for the node's certificate where there is no kubeconfig yet; that one is written then."),
    used("hostname-override", "Name of the node."),
    used("node-ip", "Addresses of the node."),
    used("root-dir", "Folder of pods and volumes."),
    used("cert-dir", "Folder of the node's certificates; pki in the root where absent."),
    used("node-labels", "Labels given at registration."),
    used("data-dir", "Folder of images (a flag of ours)."),
    used("run-dir", "Folder for sockets and the state of running containers (a flag of ours)."),
    used("cluster-ranges", "Ranges of pods and services, which pods reach with their own address (a flag of ours)."),
    used("registries", "Mirrors and credentials of registries, in the form of k3s (a flag of ours)."),
    used("container-runtime-endpoint", "Socket of another container runtime; its own where absent."),
    used("image-credential-provider-config", "Programs that know credentials for images, and for which they are asked."),
    used("image-credential-provider-bin-dir", "Folder of these programs."),
    switch("fail-swap-on", "Whether the node may not run where there is swap."),
    used("cpu-manager-policy", "How processors are given: none or static."),
    used("cpu-manager-policy-options", "Options of the static policy."),
    used("reserved-cpus", "Processors that are kept for the system."),
    used("kube-reserved", "What is kept for Kubernetes itself."),
    used("system-reserved", "What is kept for the rest of the system."),
    used("memory-manager-policy", "How memory is given: None or Static."),
    used("reserved-memory", "Memory that is kept on each NUMA node."),
    used("topology-manager-policy", "How near to each other a pod's resources have to be."),
    used("topology-manager-scope", "For what NUMA nodes are picked together: container or pod."),
    used("topology-manager-policy-options", "Options of that policy."),
    only("cloud-provider", &["", "external"]),
    only_switch("register-node", &["true"]),
    harmless("pod-infra-container-image"),
    harmless("runtime-cgroups"),
    harmless("config-dir"),
    harmless("node-status-max-images"),
    harmless_switch("exit-on-lock-contention"),
];

/// Fields of the configuration that nothing here depends on.
const HARMLESS: &[&str] = &[
    "/authentication/webhook",
    "/authorization/webhook",
    "/cgroupDriver",
    "/cgroupsPerQOS",
    "/enforceNodeAllocatable",
    "/cpuManagerReconcilePeriod",
    "/failCgroupV1",
    "/fileCheckFrequency",
    "/httpCheckFrequency",
    "/imageMaximumGCAge",
    "/kubeAPIQPS",
    "/kubeAPIBurst",
    "/logging",
    "/nodeStatusReportFrequency",
    "/nodeStatusUpdateFrequency",
    "/rotateCertificates",
    "/runtimeRequestTimeout",
    "/streamingConnectionIdleTimeout",
    "/syncFrequency",
    "/volumeStatsAggPeriod",
    "/featureGates",
    "/crashLoopBackOff",
    "/serializeImagePulls",
    "/maxParallelImagePulls",
    "/registryPullQPS",
    "/registryBurst",
    "/eventRecordQPS",
    "/eventBurst",
    "/oomScoreAdj",
    "/localStorageCapacityIsolation",
    "/enableServer",
    "/enableProfilingHandler",
    "/enableDebugFlagsHandler",
    "/enableDebuggingHandlers",
    "/containerLogMaxWorkers",
    "/containerLogMonitorInterval",
    "/nodeLeaseDurationSeconds",
    "/volumePluginDir",
    "/makeIPTablesUtilChains",
    "/hairpinMode",
    "/contentType",
    "/configMapAndSecretChangeDetectionStrategy",
    "/maxOpenFiles",
    "/nodeStatusMaxImages",
];

#[derive(Parser)]
struct Node {
    #[command(flatten)]
    flags: NodeFlags,
}

/// Runs until it fails.
///
/// # Errors
/// Files that cannot be used, missing rights or a data directory in use.
pub async fn run(values: &Values, levels: crate::logging::Levels) -> Result<()> {
    let mut fields = match values.text("config") {
        Some(file) => read(Path::new(file), "kubelet.config.k8s.io/v1beta1", "KubeletConfiguration")?,
        None => Fields::default(),
    };
    for (field, must) in [("/authentication/anonymous/enabled", "false"), ("/authorization/mode", "Webhook"), ("/registerNode", "true")] {
        if let Some(value) = fields.text(field).filter(|value| value != must) {
            bail!("the field {} can only be {must} here, not {value}", field.trim_start_matches('/').replace('/', "."));
        }
    }
    let root = PathBuf::from(values.text("root-dir").unwrap_or("/var/lib/kubelet"));
    let certs = values.text("cert-dir").map_or_else(|| root.join("pki"), PathBuf::from);
    let flags = node_flags(values, &mut fields, &root)?;
    let client_ca = match fields.text("/authentication/x509/clientCAFile") {
        Some(file) => std::fs::read_to_string(&file).with_context(|| format!("clientCAFile {file}"))?,
        // One that has signed nothing: tokens are the only way in.
        None => pki::Authority::create("nobody", std::time::Duration::from_secs(365 * 24 * 3600))?.cert_pem().to_owned(),
    };
    let serving_files = (fields.text("/tlsCertFile"), fields.text("/tlsPrivateKeyFile"));
    let bootstrap_serving = fields.text("/serverTLSBootstrap").is_some_and(|asked| asked == "true");
    let healthz = match fields.text("/healthzPort").as_deref() {
        Some("0") => String::new(),
        port => format!("{}:{}", fields.text("/healthzBindAddress").unwrap_or_else(|| "127.0.0.1".into()), port.unwrap_or("10248")),
    };
    let dns: Vec<IpAddr> = texts(fields.take("/clusterDNS")).iter().map(|ip| ip.parse().context("clusterDNS")).collect::<Result<_>>()?;
    let domain = fields.text("/clusterDomain").unwrap_or_default();
    let log_size = fields.text("/containerLogMaxSize").unwrap_or_else(|| "10Mi".into());
    let log_size = Quantity::parse(&log_size).with_context(|| format!("containerLogMaxSize {log_size:?} is no quantity"))?;
    let log_files = fields.text("/containerLogMaxFiles").unwrap_or_else(|| "5".into()).parse().context("containerLogMaxFiles")?;
    let eviction = eviction(&mut fields)?;
    let shutdown = shutdown(&mut fields)?;
    let swap = swap(values, &mut fields)?;
    let user_ids = fields.text("/userNamespaces/idsPerPod").map(|ids| ids.parse::<u32>()).transpose();
    let user_ids = user_ids.context("userNamespaces.idsPerPod")?.filter(|ids| *ids > 0);
    fields.finish(HARMLESS)?;

    let name = node::node_name(&flags)?;
    std::fs::create_dir_all(&certs).with_context(|| format!("make {}", certs.display()))?;
    let access = access(values, &name, &certs).await?;
    let transport = Arc::new(access.transport()?);
    let client = Client::new(transport.clone());
    let metrics = Sources::default();
    if let Some(plain) = Plain::open(&healthz, metrics.checks_alone()).await? {
        tokio::spawn(plain.serve());
    }
    reach(&client).await;
    let machine = Machine::open(&flags).await?;
    crate::process::show(&metrics, "kubelet", Some(machine.runtime.cgroup_root()));
    let stop = CancellationToken::new();
    let supervisor = Supervisor::new(stop);
    keep_certificate(&name, &certs, &access, &client, transport, &supervisor);
    let serving = match serving_files {
        (Some(cert), Some(key)) => pair(&cert, &key)?,
        _ if bootstrap_serving => serving_by_request(&machine, &certs, &client, &supervisor),
        _ => self_signed(&format!("{name}@kubelet"), &sans(&machine))?,
    };
    let ranges: Vec<IpNet> = values
        .list("cluster-ranges")
        .iter()
        .map(|range| range.parse().with_context(|| format!("--cluster-ranges {range:?}")))
        .collect::<Result<_>>()?;
    let cluster = Cluster {
        pods: "0.0.0.0/32".parse().expect("a range"),
        services: "0.0.0.0/32".parse().expect("a range"),
        dns: dns.first().copied().unwrap_or(IpAddr::from([0, 0, 0, 0])),
        domain,
        overlay_port: 8472,
    };
    let mut config = node::kubelet_config(&flags, &cluster, &machine)?;
    config.credential_providers = credential_providers(values)?;
    config.eviction = eviction;
    config.shutdown = kubelet::shutdown::Config::new(shutdown);
    config.swap = swap;
    config.user_ids_per_pod = user_ids.unwrap_or(config.user_ids_per_pod);
    config.cluster_ranges = ranges;
    config.cluster_dns = dns;
    config.log_max_size = u64::try_from(log_size.value()).context("containerLogMaxSize")?;
    config.log_max_files = log_files;
    let mut serving = pki::server_config(&serving, true, &["http/1.1"])?;
    serving.max_early_data_size = 0;
    let deps = kubelet::Deps {
        client: client.clone(),
        runtime: machine.runtime.clone(),
        images: machine.images.clone(),
        journal: machine.journal.clone(),
        serving: Arc::new(serving),
        client_ca,
        metrics,
    };
    let ready = watch::Sender::new(false);
    supervisor.run("kubelet", move || Box::pin(kubelet::run(config.clone(), deps.clone(), ready.clone())));
    if machine.runtime.other().is_some() {
        tracing::info!("the pods' network is the container runtime's");
    } else if may_see_nodes(&client).await {
        node::start_overlay(&cluster, &machine, &client, &supervisor);
    } else {
        tracing::warn!("the node may not list nodes, so that pods of other nodes are not reached; bind it to a role that may");
    }
    let state = crate::admin::State {
        levels,
        supervisor: supervisor.clone(),
        images: machine.images.store(),
        ready: None,
        client: Some(client),
        files: Arc::default(),
        node: Some(name.clone()),
    };
    let socket = flags.run_dir.join("knarr.sock");
    supervisor.run("admin", move || Box::pin(crate::admin::run(socket.clone(), state.clone())));
    tracing::info!(version = api::VERSION, node = name, server = access.server(), "knarr kubelet is running");
    std::future::pending().await
}

/// Programs that know credentials for images.
fn credential_providers(values: &Values) -> Result<Vec<kubelet::credentials::Provider>> {
    let (Some(file), Some(programs)) = (values.text("image-credential-provider-config"), values.text("image-credential-provider-bin-dir"))
    else {
        return Ok(Vec::new());
    };
    let text = std::fs::read_to_string(file).with_context(|| format!("read credential provider config {file}"))?;
    let config = codec::yaml::parse(text.as_bytes()).map_err(|error| anyhow::anyhow!("failed to decode {file}: {error}"))?;
    kubelet::credentials::parse(&config, Path::new(programs)).with_context(|| format!("credential provider config {file}"))
}

/// What pods are evicted for beside the hard thresholds.
fn eviction(fields: &mut Fields) -> Result<Policy> {
    let map = |fields: &mut Fields, name: &str| -> Result<BTreeMap<String, String>> {
        let value = fields.take(&format!("/{name}")).map(serde_json::from_value).transpose();
        Ok(value.with_context(|| name.to_owned())?.unwrap_or_default())
    };
    let soft: Vec<String> = map(fields, "evictionSoft")?.iter().map(|(signal, amount)| format!("{signal}<{amount}")).collect();
    let grace = map(fields, "evictionSoftGracePeriod")?;
    let grace = grace.into_iter().map(|(signal, time)| Ok((signal, duration(&time).context("evictionSoftGracePeriod")?)));
    let grace: BTreeMap<String, Duration> = grace.collect::<Result<_>>()?;
    let transition = fields.text("/evictionPressureTransitionPeriod").map(|time| duration(&time)).transpose();
    let transition = transition.context("evictionPressureTransitionPeriod")?.filter(|time| !time.is_zero());
    let most = fields.text("/evictionMaxPodGracePeriod").map(|seconds| seconds.parse()).transpose();
    Ok(Policy {
        soft: Policy::soft(&soft.join(","), &grace).context("evictionSoft")?,
        minimum_reclaim: Policy::reclaim(&map(fields, "evictionMinimumReclaim")?).context("evictionMinimumReclaim")?,
        max_pod_grace: most.context("evictionMaxPodGracePeriod")?.unwrap_or(0),
        transition: transition.unwrap_or_else(|| Policy::default().transition),
    })
}

/// How long pods have when the machine goes down.
fn shutdown(fields: &mut Fields) -> Result<Vec<Period>> {
    let mut time = |name: &str| -> Result<Duration> {
        let text = fields.text(&format!("/{name}"));
        Ok(text.map(|text| duration(&text)).transpose().with_context(|| name.to_owned())?.unwrap_or_default())
    };
    let (all, critical) = (time("shutdownGracePeriod")?, time("shutdownGracePeriodCriticalPods")?);
    let by_priority = fields.take("/shutdownGracePeriodByPodPriority").and_then(|list| list.as_array().cloned()).unwrap_or_default();
    if critical > all {
        bail!("invalid configuration: shutdownGracePeriodCriticalPods {critical:?} must be <= shutdownGracePeriod {all:?}");
    }
    for (name, time) in [("shutdownGracePeriod", all), ("shutdownGracePeriodCriticalPods", critical)] {
        if !time.is_zero() && time < Duration::from_secs(1) {
            bail!("invalid configuration: {name} {time:?} must be either zero or otherwise >= 1 sec");
        }
        if !time.is_zero() && !by_priority.is_empty() {
            bail!("invalid configuration: cannot specify both shutdownGracePeriodByPodPriority and {name} at the same time");
        }
    }
    if by_priority.is_empty() {
        return Ok(kubelet::shutdown::two_periods(all, critical));
    }
    let period = |entry: &Value| {
        let number = |field: &str| entry[field].as_i64().or_else(|| entry[field].is_null().then_some(0));
        let priority = number("priority").and_then(|priority| i32::try_from(priority).ok());
        Some(Period { priority: priority?, seconds: number("shutdownGracePeriodSeconds").filter(|seconds| *seconds >= 0)? })
    };
    by_priority.iter().map(|entry| period(entry).context("shutdownGracePeriodByPodPriority")).collect()
}

/// What is said about swap. The real kubelet refuses a machine that has some unless it is told otherwise.
fn swap(values: &Values, fields: &mut Fields) -> Result<SwapConfig> {
    let field = fields.text("/failSwapOn");
    let fail_on = values.text("fail-swap-on").map(str::to_owned).or(field).is_none_or(|text| text != "false");
    let behavior = match fields.text("/memorySwap/swapBehavior").as_deref() {
        None | Some("NoSwap") => Behavior::NoSwap,
        Some("LimitedSwap") => Behavior::LimitedSwap,
        Some(other) => {
            bail!("invalid configuration: memorySwap.swapBehavior {other:?} must be one of: \"\", \"LimitedSwap\" or \"NoSwap\"")
        }
    };
    Ok(SwapConfig { behavior, fail_on })
}

fn duration(text: &str) -> Result<Duration> {
    let nanos = api::cron::go_duration(text).and_then(|nanos| u64::try_from(nanos).ok());
    nanos.map(Duration::from_nanos).with_context(|| format!("time: invalid duration {text:?}"))
}

fn texts(value: Option<Value>) -> Vec<String> {
    value.iter().filter_map(Value::as_array).flatten().filter_map(|text| text.as_str().map(str::to_owned)).collect()
}

/// A map as `name=value,...`, and a list of reserved memory as `node:name=value,...;...`, as flags have them.
fn as_flag(value: &Value) -> String {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Object(map) => map.iter().map(|(name, value)| format!("{name}={}", plain(value))).collect::<Vec<_>>().join(","),
        Value::Array(list) => {
            let node = |node: &Value| format!("{}:{}", node["numaNode"].as_i64().unwrap_or(0), as_flag(&node["limits"]));
            list.iter().map(node).collect::<Vec<_>>().join(";")
        }
        Value::Null => String::new(),
        other => plain(other),
    }
}

/// The flags of an agent that say the same.
fn node_flags(values: &Values, fields: &mut Fields, root: &Path) -> Result<NodeFlags> {
    let mut words = vec!["kubelet".to_owned(), format!("--kubelet-root={}", root.display())];
    let mut add = |flag: &str, value: Option<String>| words.extend(value.map(|value| format!("--{flag}={value}")));
    let given = |flag: &str| values.text(flag).map(str::to_owned);
    add("data-dir", given("data-dir"));
    add("run-dir", given("run-dir"));
    add("private-registry", given("registries"));
    add("container-runtime-endpoint", given("container-runtime-endpoint").or_else(|| fields.text("/containerRuntimeEndpoint")));
    add("node-name", given("hostname-override"));
    add("node-ip", given("node-ip"));
    values.list("node-labels").into_iter().for_each(|label| add("node-label", Some(label)));
    for (flag, field) in [
        ("pod-logs", "/podLogsDir"),
        ("pod-manifests", "/staticPodPath"),
        ("kubelet-port", "/port"),
        ("max-pods", "/maxPods"),
        ("resolv-conf", "/resolvConf"),
        ("image-gc-high-threshold", "/imageGCHighThresholdPercent"),
        ("image-gc-low-threshold", "/imageGCLowThresholdPercent"),
    ] {
        add(flag, fields.text(field));
    }
    for (flag, field) in [
        ("cpu-manager-policy", "/cpuManagerPolicy"),
        ("cpu-manager-policy-options", "/cpuManagerPolicyOptions"),
        ("reserved-cpus", "/reservedSystemCPUs"),
        ("kube-reserved", "/kubeReserved"),
        ("system-reserved", "/systemReserved"),
        ("memory-manager-policy", "/memoryManagerPolicy"),
        ("reserved-memory", "/reservedMemory"),
        ("topology-manager-policy", "/topologyManagerPolicy"),
        ("topology-manager-scope", "/topologyManagerScope"),
        ("topology-manager-policy-options", "/topologyManagerPolicyOptions"),
    ] {
        let configured = fields.take(field).map(|value| as_flag(&value)).filter(|text| !text.is_empty());
        add(flag, given(flag).or(configured));
    }
    add("cgroup-root", fields.text("/cgroupRoot").map(|path| path.trim_matches('/').to_owned()).filter(|path| !path.is_empty()));
    let hard: BTreeMap<String, String> =
        fields.take("/evictionHard").map(serde_json::from_value).transpose().context("evictionHard")?.unwrap_or_default();
    // The real kubelet's own values, not those of an agent.
    let hard: Vec<String> = hard.iter().map(|(signal, amount)| format!("{signal}<{amount}")).collect();
    add("eviction-hard", Some(if hard.is_empty() { kubelet::eviction::DEFAULT_HARD.to_owned() } else { hard.join(",") }));
    for taint in fields.take("/registerWithTaints").iter().filter_map(Value::as_array).flatten() {
        let text = |field: &str| taint[field].as_str().unwrap_or("").to_owned();
        let value = Some(text("value")).filter(|value| !value.is_empty()).map(|value| format!("={value}")).unwrap_or_default();
        add("node-taint", Some(format!("{}{value}:{}", text("key"), text("effect"))));
    }
    let flags = Node::try_parse_from(words)?.flags;
    flags.check()?;
    Ok(flags)
}

/// The node's own access; at the first start it is asked for with that of the bootstrap kubeconfig.
async fn access(values: &Values, name: &str, certs: &Path) -> Result<Access> {
    let kubeconfig = PathBuf::from(values.needed("kubeconfig")?);
    let Some(bootstrap) = values.text("bootstrap-kubeconfig").filter(|_| !kubeconfig.exists()) else {
        return Access::open(&kubeconfig);
    };
    let bootstrap = Access::open(Path::new(bootstrap))?;
    let wanted = Wanted::client(name, certs);
    let client = bootstrap.client()?;
    reach(&client).await;
    let cert = wanted.obtain(&client).await.context("get the node's certificate")?;
    let authorities = bootstrap.authorities().context("the bootstrap kubeconfig names no certificate authority")?;
    let file = wanted.file.to_string_lossy().into_owned();
    let auth = AuthInfo { client_certificate: Some(file.clone()), client_key: Some(file), ..AuthInfo::default() };
    Kubeconfig::single("default-cluster", bootstrap.server(), authorities, "default-auth", auth).write(&kubeconfig)?;
    Ok(bootstrap.with_cert(cert))
}

/// A certificate that was asked for is renewed; one from elsewhere is left to whoever made it.
fn keep_certificate(name: &str, certs: &Path, access: &Access, client: &Client, transport: Arc<HttpTransport>, supervisor: &Supervisor) {
    let wanted = Wanted::client(name, certs);
    let Some(cert) = access.cert().filter(|cert| wanted.load().is_some_and(|stored| stored.cert_pem == cert.current().cert_pem)).cloned()
    else {
        return;
    };
    keep_renewed("certificate client", wanted, cert, client, supervisor, move || transport.reconnect());
}

fn keep_renewed(
    name: &str,
    wanted: Wanted,
    cert: Arc<HotCert>,
    client: &Client,
    supervisor: &Supervisor,
    replaced: impl Fn() + Clone + Send + Sync + 'static,
) {
    let client = client.clone();
    supervisor.run(name, move || Box::pin(wanted.clone().keep_renewed(cert.clone(), client.clone(), replaced.clone())));
}

/// A certificate that somebody has to approve first; until then one that nobody knows.
fn serving_by_request(machine: &Machine, certs: &Path, client: &Client, supervisor: &Supervisor) -> Arc<HotCert> {
    let wanted = Wanted::serving(&machine.name, &machine.ips, certs);
    let cert = self_signed(&format!("{}@kubelet", machine.name), &sans(machine)).expect("names of a node are names");
    let (held, client) = (cert.clone(), client.clone());
    supervisor.run("certificate serving", move || {
        let (wanted, held, client) = (wanted.clone(), held.clone(), client.clone());
        Box::pin(async move {
            let issued = match wanted.load() {
                Some(issued) => issued,
                None => wanted.request(&client).await?,
            };
            held.replace(issued)?;
            wanted.keep_renewed(held, client, || ()).await
        })
    });
    cert
}

fn sans(machine: &Machine) -> Vec<San> {
    machine.ips.iter().copied().map(San::Ip).chain([San::Dns(machine.name.clone())]).collect()
}

async fn may_see_nodes(client: &Client) -> bool {
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "list", "resource": "nodes", "version": "v1"}},
    });
    let answer = client.call(http::Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", &review).await;
    answer.is_ok_and(|answer| answer["status"]["allowed"] == true)
}
