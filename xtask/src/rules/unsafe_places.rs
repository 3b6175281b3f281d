//! `unsafe` lives in the `sys` modules of the crates that talk to the kernel or to the allocator, and nowhere else.

use anyhow::Result;

use super::Rule;
use crate::tree::Tree;

/// What begins a path that may hold `unsafe`, up to its `sys` module.
const PLACES: &[&str] = &["crates/runtime/src/", "crates/cgroup/src/", "crates/net/src/", "crates/knarr/src/"];

/// The program of the demo image has no crates, so it calls the C library itself.
const DEMO: &str = "crates/image/demo/sys.rs";

/// The rule.
pub const fn rule() -> Rule {
    Rule { name: "unsafe", check }
}

fn check(tree: &Tree) -> Result<Vec<String>> {
    let mut breaches = Vec::new();
    for file in tree.files.iter().filter(|file| !may(&file.path)) {
        for (number, line) in file.text.lines().enumerate() {
            let code = line.trim_start();
            let comment = code.starts_with("//");
            let attribute = code.starts_with("#") && code.contains("(unsafe_code");
            if !comment && (attribute || begins_unsafe(code)) {
                breaches.push(format!("{}:{}: only `sys` modules may hold it", file.path, number + 1));
            }
        }
    }
    Ok(breaches)
}

fn may(path: &str) -> bool {
    let in_sys = |rest: &str| rest == "sys.rs" || rest.starts_with("sys/") || rest.contains("/sys/") || rest.ends_with("/sys.rs");
    path == DEMO || PLACES.iter().any(|place| path.strip_prefix(place).is_some_and(in_sys))
}

fn begins_unsafe(code: &str) -> bool {
    const WORD: &str = concat!("uns", "afe ");
    code.match_indices(WORD).any(|(at, _)| {
        let rest = &code[at + WORD.len()..];
        ["{", "fn ", "impl ", "extern ", "trait "].iter().any(|next| rest.starts_with(next))
    })
}
