//! Metrics in the text format: the kubelet's own, and those of resources that metrics servers count with. Those of containers
//! have a file of their own.

use std::fmt::Write;
use std::sync::Arc;

use cgroup::Stats;
use k8s_openapi::jiff::Timestamp;
use runtime::ContainerStatus;

use super::cadvisor;
use super::measure::{self, Container, Measured};
use crate::Kubelet;
use crate::pods::model;
use crate::swap;

/// Metrics in the text format, by endpoint.
pub async fn metrics(kubelet: &Arc<Kubelet>, kind: &str) -> String {
    let mut text = String::new();
    match kind {
        "resource" => resource(kubelet, &mut text).await,
        "cadvisor" => cadvisor::render(kubelet, &mut text).await,
        "probes" => {
            kubelet.metrics.render_probes(&mut text);
            began(kubelet, &mut text);
        }
        "slis" => kubelet.sources.checks().render(&mut text),
        _ => own(kubelet, &mut text),
    }
    text
}

fn own(kubelet: &Kubelet, text: &mut String) {
    kubelet.metrics.render(text);
    kubelet.sources.render_those(text, |name| name == client::metrics::PROCESS);
}

/// When this process began, which every endpoint of the real kubelet's tells that has counters of its own.
fn began(kubelet: &Kubelet, text: &mut String) {
    let mut process = String::new();
    kubelet.sources.render_those(&mut process, |name| name == client::metrics::PROCESS);
    let of = "process_start_time_seconds";
    let about = |line: &&str| line.split(' ').any(|word| word == of);
    for line in process.lines().filter(about) {
        let _ = writeln!(text, "{line}");
    }
}

/// A family of the text format: what one line is about, and its samples with their labels.
pub fn family(text: &mut String, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
    let now = Timestamp::now().as_millisecond();
    let samples: Vec<(String, f64)> = samples.into_iter().collect();
    if samples.is_empty() {
        return;
    }
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, value) in samples {
        let labels = if labels.is_empty() { labels } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}{labels} {value} {now}");
    }
}

/// What metrics servers count with. Times are in seconds, amounts in bytes.
async fn resource(kubelet: &Arc<Kubelet>, text: &mut String) {
    let measured = measure::pods(kubelet, false).await;
    let seconds = |stats: &Stats| stats.cpu_usage_ns as f64 / 1e9;
    let of_containers = |value: &dyn Fn(&ContainerStatus, &Stats) -> Option<f64>| -> Vec<(String, f64)> {
        let all = measured.iter().flat_map(|one| one.containers.iter().map(move |container| (one, container)));
        let sample = |(one, container): (&Measured, &Container)| {
            let labels = format!("container={:?},{}", container.name, pod_labels(one));
            value(&container.status, &container.usage.stats).map(|value| (labels, value))
        };
        all.filter_map(sample).collect()
    };
    let of_pods = |value: &dyn Fn(&Stats) -> f64| -> Vec<(String, f64)> {
        measured.iter().filter_map(|one| one.usage.as_ref().map(|usage| (pod_labels(one), value(&usage.stats)))).collect()
    };
    let node = measure::node(kubelet);
    let of_node = |value: &dyn Fn(&Stats) -> f64| node.as_ref().map(|usage| (String::new(), value(&usage.stats)));
    let began = |status: &ContainerStatus, _: &Stats| status.started_at.map(|at| at as f64 / 1e9);
    let (counter, gauge) = ("counter", "gauge");
    let help = "Cumulative cpu time consumed by the container in core-seconds";
    family(text, "container_cpu_usage_seconds_total", counter, help, of_containers(&|_, stats| Some(seconds(stats))));
    let help = "Current working set of the container in bytes";
    family(text, "container_memory_working_set_bytes", gauge, help, of_containers(&|_, stats| Some(stats.memory.working_set as f64)));
    let help = "Start time of the container since unix epoch in seconds";
    family(text, "container_start_time_seconds", gauge, help, of_containers(&began));
    let help = "Current amount of the container swap limit in bytes. Reported only on non-windows systems";
    // In pieces of version 1 no container gets any.
    let none = kubelet.cgroups.is_v1("memory").then_some(0);
    let limit = |_: &ContainerStatus, stats: &Stats| stats.memory.swap_limit.or(none).map(|limit| limit as f64);
    family(text, "container_swap_limit_bytes", gauge, help, of_containers(&limit));
    let help = "Current amount of the container swap usage in bytes";
    family(text, "container_swap_usage_bytes", gauge, help, of_containers(&|_, stats| Some(stats.memory.swap as f64)));
    let help = "Cumulative cpu time consumed by the node in core-seconds";
    family(text, "node_cpu_usage_seconds_total", counter, help, of_node(&seconds));
    let help = "Current working set of the node in bytes";
    family(text, "node_memory_working_set_bytes", gauge, help, of_node(&|stats| stats.memory.working_set as f64));
    let help = "Current swap usage of the node in bytes";
    family(text, "node_swap_usage_bytes", gauge, help, of_node(&|_| swap::of_machine().1 as f64));
    let help = "Cumulative cpu time consumed by the pod in core-seconds";
    family(text, "pod_cpu_usage_seconds_total", counter, help, of_pods(&seconds));
    let help = "Current working set of the pod in bytes";
    family(text, "pod_memory_working_set_bytes", gauge, help, of_pods(&|stats| stats.memory.working_set as f64));
    let help = "Current amount of the pod swap usage in bytes";
    family(text, "pod_swap_usage_bytes", gauge, help, of_pods(&|stats| stats.memory.swap as f64));
    let _ = writeln!(
        text,
        "# HELP resource_scrape_error 1 if there was an error while getting container metrics, 0 otherwise\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0"
    );
}

/// Which pod, in labels.
fn pod_labels(one: &Measured) -> String {
    format!("namespace={:?},pod={:?}", model::namespace(&one.pod), model::name(&one.pod))
}
