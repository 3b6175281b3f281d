//! The commands of the knarr program that talk to a running server or node.

mod commands;
mod socket;

use std::process::ExitCode;

use anyhow::Result;
pub use commands::Command;

/// Carries a command out.
///
/// # Errors
/// Whatever went wrong, told in one line.
pub fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(commands::run(command))
}
