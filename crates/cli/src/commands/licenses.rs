//! `knarr licenses`: ours, and those of everything linked into this program.

use std::process::ExitCode;

use anyhow::Result;

use crate::table::columns_of;

const NOTICE: &str = include_str!("../../../../NOTICE");
const LIST: &str = include_str!(concat!(env!("OUT_DIR"), "/licenses.txt"));
const TEXTS: &str = include_str!(concat!(env!("OUT_DIR"), "/license-texts.txt"));

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    /// The full texts, too.
    #[arg(long)]
    texts: bool,
    /// Form of the output.
    #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Carries the command out.
pub(super) fn run(flags: &Flags) -> Result<ExitCode> {
    let rows: Vec<Vec<String>> = LIST.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect();
    if flags.output == "json" {
        let part = |row: &Vec<String>, at: usize| row.get(at).cloned().unwrap_or_default();
        let list: Vec<_> = rows
            .iter()
            .map(|row| serde_json::json!({"package": part(row, 0), "license": part(row, 1), "repository": part(row, 2)}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{NOTICE}\nThis program is under the Apache License 2.0. Linked into it are:\n\n{}", columns_of(&rows));
    if flags.texts {
        println!("{TEXTS}");
    }
    Ok(ExitCode::SUCCESS)
}
