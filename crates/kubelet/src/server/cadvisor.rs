//! Metrics of containers, pods and the node by the names and labels that dashboards know from cAdvisor.

use std::sync::Arc;

use cgroup::{Pressure, Stats};
use k8s_openapi::jiff::Timestamp;

use super::links::Link;
use super::measure::{self, Container, Measured, Reading, Waits};
use super::metrics::family;
use crate::Kubelet;
use crate::pods::{model, status};

/// A family with one number of each group.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    /// Labels beside those of the group.
    extra: &'static str,
    value: fn(&Stats) -> Option<f64>,
}

const fn counter(name: &'static str, help: &'static str, value: fn(&Stats) -> Option<f64>) -> Family {
    Family { name, kind: "counter", help, extra: "", value }
}

const fn gauge(name: &'static str, help: &'static str, value: fn(&Stats) -> Option<f64>) -> Family {
    Family { name, kind: "gauge", help, extra: "", value }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / 1e9
}

/// Only of groups that have a quota.
fn held(stats: &Stats, value: f64) -> Option<f64> {
    (stats.cpu_periods > 0).then_some(value)
}

/// Families of control groups. Two of one name stand one after the other.
const OF_GROUPS: &[Family] = &[
    Family {
        extra: "cpu=\"total\",",
        ..counter("container_cpu_usage_seconds_total", "Processor time used, in seconds.", |s| Some(seconds(s.cpu_usage_ns)))
    },
    counter("container_cpu_user_seconds_total", "Of it in user mode.", |s| Some(seconds(s.cpu_user_ns))),
    counter("container_cpu_system_seconds_total", "Of it in the kernel.", |s| Some(seconds(s.cpu_system_ns))),
    counter("container_cpu_cfs_periods_total", "Periods of the quota that have passed.", |s| held(s, s.cpu_periods as f64)),
    counter("container_cpu_cfs_throttled_periods_total", "Periods in which the quota was used up.", |s| {
        held(s, s.cpu_throttled_periods as f64)
    }),
    counter("container_cpu_cfs_throttled_seconds_total", "Time spent waiting for the next period.", |s| {
        held(s, seconds(s.cpu_throttled_ns))
    }),
    gauge("container_memory_usage_bytes", "Memory in use, all of the page cache included.", |s| Some(s.memory.usage as f64)),
    gauge("container_memory_working_set_bytes", "Memory in use without file pages of long ago.", |s| Some(s.memory.working_set as f64)),
    gauge("container_memory_rss", "Anonymous memory.", |s| Some(s.memory.rss as f64)),
    gauge("container_memory_cache", "Page cache.", |s| Some(s.memory.cache as f64)),
    gauge("container_memory_mapped_file", "Mapped files.", |s| Some(s.memory.mapped_file as f64)),
    gauge("container_memory_swap", "Swap in use.", |s| Some(s.memory.swap as f64)),
    gauge("container_memory_total_active_file_bytes", "Page cache used lately.", |s| Some(s.memory.active_file as f64)),
    gauge("container_memory_total_inactive_file_bytes", "Page cache not used lately.", |s| Some(s.memory.inactive_file as f64)),
    gauge("container_memory_max_usage_bytes", "Most memory that was ever in use.", |s| Some(s.memory.max_usage as f64)),
    counter("container_memory_failcnt", "How often the limit of memory was hit.", |s| Some(s.memory.failures as f64)),
    Family {
        extra: "failure_type=\"pgfault\",scope=\"hierarchy\",",
        ..counter("container_memory_failures_total", "Page faults.", |s| Some(s.memory.page_faults as f64))
    },
    Family {
        extra: "failure_type=\"pgmajfault\",scope=\"hierarchy\",",
        ..counter("container_memory_failures_total", "Page faults.", |s| Some(s.memory.major_page_faults as f64))
    },
    gauge("container_spec_memory_limit_bytes", "Limit of memory; 0 without one.", |s| Some(s.memory.limit.unwrap_or(0) as f64)),
    gauge("container_threads", "Processes and threads.", |s| Some(s.pids as f64)),
    gauge("container_threads_max", "How many there may be; 0 without a ceiling.", |s| Some(s.pids_limit.unwrap_or(0) as f64)),
];

