//! The commands of the knarr program that talk to a running server or node.

mod access;
mod commands;
mod connection;
mod manifests;
mod resources;
mod socket;
mod table;

use std::process::ExitCode;

use anyhow::Result;
pub use commands::Command;

/// Carries a command out.
///
/// # Errors
/// Whatever went wrong, told in one line.
pub fn run(command: Command) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(commands::run(command));
    // A thread that waits for input must not keep the program.
    runtime.shutdown_background();
    outcome
}
