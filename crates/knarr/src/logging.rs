//! Logs to standard error, as text or JSON, with levels per component that can be changed while we run.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

/// Changes the levels of a running process.
#[derive(Clone)]
pub struct Levels {
    change: Arc<dyn Fn(EnvFilter) -> Result<()> + Send + Sync>,
    text: Arc<Mutex<String>>,
}

impl Levels {
    /// Sets levels from text such as `info` or `info,scheduler=debug`.
    ///
    /// # Errors
    /// The text is no list of levels.
    pub fn set(&self, text: &str) -> Result<()> {
        (self.change)(parse(text)?)?;
        text.clone_into(&mut self.text.lock());
        Ok(())
    }

    /// The levels now, as they were set.
    pub fn get(&self) -> String {
        self.text.lock().clone()
    }
}

fn parse(text: &str) -> Result<EnvFilter> {
    let refused = || format!("log level {text:?} (write for example info or info,scheduler=debug)");
    // The parser takes a lone word that is no level for the name of a component, which would leave everything else silent.
    let is_level = |word: &str| word.contains(['=', '[']) || (!word.is_empty() && word.parse::<LevelFilter>().is_ok());
    if !text.split(',').map(str::trim).all(is_level) {
        bail!("{}", refused());
    }
    EnvFilter::builder().parse(text).with_context(refused)
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
    let change = Arc::new(move |filter| handle.reload(filter).context("change log levels"));
    Ok(Levels { change, text: Arc::new(Mutex::new(level.to_owned())) })
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn levels_are_levels() {
        for (text, good) in [
            ("info", true),
            ("info,scheduler=debug", true),
            ("off", true),
            ("kubelet=trace", true),
            ("verbose", false),
            ("info,loud", false),
            ("", false),
            ("x=loud", false),
        ] {
            assert_eq!(parse(text).is_ok(), good, "{text:?}");
        }
    }
}
