//! Admission to a queue: at most so many requests are served at once, and one user cannot take all places.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::Status;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::identify::Identified;
use crate::attributes::{Attributes, Verb};

/// How long a request may wait for a place.
const PATIENCE: Duration = Duration::from_secs(15);

/// The places.
pub struct Queue {
    places: Arc<Semaphore>,
    /// Places that one flow may hold while others wait.
    per_flow: usize,
    flows: Mutex<HashMap<String, usize>>,
}

/// A place that is held; dropping it frees it. Long-running and exempt requests hold none.
pub struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
    _flow: Option<Flow>,
}

struct Flow {
    queue: Arc<Queue>,
    name: String,
}

impl Queue {
    /// A queue with this many places.
    pub fn new(places: usize) -> Queue {
        Queue { places: Arc::new(Semaphore::new(places)), per_flow: (places / 2).max(1), flows: Mutex::default() }
    }

    /// Waits for a place.
    ///
    /// # Errors
    /// 429 when the server stays too busy.
    pub async fn admit(self: &Arc<Self>, caller: &Identified, attributes: &Attributes, verb: Verb) -> Result<Slot, Status> {
        let exempt = caller.user().in_group(crate::user::MASTERS) || is_health(attributes);
        if exempt || is_long_running(attributes, verb) {
            return Ok(Slot { _permit: None, _flow: None });
        }
        if let Ok(permit) = self.places.clone().try_acquire_owned() {
            return Ok(Slot { _permit: Some(permit), _flow: Some(self.enter(&caller.user().name)) });
        }
        if self.flows.lock().get(&caller.user().name).copied().unwrap_or(0) > self.per_flow {
            return Err(busy());
        }
        match tokio::time::timeout(PATIENCE, self.places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot { _permit: Some(permit), _flow: Some(self.enter(&caller.user().name)) }),
            _ => Err(busy()),
        }
    }

    fn enter(self: &Arc<Self>, name: &str) -> Flow {
        *self.flows.lock().entry(name.to_owned()).or_default() += 1;
        Flow { queue: self.clone(), name: name.to_owned() }
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let mut flows = self.queue.flows.lock();
        if let Some(count) = flows.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                flows.remove(&self.name);
            }
        }
    }
}

fn busy() -> Status {
    Status::too_many_requests("The server has received too many requests and has asked us to try again later", 1)
}

fn is_health(attributes: &Attributes) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|path| attributes.path.starts_with(path))
}

/// Whether a request may last: watches, logs, streams and proxies.
pub fn is_long_running(attributes: &Attributes, verb: Verb) -> bool {
    verb == Verb::Watch || matches!(attributes.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy")
}
