//! Every file opens with words of its own about what it is for; copied openings tell nothing.

use std::collections::BTreeMap;

use anyhow::Result;

use super::Rule;
use crate::tree::Tree;

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "opening", check }
}

fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for file in &tree.files {
        let opening = file.opening();
        if opening.is_empty() {
            breaches.push(format!("{} does not open with `//!` and what it is for", file.path));
        } else if let Some(other) = seen.insert(opening, &file.path) {
            breaches.push(format!("{} opens with the same words as {other}", file.path));
        }
    }
    Ok(breaches)
}
