//! Pods of several containers on machines of several shapes, through all policies at once.

use super::machine::shapes::{DUAL_EPYC, DUAL_XEON, Shape};
use super::*;

const GIB: u64 = 1 << 30;

fn open(shape: Shape, words: &Words) -> Result<(Placement, tempfile::TempDir), SetupError> {
    let folder = tempfile::tempdir().unwrap();
    let words = Words {
        cpu_policy: "static".into(),
        reserved_cpus: "0".into(),
        memory_policy: "Static".into(),
        reserved_memory: "0:memory=1Gi".into(),
        ..words.clone()
    };
    let options = Options::parse(&words).unwrap();
    Placement::open(&options, shape.machine(), GIB, folder.path()).map(|placement| (placement, folder))
}

fn admit(placement: &Placement, pod: &PodClaim) -> Result<(), Refusal> {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(placement.admit(pod))
}

fn topology(policy: &str, scope: &str) -> Words {
    Words { topology_policy: policy.into(), topology_scope: scope.into(), ..Words::default() }
}

/// A pod whose containers ask for so many processors and so much memory.
fn pod(uid: &str, containers: &[(usize, u64)]) -> PodClaim {
    let claim = |(place, (cpus, gib)): (usize, &(usize, u64))| Claim {
        name: format!("c{place}"),
        cpus: *cpus,
        memory: BTreeMap::from([("memory".to_owned(), gib * GIB)]),
        ..Claim::default()
    };
    PodClaim { uid: uid.into(), containers: containers.iter().enumerate().map(claim).collect(), ..PodClaim::default() }
}

fn places(placement: &Placement, pod: &PodClaim) -> Vec<(String, String)> {
    let text = |text: Option<String>| text.unwrap_or_default();
    let place = |claim: &Claim| placement.place(&pod.uid, &claim.name);
    pod.containers.iter().map(place).map(|place| (text(place.cpus), text(place.mems))).collect()
}

fn check(words: &Words, pod: &PodClaim, wanted: Result<&[(&str, &str)], &str>) {
    let (placement, _folder) = open(DUAL_XEON, words).unwrap();
    let found = admit(&placement, pod).map(|()| places(&placement, pod)).map_err(|refusal| refusal.verdict().0);
    let wanted = wanted.map(|places| places.iter().map(|(cpus, mems)| ((*cpus).to_owned(), (*mems).to_owned())).collect::<Vec<_>>());
    assert_eq!(found, wanted.map_err(str::to_owned), "{words:?} {pod:?}");
    if found_nothing(&placement, pod) {
        assert_eq!(placement.place("other", "c").cpus.as_deref(), Some("0-23"));
    }
}

fn found_nothing(placement: &Placement, pod: &PodClaim) -> bool {
    pod.containers.iter().all(|claim| placement.own_cpus(&pod.uid, &claim.name).is_empty())
}

#[test]
fn policies_decide_what_is_near_enough() {
    let small = pod("a", &[(2, 4), (2, 4)]);
    for policy in ["none", "best-effort", "restricted", "single-numa-node"] {
        check(&topology(policy, "container"), &small, Ok(&[("1,13", "0"), ("2,14", "0")]));
    }
    // More than a node has.
    let large = pod("a", &[(13, 4)]);
    check(&topology("best-effort", ""), &large, Ok(&[("6-12,18-23", "0-1")]));
    check(&topology("restricted", ""), &large, Err("TopologyAffinityError"));
    check(&topology("single-numa-node", ""), &large, Err("TopologyAffinityError"));
    // Memory that a node has not, with processors that it has.
    let wide = pod("a", &[(2, 100)]);
    check(&topology("single-numa-node", ""), &wide, Err("TopologyAffinityError"));
    check(&topology("none", ""), &pod("a", &[(25, 1)]), Err("UnexpectedAdmissionError"));
}

#[test]
fn a_pod_as_a_whole_is_put_on_one_node() {
    let two = pod("a", &[(8, 4), (8, 4)]);
    check(&topology("single-numa-node", "container"), &two, Ok(&[("1-4,13-16", "0"), ("6-9,18-21", "1")]));
    check(&topology("single-numa-node", "pod"), &two, Err("TopologyAffinityError"));
    let fits = pod("a", &[(6, 4), (6, 4)]);
    check(&topology("single-numa-node", "pod"), &fits, Ok(&[("6-8,18-20", "1"), ("9-11,21-23", "1")]));
}

#[test]
fn what_is_given_survives_and_goes_with_its_pod() {
    let (placement, folder) = open(DUAL_XEON, &Words::default()).unwrap();
    let (one, two) = (pod("a", &[(2, 4)]), pod("b", &[(2, 4)]));
    admit(&placement, &one).unwrap();
    admit(&placement, &two).unwrap();
    let words = Words {
        cpu_policy: "static".into(),
        reserved_cpus: "0".into(),
        memory_policy: "Static".into(),
        reserved_memory: "0:memory=1Gi".into(),
        ..Words::default()
    };
    let again = Placement::open(&Options::parse(&words).unwrap(), DUAL_XEON.machine(), GIB, folder.path()).unwrap();
    admit(&again, &two).unwrap();
    again.readmit(&one).unwrap();
    assert_eq!(places(&again, &one), places(&placement, &one));
    again.retain(|uid| uid == "b");
    assert_eq!(places(&again, &one), [("0-1,3-13,15-23".to_owned(), String::new())]);
    assert!(again.has_own_cpus("b") && !again.has_own_cpus("a"));
    assert_eq!(again.allocatable_cpus().to_string(), "1-23");
    assert_eq!(again.allocatable_memory(), [(0, "memory".to_owned(), 63 * GIB), (1, "memory".to_owned(), 64 * GIB)]);
}

#[test]
fn what_cannot_be_written_is_not_given() {
    let (placement, folder) = open(DUAL_XEON, &Words::default()).unwrap();
    let pod = pod("a", &[(2, 4)]);
    let path = folder.path().to_owned();
    drop(folder);
    assert!(matches!(admit(&placement, &pod), Err(Refusal::Checkpoint(_))));
    assert!(found_nothing(&placement, &pod) && placement.own_memory("a", "c0").is_empty());
    std::fs::create_dir(&path).unwrap();
    admit(&placement, &pod).unwrap();
    assert_eq!(placement.own_cpus("a", "c0").len(), 2);
    // A pod that runs keeps what it has, written or not.
    std::fs::remove_dir_all(&path).unwrap();
    assert!(placement.readmit(&pod).is_err());
    assert_eq!(placement.own_cpus("a", "c0").len(), 2);
}

#[test]
fn too_many_nodes_are_refused() {
    let many = Shape { nodes: 5, ..DUAL_EPYC };
    let refused = open(many, &topology("restricted", "")).err().map(|error| error.to_string());
    assert_eq!(refused.as_deref(), Some("unsupported on machines with more than 8 NUMA Nodes"));
    let allowed = Words { topology_options: "max-allowable-numa-nodes=10".into(), ..topology("restricted", "") };
    assert!(open(many, &allowed).is_ok());
}
