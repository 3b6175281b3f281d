//! Development tasks: `gen` writes generated files, `tidy` checks the tree, `ci` runs what CI runs.

use anyhow::{Context, Result, bail};

mod tasks;

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("gen") => generate(),
        other => bail!("unknown task {other:?}; there are: gen"),
    }
}

fn generate() -> Result<()> {
    let fact = |name: &str| -> Result<serde_json::Value> {
        let bytes = std::fs::read(format!("xtask/facts/{name}.json")).context("run from the root of the project")?;
        Ok(serde_json::from_slice(&bytes)?)
    };
    write("crates/api/src/schema/table.txt", tasks::gen_schema::table(&fact("api-types")?)?)?;
    let resources = tasks::gen_resources::resources(&fact("api-resources")?, &fact("table-columns")?)?;
    write("crates/api/src/resources.json", resources)?;
    for (path, text) in tasks::gen_behaviour::files()? {
        write(&path, text)?;
    }
    Ok(())
}

fn write(path: &str, text: String) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {path}"))
}
