//! Keys that a YAML document has twice, by line: what the strict reading of an applied configuration reports.

use std::collections::HashSet;

/// A mapping that is open: its indentation and its keys so far.
struct Open<'a> {
    indent: usize,
    keys: HashSet<&'a str>,
}

/// One text for each key that comes again in its mapping. Block style only: flow mappings are read by the parser alone.
pub fn duplicate_keys(text: &str) -> Vec<String> {
    let mut open: Vec<Open<'_>> = Vec::new();
    let mut found = Vec::new();
    let mut block: Option<usize> = None;
    for (index, line) in text.lines().enumerate() {
        let trimmed = line.trim_start();
        let mut indent = line.len() - trimmed.len();
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        if block.is_some_and(|outer| indent > outer) {
            continue;
        }
        block = None;
        if trimmed.starts_with("---") {
            open.clear();
            continue;
        }
        let mut rest = trimmed;
        while let Some(item) = rest.strip_prefix("- ") {
            // Each item begins a mapping of its own.
            open.retain(|one| one.indent <= indent);
            let inner = item.trim_start();
            indent += rest.len() - inner.len();
            open.retain(|one| one.indent < indent);
            rest = inner;
        }
        let Some(key) = key(rest) else { continue };
        open.retain(|one| one.indent <= indent);
        if open.last().is_none_or(|one| one.indent < indent) {
            open.push(Open { indent, keys: HashSet::new() });
        }
        let mapping = open.last_mut().expect("one was just pushed");
        if !mapping.keys.insert(key) {
            found.push(format!("line {}: key {:?} already set in map", index + 1, key.trim_matches(['"', '\''])));
        }
        let value = rest[key.len() + 1..].trim();
        if value.starts_with('|') || value.starts_with('>') {
            block = Some(indent);
        }
    }
    found
}

/// The key in front of a colon.
fn key(text: &str) -> Option<&str> {
    if text.starts_with(['{', '[']) {
        return None;
    }
    let at = text.find(": ").or_else(|| text.strip_suffix(':').map(str::len))?;
    Some(&text[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_one_mapping_clash() {
        assert_eq!(duplicate_keys("\na: 1\nspec:\n  foo: x\n  foo: y\n"), ["line 5: key \"foo\" already set in map"]);
        assert!(duplicate_keys("a:\n  x: 1\nb:\n  x: 2\n").is_empty());
        assert!(duplicate_keys("l:\n- name: a\n  v: 1\n- name: b\n  v: 2\n").is_empty());
        assert!(duplicate_keys("t: |\n  a: 1\n  a: 2\nu: 3\n").is_empty());
        assert_eq!(duplicate_keys("l:\n- name: a\n  name: b\n").len(), 1);
    }
}
