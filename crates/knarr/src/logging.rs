//! Logs to standard error, as text or JSON, with levels per component that can be changed while we run.

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Changes the levels of a running process.
#[derive(Clone)]
pub struct Levels {
    change: std::sync::Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
}

impl Levels {
    /// Sets levels from text such as `info` or `info,scheduler=debug`.
    ///
    /// # Errors
    /// The text is no list of levels.
    pub fn set(&self, text: &str) -> Result<()> {
        (self.change)(parse(text)?)
    }
}

fn parse(text: &str) -> Result<EnvFilter> {
    EnvFilter::builder().parse(text).with_context(|| format!("log level {text:?} (write for example info or info,scheduler=debug)"))
}

/// Starts logging.
///
/// # Errors
/// The level is no list of levels.
pub fn start(level: &str, json: bool) -> Result<Levels> {
    let (filter, handle) = reload::Layer::new(parse(level)?);
    let registry = tracing_subscriber::registry().with(filter);
    if json {
        registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).init();
    } else {
        registry.with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(std::io::stderr)).init();
    }
    Ok(Levels { change: std::sync::Arc::new(move |filter| handle.reload(filter).context("change log levels")) })
}
