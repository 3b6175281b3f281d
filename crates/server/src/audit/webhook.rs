//! The audit log as a webhook: events are gathered and posted in batches, so that no request waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::remote::Remote;
use crate::security::AuditSettings;

/// Events that wait; more are dropped and counted.
const BUFFER: usize = 10_000;
/// Events of one call.
const BATCH: usize = 400;
/// How long an event waits for others.
const WAIT: Duration = Duration::from_secs(30);
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Attempts of one batch, and the wait behind the first.
const ATTEMPTS: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The way of events to the webhook.
pub struct Webhook {
    queue: mpsc::Sender<Box<RawValue>>,
    /// Events that were lost.
    pub dropped: Arc<AtomicU64>,
}

impl Webhook {
    /// Starts sending.
    pub fn start(remote: Remote, settings: &AuditSettings, shutdown: CancellationToken) -> Webhook {
        let (queue, events) = mpsc::channel(BUFFER);
        let dropped = Arc::new(AtomicU64::new(0));
        let batch = if settings.webhook_batch == 0 { BATCH } else { settings.webhook_batch };
        let wait = settings.webhook_wait.unwrap_or(WAIT);
        tokio::spawn(send(remote, events, batch, wait, dropped.clone(), shutdown));
        Webhook { queue, dropped }
    }

    /// Takes one event.
    pub fn write(&self, event: &[u8]) {
        let text = String::from_utf8_lossy(event).trim_end().to_owned();
        let taken = RawValue::from_string(text).ok().is_some_and(|event| self.queue.try_send(event).is_ok());
        if !taken {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn send(
    remote: Remote,
    mut events: mpsc::Receiver<Box<RawValue>>,
    size: usize,
    wait: Duration,
    dropped: Arc<AtomicU64>,
    shutdown: CancellationToken,
) {
    // The clock of a batch starts with its first event: nothing runs while there is none.
    loop {
        let first = tokio::select! {
            first = events.recv() => first,
            () = shutdown.cancelled() => events.try_recv().ok(),
        };
        let Some(first) = first else { return };
        let mut batch = vec![first];
        let full = tokio::time::sleep(wait);
        tokio::pin!(full);
        while batch.len() < size {
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) => batch.push(event),
                    None => break,
                },
                () = &mut full => break,
                () = shutdown.cancelled() => match events.try_recv() {
                    Ok(event) => batch.push(event),
                    Err(_) => break,
                },
            }
        }
        if !post(&remote, &batch).await {
            dropped.fetch_add(batch.len() as u64, Ordering::Relaxed);
        }
    }
}

async fn post(remote: &Remote, batch: &[Box<RawValue>]) -> bool {
    let items: Vec<&str> = batch.iter().map(|event| event.get()).collect();
    let body = format!("{{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{{}},\"items\":[{}]}}", items.join(","));
    let body = Bytes::from(body);
    let mut wait = FIRST_WAIT;
    for attempt in 1..=ATTEMPTS {
        let why = match remote.post(body.clone(), PATIENCE).await {
            Ok((200..300, _)) => return true,
            Ok((code, _)) if code < 500 && code != 429 => {
                tracing::error!(code, events = batch.len(), "the audit webhook refused a batch");
                return false;
            }
            Ok((code, _)) => format!("code {code}"),
            Err(why) => why,
        };
        tracing::warn!(%why, attempt, events = batch.len(), "the audit webhook did not take a batch");
        if attempt < ATTEMPTS {
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }
    false
}
