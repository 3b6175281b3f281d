//! The components as commands of their own, with the flags of the real ones: each can take the place of its Go twin, one
//! by one, in a cluster that kubeadm made for example.

pub mod access;
mod apiserver;
pub mod component_config;
mod controller_manager;
mod coredns;
mod corefile;
mod endpoint;
mod flags;
mod kubelet;
mod proxy;
mod scheduler;
mod storage;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::Client;
use reconcile::{LeaseConfig, Led, lead};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use storage::Upstream;

use flags::{COMMON, Flag, Here, Values};

use crate::threads;

/// A component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Twin {
    /// The API server.
    ApiServer,
    /// The kubelet.
    Kubelet,
    /// The proxy.
    Proxy,
    /// The controller manager.
    ControllerManager,
    /// The scheduler.
    Scheduler,
    /// The cluster's DNS.
    CoreDns,
}

impl Twin {
    fn name(self) -> &'static str {
        match self {
            Twin::ApiServer => "kube-apiserver",
            Twin::Kubelet => "kubelet",
            Twin::Proxy => "kube-proxy",
            Twin::ControllerManager => "kube-controller-manager",
            Twin::Scheduler => "kube-scheduler",
            Twin::CoreDns => "coredns",
        }
    }

    fn tables(self) -> Vec<&'static [Flag]> {
        let own: &[&'static [Flag]] = match self {
            Twin::ApiServer => &[apiserver::FLAGS],
            Twin::Kubelet => &[kubelet::FLAGS],
            Twin::Proxy => &[proxy::FLAGS],
            Twin::CoreDns => &[coredns::FLAGS],
            Twin::ControllerManager => &[controller_manager::FLAGS, flags::LEADER, flags::ENDPOINT],
            Twin::Scheduler => &[scheduler::FLAGS, flags::LEADER, flags::ENDPOINT],
        };
        own.iter().copied().chain([COMMON]).collect()
    }
}

/// Runs a component until it is told to stop.
pub fn run(twin: Twin, arguments: &[OsString]) -> ExitCode {
    let asked = |word: &str| arguments.iter().any(|argument| argument == word);
    if asked("--help") || asked("-h") {
        help(twin);
        return ExitCode::SUCCESS;
    }
    if asked("--version") || asked("--version=true") {
        println!("Kubernetes {}", api::VERSION);
        return ExitCode::SUCCESS;
    }
    // CoreDNS's flags have one dash or two.
    let twice = |argument: &OsString| match argument.to_str().filter(|text| twin == Twin::CoreDns && text.starts_with('-')) {
        Some(text) => format!("--{}", text.trim_start_matches('-')).into(),
        None => argument.clone(),
    };
    let arguments: Vec<OsString> = arguments.iter().map(twice).collect();
    match Values::parse(&twin.tables(), &arguments).and_then(|values| start(twin, values)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {}", format!("{error:#}").split_whitespace().collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}

fn help(twin: Twin) {
    let mut text = format!("Usage:\n  knarr {} [flags]\n\nFlags:\n", twin.name());
    for flag in twin.tables().into_iter().flatten() {
        if let Here::Used(help) = flag.here {
            text += &format!("  --{:36} {help}\n", flag.name);
        }
    }
    text += &format!("\nOther flags of the real {} are accepted where nothing depends on them, and refused otherwise.\n", twin.name());
    // Whoever reads no further has seen enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn start(twin: Twin, values: Values) -> Result<()> {
    let level = match values.parsed("v", 0_i32)? {
        ..4 => "info",
        4..6 => "debug",
        _ => "trace",
    };
    let levels = crate::logging::start(level, values.text("logging-format") == Some("json"))?;
    if !values.ignored.is_empty() {
        tracing::warn!(flags = values.ignored.join(","), "flags without effect here");
    }
    let runtime = threads::start(threads::of_control_plane())?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("listen for signals")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for signals")?;
        let stop = CancellationToken::new();
        let running = async {
            match twin {
                Twin::ApiServer => apiserver::run(&values, stop.clone()).await,
                Twin::Kubelet => kubelet::run(&values, levels).await,
                Twin::Proxy => proxy::run(&values).await,
                Twin::ControllerManager => controller_manager::run(&values, stop.clone()).await,
                Twin::Scheduler => scheduler::run(&values, stop.clone()).await,
                Twin::CoreDns => coredns::run(&values).await,
            }
        };
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The API server finishes what it has begun and who leads gives up its lease, unless told a second time.
        if !matches!(twin, Twin::ApiServer | Twin::ControllerManager | Twin::Scheduler) {
            return Ok(());
        }
        stop.cancel();
        tokio::select! {
            ended = running => ended,
            _ = terminate.recv() => bail!("told to stop twice"),
            _ = interrupt.recv() => bail!("told to stop twice"),
        }
    })
}

/// Does the work until it is told to stop, while holding the lease unless the flags say otherwise.
async fn while_leading(
    values: &Values,
    name: &str,
    client: &Client,
    stop: &CancellationToken,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    if !values.is("leader-elect", true) {
        return stop.run_until_cancelled(work).await.unwrap_or(Ok(()));
    }
    let config = LeaseConfig {
        namespace: values.text("leader-elect-resource-namespace").unwrap_or("kube-system").to_owned(),
        name: values.text("leader-elect-resource-name").unwrap_or(name).to_owned(),
        identity: crate::leading::identity(),
        duration: values.duration("leader-elect-lease-duration", Duration::from_secs(15))?,
        renew: values.duration("leader-elect-renew-deadline", Duration::from_secs(10))?,
        retry: values.duration("leader-elect-retry-period", Duration::from_secs(2))?,
    };
    if config.duration <= config.renew || config.renew <= config.retry {
        bail!("leaderElection: the lease duration must be longer than the renew deadline, and that longer than the retry period");
    }
    match lead(client, &config, stop.cancelled(), work).await {
        Led::Done(ended) => ended,
        Led::Lost => bail!("leaderelection lost"),
        Led::Stopped => Ok(()),
    }
}
