//! `cargo xtask ci`: what CI runs, by the same entry.

use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Task;

/// The task.
pub const fn task() -> Task {
    Task { name: "ci", help: "run what CI runs", run }
}

fn run() -> Result<()> {
    let status = Command::new("bash").arg(".ci/run").status().context("start bash")?;
    if !status.success() {
        bail!(".ci/run ended with {status}");
    }
    Ok(())
}
