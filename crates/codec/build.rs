//! Takes the descriptions of types and fields out of the sources of `k8s-openapi`, for the published OpenAPI documents.
//!
//! The words are not copied into this project: they are read from the dependency when it is built, and packed, because
//! nobody looks at them but `kubectl explain` and its like.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.lock");
    let sources = find().expect("the sources of k8s-openapi are where cargo keeps its registry");
    let mut found = BTreeMap::new();
    walk(&sources.join("src/v1_36"), &mut found);
    assert!(found.len() > 3000, "only {} descriptions in {}", found.len(), sources.display());
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    for (name, text) in found {
        writeln!(packed, "{name}\t{text}").expect("memory can be written");
    }
    let packed = packed.finish().expect("memory can be written");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    std::fs::write(out.join("descriptions.z"), packed).expect("OUT_DIR can be written");
}

/// The folder of the dependency: in the registry of cargo's home, or where cargo says.
fn find() -> Option<PathBuf> {
    let manifest = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    let lock = std::fs::read_to_string(manifest.join("../../Cargo.lock")).ok()?;
    let version = lock.split("name = \"k8s-openapi\"\nversion = \"").nth(1)?.split('"').next()?;
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))?;
    let registries = std::fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten();
    let mut places = registries.map(|registry| registry.path().join(format!("k8s-openapi-{version}")));
    places.find(|place| place.is_dir()).or_else(|| ask_cargo(&manifest))
}

fn ask_cargo(manifest: &Path) -> Option<PathBuf> {
    let output = Command::new(std::env::var_os("CARGO")?)
        .args(["metadata", "--format-version", "1", "--frozen"])
        .current_dir(manifest)
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let end =
        text.split("\"manifest_path\":\"").map(|part| part.split('"').next().unwrap_or("")).find(|path| path.contains("k8s-openapi"))?;
    Some(Path::new(end).parent()?.to_owned())
}

fn walk(folder: &Path, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            walk(&path, found);
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            file(&text, found);
        }
    }
}

/// One file holds one type: its comment, and the comments of its fields, whose names in JSON stand further below.
fn file(text: &str, found: &mut BTreeMap<String, String>) {
    let Some(name) = text.strip_prefix("// Generated from definition ").and_then(|rest| rest.lines().next()) else { return };
    let json_names: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| {
            let (json, rust) = line.trim().strip_prefix('"')?.split_once("\" => Field::Key_")?;
            Some((rust.trim_end_matches(','), json))
        })
        .collect();
    let mut comment = String::new();
    let mut inside = false;
    for line in text.lines() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("///") {
            if !comment.is_empty() {
                comment.push_str("\\n");
            }
            comment.push_str(&plain(words.strip_prefix(' ').unwrap_or(words).trim_end()));
        } else if line.starts_with("pub struct ") || line.starts_with("pub enum ") {
            found.insert(name.to_owned(), std::mem::take(&mut comment));
            inside = line.ends_with('{');
        } else if inside && line == "}" {
            return;
        } else if inside && let Some((rust, _)) = line.strip_prefix("pub ").and_then(|field| field.split_once(':')) {
            let rust = rust.strip_prefix("r#").unwrap_or(rust);
            let json = json_names.get(rust).copied().unwrap_or(rust);
            found.insert(format!("{name}/{json}"), std::mem::take(&mut comment));
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
}

/// The words without the backslashes that keep them from being markup.
fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' if letters.peek().is_some_and(char::is_ascii_punctuation) => out.extend(letters.next()),
            '\t' => out.push_str("    "),
            letter => out.push(letter),
        }
    }
    out
}
