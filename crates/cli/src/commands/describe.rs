//! `knarr describe`: one object in full, and the events about it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::Value;

use super::get::TABLE;
use crate::access::{Access, Cluster, escape};
use crate::resources::{Resource, Resources, targets};
use crate::table::{self, Shown};

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// Resource and names: pod x, deploy/web.
    #[arg(required = true)]
    words: Vec<String>,
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let cluster = flags.access.connect()?;
    let resources = Resources::discover(&cluster).await?;
    for (at, (resource, name)) in targets(&flags.words)?.into_iter().enumerate() {
        let Some(name) = name else { bail!("name an object, for example: {resource} NAME") };
        if at > 0 {
            println!("\n");
        }
        describe(&cluster, resources.named(&resource)?, &name).await?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn describe(cluster: &Cluster, resource: &Resource, name: &str) -> Result<()> {
    let mut object = cluster.get(&resource.path(Some(&cluster.namespace), Some(name)), "application/json").await?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    if let Some(metadata) = object["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    if let Some(data) = object["data"].as_object_mut().filter(|_| resource.kind == "Secret") {
        // What is secret is not shown by the way; its size tells whether it is there.
        for value in data.values_mut() {
            let bytes = value.as_str().map_or(0, |text| text.trim_end_matches('=').len() * 3 / 4);
            *value = Value::String(format!("{bytes} bytes"));
        }
    }
    print!("{}", codec::yaml::encode(&object));
    let path =
        if resource.namespaced { format!("/api/v1/namespaces/{}/events", escape(&cluster.namespace)) } else { "/api/v1/events".to_owned() };
    let selector = escape(&format!("involvedObject.name={name},involvedObject.uid={uid}"));
    let events = cluster.get(&format!("{path}?fieldSelector={selector}"), TABLE).await?;
    if events["rows"].as_array().is_some_and(|rows| !rows.is_empty()) {
        println!("events:");
        let text = table::text(&events, "", Shown { wide: false, namespace: false, headers: true }, &mut Vec::new());
        text.lines().for_each(|line| println!("  {line}"));
    } else {
        println!("events: none");
    }
    Ok(())
}
