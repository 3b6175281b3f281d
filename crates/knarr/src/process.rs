//! What the process as a whole uses, and the memory of its parts, under the names that collectors' libraries give them.
//!
//! Everything is read from `/proc` when somebody scrapes, never by a timer.

use std::path::Path;

use cgroup::Group;
use client::metrics::{PROCESS, Sources, head, sample, single};

/// Shows the process, and of a node the parts that outlive it. `part` is what this process is: `server` or `agent`.
pub fn show(sources: &Sources, part: &'static str, node: Option<&Group>) {
    let own = std::process::id() as i32;
    let group = |name: &str| node.and_then(|root| root.child(name).ok());
    let (keepers, dns) = (group("keepers"), group(crate::holder::GROUP));
    let ticks = ticks_per_second();
    sources.set(PROCESS, move |out| {
        process(ticks, out);
        let members = |group: &Option<Group>| group.as_ref().map(|group| group.pids().unwrap_or_default());
        let parts = [(part, Some(vec![own])), ("keepers", members(&keepers)), ("dns", members(&dns))];
        head(out, "knarr_memory_pss_bytes", "gauge", "Memory by part, with pages that are shared counted by share.");
        for (part, pids) in parts {
            if let Some(pids) = pids {
                let bytes: u64 = pids.iter().filter_map(|pid| pss(*pid)).sum();
                sample(out, "knarr_memory_pss_bytes", &format!("part=\"{part}\""), bytes);
            }
        }
    });
}

/// Clock ticks of `/proc` in a second. The kernel tells it to every process at its start.
fn ticks_per_second() -> f64 {
    const AT_CLKTCK: u64 = 17;
    let vector = std::fs::read("/proc/self/auxv").unwrap_or_default();
    let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().expect("eight bytes"));
    let mut pairs = vector.chunks_exact(16).map(|pair| (word(&pair[..8]), word(&pair[8..])));
    pairs.find(|(key, _)| *key == AT_CLKTCK).map_or(100.0, |(_, ticks)| ticks as f64)
}

fn process(ticks: f64, out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in brackets, may hold anything.
    let fields: Vec<f64> =
        stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0.0);
    single(
        out,
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        (field(14) + field(15)) / ticks,
    );
    single(
        out,
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        kib("/proc/self/status", "VmRSS:").unwrap_or(0),
    );
    single(out, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", field(23));
    // Reading the directory takes a descriptor of its own.
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1));
    single(out, "process_open_fds", "gauge", "Number of open file descriptors.", open);
    if let Some(most) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        single(out, "process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
    let booted = line("/proc/stat", "btime ").and_then(|text| text.trim().parse::<f64>().ok()).unwrap_or(0.0);
    single(
        out,
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        booted + field(22) / ticks,
    );
}

fn pss(pid: i32) -> Option<u64> {
    kib(&format!("/proc/{pid}/smaps_rollup"), "Pss:")
}

/// Bytes of a line such as `Pss:   123 kB`.
fn kib(path: &str, name: &str) -> Option<u64> {
    let text = line(path, name)?;
    text.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// The rest of the line that begins so.
fn line(path: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_shows_plausible_numbers() {
        let sources = Sources::default();
        show(&sources, "server", None);
        let mut text = String::new();
        sources.render(&mut text);
        let value = |name: &str| -> f64 {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.unwrap_or_else(|| panic!("{name} in {text}")).parse().unwrap()
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        let age = now - value("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        let (resident, virt) = (value("process_resident_memory_bytes"), value("process_virtual_memory_bytes"));
        assert!(resident > 1e6 && resident < virt);
        let pss = value("knarr_memory_pss_bytes{part=\"server\"}");
        assert!(pss > 1e5 && pss <= resident * 1.5, "{pss} of {resident}");
        assert!(value("process_open_fds") >= 3.0 && value("process_open_fds") < value("process_max_fds"));
        assert!((0.0..1000.0).contains(&value("process_cpu_seconds_total")));
        assert!(!text.contains("keepers"));
    }
}
