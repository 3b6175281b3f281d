//! Whose memory comes from which nodes, and what the file says.

use super::super::machine::shapes::{DUAL_EPYC, DUAL_XEON};
use super::*;

const GIB: u64 = 1 << 30;
const NOWHERE: Hint = Hint { nodes: None, preferred: false };

fn claim(name: &str, gib: u64) -> Claim {
    Claim { name: name.into(), memory: Amounts::from([("memory".to_owned(), gib * GIB)]), ..Claim::default() }
}

fn open(machine: &Machine, folder: &Path) -> Result<Memory, MemorySetupError> {
    let gib = Amounts::from([("memory".to_owned(), GIB)]);
    let reserved = BTreeMap::from([(0, gib.clone()), (1, gib)]);
    Memory::open(machine, &reserved, &Amounts::from([("memory".to_owned(), 2 * GIB)]), folder.join("state"))
}

fn give(memory: &mut Memory, uid: &str, claim: &Claim) -> Result<Vec<u32>, MemoryRefusal> {
    memory.give(uid, claim, NOWHERE).map(|()| memory.nodes_of(uid, &claim.name))
}

fn free(memory: &Memory) -> Vec<u64> {
    memory.nodes.values().map(|node| node.memory_map["memory"].free / GIB).collect()
}

#[test]
fn nodes_are_used_alone_or_in_one_group() {
    let folder = tempfile::tempdir().unwrap();
    // Two nodes of 64 GiB, of which one is reserved on each.
    let mut memory = open(&DUAL_XEON.machine(), folder.path()).unwrap();
    assert_eq!(give(&mut memory, "a", &claim("c", 40)), Ok(vec![0]));
    assert_eq!(give(&mut memory, "b", &claim("c", 40)), Ok(vec![1]));
    assert_eq!(give(&mut memory, "d", &claim("c", 30)), Err(MemoryRefusal::NoNodes), "a group may not be made of used nodes");
    assert_eq!(free(&memory), [23, 23]);
    assert!(memory.release("a") && memory.release("b") && !memory.release("b"));
    assert_eq!(give(&mut memory, "e", &claim("c", 100)), Ok(vec![0, 1]));
    assert_eq!(free(&memory), [0, 26]);
    assert_eq!(give(&mut memory, "f", &claim("c", 10)), Ok(vec![0, 1]), "a node in a group is not used alone");
    let hints = memory.hints("f", &claim("c", 10));
    assert_eq!(hints["memory"], Some(vec![Hint { nodes: Some(Mask::of([0, 1])), preferred: true }]));
    memory.save().unwrap();
    let again = open(&DUAL_XEON.machine(), folder.path()).unwrap();
    assert_eq!((again.nodes, again.given), (memory.nodes, memory.given));
    assert!(matches!(open(&DUAL_EPYC.machine(), folder.path()), Err(MemorySetupError::State)));
}

#[test]
fn hints_are_followed_and_widened() {
    let folder = tempfile::tempdir().unwrap();
    let mut memory = open(&DUAL_XEON.machine(), folder.path()).unwrap();
    let on = |nodes: &[u32], preferred| Hint { nodes: Some(Mask::of(nodes.iter().copied())), preferred };
    memory.give("a", &claim("c", 10), on(&[1], true)).unwrap();
    assert_eq!(memory.nodes_of("a", "c"), [1]);
    assert_eq!(memory.give("b", &claim("c", 60), on(&[1], true)), Err(MemoryRefusal::CannotExtend));
    memory.release("a");
    memory.give("b", &claim("c", 100), on(&[1], false)).unwrap();
    assert_eq!(memory.nodes_of("b", "c"), [0, 1]);
    assert_eq!(memory.give("d", &claim("c", 1), on(&[0], true)), Err(MemoryRefusal::ExtendedNotPreferred));
}

#[test]
fn init_containers_leave_theirs() {
    let folder = tempfile::tempdir().unwrap();
    let mut memory = open(&DUAL_XEON.machine(), folder.path()).unwrap();
    give(&mut memory, "a", &Claim { once: true, ..claim("i", 40) }).unwrap();
    give(&mut memory, "a", &claim("c", 30)).unwrap();
    give(&mut memory, "a", &claim("d", 20)).unwrap();
    assert_eq!(free(&memory), [13, 63]);
    assert_eq!(memory.blocks("a", "i")[0].size, 0);
    memory.release("a");
    assert_eq!(free(&memory), [63, 63]);
}

#[test]
fn the_file_is_that_of_the_real_kubelet() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory_manager_state");
    let pages = BTreeMap::from([(2 << 20, 0), (1 << 30, 0)]);
    let node = super::super::machine::Node { memory: 25_274_793_984, huge_pages: pages, distances: vec![10] };
    let machine = Machine { cpus: BTreeMap::new(), nodes: BTreeMap::from([(0, node)]) };
    let kept = Amounts::from([("memory".to_owned(), 600 << 20)]);
    let reserved = BTreeMap::from([(0, kept.clone())]);
    let mut memory = Memory::open(&machine, &reserved, &kept, file.clone()).unwrap();
    let claim = Claim { name: "c1".into(), memory: Amounts::from([("memory".to_owned(), 64 << 20)]), ..Claim::default() };
    memory.give("aaaa", &claim, NOWHERE).unwrap();
    memory.save().unwrap();
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(written["checksum"], 820_228_527);
    assert_eq!(written["entries"]["aaaa"]["c1"][0], serde_json::json!({"numaAffinity": [0], "type": "memory", "size": 64 << 20}));
    let refused = none(&file).unwrap_err().to_string();
    let text = "could not restore state from checkpoint: [memorymanager] configured policy \"None\" differs from state checkpoint policy \"Static\", please drain this node and delete the memory manager checkpoint file ";
    assert!(refused.starts_with(text), "{refused}");
    let less = Amounts::from([("memory".to_owned(), 700 << 20)]);
    let refused = Memory::open(&machine, &BTreeMap::from([(0, less)]), &kept, file).unwrap_err().to_string();
    let text = "the total amount \"700Mi\" of type \"memory\" is not equal to the value \"600Mi\" determined by Node Allocatable feature";
    assert_eq!(refused, text);
}
