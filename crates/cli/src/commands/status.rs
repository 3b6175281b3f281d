//! `knarr status`: what is ready, and by name what is waited for.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::Method;
use serde_json::Value;

use super::Local;
use crate::socket;

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    #[command(flatten)]
    local: Local,
    /// Wait until everything is ready.
    #[arg(long)]
    wait: bool,
    /// How many seconds to wait at most.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
    /// Form of the output.
    #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Carries the command out; exit code 1 says that something is not ready.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let deadline = Instant::now() + Duration::from_secs(flags.timeout);
    let mut told = String::new();
    loop {
        let answer = socket::json(&flags.local.socket(), Method::GET, "/status").await;
        let ready = answer.as_ref().is_ok_and(|status| status["ready"] == true);
        if ready || !flags.wait {
            return show(&answer?, &flags);
        }
        let waiting = match &answer {
            Ok(status) => names(status),
            Err(error) => format!("server ({error:#})"),
        };
        if Instant::now() >= deadline {
            bail!("not ready after {} s, still waiting for: {waiting}", flags.timeout);
        }
        if waiting != told {
            eprintln!("waiting for: {waiting}");
            told = waiting;
        }
        // The socket may not exist yet, so that there is nothing to be woken by.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn names(status: &Value) -> String {
    let names: Vec<&str> = status["waitingFor"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.join(", ")
}

fn show(status: &Value, flags: &Flags) -> Result<ExitCode> {
    if flags.output == "json" {
        println!("{}", serde_json::to_string_pretty(status)?);
    } else {
        println!("knarr {}", status["version"].as_str().unwrap_or(""));
        match status["ready"] == true {
            true => println!("ready"),
            false => println!("waiting for: {}", names(status)),
        }
        for (name, state) in status["components"].as_object().into_iter().flatten() {
            let restarts = state["restarts"].as_u64().unwrap_or(0);
            if restarts > 0 {
                println!("component {name}: restarted {restarts} times, last error: {}", state["lastError"].as_str().unwrap_or(""));
            }
        }
    }
    if flags.output != "json" {
        for file in status["files"].as_array().into_iter().flatten() {
            let error = file["error"].as_str().unwrap_or("");
            if !error.is_empty() {
                println!("configuration file {}: refused, the old one stays: {error}", file["file"].as_str().unwrap_or(""));
            }
        }
    }
    Ok(if status["ready"] == true { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
