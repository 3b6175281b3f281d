//! Processors and memory of the machine and how they belong together, read from a tree like `/sys`.
//!
//! Everything that decides gets this as data, so that machines of any shape can be tried anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::cpus::CpuSet;

/// Where a processor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpu {
    /// The core, by the lowest number of its processors.
    pub core: u32,
    /// The package.
    pub socket: u32,
    /// The NUMA node.
    pub numa: u32,
    /// Processors that share the last level of cache.
    pub cache: u32,
}

/// A NUMA node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Memory in bytes.
    pub memory: u64,
    /// Huge pages: how many of which size in bytes.
    pub huge_pages: BTreeMap<u64, u64>,
    /// Distance to every node, in the order of their numbers.
    pub distances: Vec<u32>,
}

/// The machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    /// Processors by number.
    pub cpus: BTreeMap<u32, Cpu>,
    /// NUMA nodes by number; one at least.
    pub nodes: BTreeMap<u32, Node>,
}

fn number(path: &Path) -> Option<u32> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn set(path: &Path) -> Option<CpuSet> {
    std::fs::read_to_string(path).ok()?.parse().ok()
}

/// Numbers at the end of the names of a folder's entries: `node3`, `cpu12`.
fn numbered(folder: &Path, prefix: &str) -> BTreeSet<u32> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.strip_prefix(prefix)?.parse().ok()).collect()
}

impl Machine {
    /// Reads a tree like `/sys`. A machine that does not tell about NUMA is one node with `memory` bytes.
    pub fn read(sys: &Path, memory: u64) -> Machine {
        let system = sys.join("devices/system");
        let mut nodes = BTreeMap::new();
        let mut homes = BTreeMap::new();
        for id in numbered(&system.join("node"), "node") {
            let folder = system.join(format!("node/node{id}"));
            homes.extend(set(&folder.join("cpulist")).unwrap_or_default().iter().map(|cpu| (cpu, id)));
            nodes.insert(id, node(&folder));
        }
        if let [only] = nodes.values_mut().collect::<Vec<_>>().as_mut_slice() {
            // The sum of one node lacks what the kernel took for itself early.
            only.memory = memory;
        }
        if nodes.is_empty() {
            nodes.insert(0, Node { memory, huge_pages: huge_pages(&sys.join("kernel/mm/hugepages")), distances: vec![10] });
        }
        let folder = system.join("cpu");
        let present = numbered(&folder, "cpu");
        let online = set(&folder.join("online"));
        let mut cpus = BTreeMap::new();
        for id in present.into_iter().filter(|id| online.as_ref().is_none_or(|online| online.contains(*id))) {
            let folder = folder.join(format!("cpu{id}"));
            let topology = folder.join("topology");
            let threads = set(&topology.join("core_cpus_list")).or_else(|| set(&topology.join("thread_siblings_list")));
            let socket = number(&topology.join("physical_package_id")).unwrap_or(0);
            let cache = number(&folder.join("cache/index3/id")).unwrap_or(socket);
            let core = threads.and_then(|threads| threads.iter().next()).unwrap_or(id);
            cpus.insert(id, Cpu { core, socket, numa: homes.get(&id).copied().unwrap_or(0), cache });
        }
        Machine { cpus, nodes }
    }

    /// All processors.
    pub fn all(&self) -> CpuSet {
        self.cpus.keys().copied().collect()
    }

    /// Numbers of the NUMA nodes.
    pub fn node_ids(&self) -> Vec<u32> {
        self.nodes.keys().copied().collect()
    }

    /// Processors for which something holds.
    pub fn cpus_where(&self, holds: impl Fn(&Cpu) -> bool) -> CpuSet {
        self.cpus.iter().filter(|(_, cpu)| holds(cpu)).map(|(id, _)| *id).collect()
    }

    fn count(&self, of: impl Fn(&Cpu) -> u32) -> usize {
        self.cpus.values().map(of).collect::<BTreeSet<_>>().len()
    }

    /// Packages.
    pub fn sockets(&self) -> usize {
        self.count(|cpu| cpu.socket)
    }

    /// NUMA nodes that have processors.
    pub fn numa_with_cpus(&self) -> Vec<u32> {
        self.cpus.values().map(|cpu| cpu.numa).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Processors of a core; all are taken to be alike.
    pub fn threads(&self) -> usize {
        self.cpus.len().checked_div(self.count(|cpu| cpu.core)).unwrap_or(1).max(1)
    }

    /// Processors that share a last level of cache; all are taken to be alike.
    pub fn per_cache(&self) -> usize {
        self.cpus.len().checked_div(self.count(|cpu| cpu.cache)).unwrap_or(1).max(1)
    }
}

fn node(folder: &Path) -> Node {
    let meminfo = std::fs::read_to_string(folder.join("meminfo")).unwrap_or_default();
    let total = meminfo.lines().find(|line| line.contains("MemTotal:"));
    let kib: u64 = total.and_then(|line| line.split_whitespace().rev().nth(1)).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    let distances = std::fs::read_to_string(folder.join("distance")).unwrap_or_default();
    Node {
        memory: kib * 1024,
        huge_pages: huge_pages(&folder.join("hugepages")),
        distances: distances.split_whitespace().filter_map(|distance| distance.parse().ok()).collect(),
    }
}

/// Huge pages of a folder like `/sys/kernel/mm/hugepages`: how many of which size in bytes.
pub fn huge_pages(folder: &Path) -> BTreeMap<u64, u64> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let name = entry.file_name();
        let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        Some((kib * 1024, number(&entry.path().join("nr_hugepages")).unwrap_or(0).into()))
    });
    sizes.collect()
}

