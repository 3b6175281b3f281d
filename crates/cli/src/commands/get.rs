//! `knarr get`: objects as server-side tables, JSON, YAML or names; `-w` follows their changes.

use std::io::Write;
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::ValueEnum;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::access::{Access, Cluster, escape};
use crate::resources::{Resource, Resources, targets};
use crate::table::{self, Shown};

pub(crate) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io, application/json";

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// Resources and names: pods, deploy/web, node a b.
    #[arg(required = true)]
    words: Vec<String>,
    /// Objects of all namespaces.
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels.
    #[arg(long, short = 'l', value_name = "SELECTOR")]
    selector: Option<String>,
    /// Only objects with these fields.
    #[arg(long, value_name = "SELECTOR")]
    field_selector: Option<String>,
    /// Form of the output.
    #[arg(long, short = 'o')]
    output: Option<Output>,
    /// Follow changes.
    #[arg(long, short = 'w')]
    watch: bool,
    /// No line of headers.
    #[arg(long)]
    no_headers: bool,
}

/// Forms of the output.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq)]
enum Output {
    Wide,
    Json,
    Yaml,
    Name,
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let cluster = flags.access.connect()?;
    let resources = Resources::discover(&cluster).await?;
    let targets = targets(&flags.words)?;
    if flags.watch && (targets.len() > 1 || flags.output.is_some_and(|output| output != Output::Wide)) {
        bail!("-w follows one resource, as a table");
    }
    let many = targets.len() > 1;
    let mut objects = Vec::new();
    let mut shown_any = false;
    for (resource, name) in &targets {
        let resource = resources.named(resource)?;
        let path = flags.path(&cluster, resource, name.as_deref());
        match flags.output {
            None | Some(Output::Wide) => {
                let prefix = if many { format!("{}/", resource.label()) } else { String::new() };
                let found = flags.table(&cluster, &path, resource, &prefix, shown_any && name.is_none()).await?;
                shown_any |= found;
            }
            Some(_) => {
                let mut object = cluster.get(&path, "application/json").await?;
                strip(&mut object, resource, &mut objects);
            }
        }
    }
    match flags.output {
        None | Some(Output::Wide) if !shown_any && !flags.watch => match flags.all_namespaces {
            true => eprintln!("No resources found"),
            false => eprintln!("No resources found in {} namespace.", cluster.namespace),
        },
        None | Some(Output::Wide) => {}
        Some(form) => print!("{}", render(&objects, form, &resources, targets.len() == 1 && targets[0].1.is_some())?),
    }
    Ok(ExitCode::SUCCESS)
}

impl Flags {
    fn path(&self, cluster: &Cluster, resource: &Resource, name: Option<&str>) -> String {
        let namespace = (!self.all_namespaces).then_some(cluster.namespace.as_str());
        let mut path = resource.path(namespace, name);
        let mut mark = '?';
        for (key, value) in [("labelSelector", &self.selector), ("fieldSelector", &self.field_selector)] {
            if let Some(value) = value {
                path += &format!("{mark}{key}={}", escape(value));
                mark = '&';
            }
        }
        path
    }

    /// Prints a table and, if asked to, its changes; whether there was a row.
    async fn table(&self, cluster: &Cluster, path: &str, resource: &Resource, prefix: &str, apart: bool) -> Result<bool> {
        let found = cluster.get(path, TABLE).await?;
        let rows = found["rows"].as_array().is_some_and(|rows| !rows.is_empty());
        let (mut shown, mut widths) = (self.shown(resource), Vec::new());
        if rows {
            if apart {
                println!();
            }
            print!("{}", table::text(&found, prefix, shown, &mut widths));
        }
        if !self.watch {
            return Ok(rows);
        }
        shown.headers &= !rows;
        let version = found["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let mark = if path.contains('?') { '&' } else { '?' };
        follow(cluster, &format!("{path}{mark}watch=true&resourceVersion={version}"), &found["columnDefinitions"], prefix, shown, widths)
            .await?;
        Ok(true)
    }

    fn shown(&self, resource: &Resource) -> Shown {
        Shown { wide: self.output == Some(Output::Wide), namespace: self.all_namespaces && resource.namespaced, headers: !self.no_headers }
    }
}

async fn follow(cluster: &Cluster, path: &str, columns: &Value, prefix: &str, mut shown: Shown, mut widths: Vec<usize>) -> Result<()> {
    let mut body = cluster.follow(path, TABLE).await?;
    let mut buffer = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line)?;
            if event["type"] == "ERROR" {
                bail!("{}", event["object"]["message"].as_str().unwrap_or("the watch ended"));
            }
            let mut found = event["object"].clone();
            // Only the first event of a watch carries the columns.
            found["columnDefinitions"] = columns.clone();
            print!("{}", table::text(&found, prefix, shown, &mut widths));
            shown.headers = false;
            std::io::stdout().flush()?;
        }
    }
    Ok(())
}

/// Gathers an object, or the items of a list with their kind.
fn strip(object: &mut Value, resource: &Resource, objects: &mut Vec<Value>) {
    let version = if resource.group.is_empty() { resource.version.clone() } else { format!("{}/{}", resource.group, resource.version) };
    let items = match object["items"].take() {
        Value::Array(items) => items,
        _ => vec![object.take()],
    };
    for mut item in items {
        item["apiVersion"] = version.as_str().into();
        item["kind"] = resource.kind.as_str().into();
        if let Some(metadata) = item["metadata"].as_object_mut() {
            metadata.remove("managedFields");
        }
        objects.push(item);
    }
}

fn render(objects: &[Value], form: Output, resources: &Resources, single: bool) -> Result<String> {
    if form == Output::Name {
        let line =
            |object: &Value| Ok(format!("{}/{}\n", resources.of(object)?.label(), object["metadata"]["name"].as_str().unwrap_or("")));
        return objects.iter().map(line).collect();
    }
    let value = match objects {
        [one] if single => one.clone(),
        _ => json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": objects}),
    };
    Ok(match form {
        Output::Json => serde_json::to_string_pretty(&value)? + "\n",
        _ => codec::yaml::encode(&value),
    })
}
