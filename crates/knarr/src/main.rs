//! One program: every component of a cluster, and the commands to use it.
//!
//! This crate is wiring only: flags become typed configurations, configurations become running components.

mod admin;
mod bundled;
mod config_file;
mod flags;
mod holder;
mod join;
mod logging;
mod node;
mod security_flags;
mod server;
mod signer;
mod supervise;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Keepers, container starts and the socket holder are this same executable; they must not meet a second thread.
    runtime::reexec::dispatch();
    holder::dispatch();
    pki::install_provider();
    let arguments = match config_file::expand(std::env::args_os().collect()) {
        Ok(arguments) => arguments,
        Err(error) => return fail(&error),
    };
    let flags = flags::Flags::parse_from(arguments);
    match flags.run() {
        Ok(code) => code,
        Err(error) => fail(&error),
    }
}

/// One clear line with every cause.
fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("knarr: {error:#}");
    ExitCode::FAILURE
}
