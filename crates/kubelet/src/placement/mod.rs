//! Which processors, memory nodes and devices a container gets, beside how much of them.
//!
//! ```text
//!  pod --> claim --> hints of each kind --> nodes picked (hints.rs) --> given by each kind --> files
//!                    devices cpu.rs memory.rs                           devices cpu.rs memory.rs
//! ```
//!
//! All that decides is a pure function of the machine as data and of what was given before; this file joins the parts.

pub mod checkpoint;
pub mod claim;
pub mod cpu;
pub mod cpus;
pub mod follow;
pub mod hints;
pub mod machine;
pub mod mask;
pub mod memory;
pub mod options;
mod take;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::devices::Devices;
use crate::devices::state::DeviceRefusal;
use checkpoint::CheckpointError;
use claim::{Claim, PodClaim};
use cpu::{CpuRefusal, CpuSetupError, Cpus};
use cpus::CpuSet;
use hints::{Hint, Policy, Rules, Scope};
use machine::Machine;
use memory::{Block, Memory, MemoryRefusal, MemorySetupError};
pub use options::{Options, OptionsError, Words};

/// File of the processors in the kubelet's folder.
const CPU_STATE: &str = "cpu_manager_state";
/// File of the memory in the kubelet's folder.
const MEMORY_STATE: &str = "memory_manager_state";

/// Who has what.
pub struct Placement {
    machine: Machine,
    rules: Rules,
    state: Mutex<State>,
    /// Devices of plugins.
    pub devices: Arc<Devices>,
    /// The shared processors have changed.
    pub changed: Notify,
}

struct State {
    cpus: Option<Cpus>,
    memory: Option<Memory>,
}

