//! `knarr wait`: until objects have a condition, a value, or are gone. It watches, and asks for nothing twice.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http_body_util::BodyExt;
use serde_json::Value;

use crate::access::{Access, Cluster, escape};
use crate::resources::{Resources, targets};

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    access: Access,
    /// Resource and names: pod/x, deployment/web.
    #[arg(required = true)]
    words: Vec<String>,
    /// What for: condition=Ready, condition=Ready=false, jsonpath={.status.phase}=Running, delete.
    #[arg(long = "for", value_name = "WHAT")]
    wanted: String,
    /// How long to wait at most, for example 30s or 2m.
    #[arg(long, default_value = "30s", value_parser = seconds)]
    timeout: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    Deleted,
    Condition { name: String, status: String },
    Field { path: Vec<String>, value: String },
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let wanted = parse(&flags.wanted)?;
    let deadline = Instant::now() + flags.timeout;
    let cluster = flags.access.connect()?;
    let resources = Resources::discover(&cluster).await?;
    for (resource, name) in targets(&flags.words)? {
        let resource = resources.named(&resource)?;
        let Some(name) = name else { bail!("name an object, for example: {}/NAME", resource.label()) };
        let path = resource.path(Some(&cluster.namespace), None);
        match &wanted {
            Wanted::Deleted => until_gone(&cluster, &path, &name, "", deadline).await?,
            _ => until(&cluster, &path, &name, deadline, |object| object.is_some_and(|object| wanted.holds(object))).await?,
        }
        println!("{}/{name} {}", resource.label(), if wanted == Wanted::Deleted { "deleted" } else { "condition met" });
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits until no object of the name, or only one with another uid, is there.
pub(super) async fn until_gone(cluster: &Cluster, collection: &str, name: &str, uid: &str, deadline: Instant) -> Result<()> {
    let gone = |object: Option<&Value>| object.is_none_or(|object| !uid.is_empty() && object["metadata"]["uid"] != uid);
    until(cluster, collection, name, deadline, gone).await
}

async fn until(cluster: &Cluster, collection: &str, name: &str, deadline: Instant, holds: impl Fn(Option<&Value>) -> bool) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    match tokio::time::timeout(left, watch(cluster, collection, name, holds)).await {
        Ok(outcome) => outcome,
        Err(_) => bail!("timed out waiting for {name}"),
    }
}

async fn watch(cluster: &Cluster, collection: &str, name: &str, holds: impl Fn(Option<&Value>) -> bool) -> Result<()> {
    let selector = escape(&format!("metadata.name={name}"));
    loop {
        let list = cluster.get(&format!("{collection}?fieldSelector={selector}"), "application/json").await?;
        if holds(list["items"].get(0)) {
            return Ok(());
        }
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or("0");
        let path = format!("{collection}?fieldSelector={selector}&watch=true&resourceVersion={version}");
        let mut body = cluster.follow(&path, "application/json").await?;
        let mut buffer = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            buffer.extend_from_slice(&data);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line)?;
                let object = (event["type"] != "DELETED").then(|| &event["object"]);
                if event["type"] != "ERROR" && event["type"] != "BOOKMARK" && holds(object) {
                    return Ok(());
                }
            }
        }
    }
}

impl Wanted {
    fn holds(&self, object: &Value) -> bool {
        match self {
            Wanted::Deleted => false,
            Wanted::Condition { name, status } => {
                let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
                let observed = object["status"]["observedGeneration"].as_i64();
                let current = observed.is_none_or(|observed| observed >= object["metadata"]["generation"].as_i64().unwrap_or(0));
                let same = |value: &Value, text: &str| value.as_str().is_some_and(|value| value.eq_ignore_ascii_case(text));
                current && conditions.into_iter().any(|condition| same(&condition["type"], name) && same(&condition["status"], status))
            }
            Wanted::Field { path, value } => {
                let found = path.iter().try_fold(object, |object, part| object.get(part));
                match found {
                    Some(Value::String(text)) => text == value,
                    Some(other) => other.to_string() == *value,
                    None => false,
                }
            }
        }
    }
}

fn parse(text: &str) -> Result<Wanted> {
    if text.eq_ignore_ascii_case("delete") {
        return Ok(Wanted::Deleted);
    }
    if let Some(condition) = text.strip_prefix("condition=") {
        let (name, status) = condition.split_once('=').unwrap_or((condition, "True"));
        return Ok(Wanted::Condition { name: name.to_owned(), status: status.to_owned() });
    }
    if let Some((path, value)) = text.strip_prefix("jsonpath=").and_then(|rest| rest.rsplit_once('=')) {
        let path = path.trim_matches(['\'', '"']).trim_start_matches('{').trim_end_matches('}');
        let parts: Vec<String> = path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        if !parts.is_empty() && !path.contains(['[', '*', '?']) {
            return Ok(Wanted::Field { path: parts, value: value.trim_matches(['\'', '"']).to_owned() });
        }
    }
    bail!("--for={text:?} is none of condition=NAME, condition=NAME=STATUS, jsonpath={{.a.b}}=VALUE, delete")
}

/// `30`, `30s`, `2m` or `1h`.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("give seconds, or a number with s, m or h".into()),
    };
    digits.parse::<u64>().map(|number| Duration::from_secs(number * unit)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(wanted: &str, object: Value, expected: bool) {
        assert_eq!(parse(wanted).expect(wanted).holds(&object), expected, "{wanted} on {object}");
    }

    #[test]
    fn conditions_and_fields_are_found() {
        let ready = serde_json::json!({"status": {"phase": "Running", "replicas": 3, "conditions": [{"type": "Ready", "status": "True"}]}});
        check("condition=Ready", ready.clone(), true);
        check("condition=ready=false", ready.clone(), false);
        check("jsonpath={.status.phase}=Running", ready.clone(), true);
        check("jsonpath='{.status.replicas}'=3", ready, true);
        let stale = serde_json::json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Available", "status": "True"}]}});
        check("condition=Available", stale, false);
        assert!(parse("ready").is_err());
        assert_eq!(seconds("2m"), Ok(Duration::from_secs(120)));
    }
}
