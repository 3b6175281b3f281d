//! Writes `resources.json` of the api crate: discovery facts with the table columns beside each resource.

use anyhow::{Context, Result};
use serde_json::Value;

/// The text of the file, one resource a line.
pub fn resources(resources: &Value, columns: &Value) -> Result<String> {
    let mut lines = Vec::new();
    for row in resources.as_array().context("a list of resources")? {
        let mut row = row.clone();
        let key = format!("{}/{}", row["groupVersion"].as_str().context("groupVersion")?, row["name"].as_str().context("name")?);
        if let Some(columns) = columns.get(&key) {
            row["columns"] = columns.clone();
        }
        lines.push(row.to_string());
    }
    Ok(format!("[\n{}\n]\n", lines.join(",\n")))
}
