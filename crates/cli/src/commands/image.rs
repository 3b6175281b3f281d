//! `knarr image`: the images of this node. The running process does the work, since it holds the store.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use http::Method;
use serde_json::Value;

use super::Local;
use crate::socket;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    local: Local,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Import docker-archive or OCI tars (plain, gzip or zstd); `--demo` imports the images inside this binary.
    Import {
        /// Files.
        files: Vec<PathBuf>,
        /// The small demo images of this binary.
        #[arg(long)]
        demo: bool,
    },
    /// List images.
    #[command(visible_alias = "ls")]
    List {
        /// Form of the output.
        #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
        output: String,
    },
    /// Remove images by name or id.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let socket = flags.local.socket();
    match flags.verb {
        Verb::Import { files, demo } => {
            if demo {
                print_names(&socket::json(&socket, Method::POST, "/images/demo").await?);
            }
            for file in files {
                let answer = socket::upload(&socket, "/images", &file).await.with_context(|| format!("import {}", file.display()))?;
                print_names(&answer);
            }
        }
        Verb::List { output } => {
            let images = socket::json(&socket, Method::GET, "/images").await?;
            if output == "json" {
                println!("{}", serde_json::to_string_pretty(&images)?);
            } else {
                table(&images);
            }
        }
        Verb::Rm { names } => {
            for name in names {
                let path = format!("/images/{}", name.replace('/', "%2F"));
                socket::json(&socket, Method::DELETE, &path).await?;
                println!("{name} removed");
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn names_of(image: &Value) -> Vec<&str> {
    image["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn print_names(images: &Value) {
    for name in images.as_array().into_iter().flatten().flat_map(names_of) {
        println!("{name} imported");
    }
}

fn table(images: &Value) {
    println!("{:<64} {:<14} {:>10}", "IMAGE", "IMAGE ID", "SIZE");
    for image in images.as_array().into_iter().flatten() {
        let id = image["id"].as_str().unwrap_or("").trim_start_matches("sha256:");
        let size = image["size"].as_u64().unwrap_or(0) as f64 / 1e6;
        let names = names_of(image);
        let names = if names.is_empty() { vec!["<none>"] } else { names };
        for name in names {
            println!("{name:<64} {:<14} {size:>8.1}MB", &id[..id.len().min(13)]);
        }
    }
}
