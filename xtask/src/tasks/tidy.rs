//! `cargo xtask tidy`: the rules of the tree that no compiler checks.

use anyhow::{Result, bail};

use super::Task;
use crate::rules;
use crate::tree::Tree;

/// The task.
pub const fn task() -> Task {
    Task { name: "tidy", help: "check layers, file lengths, opening words, generated files and marks", run }
}

fn run() -> Result<()> {
    let tree = Tree::read()?;
    let mut breaches = 0;
    for rule in rules::ALL {
        let found = (rule.check)(&tree)?;
        for breach in &found {
            println!("tidy: {}: {breach}", rule.name);
        }
        breaches += found.len();
    }
    match breaches {
        0 => println!("tidy: {} rules hold in {} files", rules::ALL.len(), tree.files.len()),
        _ => bail!("{breaches} breaches"),
    }
    Ok(())
}