/// Placement cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// Too many combinations of nodes.
    #[error("unsupported on machines with more than {0} NUMA Nodes")]
    TooManyNodes(usize),
    /// Processors.
    #[error(transparent)]
    Cpu(#[from] CpuSetupError),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemorySetupError),
    /// A file of an earlier run.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// A pod cannot be placed.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// Not on the nodes that the policy wants.
    #[error("Resources cannot be allocated with Topology locality")]
    Topology,
    /// Processors.
    #[error(transparent)]
    Cpu(#[from] CpuRefusal),
    /// Memory.
    #[error(transparent)]
    Memory(#[from] MemoryRefusal),
    /// Devices.
    #[error(transparent)]
    Device(#[from] DeviceRefusal),
    /// A file.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Refusal {
    /// Reason and message of the pod's status.
    pub fn verdict(&self) -> (String, String) {
        match self {
            Refusal::Topology => ("TopologyAffinityError".into(), self.to_string()),
            Refusal::Cpu(CpuRefusal::NoWholeCores { .. } | CpuRefusal::NoFreeCores { .. }) => {
                ("SMTAlignmentError".into(), self.to_string())
            }
            _ => ("UnexpectedAdmissionError".into(), format!("Allocate failed due to {self}, which is unexpected")),
        }
    }
}

/// Where the processes of a container run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Processors; none for all.
    pub cpus: Option<String>,
    /// They are its own.
    pub exclusive: bool,
    /// Memory nodes; none for all.
    pub mems: Option<String>,
}

impl Placement {
    /// Reads what an earlier run gave. `kept_memory` is what the node keeps from pods in all.
    ///
    /// # Errors
    /// The options, the machine and the files of an earlier run do not go together.
    pub fn open(options: &Options, machine: Machine, kept_memory: u64, root: &Path) -> Result<Placement, SetupError> {
        if options.rules.policy != Policy::None && machine.nodes.len() > options.rules.most_nodes {
            return Err(SetupError::TooManyNodes(options.rules.most_nodes));
        }
        let (cpu_file, memory_file) = (root.join(CPU_STATE), root.join(MEMORY_STATE));
        let count = usize::try_from(options.kept("cpu")).unwrap_or(0).div_ceil(1000);
        let cpus = match options.cpus {
            Some(rules) => Some(Cpus::open(&machine, rules, options.reserved_cpus.as_ref(), count, cpu_file)?),
            None => cpu::none(&cpu_file).map(|()| None)?,
        };
        let memory = match &options.memory {
            Some(reserved) => {
                let mut kept: memory::Amounts = [("memory".to_owned(), kept_memory)].into();
                let huge = options.reserved.keys().filter(|name| name.starts_with("hugepages-"));
                kept.extend(huge.map(|name| (name.clone(), u64::try_from(options.kept(name)).unwrap_or(0))));
                Some(Memory::open(&machine, reserved, &kept, memory_file)?)
            }
            None => memory::none(&memory_file).map(|()| None)?,
        };
        let (rules, devices) = (options.rules.clone(), Devices::open(root)?);
        Ok(Placement { machine, rules, state: Mutex::new(State { cpus, memory }), devices, changed: Notify::new() })
    }

    /// Gives a pod what it asks for. Asked again about a pod that has its place it changes nothing. Of pods that want devices one
    /// is asked about at a time, and of all where [`Placement::is_ordered`].
    ///
    /// # Errors
    /// Why the pod cannot be here; it has nothing then.
    pub async fn admit(&self, pod: &PodClaim) -> Result<(), Refusal> {
        let before = self.shared();
        let given = self.give(pod).await.and_then(|()| self.save_for(pod));
        self.settle(pod, before, given)
    }

    /// As `admit` for a pod that an earlier run of ours started: its devices are its own whatever their plugins say.
    ///
    /// # Errors
    /// What it runs on is no longer its own, or its own and not written.
    pub fn readmit(&self, pod: &PodClaim) -> Result<(), Refusal> {
        let before = self.shared();
        let mut state = self.state.lock();
        let nowhere = Hint { nodes: None, preferred: false };
        let given = pod.containers.iter().try_for_each(|claim| state.give(&self.machine, &pod.uid, claim, nowhere));
        drop(state);
        self.settle(pod, before, given)?;
        self.save_for(pod)
    }

    /// Writes what was given to a pod, if that is anything.
    fn save_for(&self, pod: &PodClaim) -> Result<(), Refusal> {
        let asks = pod.containers.iter().any(|claim| claim.cpus > 0 || !claim.memory.is_empty());
        Ok(if asks {
            self.state.lock().save()?
        })
    }

    fn settle(&self, pod: &PodClaim, before: Option<CpuSet>, given: Result<(), Refusal>) -> Result<(), Refusal> {
        if given.is_err() {
            self.release(&pod.uid);
        }
        if before != self.shared() {
            self.changed.notify_one();
        }
        given
    }

    async fn give(&self, pod: &PodClaim) -> Result<(), Refusal> {
        let nodes = self.machine.node_ids();
        let mut whole = None;
        if self.rules.scope == Scope::Pod && self.rules.policy != Policy::None {
            let mut hints = vec![self.devices.pod_hints(&nodes, pod)];
            hints.extend(self.state.lock().pod_hints(&self.machine, pod));
            whole = Some(self.pick(&hints)?);
        }
        for claim in &pod.containers {
            let hint = match whole {
                Some(hint) => hint,
                None => {
                    let mut hints = vec![self.devices.hints(&nodes, &pod.uid, claim)];
                    hints.extend(self.state.lock().hints(&self.machine, &pod.uid, claim));
                    self.pick(&hints)?
                }
            };
            self.devices.give(&pod.uid, claim, hint).await?;
            self.state.lock().give(&self.machine, &pod.uid, claim, hint)?;
        }
        Ok(())
    }

    fn pick(&self, hints: &[BTreeMap<String, hints::Hints>]) -> Result<Hint, Refusal> {
        let (hint, admitted) = hints::pick(&self.rules, &self.machine, hints);
        if admitted { Ok(hint) } else { Err(Refusal::Topology) }
    }

    /// Takes back what a pod had.
    pub fn release(&self, uid: &str) {
        let mut state = self.state.lock();
        let (cpus, memory) = state.release(uid);
        if cpus || memory {
            state.save_or_warn();
        }
        drop(state);
        self.devices.release(uid);
        if cpus {
            self.changed.notify_one();
        }
    }

    /// Takes back what pods had that are no longer here.
    pub fn retain(&self, is_here: impl Fn(&str) -> bool) {
        let state = self.state.lock();
        let known = state.cpus.iter().flat_map(Cpus::pods).chain(state.memory.iter().flat_map(Memory::pods));
        let known: Vec<String> = known.chain(self.devices.pods()).collect();
        drop(state);
        known.iter().filter(|uid| !is_here(uid)).for_each(|uid| self.release(uid));
    }

    /// Where a container runs.
    pub fn place(&self, uid: &str, container: &str) -> Place {
        let state = self.state.lock();
        let own = state.cpus.as_ref().and_then(|cpus| cpus.own(uid, container));
        let cpus = own.or(state.cpus.as_ref().map(Cpus::shared)).map(CpuSet::to_string);
        let mems: CpuSet = state.memory.iter().flat_map(|memory| memory.nodes_of(uid, container)).collect();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        Place { cpus: cpus.and_then(some), exclusive: own.is_some(), mems: some(mems.to_string()) }
    }

    /// Whether a container of the pod has processors of its own.
    pub fn has_own_cpus(&self, uid: &str) -> bool {
        self.state.lock().cpus.as_ref().is_some_and(|cpus| cpus.pods().iter().any(|known| known == uid))
    }

    /// Processors that are a container's own.
    pub fn own_cpus(&self, uid: &str, container: &str) -> CpuSet {
        self.state.lock().cpus.as_ref().and_then(|cpus| cpus.own(uid, container)).cloned().unwrap_or_default()
    }

    /// Memory that is a container's own.
    pub fn own_memory(&self, uid: &str, container: &str) -> Vec<Block> {
        self.state.lock().memory.as_ref().map(|memory| memory.blocks(uid, container).to_vec()).unwrap_or_default()
    }

    /// Processors that can be given; none without a policy.
    pub fn allocatable_cpus(&self) -> CpuSet {
        self.state.lock().cpus.as_ref().map(|cpus| cpus.allocatable(&self.machine)).unwrap_or_default()
    }

    /// Memory that can be given: node, resource, bytes.
    pub fn allocatable_memory(&self) -> Vec<(u32, String, u64)> {
        self.state.lock().memory.as_ref().map(Memory::allocatable).unwrap_or_default()
    }

    /// Why the resources of a pod cannot be changed while it runs; none if they can.
    pub fn forbids_resize(&self, guaranteed: bool) -> Option<&'static str> {
        let state = self.state.lock();
        match (guaranteed, &state.cpus, &state.memory) {
            (true, Some(_), _) => Some("Resize is infeasible for Guaranteed Pods alongside CPU Manager static policy"),
            (true, _, Some(_)) => Some("Resize is infeasible for Guaranteed Pods alongside Memory Manager static policy"),
            _ => None,
        }
    }

    /// Whether what a pod gets depends on who was asked about before, also where no devices are wanted.
    pub fn is_ordered(&self) -> bool {
        let state = self.state.lock();
        state.cpus.is_some() || state.memory.is_some()
    }

    fn shared(&self) -> Option<CpuSet> {
        self.state.lock().cpus.as_ref().map(|cpus| cpus.shared().clone())
    }
}

impl State {
    fn hints(&self, machine: &Machine, uid: &str, claim: &Claim) -> Vec<BTreeMap<String, hints::Hints>> {
        let cpus = self.cpus.iter().map(|cpus| cpus.hints(machine, uid, claim));
        cpus.chain(self.memory.iter().map(|memory| memory.hints(uid, claim))).collect()
    }

    fn pod_hints(&self, machine: &Machine, pod: &PodClaim) -> Vec<BTreeMap<String, hints::Hints>> {
        let cpus = self.cpus.iter().map(|cpus| cpus.pod_hints(machine, pod));
        cpus.chain(self.memory.iter().map(|memory| memory.pod_hints(pod))).collect()
    }

    fn give(&mut self, machine: &Machine, uid: &str, claim: &Claim, hint: Hint) -> Result<(), Refusal> {
        if let Some(cpus) = &mut self.cpus {
            cpus.give(machine, uid, claim, hint)?;
        }
        if let Some(memory) = &mut self.memory {
            memory.give(uid, claim, hint)?;
        }
        Ok(())
    }

    fn release(&mut self, uid: &str) -> (bool, bool) {
        (self.cpus.as_mut().is_some_and(|cpus| cpus.release(uid)), self.memory.as_mut().is_some_and(|memory| memory.release(uid)))
    }

    fn save(&self) -> Result<(), CheckpointError> {
        self.cpus.as_ref().map_or(Ok(()), Cpus::save)?;
        self.memory.as_ref().map_or(Ok(()), Memory::save)
    }

    fn save_or_warn(&self) {
        if let Err(error) = self.save() {
            tracing::warn!("placement was not written: {}", crate::pods::prepare::chain(&error));
        }
    }
}

#[cfg(test)]
#[path = "placement_test.rs"]
mod tests;
