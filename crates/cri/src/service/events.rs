//! What happens to pods and containers: taken from the runtime, told to whoever listens.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use runtime::ContainerEventKind;
use tokio::sync::broadcast::error::RecvError;

use super::{Service, now, shown};
use crate::messages::ContainerEventResponse;
use grpc::wire::Message;

impl Service {
    /// Follows the runtime's events until the future is dropped.
    pub(super) async fn follow(&self) {
        let mut events = self.runtime.events();
        // What happened before we listened is read once.
        self.look_again().await;
        loop {
            match events.recv().await {
                Ok(event) => match event.kind {
                    ContainerEventKind::Started(status) | ContainerEventKind::Exited(status) => self.observe(status),
                    ContainerEventKind::SandboxLost => self.lost(event.sandbox.as_str()).await,
                },
                Err(RecvError::Lagged(_)) => self.look_again().await,
                Err(RecvError::Closed) => return,
            }
        }
    }

    async fn look_again(&self) {
        let sandboxes: Vec<_> = self.state.lock().pods.values().filter_map(|pod| pod.sandbox.clone()).collect();
        for sandbox in sandboxes {
            if sandbox.is_lost() {
                self.lost(sandbox.id().as_str()).await;
                continue;
            }
            sandbox.status().await.unwrap_or_default().into_iter().for_each(|status| self.observe(status));
        }
    }

    /// The keeper of a pod is gone, and with it everything that ran.
    async fn lost(&self, id: &str) {
        let Ok(pod) = self.pod(id) else { return };
        // A stop that goes on ends the keeper itself.
        let Ok(_turn) = pod.turn.try_lock() else { return };
        let Some(sandbox) = pod.sandbox else { return };
        tracing::warn!(id, "the keeper of a sandbox is gone");
        sandbox.status().await.unwrap_or_default().into_iter().for_each(|status| self.observe(status));
        self.network.detach(id);
        super::discard(sandbox).await;
        if let Err(error) = self.close(id) {
            tracing::error!(id, %error, "the end of a sandbox was not kept");
        }
    }

    /// Tells listeners about a container, or about a pod by its own name.
    pub(super) fn tell(&self, pod: &str, id: &str, kind: i32) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let state = self.state.lock();
        let event = ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind,
            created_at: now(),
            pod_sandbox_status: state.pods.get(pod).map(shown::pod_status),
            containers_statuses: shown::statuses(&state, pod),
        };
        drop(state);
        let _nobody_listens = self.events.send(event);
    }

    /// Events from now on. One who cannot keep up is cut off, and then looks at everything.
    pub(super) fn listen(self: &Arc<Service>) -> BoxStream<'static, Vec<u8>> {
        let events = self.events.subscribe();
        let following = stream::unfold(events, |mut events| async move {
            let event = events.recv().await.ok()?;
            Some((event.to_bytes(), events))
        });
        following.boxed()
    }
}
