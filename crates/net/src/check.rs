//! What the kernel and the host offer, for `knarr check`: each finding with its consequence and mend.

use std::os::fd::AsRawFd;

use ipnet::IpNet;
use rustix::io::Errno;
use serde::Serialize;

use crate::netlink::{NetlinkError, Socket, Subsystem, link, route};
use crate::overlay::Overlay;
use crate::{netns, nft};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// Something will not work or may not work.
    Warning,
    /// Pods will have no working network.
    Failure,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A short stable name, for example `net/vxlan`.
    pub name: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was seen.
    pub seen: String,
    /// What follows from it; empty if fine.
    pub consequence: String,
    /// What mends it; empty if fine.
    pub mend: String,
}

/// Looks at everything that node networking needs. Makes no lasting change: probes run in a
/// network name space of their own.
pub fn check_network(cluster_cidrs: &[IpNet], service_cidrs: &[IpNet]) -> Vec<Finding> {
    let mut findings = vec![
        probe("net/namespaces", "a network name space of its own can be made", CONTAINERS, || Ok(())),
        probe("net/nftables", "the service table can be made", NFTABLES, probe_nftables),
        probe("net/conntrack", "tracked flows can be listed", CONNTRACK, probe_conntrack),
        probe("net/veth", "veth pairs can be made", VETH, probe_veth),
        probe("net/vxlan", "vxlan devices can be made", VXLAN, probe_vxlan),
        forwarding(),
    ];
    findings.extend(foreign_drops(cluster_cidrs));
    findings.extend(clashes(cluster_cidrs, service_cidrs));
    findings
}

/// What follows from a failed probe, and what mends it.
struct Advice {
    severity: Severity,
    consequence: &'static str,
    mend: &'static str,
}

const CONTAINERS: Advice = Advice {
    severity: Severity::Failure,
    consequence: "pods cannot have a network of their own",
    mend: "run as root, outside a container or with CAP_SYS_ADMIN and CAP_NET_ADMIN",
};
const NFTABLES: Advice = Advice {
    severity: Severity::Failure,
    consequence: "services and host ports do not work",
    mend: "use a kernel with CONFIG_NF_TABLES_INET and NFT_{CT,NAT,MASQ,NUMGEN,FIB_INET,REJECT_INET}; \
           as modules: modprobe nf_tables nft_chain_nat nft_ct nft_fib_inet nft_masq nft_numgen nft_reject_inet",
};
const CONNTRACK: Advice = Advice {
    severity: Severity::Warning,
    consequence: "UDP clients may keep talking to endpoints that are gone",
    mend: "use a kernel with CONFIG_NF_CT_NETLINK (modprobe nf_conntrack_netlink)",
};
const VETH: Advice = Advice {
    severity: Severity::Failure,
    consequence: "pods have no network interface",
    mend: "use a kernel with CONFIG_VETH (modprobe veth)",
};
const VXLAN: Advice = Advice {
    severity: Severity::Warning,
    consequence: "pods on different nodes cannot reach each other; one node alone works",
    mend: "use a kernel with CONFIG_VXLAN (modprobe vxlan), or an external network plugin",
};

fn fine(name: impl Into<String>, seen: impl Into<String>) -> Finding {
    Finding { name: name.into(), severity: Severity::Fine, seen: seen.into(), consequence: String::new(), mend: String::new() }
}

