//! The static policy for processors: whole processors of guaranteed pods are theirs alone, all others share the rest.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint, CheckpointError, PolicyFile};
use super::claim::{Claim, PodClaim};
use super::cpus::CpuSet;
use super::hints::{Hint, Hints};
use super::machine::Machine;
use super::mask::Mask;
use super::take::{self, NotEnough};

/// How processors are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Only whole cores (`full-pcpus-only`).
    pub whole_cores: bool,
    /// Evenly over nodes where one does not do (`distribute-cpus-across-numa`).
    pub spread: bool,
    /// Reserved processors are not shared either (`strict-cpu-reservation`).
    pub strict: bool,
    /// From few last-level caches (`prefer-align-cpus-by-uncorecache`).
    pub by_cache: bool,
}

/// Processors cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuRefusal {
    /// No whole number of cores.
    #[error("SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {threads}")]
    NoWholeCores {
        /// So many processors.
        requested: usize,
        /// So many are in a core.
        threads: usize,
    },
    /// Not so many free cores.
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, requested CPUs = {requested}, CPUs per core = {threads}"
    )]
    NoFreeCores {
        /// So many processors of free cores.
        available: usize,
        /// So many processors.
        requested: usize,
        /// So many are in a core.
        threads: usize,
    },
    /// Not so many free processors.
    #[error(transparent)]
    NotEnough(#[from] NotEnough),
}

/// The configuration and the machine, or what an earlier run left, do not go together.
#[derive(Debug, thiserror::Error)]
pub enum CpuSetupError {
    /// Nothing was reserved.
    #[error("[cpumanager] unable to determine reserved CPU resources for static policy")]
    NothingReserved,
    /// The machine has not so many processors.
    #[error("[cpumanager] unable to reserve the required amount of CPUs (size of {0} did not equal {1})")]
    CannotReserve(CpuSet, usize),
    /// The state and the machine differ.
    #[error("[cpumanager] static policy invalid state, please drain node and remove policy state file: {0}")]
    State(String),
    /// The file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Processors by container, by pod.
type Entries = BTreeMap<String, BTreeMap<String, CpuSet>>;

/// Who has which processors.
#[derive(Debug)]
pub struct Cpus {
    options: CpuOptions,
    reserved: CpuSet,
    /// What those share who have none of their own.
    shared: CpuSet,
    given: Entries,
    /// What init containers of the pod that is being placed leave for its other containers.
    reusable: (String, CpuSet),
    file: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, BTreeMap<String, String>>,
    checksum: u64,
}

impl Checkpoint for File {
    fn shown(&self) -> String {
        let inner = |map: &BTreeMap<String, String>| map.iter().map(|(name, cpus)| format!("{name}:{cpus}")).collect::<Vec<_>>().join(" ");
        let entries: Vec<String> = self.entries.iter().map(|(uid, map)| format!("{uid}:map[{}]", inner(map))).collect();
        format!(
            "(*state.CPUManagerCheckpoint){{PolicyName:(string){} DefaultCPUSet:(string){} Entries:(map[string]map[string]string)map[{}] Checksum:(checksum.Checksum)0}}",
            self.policy_name,
            self.default_cpu_set,
            entries.join(" ")
        )
    }

    fn checksum(&self) -> u64 {
        self.checksum
    }

    fn set_checksum(&mut self, sum: u64) {
        self.checksum = sum;
    }
}

impl PolicyFile for File {
    const PREFIX: &'static str = "";
    const WHAT: &'static str = "CPU manager";
    const NONE: &'static str = "none";

    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn none() -> File {
        File { policy_name: Self::NONE.into(), default_cpu_set: String::new(), entries: BTreeMap::new(), checksum: 0 }
    }
}

/// Notes that there is no policy.
///
/// # Errors
/// An earlier run had one.
pub fn none(file: &Path) -> Result<(), CheckpointError> {
    checkpoint::none::<File>(file)
}

impl Cpus {
    /// Reserves these processors, or so many where none are named, and takes over what an earlier run gave.
    ///
    /// # Errors
    /// The configuration, the machine and the file do not go together.
    pub fn open(
        machine: &Machine,
        options: CpuOptions,
        named: Option<&CpuSet>,
        count: usize,
        file: PathBuf,
    ) -> Result<Cpus, CpuSetupError> {
        let all = machine.all();
        if count == 0 {
            return Err(CpuSetupError::NothingReserved);
        }
        let reserved = match named {
            Some(named) => named.clone(),
            None => take::packed(machine, &all, count, false).unwrap_or_default(),
        };
        if reserved.len() != count || !reserved.is_subset(&all) {
            return Err(CpuSetupError::CannotReserve(reserved, count));
        }
        let usable = if options.strict { all.difference(&reserved) } else { all };
        let mut cpus = Cpus { options, reserved, shared: usable.clone(), given: Entries::new(), reusable: Default::default(), file };
        match checkpoint::read_of::<File>(&cpus.file, "static")? {
            Some(found) => cpus.restore(&found, &usable).map_err(CpuSetupError::State)?,
            None => cpus.save()?,
        }
        Ok(cpus)
    }

