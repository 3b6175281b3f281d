//! The commands, one file each.

mod image;
mod status;

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
    }
}
