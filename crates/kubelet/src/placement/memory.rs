//! The static policy for memory: memory and huge pages of guaranteed pods come from few NUMA nodes, which are counted.
//!
//! A node is used alone or in one group with others, never both, so that what a single node promises is not spent by a group.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::checkpoint::{self, Checkpoint, CheckpointError, PolicyFile};
use super::claim::{Claim, PodClaim};
use super::hints::{Hint, Hints};
use super::machine::{Machine, huge_page_resource};
use super::mask::Mask;

/// Amounts by resource.
pub type Amounts = BTreeMap<String, u64>;

/// One resource of a node, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Table {
    total: u64,
    system_reserved: u64,
    allocatable: u64,
    reserved: u64,
    free: u64,
}

/// A node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeState {
    number_of_assignments: i64,
    memory_map: BTreeMap<String, Table>,
    /// The group in which it is used; itself alone while it is not.
    cells: Vec<u32>,
}

/// What a container has of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// The nodes it comes from.
    pub numa_affinity: Vec<u32>,
    /// The resource.
    #[serde(rename = "type")]
    pub resource: String,
    /// Bytes; what another container of the pod took over is no longer counted.
    pub size: u64,
}

/// Memory cannot be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MemoryRefusal {
    /// No node or group has so much.
    #[error("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")]
    NoNodes,
    /// Only more nodes than necessary have.
    #[error("[memorymanager] failed to find the default preferred hint")]
    NotPreferred,
    /// Other nodes do not help.
    #[error("[memorymanager] failed to find NUMA nodes to extend the current topology hint")]
    CannotExtend,
    /// Only more nodes than necessary help.
    #[error("[memorymanager] failed to find the extended preferred hint")]
    ExtendedNotPreferred,
    /// The nodes are used in other groups.
    #[error("[memorymanager] preferred hint violates NUMA node allocation")]
    OtherGroup,
}

/// The configuration and the machine, or what an earlier run left, do not go together.
#[derive(Debug, thiserror::Error)]
pub enum MemorySetupError {
    /// The sum over the nodes is not what the node keeps from pods.
    #[error(
        "the total amount \"{total}\" of type {resource:?} is not equal to the value \"{wanted}\" determined by Node Allocatable feature"
    )]
    Sum {
        /// Of which resource.
        resource: String,
        /// Sum over the nodes.
        total: String,
        /// What the node keeps.
        wanted: String,
    },
    /// A node that does not exist.
    #[error("the reserved memory configuration references a NUMA node {0} that does not exist on this machine")]
    NoNode(u32),
    /// The state and the machine differ.
    #[error("[memorymanager] the expected machine state is different from the real one")]
    State,
    /// The file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// What containers have, by container, by pod.
type Entries = BTreeMap<String, BTreeMap<String, Vec<Block>>>;

/// Who has which memory.
#[derive(Debug)]
pub struct Memory {
    nodes: BTreeMap<u32, NodeState>,
    given: Entries,
    reusable: Reusable,
    file: PathBuf,
}

/// What init containers of the pod that is being placed leave for its other containers.
#[derive(Debug, Default)]
struct Reusable {
    uid: String,
    /// The init containers.
    from: Vec<String>,
    /// Bytes by group and resource.
    left: BTreeMap<(Vec<u32>, String), u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    policy_name: String,
    machine_state: BTreeMap<u32, NodeState>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: Entries,
    checksum: u64,
}

fn list(numbers: &[u32]) -> String {
    format!("[{}]", numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(" "))
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(" ")
}

