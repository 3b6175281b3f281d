//! Crates depend only on what the table of layers allows, and the table allows nothing that goes unused.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Rule;
use crate::layers::LAYERS;
use crate::tree::Tree;

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "layers", check }
}

fn check(_: &Tree) -> Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("packages")?;
    let names: BTreeSet<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut breaches = Vec::new();
    for package in packages {
        let name = package["name"].as_str().context("name")?;
        if name == "xtask" {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(krate, _)| *krate == name) else {
            breaches.push(format!("crate {name} has no line in xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().context("dependencies")? {
            let on = dependency["name"].as_str().context("name")?;
            let for_tests = dependency["kind"] == "dev";
            if names.contains(on) && !for_tests && !allowed.contains(&on) {
                breaches.push(format!("{name} may not depend on {on}"));
            }
        }
    }
    for (at, (name, allowed)) in LAYERS.iter().enumerate() {
        if !names.contains(name) {
            breaches.push(format!("{name} of xtask/src/layers.rs is no crate"));
        }
        for on in *allowed {
            if !LAYERS[..at].iter().any(|(below, _)| below == on) {
                breaches.push(format!("in xtask/src/layers.rs {on} must stand above {name}: edges go down only"));
            }
        }
    }
    Ok(breaches)
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(["metadata", "--format-version", "1", "--no-deps"]).output().context("start cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context("parse cargo metadata")
}
