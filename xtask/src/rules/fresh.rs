//! Generated files that are committed are what `cargo xtask gen` would write now.

use anyhow::Result;

use super::Rule;
use crate::tasks::generate;
use crate::tree::Tree;

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "generated", check }
}

fn check(_: &Tree) -> Result<Vec<String>> {
    let stale = |(path, text): &(String, String)| std::fs::read_to_string(path).map_or(true, |old| old != *text);
    let files = generate::files()?;
    Ok(files.iter().filter(|file| stale(file)).map(|(path, _)| format!("{path} is stale; run `cargo xtask gen`")).collect())
}
