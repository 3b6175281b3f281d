//! Objects from files, folders and the input, as `apply` and `delete` take them.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Reads all objects of the named places, in order; items of lists stand for themselves.
pub(crate) fn read(places: &[PathBuf]) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for place in places {
        if place == Path::new("-") {
            let mut text = Vec::new();
            std::io::stdin().read_to_end(&mut text).context("read the input")?;
            parse(&text, "the input", &mut objects)?;
            continue;
        }
        for file in files(place)? {
            let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            parse(&text, &file.display().to_string(), &mut objects)?;
        }
    }
    if objects.is_empty() {
        bail!("no objects were found");
    }
    Ok(objects)
}

fn files(place: &Path) -> Result<Vec<PathBuf>> {
    if !place.is_dir() {
        return Ok(vec![place.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(place).with_context(|| format!("read {}", place.display()))? {
        let path = entry?.path();
        let taken =
            path.extension().and_then(|extension| extension.to_str()).is_some_and(|extension| ["json", "yaml", "yml"].contains(&extension));
        if taken {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn parse(text: &[u8], place: &str, objects: &mut Vec<Value>) -> Result<()> {
    let documents = codec::yaml::parse_all(text).with_context(|| format!("parse {place}"))?;
    for document in documents {
        let listed = document["kind"].as_str().is_some_and(|kind| kind.ends_with("List"));
        match &document["items"] {
            Value::Array(items) if listed => objects.extend(items.iter().cloned()),
            _ => objects.push(document),
        }
    }
    let nameless = objects.iter().find(|object| object["kind"].as_str().is_none() || object["apiVersion"].as_str().is_none());
    match nameless {
        Some(_) => bail!("an object in {place} lacks apiVersion or kind"),
        None => Ok(()),
    }
}
