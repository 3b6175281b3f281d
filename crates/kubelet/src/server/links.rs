//! Counters of network links, from the file in which the kernel lists those of one name space.

use std::path::Path;

use serde_json::{Value, json};

/// What went through a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// What came.
    pub received: Traffic,
    /// What went.
    pub sent: Traffic,
}

/// One direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// Links that say nothing of what a node or a pod talks to others: each pod's end on the node, and talk with oneself.
const IGNORED: [&str; 4] = ["lo", "veth", "docker", "nerdctl"];

/// The links in the name space of a process; none where it is gone.
pub fn of_process(pid: i32) -> Vec<Link> {
    read(&Path::new("/proc").join(pid.to_string()).join("net/dev"))
}

/// The links of the node.
pub fn of_node() -> Vec<Link> {
    read(Path::new("/proc/thread-self/net/dev"))
}

fn read(path: &Path) -> Vec<Link> {
    parse(&std::fs::read_to_string(path).unwrap_or_default())
}

/// Two lines of headings, then a name and sixteen numbers on each: eight of what came, eight of what went.
fn parse(text: &str) -> Vec<Link> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let name = name.trim();
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|number| number.parse().ok()).collect();
        let traffic = |from: usize| match numbers.get(from..from + 4) {
            Some(&[bytes, packets, errors, dropped]) => Some(Traffic { bytes, packets, errors, dropped }),
            _ => None,
        };
        let link = Link { name: name.to_owned(), received: traffic(0)?, sent: traffic(8)? };
        (!IGNORED.iter().any(|ignored| name.starts_with(ignored))).then_some(link)
    };
    text.lines().skip(2).filter_map(line).collect()
}

/// Links as the summary has them, the chief one of them first where it is there; nothing where there are none.
pub fn shown(links: &[Link], chief: &str, now: &str) -> Option<Value> {
    if links.is_empty() {
        return None;
    }
    let one = |link: &Link| {
        json!({
            "name": link.name, "rxBytes": link.received.bytes, "rxErrors": link.received.errors,
            "txBytes": link.sent.bytes, "txErrors": link.sent.errors,
        })
    };
    let mut shown = links.iter().find(|link| link.name == chief).map_or_else(|| json!({"name": ""}), one);
    shown["time"] = now.into();
    shown["interfaces"] = links.iter().map(one).collect();
    Some(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0: 1421787717   90693    1    2    0     0          0         0  7501147   14000    3    4    0     0       0          0
vethab1:       1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
broken: 1 2 3
";

    #[test]
    fn counters_of_links_are_read() {
        let links = parse(TEXT);
        let received = Traffic { bytes: 1_421_787_717, packets: 90_693, errors: 1, dropped: 2 };
        let sent = Traffic { bytes: 7_501_147, packets: 14_000, errors: 3, dropped: 4 };
        assert_eq!(links, [Link { name: "eth0".into(), received, sent }]);
        let shown_of = |chief: &str| shown(&links, chief, "now").unwrap();
        assert_eq!((&shown_of("eth0")["rxBytes"], &shown_of("eth0")["name"]), (&json!(1_421_787_717), &json!("eth0")));
        assert_eq!(shown_of("other")["interfaces"], shown_of("eth0")["interfaces"]);
        assert_eq!(shown_of("other").get("rxBytes"), None);
        assert_eq!(shown(&[], "eth0", "now"), None);
        assert!(parse("").is_empty());
    }

    #[test]
    fn ends_of_a_process_that_is_gone_are_none() {
        assert!(of_process(i32::MAX).is_empty());
        assert_eq!(of_process(std::process::id().cast_signed()), of_node());
    }
}
