//! `cargo xtask gen`: writes every generated file that is committed.

use anyhow::{Context, Result};

use super::{Task, gen_behaviour, gen_lists, gen_resources, gen_schema};

/// The task.
pub const fn task() -> Task {
    Task { name: "gen", help: "write the generated files", run }
}

fn run() -> Result<()> {
    for (path, text) in files()? {
        // An unchanged file keeps its time, so that cargo does not build what depends on it.
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        std::fs::write(&path, text).with_context(|| format!("write {path}"))?;
        println!("{path}");
    }
    Ok(())
}

/// Paths and texts of all generated files, as they should be.
pub fn files() -> Result<Vec<(String, String)>> {
    let resources = gen_resources::resources(&fact("api-resources")?, &fact("table-columns")?)?;
    let mut files = vec![
        ("crates/api/src/schema/table.txt".to_owned(), gen_schema::table(&fact("api-types")?)?),
        ("crates/api/src/resources.json".to_owned(), resources),
    ];
    files.extend(gen_behaviour::files()?);
    files.extend(gen_lists::files()?);
    Ok(files)
}

fn fact(name: &str) -> Result<serde_json::Value> {
    let path = format!("xtask/facts/{name}.json");
    let bytes = std::fs::read(&path).with_context(|| format!("read {path}"))?;
    serde_json::from_slice(&bytes).with_context(|| format!("parse {path}"))
}
