//! A machine that goes down ends its pods in order first: those of low priority, then those of higher, each group with the
//! time that it was promised. Meanwhile the node takes no pods and says that it is not ready.

mod bus;
mod logind;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::EventKind;
use k8s_openapi::api::core::v1::Pod;

use self::logind::{Logind, LogindError};
use crate::Kubelet;
use crate::pods::message::Message;
use crate::pods::model;

/// What the node's condition says meanwhile.
pub const NOT_READY: &str = "node is shutting down";
/// Why a pod was ended.
const REASON: &str = "Terminated";
/// The same for people.
const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
/// Priority of pods that say none.
const DEFAULT_PRIORITY: i32 = 0;
/// Time until a lost bus is looked for again.
const RETRY: Duration = Duration::from_secs(1);

/// How much time pods of one priority and above have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    /// The lowest priority that it is for.
    pub priority: i32,
    /// Seconds.
    pub seconds: i64,
}

/// What happens when the machine goes down.
#[derive(Debug, Clone)]
pub struct Config {
    /// Time of pods, by priority; none is no time, and then nothing of this happens.
    pub periods: Vec<Period>,
    /// Socket of the system bus.
    pub bus: PathBuf,
    /// Folder of files that change logind's settings.
    pub logind_settings: PathBuf,
}

impl Config {
    /// As machines have it, with these times.
    pub fn new(periods: Vec<Period>) -> Config {
        Config { periods, bus: "/run/dbus/system_bus_socket".into(), logind_settings: "/etc/systemd/logind.conf.d".into() }
    }
}

/// The times of a node that is told two: of all pods, and what of it is for critical ones.
pub fn two_periods(all: Duration, critical: Duration) -> Vec<Period> {
    if all.is_zero() || critical > all {
        return Vec::new();
    }
    let seconds = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    vec![
        Period { priority: DEFAULT_PRIORITY, seconds: seconds(all - critical) },
        Period { priority: model::SYSTEM_CRITICAL, seconds: seconds(critical) },
    ]
}

/// Watches for the machine's end until the future is dropped.
pub async fn run(kubelet: Arc<Kubelet>) {
    if kubelet.config.shutdown.periods.is_empty() {
        return;
    }
    let mut told = false;
    loop {
        let Err(error) = watch(&kubelet).await;
        if !told {
            tracing::warn!("the machine's end is not heard of: {}", crate::pods::prepare::chain(&error));
        }
        told = true;
        tokio::time::sleep(RETRY).await;
    }
}

async fn watch(kubelet: &Arc<Kubelet>) -> Result<std::convert::Infallible, LogindError> {
    let config = &kubelet.config.shutdown;
    let seconds: u64 = config.periods.iter().map(|period| period.seconds.max(0) as u64).sum();
    let mut logind = Logind::meet(&config.bus, Duration::from_secs(seconds), &config.logind_settings).await?;
    let mut lock = Some(logind.lock().await?);
    tracing::info!(seconds, "the machine waits for its pods when it goes down");
    loop {
        let ending = logind.word().await?;
        kubelet.shutting_down.store(ending, Ordering::Release);
        let what = if ending { "shutdown event" } else { "shutdown cancellation" };
        kubelet.node_event(EventKind::Normal, "NodeShutdown", &format!("Shutdown manager detected {what}"));
        kubelet.status_changed.notify_one();
        if ending {
            end_pods(kubelet).await;
            lock = None;
        } else {
            // The old lock goes only when there is a new one.
            let new = logind.lock().await?;
            drop(lock.replace(new));
        }
    }
}

/// Ends all pods, group after group. A group without pods takes no time.
async fn end_pods(kubelet: &Arc<Kubelet>) {
    for (period, pods) in groups(&kubelet.config.shutdown.periods, kubelet.pods.pods()) {
        if pods.is_empty() {
            continue;
        }
        let mut told = Vec::new();
        for pod in &pods {
            let own = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
            let grace = own.filter(|own| *own <= period.seconds).unwrap_or(period.seconds);
            let order = Message::Evict { reason: REASON.into(), message: MESSAGE.into(), grace, disrupted: true };
            let uid = model::uid(pod);
            if kubelet.pods.send(uid, order) {
                told.push(uid.to_owned());
            }
        }
        tracing::info!(pods = told.len(), priority = period.priority, seconds = period.seconds, "pods end with the machine");
        kubelet.pods.ended(&told, Duration::from_secs(period.seconds.max(0) as u64)).await;
    }
}

/// Pods by the highest priority that theirs reaches, from low to high; those below all belong to the lowest.
fn groups(periods: &[Period], pods: Vec<Arc<Pod>>) -> Vec<(Period, Vec<Arc<Pod>>)> {
    let mut sorted = periods.to_vec();
    sorted.sort_by_key(|period| period.priority);
    let mut groups: Vec<(Period, Vec<Arc<Pod>>)> = sorted.into_iter().map(|period| (period, Vec::new())).collect();
    for pod in pods {
        let priority = pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(DEFAULT_PRIORITY);
        let place = groups.iter().rposition(|(period, _)| period.priority <= priority).unwrap_or(0);
        if let Some((_, group)) = groups.get_mut(place) {
            group.push(pod);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;

    use super::*;

    #[test]
    fn pods_go_with_the_priority_that_they_reach() {
        let period = |priority, seconds| Period { priority, seconds };
        let pod = |priority| Arc::new(Pod { spec: Some(PodSpec { priority, ..PodSpec::default() }), ..Pod::default() });
        let priorities = [None, Some(-5), Some(9), Some(10), Some(99_999), Some(100_000), Some(model::SYSTEM_CRITICAL)];
        let found = groups(&[period(100_000, 10), period(0, 60), period(10, 180)], priorities.map(pod).to_vec());
        let shown: Vec<(i32, usize)> = found.iter().map(|(period, pods)| (period.priority, pods.len())).collect();
        assert_eq!(shown, [(0, 3), (10, 2), (100_000, 2)]);
        assert!(groups(&[], vec![pod(None)]).is_empty());
    }

    #[test]
    fn two_times_are_two_groups() {
        let seconds = Duration::from_secs;
        assert_eq!(
            two_periods(seconds(30), seconds(10)),
            [Period { priority: 0, seconds: 20 }, Period { priority: model::SYSTEM_CRITICAL, seconds: 10 }]
        );
        assert!(two_periods(seconds(0), seconds(0)).is_empty() && two_periods(seconds(5), seconds(10)).is_empty());
    }
}