/// A family of links: its name, what it counts, and how.
type OfLinks = (&'static str, &'static str, fn(&Link) -> u64);

const OF_LINKS: &[OfLinks] = &[
    ("container_network_receive_bytes_total", "Bytes that came.", |link| link.received.bytes),
    ("container_network_receive_errors_total", "Packets that came with errors.", |link| link.received.errors),
    ("container_network_receive_packets_dropped_total", "Packets that came and were dropped.", |link| link.received.dropped),
    ("container_network_receive_packets_total", "Packets that came.", |link| link.received.packets),
    ("container_network_transmit_bytes_total", "Bytes that went.", |link| link.sent.bytes),
    ("container_network_transmit_errors_total", "Packets that failed to go.", |link| link.sent.errors),
    ("container_network_transmit_packets_dropped_total", "Packets that were dropped instead of sent.", |link| link.sent.dropped),
    ("container_network_transmit_packets_total", "Packets that went.", |link| link.sent.packets),
];

/// A resource, and the waiting for it.
type OfWaits = (&'static str, fn(&Waits) -> Option<Pressure>);

const OF_WAITS: [OfWaits; 3] = [("cpu", |waits| waits.cpu), ("memory", |waits| waits.memory), ("io", |waits| waits.io)];

/// A group with its labels.
struct Subject<'a> {
    labels: String,
    reading: &'a Reading,
    /// When it began, in seconds since 1970.
    began: Option<f64>,
    links: &'a [Link],
}

fn labels(container: &str, id: &str, image: &str, name: &str, namespace: &str, pod: &str) -> String {
    format!("container={container:?},id=\"/{id}\",image={image:?},name={name:?},namespace={namespace:?},pod={pod:?}")
}

fn of_container<'a>(one: &'a Measured, container: &'a Container) -> Subject<'a> {
    let image = container.status.annotations.get(model::ANNOTATION_IMAGE).map_or("", String::as_str);
    let name = status::log_id(model::uid(&one.pod), container.status.id.as_str());
    let (namespace, pod) = (model::namespace(&one.pod), model::name(&one.pod));
    Subject {
        labels: labels(&container.name, &container.usage.group, image, &name, namespace, pod),
        reading: &container.usage,
        began: container.status.started_at.map(|at| at as f64 / 1e9),
        links: &[],
    }
}

/// Writes all families.
pub async fn render(kubelet: &Arc<Kubelet>, text: &mut String) {
    let (pods, node, parts) = (measure::pods(kubelet, false).await, measure::node(kubelet), measure::parts(kubelet));
    let links = super::links::of_node();
    let mut subjects = Vec::new();
    if let Some(reading) = &node {
        let began = measure::booted().map(|seconds| seconds as f64);
        subjects.push(Subject { labels: labels("", "", "", "", "", ""), reading, began, links: &links });
    }
    for (_, reading, began) in &parts {
        let began = began.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok()).map(|since| since.as_secs_f64());
        subjects.push(Subject { labels: labels("", &reading.group, "", "", "", ""), reading, began, links: &[] });
    }
    for one in &pods {
        if let Some(reading) = &one.usage {
            let labels = labels("", &reading.group, "", "", model::namespace(&one.pod), model::name(&one.pod));
            let start = one.pod.status.as_ref().and_then(|status| status.start_time.as_ref());
            let began = start.map(|time| time.0.as_second() as f64);
            subjects.push(Subject { labels, reading, began, links: &one.links });
        }
        subjects.extend(one.containers.iter().map(|container| of_container(one, container)));
    }
    write(&subjects, text);
    family(
        text,
        "machine_cpu_cores",
        "gauge",
        "Processors of the machine.",
        [(String::new(), kubelet.node.capacity()["cpu"].value() as f64)],
    );
    family(text, "machine_memory_bytes", "gauge", "Memory of the machine.", [(String::new(), kubelet.node.memory_bytes() as f64)]);
    family(text, "container_scrape_error", "gauge", "1 where numbers could not be read.", [(String::new(), 0.0)]);
}

