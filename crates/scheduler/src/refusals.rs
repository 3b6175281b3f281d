//! Refusals on their way into the API: one write a pod at a time, the newest last.
//!
//! Decisions about one pod may follow each other faster than their writes. If each write went its own way, an older
//! message could stay, or take back the condition of a binding.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::write::{PodName, Writer};

/// Why a pod fits nowhere, for its condition.
pub struct Refusal {
    /// The pod.
    pub pod: PodName,
    /// What is said.
    pub message: String,
    /// Whether nothing was said before.
    pub first: bool,
    /// A nomination to set, or to clear if empty.
    pub nominated: Option<Arc<str>>,
}

/// What waits behind the write that is under way for a pod.
#[derive(Default)]
struct Behind {
    next: Option<Refusal>,
    /// Dropped when the last write has ended.
    waiters: Vec<oneshot::Sender<()>>,
}

/// Pods by uid whose refusals are being written.
#[derive(Clone, Default)]
pub struct Refusals(Arc<Mutex<HashMap<String, Behind>>>);

impl Refusals {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Behind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a refusal in the background. One that has not begun is replaced by its successor.
    pub fn tell(&self, writer: &Writer, refusal: Refusal) {
        match self.lock().entry(refusal.pod.uid.clone()) {
            Entry::Occupied(mut known) => {
                let next = &mut known.get_mut().next;
                *next = Some(match next.take() {
                    Some(older) => {
                        Refusal { first: older.first || refusal.first, nominated: refusal.nominated.clone().or(older.nominated), ..refusal }
                    }
                    None => refusal,
                });
                return;
            }
            Entry::Vacant(free) => drop(free.insert(Behind::default())),
        }
        let (refusals, writer) = (self.clone(), writer.clone());
        tokio::spawn(async move {
            let mut next = Some(refusal);
            while let Some(Refusal { pod, message, first, nominated }) = next {
                if let Err(status) = writer.refuse(&pod, &message, first, nominated.as_deref()).await {
                    tracing::debug!(%status, "condition was not written");
                }
                let mut all = refusals.lock();
                next = all.get_mut(&pod.uid).and_then(|behind| behind.next.take());
                if next.is_none() {
                    all.remove(&pod.uid);
                }
            }
        });
    }

    /// Ends when nothing is on its way for a pod.
    pub fn told(&self, uid: &str) -> impl Future<Output = ()> + Send + use<> {
        let waiting = self.lock().get_mut(uid).map(|behind| {
            let (waiter, waiting) = oneshot::channel();
            behind.waiters.push(waiter);
            waiting
        });
        async move {
            if let Some(waiting) = waiting {
                // Nothing is ever sent: the end is told by the sender that is dropped.
                let _ended = waiting.await;
            }
        }
    }
}