    fn restore(&mut self, found: &File, usable: &CpuSet) -> Result<(), String> {
        let parse = |text: &String| text.parse::<CpuSet>().map_err(|error| error.to_string());
        let shared = parse(&found.default_cpu_set)?;
        if shared.is_empty() {
            return if found.entries.is_empty() { Ok(()) } else { Err("default cpuset cannot be empty".into()) };
        }
        let mut known = shared.clone();
        let mut given = Entries::new();
        for (uid, containers) in &found.entries {
            for (name, text) in containers {
                let cpus = parse(text)?;
                if !cpus.intersection(&shared).is_empty() {
                    return Err(format!("pod: {uid}, container: {name} cpuset: \"{cpus}\" overlaps with default cpuset \"{shared}\""));
                }
                known = known.union(&cpus);
                given.entry(uid.clone()).or_default().insert(name.clone(), cpus);
            }
        }
        let (reserved, held) = (&self.reserved, self.reserved.intersection(&shared));
        if self.options.strict && !held.is_empty() {
            return Err(format!("some of strictly reserved cpus: \"{held}\" are present in defaultCpuSet: \"{shared}\""));
        }
        if !self.options.strict && held != *reserved {
            return Err(format!("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\""));
        }
        if known != *usable {
            return Err(format!("current set of available CPUs \"{usable}\" doesn't match with CPUs in state \"{known}\""));
        }
        (self.shared, self.given) = (shared, given);
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self) -> Result<(), CheckpointError> {
        let texts = |map: &BTreeMap<String, CpuSet>| map.iter().map(|(name, cpus)| (name.clone(), cpus.to_string())).collect();
        let file = File {
            policy_name: "static".into(),
            default_cpu_set: self.shared.to_string(),
            entries: self.given.iter().map(|(uid, map)| (uid.clone(), texts(map))).collect(),
            checksum: 0,
        };
        checkpoint::write(&self.file, file)
    }

    /// What those share who have none of their own.
    pub fn shared(&self) -> &CpuSet {
        &self.shared
    }

    /// What a container has for itself.
    pub fn own(&self, uid: &str, container: &str) -> Option<&CpuSet> {
        self.given.get(uid)?.get(container)
    }

    /// All that may be given.
    pub fn allocatable(&self, machine: &Machine) -> CpuSet {
        machine.all().difference(&self.reserved)
    }

    fn free(&self) -> CpuSet {
        self.shared.difference(&self.reserved)
    }

    fn reusable(&self, uid: &str) -> CpuSet {
        if self.reusable.0 == uid { self.reusable.1.clone() } else { CpuSet::default() }
    }

    /// Nodes for a container.
    pub fn hints(&self, machine: &Machine, uid: &str, claim: &Claim) -> BTreeMap<String, Hints> {
        if claim.cpus == 0 {
            return BTreeMap::new();
        }
        let hints = match self.own(uid, &claim.name) {
            Some(own) if own.len() != claim.cpus => Vec::new(),
            Some(own) => hints(machine, own, &CpuSet::default(), claim.cpus),
            None => hints(machine, &self.free(), &self.reusable(uid), claim.cpus),
        };
        BTreeMap::from([("cpu".to_owned(), Some(hints))])
    }

    /// Nodes for a whole pod.
    pub fn pod_hints(&self, machine: &Machine, pod: &PodClaim) -> BTreeMap<String, Hints> {
        let wanted = pod.total(|claim| claim.cpus as u64) as usize;
        if wanted == 0 {
            return BTreeMap::new();
        }
        let mut own = CpuSet::default();
        for claim in pod.containers.iter().filter(|claim| claim.cpus > 0) {
            let Some(cpus) = self.own(&pod.uid, &claim.name) else { continue };
            if cpus.len() != claim.cpus {
                return BTreeMap::from([("cpu".to_owned(), Some(Vec::new()))]);
            }
            own = own.union(cpus);
        }
        let hints = if own.len() == wanted {
            hints(machine, &own, &CpuSet::default(), wanted)
        } else {
            hints(machine, &self.free(), &self.reusable(&pod.uid).union(&own), wanted)
        };
        BTreeMap::from([("cpu".to_owned(), Some(hints))])
    }

