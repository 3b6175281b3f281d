//! What is known of attempts whose sandbox is gone: its keeper was killed, or the machine was started anew. They count for
//! restart counts, restart policies and back-off, as if their sandbox were still there.

use std::collections::BTreeMap;

use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus as ApiStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use runtime::{ContainerState, ContainerStatus, ExitStatus, ResolvedUser};

use super::model::{self, ANNOTATION_IMAGE, ANNOTATION_IMAGE_ID, LABEL_ATTEMPT, LABEL_NAME};
use super::{container, start};
use crate::Kubelet;

/// Ended attempts by container name, oldest first.
pub type Past = BTreeMap<String, Vec<ContainerStatus>>;

/// Adds the attempts of a sandbox that is gone. What never started leaves nothing behind.
pub fn add(past: &mut Past, attempts: BTreeMap<String, Vec<ContainerStatus>>) {
    for (name, statuses) in attempts {
        let known = past.entry(name).or_default();
        for status in statuses.into_iter().filter(was_tried) {
            known.retain(|other| model::attempt(other) < model::attempt(&status));
            known.push(status);
        }
        // Only the last two are ever shown.
        known.drain(..known.len().saturating_sub(2));
    }
    past.retain(|_, known| !known.is_empty());
}

/// Takes away what is left of a sandbox that is gone and of its containers, before the next one is made.
pub async fn clear(kubelet: &Kubelet, pod: &Pod, lost: Option<Sandbox>, past: &Past) {
    if let Some(lost) = lost
        && let Err(error) = lost.destroy().await
    {
        tracing::warn!("remains of a lost sandbox: {error}");
    }
    let uid = model::uid(pod);
    if let Some(network) = kubelet.network.as_ref().filter(|_| !past.is_empty()) {
        network.detach(uid);
    }
    for (name, attempt) in past.iter().flat_map(|(name, known)| known.iter().map(move |status| (name, model::attempt(status)))) {
        start::remove_writable(&kubelet.pod_dir(uid), name, attempt);
    }
}

/// One that could not be started counts, one that nobody had started yet does not.
fn was_tried(status: &ContainerStatus) -> bool {
    status.state == ContainerState::Exited && (status.started_at.is_some() || status.reason == "StartError")
}

/// What the API remembers of a pod. What ran when it was last told has ended since, nobody knows how.
pub fn from_status(pod: &Pod) -> Past {
    let status = pod.status.clone().unwrap_or_default();
    let lists = [status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses];
    let ended = lists.into_iter().flatten().flatten().filter_map(|status| ended(&status).map(|attempt| (status.name, vec![attempt])));
    ended.collect()
}

fn ended(status: &ApiStatus) -> Option<ContainerStatus> {
    let told = status.container_id.clone()?;
    let state = status.state.clone().unwrap_or_default();
    let last = status.last_state.clone().unwrap_or_default();
    let end = match (state.terminated, state.running) {
        (Some(terminated), _) => terminated,
        (None, Some(running)) => ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was deleted.  The container used to be Running".into()),
            started_at: running.started_at,
            ..ContainerStateTerminated::default()
        },
        (None, None) => last.terminated?,
    };
    let attempt = u32::try_from(status.restart_count).ok()?;
    let nanos = |time: Option<Time>| time.and_then(|time| i64::try_from(time.0.as_nanosecond()).ok());
    let started = nanos(end.started_at);
    Some(ContainerStatus {
        id: container::id(&status.name, attempt).ok()?,
        state: ContainerState::Exited,
        pid: None,
        created_at: started.unwrap_or(0),
        started_at: started.or(Some(0)),
        finished_at: nanos(end.finished_at),
        exit: Some(ExitStatus { code: end.exit_code, signal: None }),
        oom_killed: end.reason.as_deref() == Some("OOMKilled"),
        reason: end.reason.unwrap_or_default(),
        message: end.message.unwrap_or_default(),
        user: ResolvedUser::default(),
        log_path: None,
        labels: BTreeMap::from([(LABEL_NAME.to_owned(), status.name.clone()), (LABEL_ATTEMPT.to_owned(), attempt.to_string())]),
        annotations: BTreeMap::from([
            (ANNOTATION_IMAGE_ID.to_owned(), status.image_id.clone()),
            (ANNOTATION_IMAGE.to_owned(), status.image.clone()),
            (cri::client::ANNOTATION_ID.to_owned(), told),
        ]),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_api_remembers_how_containers_ended() {
        let status = |name: &str, count: i32, state: serde_json::Value, last: serde_json::Value| json!({"name": name, "restartCount": count, "ready": false, "image": "i", "imageID": "d", "containerID": format!("knarr://{name}"), "state": state, "lastState": last});
        let ended = |code: i32| json!({"terminated": {"exitCode": code, "reason": "Error"}});
        let statuses = [
            status("ran", 2, json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}}), ended(1)),
            status("done", 0, ended(0), json!({})),
            status("crashing", 4, json!({"waiting": {"reason": "CrashLoopBackOff"}}), ended(3)),
            json!({"name": "waits", "restartCount": 0, "ready": false, "image": "i", "imageID": "", "state": {"waiting": {"reason": "ContainerCreating"}}}),
        ];
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": "p"}, "status": {"containerStatuses": statuses}})).unwrap();
        let past = from_status(&pod);
        let facts = |name: &str| past.get(name).map(|known| (model::attempt(&known[0]), known[0].exit.map(|exit| exit.code)));
        assert_eq!(facts("ran"), Some((2, Some(137))));
        assert_eq!(facts("done"), Some((0, Some(0))));
        assert_eq!(facts("crashing"), Some((4, Some(3))));
        assert_eq!(facts("waits"), None);
    }

    #[test]
    fn the_last_two_attempts_are_kept_and_those_that_never_began_are_not() {
        let attempt = |number: u32| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": {"containerStatuses": [{
                "name": "main", "restartCount": number, "ready": false, "image": "i", "imageID": "d", "containerID": "knarr://x",
                "state": {"terminated": {"exitCode": 1}},
            }]}}))
            .unwrap();
            from_status(&pod).remove("main").unwrap().remove(0)
        };
        let mut past = Past::new();
        add(&mut past, BTreeMap::from([("main".to_owned(), vec![attempt(0), attempt(1)])]));
        let created = ContainerStatus { started_at: None, ..attempt(3) };
        add(
            &mut past,
            BTreeMap::from([("main".to_owned(), vec![attempt(1), attempt(2), created.clone()]), ("other".to_owned(), vec![created])]),
        );
        assert_eq!(past["main"].iter().map(model::attempt).collect::<Vec<_>>(), [1, 2]);
        assert!(!past.contains_key("other"));
    }
}
