//! A file has at most 800 lines; 200 are normal. The exceptions may only shrink.

use anyhow::Result;

use super::Rule;
use crate::tree::Tree;

const MOST: usize = 800;

/// Files that were longer when the rule came, with the length that they must not exceed.
const EXCEPTIONS: &[(&str, usize)] = &[("crates/image/src/unpack/tests.rs", 828)];

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "length", check }
}

fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in &tree.files {
        let lines = file.text.lines().count();
        let exception = EXCEPTIONS.iter().find(|(path, _)| *path == file.path).map(|(_, most)| *most);
        let most = exception.unwrap_or(MOST);
        if lines > most {
            breaches.push(format!("{} has {lines} lines, more than {most}", file.path));
        }
        if exception.is_some() && lines <= MOST {
            breaches.push(format!("{} has only {lines} lines and needs no exception in xtask/src/rules/length.rs", file.path));
        }
    }
    for (path, _) in EXCEPTIONS {
        if !tree.files.iter().any(|file| file.path == *path) {
            breaches.push(format!("{path} of the exceptions is no file"));
        }
    }
    Ok(breaches)
}
