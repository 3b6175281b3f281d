//! `knarr delete`: deletes objects and waits until they are gone.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use http::Method;
use serde_json::{Value, json};

use super::wait;
use crate::access::{Access, Cluster, escape};
use crate::manifests;
use crate::resources::{Resource, Resources, targets};

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// Resource and names: pod x, deploy/web.
    words: Vec<String>,
    /// Files or folders with the objects; `-` is the input.
    #[arg(long = "filename", short = 'f', value_name = "FILE")]
    files: Vec<PathBuf>,
    /// All objects with these labels.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// All objects of the resource in the namespace.
    #[arg(long)]
    all: bool,
    /// Seconds that a pod has to stop.
    #[arg(long, value_name = "SECONDS")]
    grace_period: Option<i64>,
    /// What happens to dependents.
    #[arg(long, value_parser = ["background", "foreground", "orphan"], default_value = "background")]
    cascade: String,
    /// Nothing to delete is well, too.
    #[arg(long)]
    ignore_not_found: bool,
    /// Do not wait until the objects are gone.
    #[arg(long)]
    no_wait: bool,
    /// How many seconds to wait at most.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    timeout: u64,
}

struct Target<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

/// Carries the command out; exit code 1 says that something could not be deleted.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    if flags.words.is_empty() == flags.files.is_empty() {
        bail!("name objects or give files with -f");
    }
    let cluster = flags.access.connect()?;
    let resources = Resources::discover(&cluster).await?;
    let all = targets_of(&flags, &cluster, &resources).await?;
    let deadline = Instant::now() + Duration::from_secs(flags.timeout);
    let mut gone = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for target in all {
        let label = format!("{}/{}", target.resource.label(), target.name);
        match delete(&flags, &cluster, &target).await {
            Ok(uid) => {
                println!("{label} deleted");
                gone.push((target, uid));
            }
            Err(status) if status.is_not_found() && flags.ignore_not_found => {}
            Err(status) => {
                eprintln!("knarr: delete {label}: {status}");
                code = ExitCode::FAILURE;
            }
        }
    }
    if !flags.no_wait {
        for (target, uid) in gone {
            let path = target.resource.path(Some(&target.namespace), None);
            wait::until_gone(&cluster, &path, &target.name, &uid, deadline).await?;
        }
    }
    Ok(code)
}

async fn targets_of<'a>(flags: &Flags, cluster: &Cluster, resources: &'a Resources) -> Result<Vec<Target<'a>>> {
    let mut all = Vec::new();
    if !flags.files.is_empty() {
        for object in manifests::read(&flags.files)? {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&cluster.namespace).to_owned();
            let name = object["metadata"]["name"].as_str().context("an object has no metadata.name")?.to_owned();
            all.push(Target { resource: resources.of(&object)?, namespace, name });
        }
        return Ok(all);
    }
    for (resource, name) in targets(&flags.words)? {
        let resource = resources.named(&resource)?;
        let namespace = cluster.namespace.clone();
        if let Some(name) = name {
            all.push(Target { resource, namespace, name });
            continue;
        }
        if !flags.all && flags.selector.is_none() {
            bail!("name objects, or say --all or -l SELECTOR");
        }
        let selector = flags.selector.as_deref().unwrap_or("");
        let list = cluster
            .get(&format!("{}?labelSelector={}", resource.path(Some(&namespace), None), escape(selector)), "application/json")
            .await?;
        for item in list["items"].as_array().into_iter().flatten() {
            let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            all.push(Target { resource, namespace: namespace.clone(), name });
        }
    }
    Ok(all)
}

/// Deletes an object; the answer is its uid.
async fn delete(flags: &Flags, cluster: &Cluster, target: &Target<'_>) -> Result<String, api::Status> {
    let policy = match flags.cascade.as_str() {
        "foreground" => "Foreground",
        "orphan" => "Orphan",
        _ => "Background",
    };
    let mut options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
    if let Some(seconds) = flags.grace_period {
        options["gracePeriodSeconds"] = seconds.into();
    }
    let path = target.resource.path(Some(&target.namespace), Some(&target.name));
    let before = cluster.client.call(Method::GET, &path, &Value::Null).await?;
    cluster.client.call(Method::DELETE, &path, &options).await?;
    Ok(before["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
}