impl Checkpoint for File {
    fn shown(&self) -> String {
        let table = |(name, table): (&String, &Table)| {
            let Table { total, system_reserved, allocatable, reserved, free } = table;
            format!(
                "{name}:<*>{{TotalMemSize:(uint64){total} SystemReserved:(uint64){system_reserved} Allocatable:(uint64){allocatable} \
                 Reserved:(uint64){reserved} Free:(uint64){free}}}"
            )
        };
        let node = |(id, node): (&u32, &NodeState)| {
            format!(
                "{id}:<*>{{NumberOfAssignments:(int){} MemoryMap:(map[v1.ResourceName]*state.MemoryTable)map[{}] Cells:([]int){}}}",
                node.number_of_assignments,
                joined(node.memory_map.iter().map(table)),
                list(&node.cells)
            )
        };
        let block = |block: &Block| {
            let Block { numa_affinity, resource, size } = block;
            format!("{{NUMAAffinity:([]int){} Type:(v1.ResourceName){resource} Size:(uint64){size}}}", list(numa_affinity))
        };
        let container = |(name, blocks): (&String, &Vec<Block>)| format!("{name}:[{}]", joined(blocks.iter().map(block)));
        let pod = |(uid, containers): (&String, &BTreeMap<String, Vec<Block>>)| {
            format!("{uid}:map[{}]", joined(containers.iter().map(container)))
        };
        format!(
            "(*state.MemoryManagerCheckpoint){{PolicyName:(string){} MachineState:(state.NUMANodeMap)map[{}] \
             Entries:(state.ContainerMemoryAssignments)map[{}] Checksum:(checksum.Checksum)0}}",
            self.policy_name,
            joined(self.machine_state.iter().map(node)),
            joined(self.entries.iter().map(pod))
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
    const PREFIX: &'static str = "[memorymanager] ";
    const WHAT: &'static str = "memory manager";
    const NONE: &'static str = "None";

    fn policy(&self) -> &str {
        &self.policy_name
    }

    fn none() -> File {
        File { policy_name: Self::NONE.into(), machine_state: BTreeMap::new(), entries: Entries::new(), checksum: 0 }
    }
}

/// Notes that there is no policy.
///
/// # Errors
/// An earlier run had one.
pub fn none(file: &Path) -> Result<(), CheckpointError> {
    checkpoint::none::<File>(file)
}

/// The nodes while nobody has anything of them.
fn untouched(machine: &Machine, reserved: &BTreeMap<u32, Amounts>) -> BTreeMap<u32, NodeState> {
    let state = |(id, node): (&u32, &super::machine::Node)| {
        let kept = |resource: &str| reserved.get(id).and_then(|amounts| amounts.get(resource)).copied().unwrap_or(0);
        let table = |total: u64, usable: u64, kept: u64| {
            let allocatable = usable.saturating_sub(kept);
            Table { total, system_reserved: kept, allocatable, reserved: 0, free: allocatable }
        };
        let pages = node.huge_pages.iter().map(|(size, count)| (huge_page_resource(*size), size * count));
        let mut map: BTreeMap<String, Table> = pages.map(|(name, total)| (name.clone(), table(total, total, kept(&name)))).collect();
        let huge: u64 = map.values().map(|table| table.total).sum();
        map.insert("memory".to_owned(), table(node.memory, node.memory.saturating_sub(huge), kept("memory")));
        (*id, NodeState { number_of_assignments: 0, memory_map: map, cells: vec![*id] })
    };
    machine.nodes.iter().map(state).collect()
}

impl Memory {
    /// Reserves per node; `kept` is what the node keeps from pods in all, which has to be the same. Takes over what an earlier
    /// run gave.
    ///
    /// # Errors
    /// The configuration, the machine and the file do not go together.
    pub fn open(machine: &Machine, reserved: &BTreeMap<u32, Amounts>, kept: &Amounts, file: PathBuf) -> Result<Memory, MemorySetupError> {
        if let Some(node) = reserved.keys().find(|node| !machine.nodes.contains_key(node)) {
            return Err(MemorySetupError::NoNode(*node));
        }
        let mut total = Amounts::new();
        for (resource, amount) in reserved.values().flatten() {
            *total.entry(resource.clone()).or_default() += amount;
        }
        for resource in kept.keys().chain(total.keys()) {
            let amount = |amounts: &Amounts| amounts.get(resource).copied().unwrap_or(0);
            if amount(kept) != amount(&total) {
                let shown = |amount: u64| {
                    api::Quantity::from_value(i64::try_from(amount).unwrap_or(i64::MAX), api::quantity::Format::BinarySI).to_string()
                };
                return Err(MemorySetupError::Sum {
                    resource: resource.clone(),
                    total: shown(amount(&total)),
                    wanted: shown(amount(kept)),
                });
            }
        }
        let mut memory = Memory { nodes: untouched(machine, reserved), given: Entries::new(), reusable: Default::default(), file };
        match checkpoint::read_of::<File>(&memory.file, "Static")? {
            Some(found) => memory.restore(found)?,
            None => memory.save()?,
        }
        Ok(memory)
    }

    /// The nodes have to be what the containers' shares make of this machine; groups are read off the file.
    fn restore(&mut self, found: File) -> Result<(), MemorySetupError> {
        for containers in found.entries.values() {
            for block in containers.values().flatten() {
                if block.numa_affinity.iter().any(|node| !self.nodes.contains_key(node)) {
                    return Err(MemorySetupError::State);
                }
                self.take(&block.numa_affinity, &block.resource, block.size);
            }
        }
        let same = |(id, node): (&u32, &NodeState)| {
            let there = found.machine_state.get(id);
            there.is_some_and(|there| {
                let sizes = |state: &NodeState| {
                    let table = |(name, table): (&String, &Table)| (name.clone(), table.total, table.system_reserved, table.allocatable);
                    state.memory_map.iter().map(table).collect::<Vec<_>>()
                };
                sizes(there) == sizes(node) && there.number_of_assignments == node.number_of_assignments && there.cells == node.cells
            })
        };
        if found.machine_state.len() != self.nodes.len() || !self.nodes.iter().all(same) {
            return Err(MemorySetupError::State);
        }
        // How a group's share is split depends on the order in which containers came, which only the file knows.
        self.nodes = found.machine_state;
        self.given = found.entries;
        Ok(())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self) -> Result<(), CheckpointError> {
        let file = File { policy_name: "Static".into(), machine_state: self.nodes.clone(), entries: self.given.clone(), checksum: 0 };
        checkpoint::write(&self.file, file)
    }

    /// What a container has.
    pub fn blocks(&self, uid: &str, container: &str) -> &[Block] {
        self.given.get(uid).and_then(|containers| containers.get(container)).map_or(&[], Vec::as_slice)
    }

    /// The nodes that a container's memory comes from; empty for all.
    pub fn nodes_of(&self, uid: &str, container: &str) -> Vec<u32> {
        let blocks = self.blocks(uid, container).iter();
        blocks.flat_map(|block| block.numa_affinity.iter().copied()).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
    }

    /// What may be given in all: node, resource, bytes.
    pub fn allocatable(&self) -> Vec<(u32, String, u64)> {
        let tables = self.nodes.iter().flat_map(|(id, node)| node.memory_map.iter().map(move |(name, table)| (id, name, table)));
        tables.filter(|(_, _, table)| table.allocatable > 0).map(|(id, name, table)| (*id, name.clone(), table.allocatable)).collect()
    }

    /// Pods that have memory.
    pub fn pods(&self) -> Vec<String> {
        self.given.keys().cloned().collect()
    }

    /// Nodes for a container.
    pub fn hints(&self, uid: &str, claim: &Claim) -> BTreeMap<String, Hints> {
        if claim.memory.is_empty() {
            return BTreeMap::new();
        }
        let known = self.blocks(uid, &claim.name);
        if known.is_empty() { self.find(uid, &claim.memory) } else { regenerated(known, &claim.memory) }
    }

    /// Nodes for a whole pod.
    pub fn pod_hints(&self, pod: &PodClaim) -> BTreeMap<String, Hints> {
        let resources: std::collections::BTreeSet<&String> = pod.containers.iter().flat_map(|claim| claim.memory.keys()).collect();
        let total = |resource: &String| pod.total(|claim| claim.memory.get(resource).copied().unwrap_or(0));
        let wanted: Amounts = resources.into_iter().map(|resource| (resource.clone(), total(resource))).collect();
        if wanted.is_empty() {
            return BTreeMap::new();
        }
        let known = pod.containers.iter().find(|claim| !claim.memory.is_empty() && !self.blocks(&pod.uid, &claim.name).is_empty());
        match known {
            None => self.find(&pod.uid, &wanted),
            Some(claim) => regenerated(self.blocks(&pod.uid, &claim.name), &claim.memory),
        }
    }

    fn find(&self, uid: &str, wanted: &Amounts) -> BTreeMap<String, Hints> {
        let hints = self.suitable(uid, wanted);
        wanted.keys().map(|resource| (resource.clone(), Some(hints.clone()))).collect()
    }

    fn table(&self, node: u32, resource: &str) -> Option<&Table> {
        self.nodes.get(&node)?.memory_map.get(resource)
    }

    /// Groups of nodes that have so much of everything; the smallest ones that ever could are preferred.
    fn suitable(&self, uid: &str, wanted: &Amounts) -> Vec<Hint> {
        let ids: Vec<u32> = self.nodes.keys().copied().collect();
        let mut fewest = ids.len();
        let mut found = Vec::new();
        for mask in Mask::combinations(&ids) {
            let group = mask.nodes();
            let sum =
                |resource: &str, of: fn(&Table) -> u64| group.iter().filter_map(|node| self.table(*node, resource)).map(of).sum::<u64>();
            if wanted.iter().any(|(resource, size)| sum(resource, |table| table.allocatable) < *size) {
                continue;
            }
            fewest = fewest.min(mask.count());
            let enough =
                |(resource, size): (&String, &u64)| sum(resource, |table| table.free) + self.reusable(uid, &group, resource) >= *size;
            if self.may_group(&group) && wanted.iter().all(enough) {
                found.push(mask);
            }
        }
        found.into_iter().map(|mask| Hint { nodes: Some(mask), preferred: mask.count() == fewest }).collect()
    }

    /// Whether nodes are free for this group, or already used in just this one.
    fn may_group(&self, group: &[u32]) -> bool {
        group.iter().filter_map(|node| self.nodes.get(node)).all(|node| match group.len() {
            1 => node.cells.len() == 1,
            _ => node.number_of_assignments == 0 || node.cells == group,
        })
    }

    fn reusable(&self, uid: &str, group: &[u32], resource: &str) -> u64 {
        let left = self.reusable.left.get(&(group.to_vec(), resource.to_owned())).copied().unwrap_or(0);
        if self.reusable.uid == uid { left } else { 0 }
    }

    /// Gives a container its memory, from these nodes and others if they do not do.
    ///
    /// # Errors
    /// It cannot be given; nothing has changed then.
    pub fn give(&mut self, uid: &str, claim: &Claim, hint: Hint) -> Result<(), MemoryRefusal> {
        if claim.memory.is_empty() {
            return Ok(());
        }
        if self.reusable.uid != uid {
            self.reusable = Reusable { uid: uid.to_owned(), ..Reusable::default() };
        }
        if !self.blocks(uid, &claim.name).is_empty() {
            let blocks = self.blocks(uid, &claim.name).to_vec();
            self.note_reusable(claim, &blocks);
            return Ok(());
        }
        let group = self.choose(uid, claim, hint)?.nodes();
        let mut blocks = Vec::new();
        for (resource, size) in &claim.memory {
            let reused = self.reusable(uid, &group, resource).min(*size);
            self.take(&group, resource, size - reused);
            self.hand_over(uid, &group, resource, reused);
            blocks.push(Block { numa_affinity: group.clone(), resource: resource.clone(), size: *size });
        }
        self.note_reusable(claim, &blocks);
        self.given.entry(uid.to_owned()).or_default().insert(claim.name.clone(), blocks);
        Ok(())
    }

    fn choose(&self, uid: &str, claim: &Claim, hint: Hint) -> Result<Mask, MemoryRefusal> {
        let mut best = hint;
        let suitable = self.suitable(uid, &claim.memory);
        if best.nodes.is_none() {
            let found = narrowest(&suitable).ok_or(MemoryRefusal::NoNodes)?;
            if !found.preferred && best.preferred {
                return Err(MemoryRefusal::NotPreferred);
            }
            best = found;
        }
        let nodes = best.nodes.unwrap_or_default();
        let free =
            |resource: &str| nodes.nodes().iter().filter_map(|node| self.table(*node, resource)).map(|table| table.free).sum::<u64>();
        let mut nodes = nodes;
        if claim.memory.iter().any(|(resource, size)| free(resource) < *size) {
            let wider: Vec<Hint> = suitable.into_iter().filter(|hint| hint.nodes.is_some_and(|mask| nodes.is_subset(mask))).collect();
            let found = narrowest(&wider).ok_or(MemoryRefusal::CannotExtend)?;
            if !found.preferred && best.preferred {
                return Err(MemoryRefusal::ExtendedNotPreferred);
            }
            nodes = found.nodes.unwrap_or_default();
        }
        if self.may_group(&nodes.nodes()) { Ok(nodes) } else { Err(MemoryRefusal::OtherGroup) }
    }

    fn take(&mut self, group: &[u32], resource: &str, size: u64) {
        let mut missing = size;
        for id in group {
            let Some(node) = self.nodes.get_mut(id) else { continue };
            node.number_of_assignments += 1;
            node.cells = group.to_vec();
            let Some(table) = node.memory_map.get_mut(resource) else { continue };
            let part = missing.min(table.free);
            table.reserved += part;
            table.free -= part;
            missing -= part;
        }
    }

    /// What an ended init container had is counted for the container that goes on with it.
    fn hand_over(&mut self, uid: &str, group: &[u32], resource: &str, size: u64) {
        let mut left = size;
        let (containers, from) = (self.given.get_mut(uid).into_iter().flatten(), &self.reusable.from);
        for block in containers.filter(|(name, _)| from.contains(name)).flat_map(|(_, blocks)| blocks) {
            if block.numa_affinity == group && block.resource == resource {
                let part = left.min(block.size);
                block.size -= part;
                left -= part;
            }
        }
    }

    fn note_reusable(&mut self, claim: &Claim, blocks: &[Block]) {
        if claim.once {
            self.reusable.from.push(claim.name.clone());
        }
        for block in blocks {
            let left = self.reusable.left.entry((block.numa_affinity.clone(), block.resource.clone())).or_default();
            *left = if claim.once { (*left).max(block.size) } else { left.saturating_sub(block.size) };
        }
    }

    /// Takes back what a pod had; true if there was anything.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(containers) = self.given.remove(uid) else { return false };
        for block in containers.values().flatten() {
            let mut left = block.size;
            for id in &block.numa_affinity {
                let Some(node) = self.nodes.get_mut(id) else { continue };
                node.number_of_assignments -= 1;
                if node.number_of_assignments <= 0 {
                    node.cells = vec![*id];
                }
                let Some(table) = node.memory_map.get_mut(&block.resource) else { continue };
                let part = left.min(table.reserved);
                table.reserved -= part;
                table.free += part;
                left -= part;
            }
        }
        if self.reusable.uid == uid {
            self.reusable = Reusable::default();
        }
        true
    }
}

fn regenerated(blocks: &[Block], wanted: &Amounts) -> BTreeMap<String, Hints> {
    let hints = |resource: &String| {
        let block = blocks.iter().find(|block| block.resource == *resource)?;
        Some(vec![Hint { nodes: Some(Mask::of(block.numa_affinity.iter().copied())), preferred: true }])
    };
    wanted.keys().map(|resource| (resource.clone(), Some(hints(resource).unwrap_or_default()))).collect()
}

fn narrowest(hints: &[Hint]) -> Option<Hint> {
    let rank = |hint: &Hint| (!hint.preferred, hint.nodes.unwrap_or_default());
    let compare = |a: &&Hint, b: &&Hint| rank(a).0.cmp(&rank(b).0).then_with(|| rank(a).1.narrowness(rank(b).1));
    hints.iter().min_by(compare).copied()
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
