//! `knarr logs`: what a pod's container wrote.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::access::{Access, Cluster, escape};
use crate::resources::Resources;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// The pod, or something with pods: x, pod/x, deployment/web, job/once.
    target: String,
    /// Container; the only one, or that of the default-container annotation, where absent.
    #[arg(long, short = 'c')]
    container: Option<String>,
    /// Follow the log.
    #[arg(long, short = 'f')]
    follow: bool,
    /// The container before the last restart.
    #[arg(long, short = 'p')]
    previous: bool,
    /// Only the last lines.
    #[arg(long, value_name = "LINES")]
    tail: Option<u64>,
    /// The time before each line.
    #[arg(long)]
    timestamps: bool,
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let cluster = flags.access.connect()?;
    let pod = pod(&cluster, &flags.target).await?;
    let container = match &flags.container {
        Some(container) => container.clone(),
        None => default_container(&cluster, &pod).await?,
    };
    let mut path = format!("/api/v1/namespaces/{}/pods/{}/log?container={}", escape(&cluster.namespace), escape(&pod), escape(&container));
    for (name, set) in [("follow", flags.follow), ("previous", flags.previous), ("timestamps", flags.timestamps)] {
        if set {
            path += &format!("&{name}=true");
        }
    }
    if let Some(lines) = flags.tail {
        path += &format!("&tailLines={lines}");
    }
    let mut body = cluster.follow(&path, "*/*").await?;
    let mut out = std::io::stdout();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            out.write_all(&data)?;
            out.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pod itself, or the first pod that the named object selects.
pub(super) async fn pod(cluster: &Cluster, target: &str) -> Result<String> {
    let Some((resource, name)) = target.split_once('/') else { return Ok(target.to_owned()) };
    let resources = Resources::discover(cluster).await?;
    let resource = resources.named(resource)?;
    if resource.kind == "Pod" {
        return Ok(name.to_owned());
    }
    let object = cluster.get(&resource.path(Some(&cluster.namespace), Some(name)), "application/json").await?;
    let selector = &object["spec"]["selector"];
    let labels = if selector["matchLabels"].is_object() { &selector["matchLabels"] } else { selector };
    let Some(labels) = labels.as_object().filter(|labels| labels.values().all(Value::is_string)) else {
        bail!("{target} selects no pods by labels");
    };
    let selector: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={}", escape(&cluster.namespace), escape(&selector.join(",")));
    let pods = cluster.get(&path, "application/json").await?;
    let first = pods["items"].as_array().and_then(|pods| pods.iter().find(|pod| pod["status"]["phase"] != "Pending").or(pods.first()));
    let name = first.and_then(|pod| pod["metadata"]["name"].as_str());
    name.map(str::to_owned).with_context(|| format!("{target} has no pods"))
}

/// The container that a command means when it names none.
pub(super) async fn default_container(cluster: &Cluster, pod: &str) -> Result<String> {
    let object =
        cluster.get(&format!("/api/v1/namespaces/{}/pods/{}", escape(&cluster.namespace), escape(pod)), "application/json").await?;
    if let Some(name) = object["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"].as_str() {
        return Ok(name.to_owned());
    }
    let containers = object["spec"]["containers"].as_array().context("the pod has no containers")?;
    let names: Vec<&str> = containers.iter().filter_map(|container| container["name"].as_str()).collect();
    if names.len() > 1 {
        eprintln!("defaulted container {:?} out of: {}", names[0], names.join(", "));
    }
    Ok(names.first().context("the pod has no containers")?.to_string())
}
