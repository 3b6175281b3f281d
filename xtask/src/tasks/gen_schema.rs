//! Writes the schema table from the recorded API facts, so that no field list is ever typed by hand.
//!
//! Embedded messages that JSON inlines have no number in the facts; on the wire they take the lowest
//! number that the outer message does not use otherwise (the round-trip fixtures prove it).

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde_json::{Map, Value};

const TYPE_META: &str = "apis.meta.v1.TypeMeta";

/// The text of `crates/api/src/schema/table.txt`.
pub fn table(facts: &Value) -> Result<String> {
    let types = facts["types"].as_object().context("types")?;
    let kinds = facts["kinds"].as_object().context("kinds")?;
    let mut text = String::new();
    for (name, entry) in types {
        let atomic = entry["mapType"] == "atomic";
        writeln!(text, "T\t{name}\t{}", if atomic { "atomic" } else { "" })?;
        for (field, line) in fields(types, name, &[])? {
            writeln!(text, "F\t{field}\t{line}")?;
        }
    }
    for (kind, name) in kinds {
        writeln!(text, "K\t{kind}\t{}", name.as_str().context("kind")?)?;
    }
    Ok(text)
}

fn fields(types: &Map<String, Value>, name: &str, embedded: &[u32]) -> Result<BTreeMap<String, String>> {
    let entry = &types[name];
    let own = entry["fields"].as_object().context("fields")?;
    let mut lines = BTreeMap::new();
    let mut used: Vec<u32> = Vec::new();
    for (field, fact) in own {
        let number = number(fact);
        used.push(number);
        if field != "-" {
            lines.insert(field.clone(), line(fact, number, embedded)?);
        }
    }
    for inline in entry["inline"].as_array().into_iter().flatten() {
        let inline = inline.as_str().context("inline")?;
        let mut path = embedded.to_vec();
        if inline == TYPE_META {
            path.clear();
            for field in ["apiVersion", "kind"] {
                lines.insert(field.into(), "0\t\tstring\to\t\t\t\t".into());
            }
            continue;
        }
        let number = (1..).find(|number| !used.contains(number)).expect("numbers do not end");
        used.push(number);
        path.push(number);
        lines.extend(fields(types, inline, &path)?);
    }
    Ok(lines)
}

fn number(fact: &Value) -> u32 {
    let text = fact["proto"].as_str().unwrap_or("0");
    text.split(',').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn line(fact: &Value, number: u32, embedded: &[u32]) -> Result<String> {
    let embedded: Vec<String> = embedded.iter().map(u32::to_string).collect();
    let is = |name: &str| fact[name] == true;
    let strategy = fact["patchStrategy"].as_str().unwrap_or("");
    let mut flags = String::new();
    for (flag, set) in [
        ('o', is("omitEmpty")),
        ('p', is("pointer")),
        ('r', is("required")),
        ('m', fact["listType"] == "map"),
        ('s', fact["listType"] == "set"),
        ('M', strategy.contains("merge")),
        ('R', strategy.contains("retainKeys")),
        ('a', fact["mapType"] == "atomic"),
    ] {
        if set {
            flags.push(flag);
        }
    }
    let list = |name: &str| {
        let items = fact[name].as_array().into_iter().flatten();
        items.filter_map(Value::as_str).collect::<Vec<_>>().join(",")
    };
    let default = fact.get("default").map(Value::to_string).unwrap_or_default();
    let shape = shape(fact["type"].as_str().context("type")?);
    let merge_key = fact["patchMergeKey"].as_str().unwrap_or("");
    Ok(format!("{number}\t{}\t{shape}\t{flags}\t{default}\t{merge_key}\t{}\t{}", embedded.join(","), list("listMapKeys"), list("enum"),))
}

/// `map[string][]string(X)` becomes `map:[]string`.
fn shape(fact: &str) -> String {
    let text = fact.replace("map[string]", "map:");
    match text.split_once('(') {
        Some((scalar, _)) => scalar.to_owned(),
        None => text,
    }
}