/// Name of the resource of huge pages of so many bytes.
pub fn huge_page_resource(size: u64) -> String {
    let quantity = api::Quantity::from_value(i64::try_from(size).unwrap_or(i64::MAX), api::quantity::Format::BinarySI);
    format!("hugepages-{quantity}")
}

/// How files of control groups name huge pages of so many bytes: `2MB`, `1GB`.
pub fn huge_page_unit(size: u64) -> String {
    let units = ["B", "KB", "MB", "GB", "TB", "PB"];
    let (mut size, mut unit) = (size, 0);
    while size >= 1024 && size.is_multiple_of(1024) && unit + 1 < units.len() {
        size /= 1024;
        unit += 1;
    }
    format!("{size}{}", units[unit])
}

#[cfg(test)]
pub mod shapes {
    //! Machines of known shapes, written as trees like `/sys` and read back, so that the reader is part of every test.

    use super::*;

    /// How a machine is built.
    #[derive(Debug, Clone, Copy)]
    pub struct Shape {
        /// Packages.
        pub sockets: u32,
        /// NUMA nodes of a package; 0 for one node over all packages.
        pub nodes: u32,
        /// Last-level caches of a package.
        pub caches: u32,
        /// Cores of a package.
        pub cores: u32,
        /// Processors of a core.
        pub threads: u32,
        /// GiB of a NUMA node.
        pub memory: u64,
    }

    /// Two Xeons with 6 cores of 2 threads each; siblings are 12 apart, as such machines number them.
    pub const DUAL_XEON: Shape = Shape { sockets: 2, nodes: 1, caches: 1, cores: 6, threads: 2, memory: 64 };
    /// Two EPYCs with 64 cores of 2 threads in 4 nodes each and a cache for 8 cores.
    pub const DUAL_EPYC: Shape = Shape { sockets: 2, nodes: 4, caches: 8, cores: 64, threads: 2, memory: 128 };
    /// One EPYC with 16 cores without threads, of which 4 share a cache.
    pub const SMALL_EPYC: Shape = Shape { sockets: 1, nodes: 1, caches: 4, cores: 16, threads: 1, memory: 32 };
    /// Four packages seen as one node.
    pub const ONE_NODE: Shape = Shape { sockets: 4, nodes: 0, caches: 1, cores: 18, threads: 2, memory: 512 };

    impl Shape {
        /// Writes the tree and reads it.
        pub fn machine(self) -> Machine {
            let folder = tempfile::tempdir().unwrap();
            let system = folder.path().join("devices/system");
            let write = |path: String, text: String| {
                let path = system.join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            };
            let cores = self.sockets * self.cores;
            let mut lists: BTreeMap<u32, Vec<String>> = BTreeMap::new();
            for cpu in 0..cores * self.threads {
                let core = cpu % cores;
                let (socket, place) = (core / self.cores, core % self.cores);
                let siblings: Vec<String> = (0..self.threads).map(|thread| (core + thread * cores).to_string()).collect();
                write(format!("cpu/cpu{cpu}/topology/physical_package_id"), format!("{socket}\n"));
                write(format!("cpu/cpu{cpu}/topology/core_id"), format!("{place}\n"));
                write(format!("cpu/cpu{cpu}/topology/core_cpus_list"), siblings.join(","));
                write(format!("cpu/cpu{cpu}/cache/index3/id"), (socket * self.caches + place * self.caches / self.cores).to_string());
                let node = if self.nodes == 0 { 0 } else { socket * self.nodes + place * self.nodes / self.cores };
                lists.entry(node).or_default().push(cpu.to_string());
            }
            write("cpu/online".into(), format!("0-{}\n", cores * self.threads - 1));
            let sockets: Vec<u32> = lists.keys().map(|node| node / self.nodes.max(1)).collect();
            for (node, cpus) in &lists {
                write(format!("node/node{node}/cpulist"), cpus.join(","));
                write(format!("node/node{node}/meminfo"), format!("Node {node} MemTotal:       {} kB\n", self.memory << 20));
                let socket = node / self.nodes.max(1);
                let distance = |(other, home): (usize, &u32)| match (other as u32 == *node, *home == socket) {
                    (true, _) => "10",
                    (_, true) => "12",
                    _ => "32",
                };
                write(format!("node/node{node}/distance"), sockets.iter().enumerate().map(distance).collect::<Vec<_>>().join(" "));
            }
            Machine::read(folder.path(), self.memory << 30)
        }
    }

    #[test]
    fn trees_are_read() {
        let machine = DUAL_EPYC.machine();
        assert_eq!((machine.cpus.len(), machine.sockets(), machine.node_ids().len()), (256, 2, 8));
        assert_eq!((machine.threads(), machine.per_cache()), (2, 16));
        assert_eq!(machine.cpus[&200], Cpu { core: 72, socket: 1, numa: 4, cache: 9 });
        assert_eq!(machine.nodes[&5].memory, 128 << 30);
        assert_eq!(machine.nodes[&5].distances, [32, 32, 32, 32, 12, 10, 12, 12]);
        let own = Machine::read(Path::new("/sys"), 1 << 30);
        assert!(!own.cpus.is_empty() && !own.nodes.is_empty());
        assert_eq!(Machine::read(Path::new("/nonexistent"), 7).nodes[&0].memory, 7);
        assert_eq!((huge_page_resource(2 << 20), huge_page_resource(1 << 30)), ("hugepages-2Mi".into(), "hugepages-1Gi".into()));
        assert_eq!([64 << 10, 2 << 20, 512 << 20, 16 << 30].map(huge_page_unit), ["64KB", "2MB", "512MB", "16GB"]);
    }
}
