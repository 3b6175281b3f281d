//! Writes limits into the files of whichever version serves the controller, and reads the values back.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::group::{Group, read, write, write_lines};
use crate::limits::{DeviceRule, HugepageLimit, Limits, shares_of_weight, weight_of_shares};

/// Above this a version 1 memory limit is no limit.
const UNLIMITED: u64 = 1 << 62;

impl Group {
    /// Sets what is present in `limits`; the rest stays as it is.
    pub fn apply(&self, limits: &Limits) -> Result<(), Error> {
        self.apply_cpu(limits)?;
        self.apply_memory(limits)?;
        self.apply_cpuset(limits)?;
        if let Some(limit) = limits.pids_limit {
            let value = if limit <= 0 { "max".to_owned() } else { limit.to_string() };
            write(&self.file("pids", "pids.max")?, &value)?;
        }
        self.apply_huge_pages(&limits.hugepages)?;
        if let Some(rules) = &limits.devices
            && !self.layout().is_v1("devices")
        {
            if !rules.iter().any(|rule| rule.kind == 'a') {
                self.attach_device_filter(rules)?;
            }
        } else if let Some(rules) = &limits.devices {
            let dir = self.required("devices")?;
            if rules.iter().any(|rule| rule.kind == 'a') {
                write(&dir.join("devices.allow"), "a")?;
            } else {
                write(&dir.join("devices.deny"), "a")?;
                write_lines(&dir.join("devices.allow"), rules.iter().map(DeviceRule::line))?;
            }
        }
        if let Some(dir) = self.unified_dir()
            && self.layout().hierarchies().is_empty()
        {
            for (name, value) in &limits.unified {
                if name.contains('/') {
                    return Err(Error::BadPath(name.clone()));
                }
                write(&dir.join(name), value)?;
            }
        }
        Ok(())
    }

    /// The limits in force, as far as the kernel tells them.
    pub fn limits(&self) -> Result<Limits, Error> {
        let mut limits = Limits::default();
        if self.layout().is_v1("cpu") {
            let dir = self.required("cpu")?;
            limits.cpu_shares = number(&dir.join("cpu.shares"))?;
            limits.cpu_quota = signed(&dir.join("cpu.cfs_quota_us"))?;
            limits.cpu_period = number(&dir.join("cpu.cfs_period_us"))?;
        } else if let Some(dir) = self.dir("cpu") {
            limits.cpu_shares = number(&dir.join("cpu.weight"))?.map(shares_of_weight);
            if let Some(text) = optional(&dir.join("cpu.max"))? {
                let mut words = text.split_whitespace();
                limits.cpu_quota = words.next().map(|word| word.parse().unwrap_or(-1));
                limits.cpu_period = words.next().and_then(|word| word.parse().ok());
            }
        }
        if self.layout().is_v1("memory") {
            let dir = self.required("memory")?;
            let bounded = |value: Option<u64>| value.map(|n| if n >= UNLIMITED { -1 } else { n as i64 });
            limits.memory_limit = bounded(number(&dir.join("memory.limit_in_bytes"))?);
            let both = bounded(number(&dir.join("memory.memsw.limit_in_bytes"))?);
            limits.swap_limit = match (limits.memory_limit, both) {
                (Some(memory), Some(both)) if memory >= 0 && both >= 0 => Some(both - memory),
                (_, Some(_)) => Some(-1),
                _ => None,
            };
        } else if let Some(dir) = self.dir("memory") {
            let bounded = |text: Option<String>| text.map(|text| text.trim().parse().unwrap_or(-1));
            limits.memory_limit = bounded(optional(&dir.join("memory.max"))?);
            limits.memory_high = bounded(optional(&dir.join("memory.high"))?);
            limits.swap_limit = bounded(optional(&dir.join("memory.swap.max"))?);
            limits.memory_min = number(&dir.join("memory.min"))?;
            limits.oom_group = number(&dir.join("memory.oom.group"))?.map(|n| n == 1);
        }
        if let Some(dir) = self.dir("pids") {
            limits.pids_limit = optional(&dir.join("pids.max"))?.map(|text| text.trim().parse().unwrap_or(-1));
        }
        if let Some(dir) = self.dir("cpuset") {
            limits.cpuset_cpus = optional(&dir.join("cpuset.cpus"))?.map(|text| text.trim().to_owned());
            limits.cpuset_mems = optional(&dir.join("cpuset.mems"))?.map(|text| text.trim().to_owned());
        }
        Ok(limits)
    }

    fn apply_cpu(&self, limits: &Limits) -> Result<(), Error> {
        let v1 = self.layout().is_v1("cpu");
        if let Some(shares) = limits.cpu_shares {
            if v1 {
                write(&self.file("cpu", "cpu.shares")?, &shares.clamp(2, 262_144).to_string())?;
            } else {
                let weight = weight_of_shares(shares).clamp(1, 10_000);
                write(&self.file("cpu", "cpu.weight")?, &weight.to_string())?;
            }
        }
        if limits.cpu_quota.is_none() && limits.cpu_period.is_none() {
            return Ok(());
        }
        if v1 {
            let dir = self.required("cpu")?;
            let quota = limits.cpu_quota.map(|quota| if quota <= 0 { -1 } else { quota }.to_string());
            // The kernel compares quota / period with that of the groups above after each write, so where the new period
            // alone would be too generous, the quota goes first.
            let period = limits.cpu_period.map(|period| write(&dir.join("cpu.cfs_period_us"), &period.to_string()));
            if let Some(quota) = quota {
                write(&dir.join("cpu.cfs_quota_us"), &quota)?;
            }
            if let (Some(Err(_)), Some(value)) = (period, limits.cpu_period) {
                write(&dir.join("cpu.cfs_period_us"), &value.to_string())?;
            }
            return Ok(());
        }
        let period = limits.cpu_period.unwrap_or(100_000);
        let value = match limits.cpu_quota {
            Some(quota) if quota > 0 => format!("{quota} {period}"),
            Some(_) => format!("max {period}"),
            None => {
                let now = read(&self.file("cpu", "cpu.max")?)?;
                format!("{} {period}", now.split_whitespace().next().unwrap_or("max"))
            }
        };
        write(&self.file("cpu", "cpu.max")?, &value)
    }

