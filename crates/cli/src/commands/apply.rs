//! `knarr apply`: server-side apply of objects from files.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use http::Method;
use serde_json::Value;

use crate::access::{Access, Cluster, escape};
use crate::manifests;
use crate::resources::Resources;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// Files or folders; `-` is the input.
    #[arg(long = "filename", short = 'f', required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Who owns the fields that are applied.
    #[arg(long, default_value = "knarr", value_name = "NAME")]
    field_manager: String,
    /// Take fields from other owners.
    #[arg(long)]
    force_conflicts: bool,
    /// Change nothing, only check.
    #[arg(long)]
    dry_run: bool,
}

/// Carries the command out; exit code 1 says that an object was refused.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let objects = manifests::read(&flags.files)?;
    let cluster = flags.access.connect()?;
    let mut resources = Resources::discover(&cluster).await?;
    let mut code = ExitCode::SUCCESS;
    for object in &objects {
        if resources.of(object).is_err() {
            // A definition that was applied a moment ago may have brought the kind.
            resources = Resources::discover(&cluster).await?;
        }
        match apply(&flags, &cluster, &resources, object).await {
            Ok(line) => println!("{line}"),
            Err(error) => {
                eprintln!("knarr: {error:#}");
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

async fn apply(flags: &Flags, cluster: &Cluster, resources: &Resources, object: &Value) -> Result<String> {
    let resource = resources.of(object)?;
    let name = object["metadata"]["name"].as_str().context("an object without metadata.name cannot be applied")?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&cluster.namespace);
    let path = resource.path(Some(namespace), Some(name));
    let before = cluster.client.call(Method::GET, &path, &Value::Null).await.ok();
    let mut query = format!("?fieldManager={}&force={}", escape(&flags.field_manager), flags.force_conflicts);
    if flags.dry_run {
        query += "&dryRun=All";
    }
    let body = serde_json::to_vec(object)?;
    let label = format!("{}/{name}", resource.label());
    let answer = cluster.send(Method::PATCH, &format!("{path}{query}"), "application/apply-patch+yaml", body).await;
    let answer = answer.with_context(|| format!("apply {label}"))?;
    let after: Value = serde_json::from_slice(answer.body()).context("the answer is no JSON")?;
    let done = match before {
        None => "created",
        Some(before) if before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"] => "unchanged",
        Some(_) => "configured",
    };
    Ok(format!("{label} {done}{}", if flags.dry_run { " (dry run)" } else { "" }))
}
