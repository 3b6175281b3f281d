//! Gathers the licences of everything that is linked into the program, for `knarr licenses`.
//!
//! The list comes from cargo itself at each build, so that it cannot go stale.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

fn main() {
    // Asked for at run time: builds in several folders may share this program.
    let own = std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it");
    let root = Path::new(&own).join("../..");
    println!("cargo::rerun-if-changed={}", root.join("Cargo.lock").display());
    println!("cargo::rerun-if-changed=build.rs");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets it");
    let metadata = metadata(&root).expect("cargo metadata tells the packages of this workspace");
    let (list, texts) = gather(&metadata);
    std::fs::write(Path::new(&out).join("licenses.txt"), list).expect("the folder can be written");
    std::fs::write(Path::new(&out).join("license-texts.txt"), texts).expect("the folder can be written");
}

fn metadata(root: &Path) -> Option<Value> {
    let cargo = std::env::var_os("CARGO")?;
    let target = std::env::var("TARGET").ok()?;
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--filter-platform", &target])
        .current_dir(root)
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// The packages that the program needs at run time, and the texts of their licences.
fn gather(metadata: &Value) -> (String, String) {
    let nodes: BTreeMap<&str, &Value> = list(&metadata["resolve"], "nodes").filter_map(|node| Some((node["id"].as_str()?, node))).collect();
    let packages: BTreeMap<&str, &Value> =
        list(metadata, "packages").filter_map(|package| Some((package["id"].as_str()?, package))).collect();
    let start = packages.iter().find(|(_, package)| package["name"] == "knarr").map(|(id, _)| *id);
    let mut needed = BTreeSet::new();
    let mut open: Vec<&str> = start.into_iter().collect();
    while let Some(id) = open.pop() {
        if !needed.insert(id) {
            continue;
        }
        for dependency in nodes.get(id).into_iter().flat_map(|node| list(node, "deps")) {
            let linked = list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
            open.extend(dependency["pkg"].as_str().filter(|_| linked));
        }
    }
    let foreign = needed.into_iter().filter_map(|id| packages.get(id)).filter(|package| !package["source"].is_null());
    let mut lines = String::new();
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in foreign {
        let text = |name: &str| package[name].as_str().unwrap_or("").to_owned();
        let name = format!("{} {}", text("name"), text("version"));
        writeln!(lines, "{name}\t{}\t{}", text("license"), text("repository")).expect("a string takes everything");
        for found in texts_of(Path::new(&text("manifest_path"))) {
            texts.entry(found).or_default().push(name.clone());
        }
    }
    let texts = texts.into_iter().map(|(text, names)| format!("{}\n{}\n{text}\n\n", names.join(", "), "=".repeat(72)));
    (lines, texts.collect())
}

fn texts_of(manifest: &Path) -> Vec<String> {
    let folder = manifest.parent().and_then(|folder| std::fs::read_dir(folder).ok());
    let mut found = Vec::new();
    for entry in folder.into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().to_uppercase();
        if ["LICENSE", "LICENCE", "COPYING", "NOTICE", "COPYRIGHT"].iter().any(|start| name.starts_with(start)) {
            found.extend(std::fs::read_to_string(entry.path()).ok().map(|text| text.trim().to_owned()));
        }
    }
    found
}

fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    value[name].as_array().into_iter().flatten()
}
