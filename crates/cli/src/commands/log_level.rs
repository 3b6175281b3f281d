//! `knarr log-level`: what the running process logs, shown and changed without a restart.

use std::process::ExitCode;

use anyhow::Result;
use http::Method;

use super::Local;
use crate::socket;

/// Flags of the command.
#[derive(clap::Args)]
#[command(
    long_about = "Show or change how much the running process logs.\n\nLevels are error, warn, info, debug, trace or off. A level alone is that of every component; component=level is \
                        that of one: server, store, scheduler, controllers, reconcile, kubelet, runtime, image, proxy, net, dns, cache, client, pki. The change lasts until the process ends; \
                        --log-level of server and agent sets what it starts with."
)]
#[command(
    after_help = "Examples:\n  knarr log-level                                   # show the levels\n  knarr log-level debug                             # everything\n  \
                        knarr log-level info,scheduler=debug,kubelet=trace  # more of two components\n  knarr log-level info                              # back to the default"
)]
pub struct Flags {
    #[command(flatten)]
    local: Local,
    /// Levels to set, for example info,scheduler=debug; they are shown where absent.
    levels: Option<String>,
}

/// Carries the command out.
pub(super) async fn run(flags: Flags) -> Result<ExitCode> {
    let socket = flags.local.socket();
    let answer = match &flags.levels {
        Some(levels) => socket::put(&socket, "/log-level", levels).await?,
        None => socket::json(&socket, Method::GET, "/log-level").await?,
    };
    println!("{}", answer["level"].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}
