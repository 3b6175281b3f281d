//! One program: every component of a cluster, and the commands to use it.
//!
//! This crate is wiring only: flags become typed configurations, configurations become running components.

mod admin;
mod allocator;
mod bundled;
mod config_file;
mod datastore;
mod flag_check;
mod flags;
mod holder;
mod join;
mod kubelet_file;
mod leading;
mod listen;
mod logging;
mod node;
mod placement_flags;
mod process;
mod security_flags;
mod server;
mod server_address;
mod signer;
mod supervise;
mod sys;
mod threads;
mod twins;

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

/// One clear line with every cause, even where a cause would take several.
fn fail(error: &anyhow::Error) -> ExitCode {
    let text = format!("{error:#}");
    let line: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    eprintln!("knarr: {}", line.join(" "));
    ExitCode::FAILURE
}