fn write(subjects: &[Subject<'_>], text: &mut String) {
    for group in OF_GROUPS.chunk_by(|one, next| one.name == next.name) {
        let samples = group.iter().flat_map(|one| {
            subjects
                .iter()
                .filter_map(move |subject| Some((format!("{}{}", one.extra, subject.labels), (one.value)(&subject.reading.stats)?)))
        });
        family(text, group[0].name, group[0].kind, group[0].help, samples);
    }
    let began = subjects.iter().filter_map(|subject| Some((subject.labels.clone(), subject.began?)));
    family(text, "container_start_time_seconds", "gauge", "When it began, in seconds since 1970.", began);
    let seen = Timestamp::now().as_second() as f64;
    let seen = subjects.iter().map(|subject| (subject.labels.clone(), seen));
    family(text, "container_last_seen", "gauge", "When it was there, in seconds since 1970.", seen);
    for (name, help, value) in OF_LINKS {
        let of = |subject: &Subject<'_>| -> Vec<(String, f64)> {
            let one = |link: &Link| (format!("interface={:?},{}", link.name, subject.labels), value(link) as f64);
            subject.links.iter().map(one).collect()
        };
        family(text, name, "counter", help, subjects.iter().flat_map(of));
    }
    for (resource, waits) in OF_WAITS {
        for (word, help, of) in [
            ("waiting", "Time in which somebody waited.", (|p: &Pressure| p.some.total_us) as fn(&Pressure) -> u64),
            ("stalled", "Time in which everybody waited.", |p: &Pressure| p.full.total_us),
        ] {
            let samples =
                subjects.iter().filter_map(|subject| Some((subject.labels.clone(), of(&waits(&subject.reading.waits)?) as f64 / 1e6)));
            family(text, &format!("container_pressure_{resource}_{word}_seconds_total"), "counter", help, samples);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::links::Traffic;

    #[test]
    fn every_family_is_written_once_and_whole() {
        let stats = Stats { cpu_usage_ns: 1_500_000_000, ..Stats::default() };
        let reading = Reading { group: "a/b".into(), at: std::time::Instant::now(), stats, waits: Waits::default() };
        let link = Link { name: "eth0".into(), received: Traffic { bytes: 7, ..Traffic::default() }, sent: Traffic::default() };
        let links = [link];
        let subject = |name: &str| Subject {
            labels: labels(name, "a/b", "image:1", "x", "space", "pod"),
            reading: &reading,
            began: None,
            links: if name.is_empty() { &links } else { &[] },
        };
        let mut text = String::new();
        write(&[subject(""), subject("c")], &mut text);
        let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
        let mut once = names.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(once.len(), names.len(), "{names:?}");
        let tail = "id=\"/a/b\",image=\"image:1\",name=\"x\",namespace=\"space\",pod=\"pod\"} ";
        for wanted in [
            format!("container_cpu_usage_seconds_total{{cpu=\"total\",container=\"c\",{tail}1.5 "),
            format!("container_network_receive_bytes_total{{interface=\"eth0\",container=\"\",{tail}7 "),
            format!("container_memory_failures_total{{failure_type=\"pgmajfault\",scope=\"hierarchy\",container=\"c\",{tail}0 "),
        ] {
            assert_eq!(text.lines().filter(|line| line.starts_with(&wanted)).count(), 1, "{wanted} in {text}");
        }
        // Nothing is said of what is not known: no quota, no start, no waiting.
        for absent in ["cfs", "start_time", "pressure"] {
            assert!(!text.contains(absent), "{absent}");
        }
    }
}
