//! `--config FILE`: keys are flag names without dashes, lists repeat a flag; flags on the command line win. What a kubelet's own
//! file says (`--kubelet-config FILE`) comes before both.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use serde_json::Value;

use crate::flags::Flags;

/// Where the file is looked for when none is named.
const DEFAULT: &str = "/etc/knarr/config.yaml";

/// The arguments with those of the file put before the command line's own.
///
/// # Errors
/// The file cannot be read or is no map of flags.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>> {
    let command = arguments.get(1).and_then(|command| command.to_str()).unwrap_or("");
    if !matches!(command, "server" | "agent") {
        return Ok(arguments);
    }
    let expanded = with_file(command, &arguments)?;
    let Some(file) = value(&expanded, &["--kubelet-config"]) else { return Ok(expanded) };
    let settings = crate::kubelet_file::arguments(&file)?;
    Ok([&expanded[..2], &settings, &expanded[2..]].concat())
}

fn with_file(command: &str, arguments: &[OsString]) -> Result<Vec<OsString>> {
    let (file, named) = match named(arguments) {
        Some(file) => (file, true),
        None => (PathBuf::from(DEFAULT), false),
    };
    if !named && !file.exists() {
        return Ok(arguments.to_vec());
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("read configuration {}", file.display()))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("configuration {} is no YAML", file.display()))?;
    let mut expanded = arguments[..2].to_vec();
    expanded.extend(flags(&value, &known(command)).with_context(|| format!("configuration {}", file.display()))?);
    expanded.extend_from_slice(&arguments[2..]);
    Ok(expanded)
}

fn named(arguments: &[OsString]) -> Option<PathBuf> {
    value(arguments, &["--config", "-c"]).or_else(|| std::env::var_os("KNARR_CONFIG_FILE").map(PathBuf::from))
}

/// The last value of a flag.
fn value(arguments: &[OsString], names: &[&str]) -> Option<PathBuf> {
    let mut found = None;
    let mut rest = arguments.iter().skip(2);
    while let Some(argument) = rest.next() {
        let Some(text) = argument.to_str() else { continue };
        if let Some((_, file)) = text.split_once('=').filter(|(name, _)| names.contains(name)) {
            found = Some(file.into());
        } else if names.contains(&text) {
            found = rest.next().map(PathBuf::from);
        }
    }
    found
}

/// Names of the flags of a command.
fn known(command: &str) -> Vec<String> {
    let program = Flags::command();
    let command = program.find_subcommand(command);
    command.into_iter().flat_map(|command| command.get_arguments()).filter_map(|flag| flag.get_long().map(str::to_owned)).collect()
}

fn flags(value: &Value, known: &[String]) -> Result<Vec<OsString>> {
    let map = match value {
        Value::Null => return Ok(Vec::new()),
        Value::Object(map) => map,
        _ => bail!("must be a map from flag names to values"),
    };
    let mut flags = Vec::new();
    for (name, value) in map {
        if !known.contains(name) {
            bail!("there is no flag named {name}");
        }
        let values = match value {
            Value::Array(values) => values.iter().collect(),
            one => vec![one],
        };
        for value in values {
            match value {
                Value::Bool(true) => flags.push(format!("--{name}").into()),
                Value::Bool(false) | Value::Null => {}
                Value::String(text) => flags.push(format!("--{name}={text}").into()),
                Value::Number(number) => flags.push(format!("--{name}={number}").into()),
                _ => bail!("the value of {name} must be a text, a number, a bool or a list of these"),
            }
        }
    }
    Ok(flags)
}

#[cfg(test)]
mod tests {
    use clap::FromArgMatches;

    use super::*;

    #[derive(clap::Args)]
    struct Line {
        #[command(flatten)]
        node: crate::flags::NodeFlags,
    }

    #[test]
    fn the_command_line_comes_after_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let (own, kubelet) = (dir.path().join("own.yaml"), dir.path().join("kubelet.yaml"));
        let text = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 1\nport: 1\nresolvConf: /one\n";
        std::fs::write(&kubelet, text).unwrap();
        std::fs::write(&own, format!("max-pods: 2\nkubelet-port: 2\nnode-label: [a=b]\nkubelet-config: {}\n", kubelet.display())).unwrap();
        let words = ["knarr", "agent", "--config", own.to_str().unwrap(), "--max-pods", "3", "--node-label=c=d"];
        let expanded = expand(words.iter().map(OsString::from).collect()).unwrap();
        let command = <Line as clap::Args>::augment_args(clap::Command::new("knarr").args_override_self(true));
        let matches = command.try_get_matches_from(std::iter::once("agent".into()).chain(expanded[2..].iter().cloned())).unwrap();
        let flags = Line::from_arg_matches(&matches).unwrap().node;
        assert_eq!((flags.max_pods, flags.kubelet_port, flags.resolv_conf.to_str()), (3, 2, Some("/one")));
        assert_eq!(flags.node_label, ["a=b", "c=d"]);
    }
}
