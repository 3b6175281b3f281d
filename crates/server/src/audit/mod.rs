//! Audit: what was asked by whom with which outcome, written to a file or a webhook as a policy says.
//!
//! The trail of a request travels with the task that serves it, so that authorization and admission can add annotations
//! without every step handing it on. Without a policy there is no trail, and nothing of this costs anything.

mod event;
mod log_file;
mod policy;
mod trail;
mod webhook;

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use parking_lot::RwLock;
use tokio_util::sync::CancellationToken;

use crate::reload::Reloads;
use crate::remote::Remote;
use crate::security::AuditSettings;
use log_file::LogFile;
use policy::{Level, Policy};
pub use trail::{Trail, annotate, annotate_request, id, identified, impersonated, tell_id, within};
use webhook::Webhook;

/// What is written, and where to.
pub struct Audit {
    policy: Arc<RwLock<Arc<Policy>>>,
    log: Option<LogFile>,
    webhook: Option<Webhook>,
    events: AtomicU64,
    errors: AtomicU64,
    levels: [AtomicU64; 4],
}

impl Audit {
    /// Opens what the settings name; `None` where nothing is to be audited.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn open(settings: &AuditSettings, reloads: &Arc<Reloads>, shutdown: &CancellationToken) -> anyhow::Result<Option<Arc<Audit>>> {
        let Some(path) = &settings.policy else { return Ok(None) };
        if settings.log.is_none() && settings.webhook.is_none() {
            return Ok(None);
        }
        let content = std::fs::read(path).with_context(|| format!("read the audit policy {}", path.display()))?;
        let policy = Policy::parse(&content).map_err(|why| anyhow::anyhow!("audit policy {}: {why}", path.display()))?;
        let policy = Arc::new(RwLock::new(Arc::new(policy)));
        let log = match &settings.log {
            Some(file) => Some(LogFile::open(file, settings).with_context(|| format!("open the audit log {}", file.display()))?),
            None => None,
        };
        let webhook = match &settings.webhook {
            Some(file) => {
                let remote = Remote::of_kubeconfig(file).map_err(|why| anyhow::anyhow!("audit webhook: {why}"))?;
                Some(Webhook::start(remote, settings, shutdown.clone()))
            }
            None => None,
        };
        let replaced = policy.clone();
        reloads.follow("audit_policy", path, &content, shutdown.clone(), move |content| {
            *replaced.write() = Arc::new(Policy::parse(content)?);
            Ok(())
        });
        let counters = || [const { AtomicU64::new(0) }; 4];
        Ok(Some(Arc::new(Audit { policy, log, webhook, events: AtomicU64::new(0), errors: AtomicU64::new(0), levels: counters() })))
    }

    fn policy(&self) -> Arc<Policy> {
        self.policy.read().clone()
    }

    fn count(&self, level: Level) {
        self.levels[level as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Writes an event, as one line of JSON.
    fn write(&self, line: &[u8]) {
        self.events.fetch_add(1, Ordering::Relaxed);
        if let Some(log) = &self.log {
            if let Err(error) = log.write(line) {
                if self.errors.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::error!(%error, "the audit log cannot be written");
                }
            }
        }
        if let Some(webhook) = &self.webhook {
            webhook.write(line);
        }
    }

    /// Counters in the text format of Prometheus.
    pub fn render(&self, out: &mut String) {
        let mut line = |text: String| writeln!(out, "{text}").expect("a string takes all text");
        line(format!("# TYPE apiserver_audit_event_total counter\napiserver_audit_event_total {}", self.events.load(Ordering::Relaxed)));
        line("# TYPE apiserver_audit_level_total counter".into());
        for level in [Level::None, Level::Metadata, Level::Request, Level::RequestResponse] {
            let count = self.levels[level as usize].load(Ordering::Relaxed);
            line(format!("apiserver_audit_level_total{{level=\"{}\"}} {count}", level.text()));
        }
        line("# TYPE apiserver_audit_error_total counter".into());
        line(format!("apiserver_audit_error_total{{plugin=\"log\"}} {}", self.errors.load(Ordering::Relaxed)));
        if let Some(webhook) = &self.webhook {
            line(format!("apiserver_audit_error_total{{plugin=\"webhook\"}} {}", webhook.dropped.load(Ordering::Relaxed)));
        }
    }
}
