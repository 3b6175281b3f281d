//! Runs a controller: feeds its queue from the caches and calls it, one key at a time per key.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cache::Cache;
use client::{Client, ResourceId};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::context::Feed;
use crate::tracked::{Effect, Mark, Tracked, Written};
use crate::{Context, Controller, Metrics, Next, ObjectKey, Queue};

/// What a key's own writes have done, which its caches must show before it runs again.
type Barriers = Mutex<HashMap<ObjectKey, Vec<Mark>>>;

struct Running {
    controller: Arc<dyn Controller>,
    context: Context,
    queue: Arc<Queue<ObjectKey>>,
    caches: Vec<(ResourceId, Arc<Cache>)>,
    barriers: Barriers,
    metrics: Arc<Metrics>,
}

/// Runs a controller until the future is dropped.
pub async fn run(controller: Arc<dyn Controller>, context: Context, metrics: Arc<Metrics>) {
    let queue: Arc<Queue<ObjectKey>> = Arc::new(Queue::new(metrics.clone()));
    let mut caches = Vec::new();
    let watches = controller.watches();
    for watch in &watches {
        caches.push((watch.selection.resource.clone(), context.cache_of(watch.selection.clone())));
    }
    for (_, cache) in &caches {
        cache.synced().await;
    }
    for (watch, (_, cache)) in watches.into_iter().zip(&caches) {
        let (queue, context, map) = (queue.clone(), context.clone(), watch.map);
        cache.subscribe(Box::new(move |old, new| map(&context, old, new, &mut |key| queue.add(key))));
    }
    let context = Context { feed: Some(Feed { queue: queue.clone() }), ..context };
    for key in controller.first() {
        queue.add(key);
    }
    let workers = controller.workers();
    let running = Arc::new(Running { controller, context, queue, caches, barriers: Barriers::default(), metrics });
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        tasks.spawn(work(running.clone()));
    }
    while tasks.join_next().await.is_some() {}
}

async fn work(running: Arc<Running>) {
    loop {
        let key = running.queue.next().await;
        let began = Instant::now();
        running.reach_own_writes(&key).await;
        let next = running.reconcile(&key).await;
        match next {
            Ok(next) => {
                running.metrics.succeeded.fetch_add(1, Ordering::Relaxed);
                running.queue.succeeded(&key);
                match next {
                    Next::After(delay) => running.queue.add_after(key.clone(), delay),
                    Next::Done => running.queue.cancel(&key),
                }
            }
            Err(error) => {
                running.metrics.failed.fetch_add(1, Ordering::Relaxed);
                let delay = running.queue.add_failed(key.clone());
                report(running.controller.name(), &key, &error, delay);
            }
        }
        running.metrics.work.observe_duration(began.elapsed());
        running.queue.done(&key);
    }
}

/// Lost races are part of life; everything else is worth a warning.
fn report(controller: &str, key: &ObjectKey, error: &anyhow::Error, delay: std::time::Duration) {
    let conflict = error.downcast_ref::<api::Status>().is_some_and(|status| status.is_conflict() || status.is_not_found());
    if conflict {
        tracing::debug!(controller, %key, "another writer was faster: {error:#}");
    } else {
        tracing::warn!(controller, %key, ?delay, "reconcile failed: {error:#}");
    }
}

impl Running {
    async fn reach_own_writes(&self, key: &ObjectKey) {
        let Some(written) = self.barriers.lock().remove(key) else {
            return;
        };
        for mark in written {
            for (_, cache) in self.caches.iter().filter(|(resource, _)| resource.group == *mark.group && resource.plural == *mark.plural) {
                match &mark.effect {
                    Effect::Revision(revision) => cache.wait_for(*revision).await,
                    Effect::Leaving { namespace, name, uid } => cache.wait_until_leaving(namespace, name, uid).await,
                }
            }
        }
    }

    async fn reconcile(&self, key: &ObjectKey) -> anyhow::Result<Next> {
        let written: Written = Written::default();
        let transport = Tracked::new(self.context.client.transport().clone(), written.clone());
        let context = Context { client: Client::new(Arc::new(transport)), ..self.context.clone() };
        let next = AssertUnwindSafe(self.controller.reconcile(&context, key)).catch_unwind().await;
        let written = std::mem::take(&mut *written.lock());
        if !written.is_empty() {
            self.barriers.lock().insert(key.clone(), written);
        }
        next.unwrap_or_else(|panic| Err(anyhow::anyhow!("panicked: {}", panic_text(&*panic))))
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}
