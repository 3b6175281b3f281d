//! The commands, one file each.

mod apply;
mod check;
mod delete;
mod describe;
mod exec;
mod get;
mod image;
mod licenses;
mod log_level;
mod logs;
mod status;
mod token;
mod uninstall;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Commands of a client.
#[derive(Subcommand)]
pub enum Command {
    /// Show what is ready and what is waited for.
    Status(status::Flags),
    /// List, import and remove images of this node.
    Image(image::Flags),
    /// Make, list and delete tokens with which nodes join.
    Token(token::Flags),
    /// Show objects.
    Get(get::Flags),
    /// Show an object in full, and its events.
    Describe(describe::Flags),
    /// Apply objects from files.
    Apply(apply::Flags),
    /// Delete objects.
    Delete(delete::Flags),
    /// Show what a container wrote.
    Logs(logs::Flags),
    /// Run a program in a container.
    Exec(exec::Flags),
    /// Wait for a condition of objects.
    Wait(wait::Flags),
    /// Tell whether this machine can carry a node, and what would mend it.
    Check(check::Flags),
    /// End all pods and leave the machine as it was found.
    Uninstall(uninstall::Flags),
    /// Show or change how much the running process logs.
    LogLevel(log_level::Flags),
    /// Show the licences of this program and its parts.
    Licenses(licenses::Flags),
}

/// How a running process on this machine is reached.
#[derive(Args, Clone)]
pub struct Local {
    /// Folder of the running process, as given to it.
    #[arg(long, global = true, default_value = "/run/knarr", env = "KNARR_RUN_DIR", value_name = "DIR")]
    pub run_dir: PathBuf,
}

impl Local {
    fn socket(&self) -> PathBuf {
        self.run_dir.join("knarr.sock")
    }
}

/// Carries a command out.
pub(crate) async fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Status(flags) => status::run(flags).await,
        Command::Image(flags) => image::run(flags).await,
        Command::Token(flags) => token::run(flags).await,
        Command::Get(flags) => get::run(flags).await,
        Command::Describe(flags) => describe::run(flags).await,
        Command::Apply(flags) => apply::run(flags).await,
        Command::Delete(flags) => delete::run(flags).await,
        Command::Logs(flags) => logs::run(flags).await,
        Command::Exec(flags) => exec::run(flags).await,
        Command::Wait(flags) => wait::run(flags).await,
        Command::Check(flags) => check::run(&flags),
        Command::Uninstall(flags) => uninstall::run(flags).await,
        Command::LogLevel(flags) => log_level::run(flags).await,
        Command::Licenses(flags) => licenses::run(&flags),
    }
}
