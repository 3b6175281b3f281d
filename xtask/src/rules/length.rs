//! A file has at most 800 lines; 200 are normal.

use anyhow::Result;

use super::Rule;
use crate::tree::Tree;

const MOST: usize = 800;

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "length", check }
}

fn check(tree: &Tree) -> Result<Vec<String>> {
    let long = tree.files.iter().map(|file| (&file.path, file.text.lines().count())).filter(|(_, lines)| *lines > MOST);
    Ok(long.map(|(path, lines)| format!("{path} has {lines} lines, more than {MOST}")).collect())
}