    fn apply_memory(&self, limits: &Limits) -> Result<(), Error> {
        let v1 = self.layout().is_v1("memory");
        if v1 {
            return self.apply_memory_v1(limits);
        }
        let text = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if let Some(swap) = limits.swap_limit {
            // Without the controller, or in a kernel that does not account for swap, there is no such file and no swap to limit.
            let path = self.file("memory", "memory.swap.max").ok().filter(|path| path.exists());
            if let Some(path) = path {
                write(&path, &text(swap))?;
            }
        }
        if let Some(limit) = limits.memory_limit {
            write(&self.file("memory", "memory.max")?, &text(limit))?;
        }
        if let Some(min) = limits.memory_min {
            write(&self.file("memory", "memory.min")?, &min.to_string())?;
        }
        if let Some(high) = limits.memory_high {
            write(&self.file("memory", "memory.high")?, &text(high))?;
        }
        if let Some(group) = limits.oom_group {
            write(&self.file("memory", "memory.oom.group")?, if group { "1" } else { "0" })?;
        }
        Ok(())
    }

    /// Memory may never exceed memory plus swap, so the order depends on the direction of the change.
    fn apply_memory_v1(&self, limits: &Limits) -> Result<(), Error> {
        let Some(limit) = limits.memory_limit else { return Ok(()) };
        let dir = self.required("memory")?;
        let memory = dir.join("memory.limit_in_bytes");
        let both = dir.join("memory.memsw.limit_in_bytes");
        let text = |value: i64| if value < 0 { "-1".to_owned() } else { value.to_string() };
        let sum = match limits.swap_limit {
            Some(swap) if swap >= 0 && limit >= 0 => Some(limit.saturating_add(swap)),
            Some(_) => Some(-1),
            None => None,
        };
        let Some(sum) = sum.filter(|_| both.exists()) else { return write(&memory, &text(limit)) };
        let now = number(&both)?.unwrap_or(u64::MAX);
        if limit < 0 || u64::try_from(limit).is_ok_and(|limit| limit > now) {
            write(&both, &text(sum))?;
            write(&memory, &text(limit))
        } else {
            write(&memory, &text(limit))?;
            write(&both, &text(sum))
        }
    }

    /// Limits pages that are in use, and where the kernel can, reservations too, so that who asks for too many is refused instead
    /// of killed. Beside version 1 the unified hierarchy may be the one that counts them. Where nobody does, there is no limit.
    fn apply_huge_pages(&self, limits: &[HugepageLimit]) -> Result<(), Error> {
        let layout = self.layout();
        if limits.is_empty() || !layout.has("hugetlb") {
            return Ok(());
        }
        let v1 = layout.is_v1("hugetlb");
        let Some(dir) = (if v1 { self.dir("hugetlb") } else { self.unified_dir() }) else { return Ok(()) };
        if let (false, Some(root), Some(parent)) = (v1, layout.unified(), dir.parent()) {
            // Groups above that hold processes of others cannot pass controllers on; the files are missing then.
            let _not_passed_on = self.enable_controllers(root, parent);
        }
        let name = if v1 { "limit_in_bytes" } else { "max" };
        for huge in limits {
            for kind in ["", "rsvd."] {
                let file = dir.join(format!("hugetlb.{}.{kind}{name}", huge.page_size));
                match write(&file, &huge.limit.to_string()) {
                    Err(error) if error.io().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    fn apply_cpuset(&self, limits: &Limits) -> Result<(), Error> {
        if let Some(cpus) = limits.cpuset_cpus.as_deref().filter(|text| !text.is_empty()) {
            write(&self.file("cpuset", "cpuset.cpus")?, cpus)?;
        }
        if let Some(mems) = limits.cpuset_mems.as_deref().filter(|text| !text.is_empty()) {
            write(&self.file("cpuset", "cpuset.mems")?, mems)?;
        }
        Ok(())
    }

    fn required(&self, controller: &'static str) -> Result<PathBuf, Error> {
        self.dir(controller).ok_or(Error::NoController(controller))
    }

    fn file(&self, controller: &'static str, name: &str) -> Result<PathBuf, Error> {
        Ok(self.required(controller)?.join(name))
    }
}

/// The text of a file; none when the kernel has no such file.
pub(crate) fn optional(path: &Path) -> Result<Option<String>, Error> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.io().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn number(path: &Path) -> Result<Option<u64>, Error> {
    Ok(optional(path)?.and_then(|text| text.trim().parse().ok()))
}

fn signed(path: &Path) -> Result<Option<i64>, Error> {
    Ok(optional(path)?.and_then(|text| text.trim().parse().ok()))
}
