//! Who gets which processors on machines of several shapes, and what the file says.

use super::super::machine::shapes::{DUAL_EPYC, DUAL_XEON, Shape};
use super::*;

const NOWHERE: Hint = Hint { nodes: None, preferred: true };

fn claim(name: &str, cpus: usize) -> Claim {
    Claim { name: name.into(), cpus, ..Claim::default() }
}

struct Bench {
    machine: Machine,
    cpus: Cpus,
    folder: tempfile::TempDir,
}

fn bench(shape: Shape, options: CpuOptions, reserved: usize) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let machine = shape.machine();
    let cpus = Cpus::open(&machine, options, None, reserved, folder.path().join("state")).unwrap();
    Bench { machine, cpus, folder }
}

impl Bench {
    fn give(&mut self, uid: &str, claim: &Claim) -> String {
        match self.cpus.give(&self.machine, uid, claim, NOWHERE) {
            Ok(()) => self.cpus.own(uid, &claim.name).map(CpuSet::to_string).unwrap_or_default(),
            Err(error) => error.to_string(),
        }
    }

    fn reopen(&self, options: CpuOptions, reserved: usize) -> Result<Cpus, CpuSetupError> {
        Cpus::open(&self.machine, options, None, reserved, self.folder.path().join("state"))
    }
}

#[test]
fn what_is_given_is_no_longer_shared_and_comes_back() {
    let mut bench = bench(DUAL_XEON, CpuOptions::default(), 1);
    assert_eq!(bench.cpus.shared().to_string(), "0-23");
    assert_eq!(bench.give("a", &claim("c", 2)), "1,13");
    assert_eq!(bench.give("a", &claim("shares", 0)), "");
    assert_eq!(bench.give("b", &claim("c", 3)), "2,12,14");
    assert_eq!(bench.give("a", &claim("c", 2)), "1,13", "asked again");
    assert_eq!(bench.cpus.shared().to_string(), "0,3-11,15-23");
    assert_eq!(bench.give("d", &claim("c", 19)), "not enough cpus available to satisfy request: requested=19, available=18");
    assert!(bench.cpus.release("a") && !bench.cpus.release("a"));
    assert_eq!(bench.cpus.shared().to_string(), "0-1,3-11,13,15-23");
}

#[test]
fn init_containers_leave_theirs_and_sidecars_keep_them() {
    let mut bench = bench(DUAL_XEON, CpuOptions::default(), 1);
    let init = Claim { once: true, ..claim("i", 4) };
    let sidecar = Claim { sidecar: true, ..claim("s", 2) };
    assert_eq!(bench.give("a", &init), "1-2,13-14");
    assert_eq!(bench.give("a", &sidecar), "1,13");
    assert_eq!(bench.give("a", &claim("c", 2)), "2,14");
    assert_eq!(bench.give("a", &claim("d", 2)), "3,15");
    assert_eq!(bench.give("b", &claim("c", 2)), "4,16");
}

#[test]
fn cores_are_given_whole_where_asked() {
    let mut bench = bench(DUAL_XEON, CpuOptions { whole_cores: true, ..CpuOptions::default() }, 1);
    assert_eq!(bench.give("a", &claim("c", 3)), "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2");
    assert_eq!(bench.give("a", &claim("c", 20)), "1-4,6-11,13-16,18-23");
    let text = "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 2, requested CPUs = 4, CPUs per core = 2";
    assert_eq!(bench.give("b", &claim("c", 4)), text);
    assert_eq!(bench.cpus.shared().len(), 4);
}

#[test]
fn reserved_processors_may_be_kept_from_everybody() {
    let options = CpuOptions { strict: true, ..CpuOptions::default() };
    let mut bench = bench(DUAL_XEON, options, 2);
    assert_eq!(bench.cpus.shared().to_string(), "1-11,13-23");
    assert_eq!(bench.give("a", &claim("c", 12)), "6-11,18-23");
    bench.cpus.save().unwrap();
    assert_eq!(bench.reopen(options, 2).unwrap().shared().to_string(), "1-5,13-17");
    let text = bench.reopen(CpuOptions::default(), 2).unwrap_err().to_string();
    assert!(text.ends_with("not all reserved cpus: \"0,12\" are present in defaultCpuSet: \"1-5,13-17\""), "{text}");
}

#[test]
fn nodes_of_the_hint_are_used_first() {
    let mut bench = bench(DUAL_EPYC, CpuOptions::default(), 2);
    let on = |nodes: &[u32]| Hint { nodes: Some(Mask::of(nodes.iter().copied())), preferred: true };
    bench.cpus.give(&bench.machine, "a", &claim("c", 4), on(&[5])).unwrap();
    assert_eq!(bench.cpus.own("a", "c").unwrap().to_string(), "80-81,208-209");
    let hints = bench.cpus.hints(&bench.machine, "b", &claim("c", 32));
    let preferred: Vec<u32> =
        hints["cpu"].iter().flatten().filter(|hint| hint.preferred).flat_map(|hint| hint.nodes.unwrap().nodes()).collect();
    assert_eq!(preferred, [1, 2, 3, 4, 6, 7], "neither the node of the reserved ones nor that of the other pod");
    let again = bench.cpus.hints(&bench.machine, "a", &claim("c", 4));
    assert_eq!(again["cpu"].as_ref().unwrap()[0], on(&[5]));
}

#[test]
fn the_file_is_that_of_the_real_kubelet() {
    let folder = tempfile::tempdir().unwrap();
    let machine = Shape { sockets: 1, nodes: 1, caches: 1, cores: 2, threads: 1, memory: 1 }.machine();
    let file = folder.path().join("cpu_manager_state");
    let mut cpus = Cpus::open(&machine, CpuOptions::default(), Some(&"0".parse().unwrap()), 1, file.clone()).unwrap();
    cpus.give(&machine, "aaaa", &claim("c1", 1), NOWHERE).unwrap();
    cpus.save().unwrap();
    let text = r#"{"policyName":"static","defaultCpuSet":"0","entries":{"aaaa":{"c1":"1"}},"checksum":396832863}"#;
    assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
    let again = Cpus::open(&machine, CpuOptions::default(), None, 1, file.clone()).unwrap();
    assert_eq!((again.shared().to_string(), again.pods()), ("0".into(), vec!["aaaa".to_owned()]));
    let refused = none(&file).unwrap_err().to_string();
    let text = "could not restore state from checkpoint: configured policy \"none\" differs from state checkpoint policy \"static\", please drain this node and delete the CPU manager checkpoint file ";
    assert!(refused.starts_with(text), "{refused}");
    std::fs::write(&file, text.replace("396832863", "1")).unwrap();
    assert!(matches!(none(&file), Err(CheckpointError::Corrupt)));
    std::fs::remove_file(&file).unwrap();
    none(&file).unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#);
    assert!(matches!(Cpus::open(&machine, CpuOptions::default(), None, 1, file), Err(CpuSetupError::Checkpoint(_))));
    assert!(matches!(Cpus::open(&machine, CpuOptions::default(), None, 0, folder.path().join("x")), Err(CpuSetupError::NothingReserved)));
    assert!(matches!(
        Cpus::open(&machine, CpuOptions::default(), None, 3, folder.path().join("x")),
        Err(CpuSetupError::CannotReserve(_, 3))
    ));
}
