//! `knarr check`: whether this machine can carry a node; each finding with its consequence and its mend.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::ExitCode;

use anyhow::Result;
use cgroup::{Layout, Version};
use ipnet::IpNet;
use net::check::{Finding, Severity, check_network};

/// Flags of the command.
#[derive(clap::Args)]
pub struct Flags {
    /// Range of pod addresses, as given to the server.
    #[arg(long, default_value = "10.42.0.0/16")]
    cluster_cidr: IpNet,
    /// Range of service addresses, as given to the server.
    #[arg(long, default_value = "10.43.0.0/16")]
    service_cidr: IpNet,
    /// Port of the API server.
    #[arg(long, default_value_t = 6443)]
    https_listen_port: u16,
    /// Form of the output.
    #[arg(long, short = 'o', value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

/// Carries the command out; exit code 1 says that pods would not run.
pub(super) fn run(flags: &Flags) -> Result<ExitCode> {
    let mut findings = vec![root(), kernel(), overlay(), seccomp(), limits()];
    findings.extend(groups());
    for (port, user) in [(flags.https_listen_port, "API server"), (10250, "kubelet"), (10256, "proxy's health check")] {
        findings.extend(occupied(port, user));
    }
    findings.extend(check_network(&[flags.cluster_cidr], &[flags.service_cidr]));
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Fine);
    if flags.output == "json" {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        findings.iter().for_each(show);
        println!(
            "{}",
            match worst {
                Severity::Fine => "all is well",
                Severity::Warning => "a node runs here, with the limits named above",
                Severity::Failure => "pods will not run here before the failures are mended",
            }
        );
    }
    Ok(if worst == Severity::Failure { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn show(finding: &Finding) {
    let word = match finding.severity {
        Severity::Fine => "fine",
        Severity::Warning => "warning",
        Severity::Failure => "FAILURE",
    };
    println!("{word:<8} {:<20} {}", finding.name, finding.seen);
    if finding.severity != Severity::Fine {
        println!("         consequence: {}", finding.consequence);
        println!("         mend: {}", finding.mend);
    }
}

fn finding(name: &str, severity: Severity, seen: impl Into<String>, consequence: &str, mend: &str) -> Finding {
    let (consequence, mend) = if severity == Severity::Fine { ("", "") } else { (consequence, mend) };
    Finding { name: name.into(), severity, seen: seen.into(), consequence: consequence.into(), mend: mend.into() }
}

fn root() -> Finding {
    let user = rustix::process::geteuid();
    let severity = if user.is_root() { Severity::Fine } else { Severity::Failure };
    finding("root", severity, format!("user {user:?}"), "a node cannot make name spaces, control groups and links", "run as root")
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let severity = if runtime::kernel::is_at_least((5, 10)) { Severity::Fine } else { Severity::Failure };
    finding(
        "kernel",
        severity,
        format!("Linux {}", name.release().to_string_lossy()),
        "process descriptors and the newer mount calls are missing",
        "use Linux 5.10 or newer",
    )
}

fn overlay() -> Finding {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default().split_whitespace().any(|word| word == "overlay");
    let (severity, seen) = if known {
        (Severity::Fine, "the kernel knows overlay mounts")
    } else {
        (Severity::Warning, "the kernel shows no overlay mounts yet")
    };
    finding("overlay", severity, seen, "unless the module loads by itself, containers have no root file system", "modprobe overlay")
}

fn seccomp() -> Finding {
    let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    let known = actions.split_whitespace().any(|action| action == "errno");
    let severity = if known { Severity::Fine } else { Severity::Warning };
    finding(
        "seccomp",
        severity,
        if known { "system calls can be filtered" } else { "system calls cannot be filtered" },
        "pods with the profile RuntimeDefault fail to start",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )
}

/// The processes of a node are many; each container needs some, each watch a descriptor.
fn limits() -> Finding {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let severity = if most >= 8192 { Severity::Fine } else { Severity::Warning };
    finding(
        "descriptors",
        severity,
        format!("at most {most} open files"),
        "with many pods and clients connections are refused",
        "raise the limit: ulimit -Hn 65536, or LimitNOFILE= of the unit",
    )
}

fn groups() -> Vec<Finding> {
    let layout = match Layout::detect() {
        Ok(layout) => layout,
        Err(error) => {
            return vec![finding(
                "cgroup",
                Severity::Failure,
                format!("no control groups: {error}"),
                "containers cannot be limited or stopped as a whole",
                "mount them: mount -t cgroup2 none /sys/fs/cgroup",
            )];
        }
    };
    let version = match layout.version() {
        Version::V1 => "version 1",
        Version::V2 => "version 2",
        Version::Hybrid => "version 1 with an empty version 2 beside it",
    };
    let mut findings = vec![finding("cgroup", Severity::Fine, version, "", "")];
    for (name, consequence) in [("cpu", "CPU limits and shares"), ("memory", "memory limits"), ("pids", "limits of processes")] {
        let there = layout.controller(name).is_some() || offered(&layout, name);
        let severity = if there { Severity::Fine } else { Severity::Warning };
        let seen = if there { "there" } else { "missing" };
        findings.push(finding(
            &format!("cgroup/{name}"),
            severity,
            seen,
            &format!("{consequence} have no effect"),
            &format!("enable the controller: cgroup_enable={name} on the kernel's command line"),
        ));
    }
    findings
}

fn offered(layout: &Layout, name: &str) -> bool {
    let file = layout.unified().map(|root| root.join("cgroup.controllers"));
    let text = file.and_then(|file| std::fs::read_to_string(file).ok()).unwrap_or_default();
    text.split_whitespace().any(|offered| offered == name)
}

fn occupied(port: u16, user: &str) -> Option<Finding> {
    let error = TcpListener::bind((IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).err()?;
    let mend = "stop what listens there (ss -ltnp), or give knarr another port; a running knarr is well";
    Some(finding(
        &format!("port/{port}"),
        Severity::Warning,
        format!("port {port} cannot be taken: {error}"),
        &format!("the {user} does not start"),
        mend,
    ))
}
