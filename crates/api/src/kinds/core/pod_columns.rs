//! The columns of `kubectl get pods`: how far the start is, why it hangs, how often containers were restarted.

use serde_json::{Map, Value};

use crate::kind::Clock;
use crate::object::Object;
use crate::pods;
use crate::print;
use crate::read::Read;

/// Restarts and when the last container before the newest ended.
#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i64,
    last: Option<i64>,
}

impl Restarts {
    fn add(&mut self, status: &Map<String, Value>) {
        self.count += status.int("restartCount").unwrap_or(0);
        let ended = print::seconds(status.map("lastState").map("terminated").text("finishedAt"));
        self.last = self.last.max(ended);
    }

    fn text(self, clock: &Clock) -> String {
        match self.last {
            Some(last) if self.count != 0 => format!("{} ({} ago)", self.count, print::human_duration(clock.now - last)),
            _ => self.count.to_string(),
        }
    }
}

/// All cells of a pod.
pub fn columns(pod: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (pod.map("spec"), pod.map("status"));
    let sidecars: Vec<&str> = spec.maps("initContainers").filter(|one| pods::is_sidecar(one)).map(|one| one.text("name")).collect();
    let total = spec.list("containers").len() + sidecars.len();
    let mut reason = match status.text("reason") {
        "" => status.text("phase").to_owned(),
        reason => reason.to_owned(),
    };
    let gated = |one: &Map<String, Value>| one.text("type") == "PodScheduled" && one.text("reason") == "SchedulingGated";
    if status.maps("conditions").any(gated) {
        reason = "SchedulingGated".into();
    }
    let (mut ready, mut restarts, mut sidecar_restarts, mut initializing) = (0, Restarts::default(), Restarts::default(), false);
    for (index, one) in status.maps("initContainerStatuses").enumerate() {
        let sidecar = sidecars.contains(&one.text("name"));
        restarts.add(one);
        if sidecar {
            sidecar_restarts.add(one);
        }
        let state = one.map("state");
        let waiting = state.map("waiting").text("reason");
        match state.object("terminated") {
            Some(ended) if ended.int("exitCode").unwrap_or(0) == 0 => continue,
            _ if sidecar && one.flag("started") => {
                ready += usize::from(one.flag("ready"));
                continue;
            }
            Some(ended) => reason = format!("Init:{}", ended_reason(ended)),
            None if !waiting.is_empty() && waiting != "PodInitializing" => reason = format!("Init:{waiting}"),
            None => reason = format!("Init:{index}/{}", spec.list("initContainers").len()),
        }
        initializing = true;
        break;
    }
    if !initializing || print::condition_true(status, "Initialized") {
        restarts = sidecar_restarts;
        let mut running = false;
        for one in status.maps("containerStatuses").collect::<Vec<_>>().into_iter().rev() {
            restarts.add(one);
            let state = one.map("state");
            let waiting = state.map("waiting").text("reason");
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(ended) = state.object("terminated") {
                reason = ended_reason(ended);
            } else if one.flag("ready") && state.has("running") {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" && running {
            reason = if pods::is_ready(pod) { "Running".into() } else { "NotReady".into() };
        }
    }
    if pod.deletion_timestamp().is_some() {
        if status.text("reason") == "NodeLost" {
            reason = "Unknown".into();
        } else if !pods::is_terminal(pod) {
            reason = "Terminating".into();
        }
    }
    let ip = status.maps("podIPs").next().map_or(status.text("podIP"), |ip| ip.text("ip"));
    vec![
        pod.name().into(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.text(clock).into(),
        print::age(pod, clock),
        print::or_none(ip),
        print::or_none(spec.text("nodeName")),
        print::or_none(status.text("nominatedNodeName")),
        gates(spec, status).into(),
    ]
}

fn ended_reason(ended: &Map<String, Value>) -> String {
    let signal = ended.int("signal").unwrap_or(0);
    match ended.text("reason") {
        "" if signal != 0 => format!("Signal:{signal}"),
        "" => format!("ExitCode:{}", ended.int("exitCode").unwrap_or(0)),
        reason => reason.to_owned(),
    }
}

fn gates(spec: &Map<String, Value>, status: &Map<String, Value>) -> String {
    let gates = spec.list("readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = spec.maps("readinessGates").filter(|gate| print::condition_true(status, gate.text("conditionType"))).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cells(status: Value, spec: Value) -> Vec<String> {
        let pod = json!({"metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": spec, "status": status});
        let cells = columns(&Object::from_value(pod).unwrap(), &Clock { now: 400 });
        cells.iter().take(5).map(|cell| cell.as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn states() {
        let one = json!({"containers": [{"name": "a"}]});
        let cases = [
            (json!({"phase": "Pending"}), one.clone(), "0/1 Pending 0"),
            (json!({"phase": "Running", "containerStatuses": [{"ready": true, "state": {"running": {}}}]}), one.clone(), "1/1 Running 0"),
            (
                json!({"phase": "Running", "containerStatuses": [{"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                    "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:40Z"}}}]}),
                one.clone(),
                "0/1 CrashLoopBackOff 3 (5m ago)",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}),
                json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}]}),
                "0/1 Init:0/1 0",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed"}}}]}),
                one,
                "0/1 Completed 0",
            ),
        ];
        for (status, spec, expected) in cases {
            let cells = cells(status, spec);
            assert_eq!(cells[1..4].join(" "), expected);
            assert_eq!(cells[4], "6m40s");
        }
    }
}
