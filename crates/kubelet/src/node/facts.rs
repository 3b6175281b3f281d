//! What the machine is: processors, memory, disk, kernel, identity; and what of it pods may use.

use std::collections::BTreeMap;
use std::path::Path;

use api::Quantity;
use api::quantity::Format;
use k8s_openapi::api::core::v1::{NodeSwapStatus, NodeSystemInfo};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use crate::config::Config;
use crate::placement::machine::{huge_page_resource, huge_pages};

/// Facts that do not change while we run.
#[derive(Debug, Clone)]
pub struct Facts {
    cpu_milli: i64,
    memory: i64,
    disk: i64,
    /// Thousandths of processors that are kept for the system.
    reserved_cpu: i64,
    /// Memory that stays free, as the eviction threshold says, and what is kept for the system.
    reserved_memory: i64,
    /// Disk, likewise.
    reserved_disk: i64,
    pods: u32,
    /// Huge pages: how many of which size in bytes. What is set aside later counts from the next start.
    huge_pages: BTreeMap<u64, u64>,
    info: NodeSystemInfo,
}

impl Facts {
    /// Reads the machine.
    pub fn read(config: &Config, disk: &Path) -> Facts {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as i64;
        let memory = config.memory_bytes.unwrap_or_else(memory);
        let disk = disk_size(disk);
        let reserved = |signal: &str, capacity: i64| {
            let threshold = config.eviction_hard.iter().find(|threshold| threshold.signal == signal);
            threshold.map_or(0, |threshold| threshold.quantity(capacity).value())
        };
        Facts {
            reserved_cpu: config.placement.kept("cpu"),
            reserved_memory: reserved("memory.available", memory) + config.placement.kept("memory"),
            reserved_disk: reserved("nodefs.available", disk) + config.placement.kept("ephemeral-storage"),
            cpu_milli: config.cpu_milli.unwrap_or(cpus * 1000),
            memory,
            disk,
            pods: config.max_pods,
            huge_pages: huge_pages(Path::new("/sys/kernel/mm/hugepages")),
            info: info(config),
        }
    }

    /// Memory in bytes.
    pub fn memory_bytes(&self) -> i64 {
        self.memory
    }

    /// Memory that pods may not use, in bytes.
    pub fn kept_memory(&self) -> i64 {
        self.reserved_memory
    }

    /// What pods may use, by resource.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let huge: i64 = self.huge_page_bytes().map(|(_, bytes)| bytes).sum();
        let memory = (self.memory - self.reserved_memory - huge).max(0);
        let disk = (self.disk - self.reserved_disk).max(0);
        let mut list = BTreeMap::from([
            ("cpu".to_owned(), Quantity::from_milli((self.cpu_milli - self.reserved_cpu).max(0))),
            ("memory".to_owned(), Quantity::from_value(memory, Format::BinarySI)),
            ("ephemeral-storage".to_owned(), Quantity::from_value(disk, Format::DecimalSI)),
            ("pods".to_owned(), Quantity::from_value(self.pods.into(), Format::DecimalSI)),
        ]);
        list.extend(self.huge_page_bytes().map(|(size, bytes)| (huge_page_resource(size), Quantity::from_value(bytes, Format::BinarySI))));
        list
    }

    fn huge_page_bytes(&self) -> impl Iterator<Item = (u64, i64)> {
        self.huge_pages.iter().map(|(size, count)| (*size, i64::try_from(size.saturating_mul(*count)).unwrap_or(i64::MAX)))
    }

    /// Sizes of the huge pages that the machine knows, in bytes, whether it has any or not.
    pub fn huge_page_sizes(&self) -> Vec<u64> {
        self.huge_pages.keys().copied().collect()
    }

    /// What there is, by resource.
    pub fn capacity(&self) -> BTreeMap<String, Quantity> {
        let mut capacity = self.allocatable();
        capacity.insert("cpu".to_owned(), Quantity::from_milli(self.cpu_milli));
        capacity.insert("memory".to_owned(), Quantity::from_value(self.memory, Format::BinarySI));
        capacity.insert("ephemeral-storage".to_owned(), Quantity::from_value(self.disk, Format::BinarySI));
        capacity
    }

    /// `status.nodeInfo`.
    pub fn info(&self) -> &NodeSystemInfo {
        &self.info
    }

    /// Another container runtime runs the pods.
    pub fn set_runtime(&mut self, version: &str) {
        self.info.container_runtime_version = version.to_owned();
    }
}

/// Quantities as the API types them.
pub fn to_api(list: &BTreeMap<String, Quantity>) -> BTreeMap<String, ApiQuantity> {
    list.iter().map(|(name, quantity)| (name.clone(), ApiQuantity(quantity.to_string()))).collect()
}

fn memory() -> i64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib: i64 = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok()).unwrap_or(0);
    kib * 1024
}

fn disk_size(path: &Path) -> i64 {
    rustix::fs::statvfs(path).map_or(0, |stat| (stat.f_blocks * stat.f_frsize) as i64)
}

fn info(config: &Config) -> NodeSystemInfo {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let uname = rustix::system::uname();
    let os = read("/etc/os-release");
    let pretty = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).unwrap_or("Linux").trim_matches('"').to_owned();
    let machine_id = read("/etc/machine-id");
    NodeSystemInfo {
        architecture: match std::env::consts::ARCH {
            "x86_64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        },
        boot_id: read("/proc/sys/kernel/random/boot_id"),
        container_runtime_version: format!("knarr://{}", config.version.trim_start_matches('v')),
        kernel_version: uname.release().to_string_lossy().into_owned(),
        kube_proxy_version: String::new(),
        kubelet_version: config.version.clone(),
        machine_id: machine_id.clone(),
        operating_system: "linux".to_owned(),
        os_image: pretty,
        swap: Some(NodeSwapStatus { capacity: Some(crate::swap::of_machine().0).filter(|bytes| *bytes > 0) }),
        system_uuid: Some(read("/sys/class/dmi/id/product_uuid")).filter(|uuid| !uuid.is_empty()).unwrap_or(machine_id),
        ..NodeSystemInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_are_offered_and_taken_from_memory() {
        let facts = Facts {
            cpu_milli: 2000,
            memory: 4 << 30,
            disk: 10 << 30,
            reserved_cpu: 0,
            reserved_memory: 1 << 30,
            reserved_disk: 0,
            pods: 110,
            huge_pages: BTreeMap::from([(2 << 20, 512), (1 << 30, 0)]),
            info: NodeSystemInfo::default(),
        };
        let shown = |list: BTreeMap<String, Quantity>| ["memory", "hugepages-1Gi", "hugepages-2Mi"].map(|name| list[name].to_string());
        assert_eq!(shown(facts.capacity()), ["4Gi", "0", "1Gi"]);
        assert_eq!(shown(facts.allocatable()), ["2Gi", "0", "1Gi"]);
        let more = Facts { huge_pages: BTreeMap::from([(2 << 20, 2048)]), ..facts };
        assert_eq!(more.allocatable()["memory"].to_string(), "0");
    }
}
