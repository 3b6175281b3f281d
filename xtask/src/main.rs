//! Development tasks: `gen` writes generated files, `tidy` checks the tree, `ci` runs what CI runs.

use std::process::ExitCode;

use anyhow::Result;

mod layers;
mod rules;
mod tasks;
mod tree;

fn main() -> ExitCode {
    let name = std::env::args().nth(1).unwrap_or_default();
    let Some(task) = tasks::ALL.iter().find(|task| task.name == name) else {
        eprintln!("usage: cargo xtask TASK");
        for task in tasks::ALL {
            eprintln!("  {:<6} {}", task.name, task.help);
        }
        return ExitCode::FAILURE;
    };
    match in_root().and_then(|()| (task.run)()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask {name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Paths are told relative to the root of the project, wherever the task was called.
fn in_root() -> Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root");
    Ok(std::env::set_current_dir(root)?)
}
