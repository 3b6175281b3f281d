//! `--config FILE`: keys are flag names without dashes, lists repeat a flag; flags on the command line win.

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
    let (file, named) = match named(&arguments) {
        Some(file) => (file, true),
        None => (PathBuf::from(DEFAULT), false),
    };
    if !named && !file.exists() {
        return Ok(arguments);
    }
    let text = std::fs::read_to_string(&file).with_context(|| format!("read configuration {}", file.display()))?;
    let value: Value = serde_saphyr::from_str(&text).with_context(|| format!("configuration {} is no YAML", file.display()))?;
    let mut expanded = arguments[..2].to_vec();
    expanded.extend(flags(&value, &known(command)).with_context(|| format!("configuration {}", file.display()))?);
    expanded.extend_from_slice(&arguments[2..]);
    Ok(expanded)
}

fn named(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(2);
    while let Some(argument) = rest.next() {
        let text = argument.to_str()?;
        if let Some(file) = text.strip_prefix("--config=") {
            return Some(file.into());
        }
        if text == "--config" || text == "-c" {
            return rest.next().map(PathBuf::from);
        }
    }
    std::env::var_os("KNARR_CONFIG_FILE").map(PathBuf::from)
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