    /// Gives a container its processors, from these nodes as far as they have them.
    ///
    /// # Errors
    /// They cannot be given; nothing has changed then.
    pub fn give(&mut self, machine: &Machine, uid: &str, claim: &Claim, hint: Hint) -> Result<(), CpuRefusal> {
        if claim.cpus == 0 {
            return Ok(());
        }
        if self.reusable.0 != uid {
            self.reusable = (uid.to_owned(), CpuSet::default());
        }
        let known = self.own(uid, &claim.name).cloned();
        let cpus = match known {
            Some(cpus) => cpus,
            None => self.choose(machine, uid, claim, hint)?,
        };
        let reusable = self.reusable(uid);
        self.reusable.1 = if claim.once { reusable.union(&cpus) } else { reusable.difference(&cpus) };
        self.shared = self.shared.difference(&cpus);
        self.given.entry(uid.to_owned()).or_default().insert(claim.name.clone(), cpus);
        Ok(())
    }

    fn choose(&self, machine: &Machine, uid: &str, claim: &Claim, hint: Hint) -> Result<CpuSet, CpuRefusal> {
        let (requested, threads) = (claim.cpus, machine.threads());
        let group = if self.options.whole_cores { threads } else { 1 };
        let free = self.free().union(&self.reusable(uid));
        if self.options.whole_cores {
            if requested % threads != 0 {
                return Err(CpuRefusal::NoWholeCores { requested, threads });
            }
            // A core of which one processor is reserved cannot be given as a whole.
            let half = |cpu: u32| {
                self.reserved.iter().any(|reserved| machine.cpus.get(&reserved).map(|r| r.core) == machine.cpus.get(&cpu).map(|c| c.core))
            };
            let available = free.iter().filter(|cpu| !half(*cpu)).count();
            if requested > available {
                return Err(CpuRefusal::NoFreeCores { available, requested, threads });
            }
        }
        let take = |from: &CpuSet, count: usize| match self.options.spread {
            true => take::spread(machine, from, count, group, self.options.by_cache),
            false => take::packed(machine, from, count, self.options.by_cache),
        };
        let mut cpus = CpuSet::default();
        if let Some(nodes) = hint.nodes {
            let near: CpuSet = free.iter().filter(|cpu| machine.cpus.get(cpu).is_some_and(|cpu| nodes.has(cpu.numa))).collect();
            cpus = take(&near, requested.min(near.len()))?;
        }
        let rest = take(&free.difference(&cpus), requested - cpus.len())?;
        Ok(cpus.union(&rest))
    }

    /// Takes back what a pod had; true if there was anything.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.given.remove(uid) else { return false };
        for cpus in containers.values() {
            self.shared = self.shared.union(cpus);
        }
        if self.reusable.0 == uid {
            self.reusable = Default::default();
        }
        true
    }

    /// Pods that have processors.
    pub fn pods(&self) -> Vec<String> {
        self.given.keys().cloned().collect()
    }
}

fn hints(machine: &Machine, available: &CpuSet, reusable: &CpuSet, wanted: usize) -> Vec<Hint> {
    let nodes = machine.numa_with_cpus();
    let home = |cpu: u32| machine.cpus.get(&cpu).map_or(0, |cpu| cpu.numa);
    let mut fewest = nodes.len();
    let mut found = Vec::new();
    for mask in Mask::combinations(&nodes) {
        if machine.cpus.values().filter(|cpu| mask.has(cpu.numa)).count() >= wanted {
            fewest = fewest.min(mask.count());
        }
        let all = reusable.iter().all(|cpu| mask.has(home(cpu)));
        let count = reusable.len() + available.iter().filter(|cpu| mask.has(home(*cpu))).count();
        if all && count >= wanted {
            found.push(mask);
        }
    }
    found.into_iter().map(|mask| Hint { nodes: Some(mask), preferred: mask.count() == fewest }).collect()
}

#[cfg(test)]
#[path = "cpu_test.rs"]
mod tests;
