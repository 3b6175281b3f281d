//! What a group has used.

use crate::apply::{number, optional};
use crate::error::Error;
use crate::group::Group;

/// Memory of a group and all below it, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// All of it, with page cache.
    pub usage: u64,
    /// `usage` without file pages that have not been used lately: what eviction looks at.
    pub working_set: u64,
    /// Anonymous memory.
    pub rss: u64,
    /// Page cache.
    pub cache: u64,
    /// Swapped out.
    pub swap: u64,
    /// Bytes of swap that it may use, where that is limited (version 2 only).
    pub swap_limit: Option<i64>,
    /// Mapped files.
    pub mapped_file: u64,
    /// Page faults since the beginning.
    pub page_faults: u64,
    /// Page faults that read from disk.
    pub major_page_faults: u64,
    /// Limit in force; none without one.
    pub limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// Highest usage so far.
    pub max_usage: u64,
    /// Of the page cache, what was used lately.
    pub active_file: u64,
    /// And what was not.
    pub inactive_file: u64,
}

/// One reading of a group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time since the beginning, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// Of it in user mode.
    pub cpu_user_ns: u64,
    /// Of it in the kernel.
    pub cpu_system_ns: u64,
    /// Periods of the quota that have passed.
    pub cpu_periods: u64,
    /// Periods in which the group was throttled.
    pub cpu_throttled_periods: u64,
    /// How long it was throttled.
    pub cpu_throttled_ns: u64,
    /// Memory.
    pub memory: MemoryStats,
    /// Processes and threads.
    pub pids: u64,
    /// Ceiling of the former; none without one.
    pub pids_limit: Option<u64>,
}

impl Group {
    /// Reads the accounts of the group.
    pub fn stats(&self) -> Result<Stats, Error> {
        let mut stats = Stats::default();
        self.read_cpu(&mut stats)?;
        stats.memory = self.memory_stats()?;
        if let Some(dir) = self.dir("pids") {
            stats.pids = number(&dir.join("pids.current"))?.unwrap_or(0);
            stats.pids_limit = number(&dir.join("pids.max"))?;
        }
        Ok(stats)
    }

    /// Memory alone.
    pub fn memory_stats(&self) -> Result<MemoryStats, Error> {
        let mut memory = MemoryStats::default();
        let Some(dir) = self.dir("memory") else { return Ok(memory) };
        let text = optional(&dir.join("memory.stat"))?.unwrap_or_default();
        let v1 = self.layout().is_v1("memory");
        let (rss, cache, inactive, mapped, faults, major) = if v1 {
            ("total_rss", "total_cache", "total_inactive_file", "total_mapped_file", "total_pgfault", "total_pgmajfault")
        } else {
            ("anon", "file", "inactive_file", "file_mapped", "pgfault", "pgmajfault")
        };
        let stat = |name| field(&text, name);
        memory.rss = stat(rss);
        memory.cache = stat(cache);
        memory.mapped_file = stat(mapped);
        memory.page_faults = stat(faults);
        memory.major_page_faults = stat(major);
        if v1 {
            memory.usage = number(&dir.join("memory.usage_in_bytes"))?.unwrap_or(0);
            memory.swap = stat("total_swap");
            memory.limit = number(&dir.join("memory.limit_in_bytes"))?.filter(|limit| *limit < 1 << 62);
            memory.failures = number(&dir.join("memory.failcnt"))?.unwrap_or(0);
            memory.max_usage = number(&dir.join("memory.max_usage_in_bytes"))?.unwrap_or(0);
        } else {
            // The root of the unified hierarchy has no memory.current; what its statistics add up to stands in.
            memory.usage = number(&dir.join("memory.current"))?.unwrap_or(memory.rss + memory.cache);
            memory.swap = number(&dir.join("memory.swap.current"))?.unwrap_or(0);
            memory.swap_limit = number(&dir.join("memory.swap.max"))?.and_then(|limit| i64::try_from(limit).ok());
            memory.limit = number(&dir.join("memory.max"))?;
            memory.failures = field(&optional(&dir.join("memory.events"))?.unwrap_or_default(), "max");
            memory.max_usage = number(&dir.join("memory.peak"))?.unwrap_or(0);
        }
        memory.active_file = stat(if v1 { "total_active_file" } else { "active_file" });
        memory.inactive_file = stat(inactive);
        memory.working_set = memory.usage.saturating_sub(memory.inactive_file);
        Ok(memory)
    }

    /// How many processes of the group (and below) the kernel has killed for want of memory.
    pub fn oom_kills(&self) -> Result<u64, Error> {
        let Some(dir) = self.dir("memory") else { return Ok(0) };
        let name = if self.layout().is_v1("memory") { "memory.oom_control" } else { "memory.events" };
        Ok(field(&optional(&dir.join(name))?.unwrap_or_default(), "oom_kill"))
    }

    fn read_cpu(&self, stats: &mut Stats) -> Result<(), Error> {
        if self.layout().is_v1("cpu") {
            if let Some(dir) = self.dir("cpuacct") {
                stats.cpu_usage_ns = number(&dir.join("cpuacct.usage"))?.unwrap_or(0);
                stats.cpu_user_ns = number(&dir.join("cpuacct.usage_user"))?.unwrap_or(0);
                stats.cpu_system_ns = number(&dir.join("cpuacct.usage_sys"))?.unwrap_or(0);
            }
            let Some(dir) = self.dir("cpu") else { return Ok(()) };
            let text = optional(&dir.join("cpu.stat"))?.unwrap_or_default();
            stats.cpu_periods = field(&text, "nr_periods");
            stats.cpu_throttled_periods = field(&text, "nr_throttled");
            stats.cpu_throttled_ns = field(&text, "throttled_time");
            return Ok(());
        }
        let Some(dir) = self.dir("cpu") else { return Ok(()) };
        let text = optional(&dir.join("cpu.stat"))?.unwrap_or_default();
        stats.cpu_usage_ns = field(&text, "usage_usec") * 1000;
        stats.cpu_user_ns = field(&text, "user_usec") * 1000;
        stats.cpu_system_ns = field(&text, "system_usec") * 1000;
        stats.cpu_periods = field(&text, "nr_periods");
        stats.cpu_throttled_periods = field(&text, "nr_throttled");
        stats.cpu_throttled_ns = field(&text, "throttled_usec") * 1000;
        Ok(())
    }
}

/// The number behind a name in a file of `name number` lines.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}
