//! The tasks, one file each.

use anyhow::Result;

pub mod ci;
pub mod gen_behaviour;
pub mod gen_lists;
pub mod gen_resources;
pub mod gen_schema;
pub mod generate;
pub mod tidy;

/// Something that `cargo xtask NAME` does.
pub struct Task {
    /// First argument.
    pub name: &'static str,
    /// One line about it.
    pub help: &'static str,
    /// Does it.
    pub run: fn() -> Result<()>,
}

/// Every task.
pub const ALL: &[Task] = &[generate::task(), tidy::task(), ci::task()];
