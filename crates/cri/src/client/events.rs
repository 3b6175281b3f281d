//! What happens at another runtime: by its stream of events, or by looking again where it has none.

use std::sync::{Arc, Weak};
use std::time::Duration;

use runtime::{ContainerEvent, ContainerEventKind, ContainerState, ContainerStatus};

use super::{Pod, Remote};
use crate::messages::{ContainerEventResponse, GetEventsRequest, event, sandbox_state};
use grpc::Code;

/// Time between two looks at a runtime that tells nothing.
const PERIOD: Duration = Duration::from_secs(1);

/// Follows a runtime until nobody uses it any more.
pub(super) async fn follow(weak: Weak<Remote>) {
    loop {
        let Some(remote) = weak.upgrade() else { return };
        let stream = remote.channel.send("/runtime.v1.RuntimeService/GetContainerEvents", &GetEventsRequest {}).await;
        // What happened while nobody listened is found by looking.
        remote.look_again().await;
        if !remote.network_ready()
            && let Err(failure) = remote.look_at_network().await
        {
            tracing::warn!("container runtime: {failure}");
        }
        drop(remote);
        match stream {
            Ok(mut answers) => loop {
                // Networks become ready without a word.
                let next = tokio::time::timeout(PERIOD, answers.next::<ContainerEventResponse>());
                let Some(waiting) = weak.upgrade().map(|remote| !remote.network_ready()) else { return };
                let next = if waiting { next.await } else { Ok(next.into_inner().await) };
                let Some(remote) = weak.upgrade() else { return };
                match next {
                    Ok(Ok(Some(event))) => remote.take(event),
                    Ok(Ok(None)) => break,
                    Ok(Err(failure)) => {
                        tracing::warn!("events of the container runtime: {failure}");
                        break;
                    }
                    Err(_) => {
                        let _later = remote.look_at_network().await;
                    }
                }
            },
            Err(failure) if failure.code == Code::Unimplemented => {}
            Err(failure) => tracing::warn!("events of the container runtime: {failure}"),
        }
        tokio::time::sleep(PERIOD).await;
    }
}

impl Remote {
    fn take(self: &Arc<Remote>, event: ContainerEventResponse) {
        let Some(status) = event.pod_sandbox_status else { return };
        let Some(pod) = self.pods.lock().get(&status.id).cloned() else { return };
        let is_pod = event.container_id == status.id;
        if is_pod && (event.container_event_type == event::STOPPED || status.state == sandbox_state::NOT_READY) {
            self.tell_lost(&pod);
        }
        for status in event.containers_statuses {
            if let Some(status) = pod.note(status) {
                self.tell(&pod, status);
            }
        }
    }

    /// Tells what is new about all pods.
    async fn look_again(self: &Arc<Remote>) {
        let pods: Vec<Pod> = self.pods.lock().values().cloned().collect();
        if pods.is_empty() {
            return;
        }
        let ready = match self.sandboxes(None).await {
            Ok(sandboxes) => sandboxes,
            Err(failure) => {
                tracing::warn!("container runtime: {failure}");
                return;
            }
        };
        for pod in pods {
            for status in pod.status().await.unwrap_or_default() {
                self.tell(&pod, status);
            }
            let uid = pod.id().as_str();
            let lives = |sandbox: &crate::messages::PodSandbox| {
                sandbox.state == sandbox_state::READY && sandbox.labels.get(super::LABEL_UID).is_some_and(|known| known == uid)
            };
            if !ready.iter().any(lives) {
                self.tell_lost(&pod);
            }
        }
    }

    fn tell_lost(&self, pod: &Pod) {
        if pod.set_lost() {
            let _nobody_listens = self.events.send(ContainerEvent { sandbox: pod.id().clone(), kind: ContainerEventKind::SandboxLost });
        }
    }

    fn tell(&self, pod: &Pod, status: ContainerStatus) {
        if !pod.is_news(&status.id, status.state) {
            return;
        }
        let kind = match status.state {
            ContainerState::Created => return,
            ContainerState::Running => ContainerEventKind::Started(status),
            ContainerState::Exited => ContainerEventKind::Exited(status),
        };
        let _nobody_listens = self.events.send(ContainerEvent { sandbox: pod.id().clone(), kind });
    }
}