fn probe(name: &str, works: &str, advice: Advice, attempt: impl FnOnce() -> Result<(), NetlinkError> + Send) -> Finding {
    let seen = match netns::within_new(attempt) {
        Ok(Ok(())) => return fine(name, works),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    let Advice { severity, consequence, mend } = advice;
    Finding { name: name.into(), severity, seen, consequence: consequence.into(), mend: mend.into() }
}

fn probe_nftables() -> Result<(), NetlinkError> {
    crate::dataplane::probe(&mut Socket::open(Subsystem::Netfilter)?)
}

fn probe_conntrack() -> Result<(), NetlinkError> {
    crate::dataplane::flows::probe(&mut Socket::open(Subsystem::Netfilter)?)
}

fn probe_veth() -> Result<(), NetlinkError> {
    let own = std::fs::File::open("/proc/thread-self/ns/net")
        .map_err(|error| NetlinkError::new("open the name space", Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    let [one, other] = ["probe0", "probe1"].map(|name| link::VethEnd { name, mac: [2, 0, 0, 0, 0, 1] });
    let message = link::new_veth(one, other, 1500, own.as_raw_fd());
    Socket::open(Subsystem::Route)?.request(message).map(|_| ())
}

fn probe_vxlan() -> Result<(), NetlinkError> {
    let settings = link::VxlanSettings { vni: 1, port: 8472, local: None, uplink: 0 };
    let message = link::new_vxlan("probe0", [2, 0, 0, 0, 0, 1], 1400, &settings);
    Socket::open(Subsystem::Route)?.request(message).map(|_| ())
}

fn forwarding() -> Finding {
    let name = "net/forwarding";
    match std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(value) if value.trim() == "1" => fine(name, "IPv4 forwarding is on"),
        Ok(_) => fine(name, "IPv4 forwarding is off; knarr switches it on, and uninstall switches it off again"),
        Err(error) => Finding {
            name: name.into(),
            severity: Severity::Failure,
            seen: format!("/proc/sys/net/ipv4/ip_forward: {error}"),
            consequence: "packets do not get from pod to pod".into(),
            mend: "mount /proc writably".into(),
        },
    }
}

/// Somebody else's rules that drop what they do not know: docker and many firewalls.
fn foreign_drops(cluster_cidrs: &[IpNet]) -> Vec<Finding> {
    const NAME: &str = "net/foreign-drop";
    let mut dropping = Vec::new();
    match Socket::open(Subsystem::Netfilter).and_then(|mut socket| nft::base_chains(&mut socket)) {
        Ok(chains) => {
            for chain in chains.iter().filter(|chain| matches!(chain.hook, INPUT | FORWARD) && chain.drops) {
                dropping.push((chain.hook, chain.family_name(), chain.table.clone(), chain.name.clone()));
            }
        }
        Err(error) if error.errno == Some(Errno::NOENT) => {}
        Err(error) => return vec![fine(NAME, format!("not looked at: {error}"))],
    }
    if crate::sys::legacy_forward_drops() == Some(true) {
        dropping.push((FORWARD, "ip", "filter".into(), "FORWARD".into()));
    }
    if dropping.is_empty() {
        return vec![fine(NAME, "nobody drops packets of pods by default")];
    }
    let findings = dropping.into_iter().map(|(hook, family, table, chain)| {
        let (packets, consequence) = match hook {
            INPUT => ("packets for this machine", "pods do not reach the API server and DNS of this node"),
            _ => ("forwarded packets", "pods reach neither each other nor the outside"),
        };
        Finding {
            name: NAME.into(),
            severity: Severity::Warning,
            seen: format!("the chain {chain} of the table {family} {table} drops {packets} by default"),
            consequence: format!("{consequence}, unless its rules accept them"),
            mend: mend_drop(hook, family, &table, &chain, cluster_cidrs),
        }
    });
    findings.collect()
}

fn mend_drop(hook: u32, family: &str, table: &str, chain: &str, cluster_cidrs: &[IpNet]) -> String {
    let iptables = table == "filter" && matches!(chain, "INPUT" | "FORWARD");
    let v6 = |cidr: &&IpNet| cidr.addr().is_ipv6();
    let wanted = cluster_cidrs.iter().filter(|cidr| family == "inet" || v6(cidr) == (family == "ip6"));
    let directions: &[&str] = if hook == INPUT { &["s"] } else { &["s", "d"] };
    let rules = wanted.flat_map(|cidr| {
        let (program, address) = if cidr.addr().is_ipv4() { ("iptables", "ip") } else { ("ip6tables", "ip6") };
        directions.iter().map(move |direction| match iptables {
            true => format!("{program} -I {chain} -{direction} {cidr} -j ACCEPT"),
            false => format!("nft insert rule {family} {table} {chain} {address} {direction}addr {cidr} accept"),
        })
    });
    rules.collect::<Vec<_>>().join("; ")
}

/// Addresses of pods and services that somebody uses already.
fn clashes(cluster_cidrs: &[IpNet], service_cidrs: &[IpNet]) -> Vec<Finding> {
    const NAME: &str = "net/address-clash";
    let read = || -> Result<_, NetlinkError> {
        let mut socket = Socket::open(Subsystem::Route)?;
        Ok((link::links(&mut socket)?, route::link_addresses(&mut socket)?, route::routes(&mut socket)?))
    };
    let (links, addresses, routes) = match read() {
        Ok(all) => all,
        Err(error) => return vec![fine(NAME, format!("not looked at: {error}"))],
    };
    let name = |index: u32| links.iter().find(|link| link.index == index).map_or("?", |link| link.name.as_str());
    let ours = |link: u32| name(link) == Overlay::DEVICE || name(link) == "lo";
    let ranges = cluster_cidrs
        .iter()
        .map(|cidr| (cidr, "cluster", "--cluster-cidr"))
        .chain(service_cidrs.iter().map(|cidr| (cidr, "service", "--service-cidr")));
    let mut findings = Vec::new();
    for (cidr, what, flag) in ranges {
        let overlaps = |other: &IpNet| cidr.contains(other) || other.contains(cidr);
        let address = addresses.iter().filter(|address| !ours(address.link)).find(|a| overlaps(&a.address.trunc()));
        let route = routes.iter().find(|route| {
            let foreign = route.protocol != route::OUR_PROTOCOL && route.destination.prefix_len() > 0;
            foreign && overlaps(&route.destination)
        });
        let seen = match (address, route) {
            (Some(address), _) => {
                format!("the address {} of {}", address.address, name(address.link))
            }
            (None, Some(route)) => format!("the route to {}", route.destination),
            (None, None) => continue,
        };
        findings.push(Finding {
            name: NAME.into(),
            severity: Severity::Failure,
            seen: format!("{seen} lies in the {what} range {cidr}"),
            consequence: "one of the two is not reachable".into(),
            mend: format!("choose another range with {flag}"),
        });
    }
    if findings.is_empty() {
        findings.push(fine(NAME, "nobody uses the addresses of pods and services"));
    }
    findings
}
