//! What a group may use. Absent means "leave as it is".

use serde::{Deserialize, Serialize};

/// Resources of a group. Values are in the units of Kubernetes; the group's version translates them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Relative weight as version 1 counts it: 2 to 262144, 1024 per processor.
    pub cpu_shares: Option<u64>,
    /// Microseconds of processor time per period; negative is unlimited.
    pub cpu_quota: Option<i64>,
    /// Length of the period in microseconds; 100000 when absent.
    pub cpu_period: Option<u64>,
    /// Bytes of memory; negative is unlimited.
    pub memory_limit: Option<i64>,
    /// Bytes that are never reclaimed (version 2 only, otherwise ignored).
    pub memory_min: Option<u64>,
    /// Bytes above which the group is slowed down (version 2 only, otherwise ignored); negative is unlimited.
    pub memory_high: Option<i64>,
    /// Bytes of swap on top of memory; 0 none, negative unlimited. Moved together with memory.
    pub swap_limit: Option<i64>,
    /// The out-of-memory killer takes the whole group (version 2 only, otherwise ignored).
    pub oom_group: Option<bool>,
    /// Number of processes; 0 or negative is unlimited.
    pub pids_limit: Option<i64>,
    /// Processors, e.g. `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes.
    pub cpuset_mems: Option<String>,
    /// Huge pages; without effect where no hierarchy counts them.
    pub hugepages: Vec<HugepageLimit>,
    /// Device allow-list; none leaves all devices allowed. See the crate's caveats.
    pub devices: Option<Vec<DeviceRule>>,
    /// Version 2 files by name, set as they are (CRI `unified`).
    pub unified: Vec<(String, String)>,
}

/// Limit of one size of huge pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// `2MB`, `1GB`.
    pub page_size: String,
    /// Bytes.
    pub limit: u64,
}

/// One allowed class of devices.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `c`, `b` or `a`.
    pub kind: char,
    /// Major number; none is all.
    pub major: Option<u32>,
    /// Minor number; none is all.
    pub minor: Option<u32>,
    /// Any of `r`, `w`, `m`.
    pub access: String,
}

impl DeviceRule {
    /// Every device, all access: for privileged containers.
    pub fn all() -> Self {
        Self { kind: 'a', major: None, minor: None, access: "rwm".into() }
    }

    /// What every container may have: making any node, and the standard nodes and terminals.
    pub fn defaults() -> Vec<Self> {
        let rule = |kind, major, minor, access: &str| Self { kind, major, minor, access: access.into() };
        vec![
            rule('c', None, None, "m"),
            rule('b', None, None, "m"),
            rule('c', Some(1), Some(3), "rwm"),
            rule('c', Some(1), Some(5), "rwm"),
            rule('c', Some(1), Some(7), "rwm"),
            rule('c', Some(1), Some(8), "rwm"),
            rule('c', Some(1), Some(9), "rwm"),
            rule('c', Some(5), Some(0), "rwm"),
            rule('c', Some(5), Some(2), "rwm"),
            rule('c', Some(136), None, "rwm"),
        ]
    }

    /// The line of `devices.allow`.
    pub(crate) fn line(&self) -> String {
        let number = |n: Option<u32>| n.map_or_else(|| "*".to_owned(), |n| n.to_string());
        format!("{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.access)
    }
}

/// Weight of version 2 for shares of version 1, as the kubelet and runc of 1.36 compute it.
///
/// Both ends and the middle are fixed points: 2 is 1, 1024 is 100, 262144 is 10000.
pub fn weight_of_shares(shares: u64) -> u64 {
    if shares == 0 {
        return 0;
    }
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent)).ceil() as u64
}

/// Shares of version 1 for a weight of version 2: the smallest shares with that weight.
pub fn shares_of_weight(weight: u64) -> u64 {
    let (mut low, mut high) = (2, 262_144);
    while low < high {
        let middle = u64::midpoint(low, high);
        if weight_of_shares(middle) < weight {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_follow_the_fixed_points() {
        for (shares, weight) in [(2, 1), (1024, 100), (262_144, 10_000), (1, 1), (0, 0)] {
            assert_eq!(weight_of_shares(shares), weight, "shares {shares}");
        }
        for shares in [2, 102, 1024, 4096, 262_144] {
            assert_eq!(weight_of_shares(shares_of_weight(weight_of_shares(shares))), weight_of_shares(shares));
        }
    }

    #[test]
    fn rules_print_as_the_kernel_reads_them() {
        assert_eq!(DeviceRule::all().line(), "a *:* rwm");
        assert_eq!(DeviceRule::defaults()[2].line(), "c 1:3 rwm");
    }
}
