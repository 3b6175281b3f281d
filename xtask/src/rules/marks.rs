//! No marks of unfinished work, and no file names that say nothing.

use anyhow::Result;

use super::Rule;
use crate::tree::{File, Tree};

/// Written in halves, so that this file holds none of them.
const MARKS: &[(&str, &str)] = &[("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("to", "do!("), ("unimpl", "emented!("), ("db", "g!(")];

/// Names that a file gets when nobody knew what it is for.
const NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "manager", "misc"];

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "marks", check }
}

fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut breaches: Vec<String> = tree.files.iter().flat_map(marks).collect();
    for file in &tree.files {
        let named = file.path.split(['/', '.']).any(|part| NAMES.contains(&part));
        if named {
            breaches.push(format!("{} has a name that says nothing", file.path));
        }
    }
    Ok(breaches)
}

fn marks(file: &File) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for (first, second) in MARKS {
            if holds(line, &format!("{first}{second}")) {
                found.push(format!("{}:{}: {first}{second}", file.path, number + 1));
            }
        }
    }
    found
}

/// Whether the mark stands in the line as a word of its own.
fn holds(line: &str, mark: &str) -> bool {
    line.match_indices(mark).any(|(at, _)| {
        let part_of_word = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let before = at.checked_sub(1).and_then(|at| line.as_bytes().get(at));
        let after = line.as_bytes().get(at + mark.len());
        !part_of_word(before) && (mark.ends_with(['(', ':']) || !part_of_word(after))
    })
}
