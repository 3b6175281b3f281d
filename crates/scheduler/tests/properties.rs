//! What holds for every sequence of changes: nodes are never overfull, counters forget nothing, and nothing sleeps
//! through the event that would help it.

mod world;

use proptest::prelude::*;
use scheduler::follow::Kind;
use scheduler::resources::Resource;
use world::World;

#[derive(Debug, Clone)]
enum Deed {
    Node(u8, u8),
    NoNode(u8),
    Pod { name: u8, cpu: u8, label: u8, rule: u8 },
    NoPod(u8),
    Decide,
}

fn deed() -> impl Strategy<Value = Deed> {
    prop_oneof![
        (0..6u8, 0..3u8).prop_map(|(name, zone)| Deed::Node(name, zone)),
        (0..6u8).prop_map(Deed::NoNode),
        (0..30u8, 0..12u8, 0..3u8, 0..6u8).prop_map(|(name, cpu, label, rule)| Deed::Pod { name, cpu, label, rule }),
        (0..30u8, 0..12u8, 0..3u8, 0..6u8).prop_map(|(name, cpu, label, rule)| Deed::Pod { name, cpu, label, rule }),
        (0..30u8).prop_map(Deed::NoPod),
        Just(Deed::Decide),
    ]
}

fn rule(rule: u8, label: u8) -> String {
    match rule {
        1 => format!("apart=app:{label}"),
        2 => format!("by=zone near=app:{label}"),
        3 => format!("by=zone spread=app:{label}"),
        4 => "port=80".into(),
        _ => String::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn invariants(deeds in proptest::collection::vec(deed(), 1..80)) {
        let mut world = World::new();
        let (mut nodes, mut pods) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
        for deed in deeds {
            match deed {
                Deed::Node(name, zone) => {
                    nodes.insert(name);
                    world.line(&format!("node n{name} cpu=2 pods=4 zone={zone}"));
                }
                Deed::NoNode(name) => {
                    if nodes.remove(&name) {
                        world.delete(Kind::Node, &format!("n{name}"));
                    }
                }
                Deed::Pod { name, cpu, label, rule: number } => {
                    if pods.insert(name) {
                        world.line(&format!("pod p{name} cpu={cpu}00m app={label} {}", rule(number, label)));
                    }
                }
                Deed::NoPod(name) => {
                    if pods.remove(&name) {
                        world.delete(Kind::Pod, &format!("ns/p{name}"));
                    }
                }
                Deed::Decide => drop(world.decide()),
            }
            check(&world);
        }
    }
}

/// Compares the columns with the records of the pods.
fn check(world: &World) {
    let cluster = &world.picture.cluster;
    for node in cluster.nodes.alive() {
        let name = cluster.nodes.name(*node);
        let here: Vec<_> = cluster.pods().filter(|(_, pod)| pod.bound.as_ref() == Some(name)).map(|(_, pod)| pod).collect();
        for resource in [Resource::CPU, Resource::PODS] {
            let sum: i64 = here
                .iter()
                .flat_map(|pod| &pod.shape.requests.amounts)
                .filter(|(one, _)| *one == resource)
                .map(|(_, amount)| *amount)
                .sum();
            assert_eq!(cluster.nodes.requested(*node, resource), sum);
            assert!(sum <= cluster.nodes.allocatable(*node, resource), "{name} is overfull");
        }
        let ports = here.iter().filter(|pod| !pod.shape.ports.is_empty()).count();
        assert!(ports <= 1, "{name} has a port twice");
        for pod in &here {
            let spread_or_anti = pod.shape.anti_affinity.iter().map(|counter| cluster.topology.counter(*counter));
            for counter in spread_or_anti {
                assert_eq!(
                    counter.on_node(*node),
                    here.iter().filter(|other| other.shape.key.labels == pod.shape.key.labels).count() as u32
                );
                assert_eq!(counter.on_node(*node), 1, "{name} has two that want to be apart");
            }
        }
    }
}
