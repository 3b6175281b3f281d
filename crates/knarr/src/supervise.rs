//! Parts fail apart: a component that panics or ends is started again with back-off and shows in the status.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Longest wait between two starts.
const LONGEST: Duration = Duration::from_secs(30);

/// The components of this process.
#[derive(Clone, Default)]
pub struct Supervisor {
    states: Arc<Mutex<BTreeMap<String, State>>>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    stop: CancellationToken,
}

#[derive(Debug, Clone, Default)]
struct State {
    restarts: u32,
    error: String,
}

impl Supervisor {
    /// A supervisor whose components end when the token is cancelled.
    pub fn new(stop: CancellationToken) -> Supervisor {
        Supervisor { stop, ..Supervisor::default() }
    }

    /// Runs a component, again and again.
    pub fn run(&self, name: &str, start: impl Fn() -> BoxFuture<'static, anyhow::Result<()>> + Send + Sync + 'static) {
        self.states.lock().insert(name.to_owned(), State::default());
        let (name, states, stop) = (name.to_owned(), self.states.clone(), self.stop.clone());
        self.tasks.lock().spawn(async move {
            let mut wait = Duration::from_millis(100);
            loop {
                let began = Instant::now();
                let ended = tokio::select! {
                    ended = std::panic::AssertUnwindSafe(start()).catch_unwind() => ended,
                    () = stop.cancelled() => return,
                };
                let error = match ended {
                    Ok(Ok(())) => "ended".to_owned(),
                    Ok(Err(error)) => format!("{error:#}"),
                    Err(_) => "panicked (see the log)".to_owned(),
                };
                tracing::error!(component = name, error, "component ended, starting it again");
                if began.elapsed() > LONGEST {
                    wait = Duration::from_millis(100);
                }
                if let Some(state) = states.lock().get_mut(&name) {
                    state.restarts += 1;
                    state.error = error;
                }
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(LONGEST);
            }
        });
    }

    /// Every component with its restarts and its last error.
    pub fn status(&self) -> Value {
        let states = self.states.lock();
        states
            .iter()
            .map(|(name, state)| (name.clone(), json!({"restarts": state.restarts, "lastError": state.error})))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// Ends everything and waits for it.
    pub async fn shut_down(&self) {
        self.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock());
        tasks.shutdown().await;
    }
}
