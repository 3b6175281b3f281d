//! Pods on real interfaces in real name spaces: reachability, repetition, take-over, speed.

mod world;

use std::time::Instant;

use net::{PodAttachment, PodNetwork, PodRules, PodRulesConfig};
use world::{Node, World, wire};

#[test]
fn pods_reach_each_other_and_the_host() {
    let mut world = World::new();
    let node = Node::new(&mut world, "node");
    let outside = world.space("outside");
    wire(&node.space, "192.0.2.1/24", &outside, "192.0.2.9/24", "wire0");
    let one = node.pod(&mut world, "one", "10.42.0.2");
    let two = node.pod(&mut world, "two", "10.42.0.3");
    node.space.serve(9000, "host");

    assert_eq!(one.ask("10.42.0.3:8080").unwrap(), ("two".into(), "10.42.0.2".parse().unwrap()));
    assert_eq!(two.ask("10.42.0.2:8080").unwrap(), ("one".into(), "10.42.0.3".parse().unwrap()));
    assert_eq!(one.ask("192.0.2.1:9000").unwrap(), ("host".into(), "10.42.0.2".parse().unwrap()));
    assert_eq!(node.space.ask("10.42.0.2:8080").unwrap().0, "one");
    assert_eq!(one.ask("127.0.0.1:8080").unwrap().0, "one");
}

/// Interfaces of pods route loopback addresses, for node ports; what listens there only is no pod's to reach (CVE-2020-8558).
#[test]
fn the_nodes_loopback_is_out_of_reach() {
    let mut world = World::new();
    let node = Node::new(&mut world, "node");
    let outside = world.space("outside");
    wire(&node.space, "192.0.2.1/24", &outside, "192.0.2.9/24", "wire0");
    let one = node.pod(&mut world, "one", "10.42.0.2");
    node.space.serve(9000, "host");
    // The pod has no loopback of its own and sends what is for it to the node.
    one.command(
        "ip addr flush dev lo; for i in all eth0; do echo 1 > /proc/sys/net/ipv4/conf/$i/route_localnet; done; ip route add 127.0.0.0/8 \
         $(ip route show default | sed 's/^default//')",
    );
    assert_eq!(one.ask("127.0.0.1:9000").unwrap().0, "host", "without rules it is within reach");
    let _rules = node.space.run(|| PodRules::open(PodRulesConfig::default(), &[], &node.journal).unwrap());
    assert_eq!(one.ask("127.0.0.1:9000").map_err(|error| error.kind()), Err(std::io::ErrorKind::TimedOut));
    assert_eq!(one.ask("192.0.2.1:9000").unwrap().0, "host");
    assert_eq!(node.space.ask("127.0.0.1:9000").unwrap().0, "host");
}

#[test]
fn attaching_and_detaching_twice_is_fine() {
    let mut world = World::new();
    let node = Node::new(&mut world, "node");
    let pod = world.space("pod");
    let attachment = PodAttachment { uid: "5f0c".into(), addresses: vec!["10.42.0.2".parse().unwrap(), "fd00:42::2".parse().unwrap()] };
    node.space.run(|| node.pods.enable_v6(&node.journal).unwrap());
    let first = node.pods.attach(pod.netns(), &attachment).unwrap();
    assert_eq!(node.pods.attach(pod.netns(), &attachment).unwrap(), first);
    assert_eq!(first.host_interface, PodNetwork::host_interface("5f0c"));

    let existing = node.pods.existing().unwrap();
    assert_eq!(existing.len(), 1);
    assert_eq!(existing[0].uid.as_deref(), Some("5f0c"));
    assert_eq!(existing[0].host_interface, first.host_interface);
    assert_eq!(existing[0].addresses, attachment.addresses);

    // The same pod with a new name space, as after its sandbox died.
    let again = world.space("again");
    node.pods.attach(again.netns(), &attachment).unwrap();
    again.serve(8080, "again");
    // Until the kernel has looked for duplicates, later and on its own, it would ask from `::1`, which no pod answers.
    node.space.command("ip addr add 192.0.2.1/32 dev lo; ip -6 addr add fd00:1::1/128 dev lo nodad");
    assert_eq!(node.space.ask("10.42.0.2:8080").unwrap().0, "again");
    assert_eq!(node.space.ask("[fd00:42::2]:8080").unwrap(), ("again".into(), "fd00:1::1".parse().unwrap()));

    node.pods.detach("5f0c").unwrap();
    node.pods.detach("5f0c").unwrap();
    assert!(node.pods.existing().unwrap().is_empty());
}

#[test]
fn the_journal_takes_everything_back() {
    let mut world = World::new();
    let space = world.space("node");
    let look = || space.command("ip link; ip route; ip addr; sysctl -a 2>/dev/null | grep -E 'ip_forward|ipv4.conf.*forwarding'");
    let before = look();
    let journal = world.journal("j");
    let pods = space.run(|| PodNetwork::open(net::PodNetworkConfig { mtu: 1400 }, &journal).unwrap());
    let pod = world.space("pod");
    let attachment = PodAttachment { uid: "x".into(), addresses: vec!["10.42.0.2".parse().unwrap()] };
    pods.attach(pod.netns(), &attachment).unwrap();
    assert_ne!(look(), before);
    let failures = space.run(|| journal.replay_backwards());
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(look(), before);
}

#[test]
fn attaching_is_quick() {
    let mut world = World::new();
    let node = Node::new(&mut world, "node");
    let spaces: Vec<_> = (0..20).map(|n| world.space(&format!("p{n}"))).collect();
    let mut times: Vec<_> = spaces
        .iter()
        .enumerate()
        .map(|(n, space)| {
            let addresses = vec![format!("10.42.0.{}", n + 2).parse().unwrap()];
            let attachment = PodAttachment { uid: format!("pod-{n}"), addresses };
            let start = Instant::now();
            node.pods.attach(space.netns(), &attachment).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort();
    println!("attach: median {:?}, longest {:?}", times[10], times[19]);
    assert_eq!(node.pods.existing().unwrap().len(), 20);
}
