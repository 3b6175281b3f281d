//! Two nodes with an overlay between them, and the watch over a node's addresses.

mod world;

use net::{AddressWatch, HostJournal, Overlay, OverlayConfig, Peer, PodRules, PodRulesConfig, addresses, overlay};
use world::{Node, Space, World, wire};

fn peer(node_ip: &str, pod_cidr: &str, overlay: &Overlay) -> Peer {
    Peer { node_ip: node_ip.parse().unwrap(), pod_cidr: pod_cidr.parse().unwrap(), vtep_mac: overlay.vtep().mac }
}

fn ensure(space: &Space, journal: &HostJournal, node_ip: &str, pod_cidr: &str) -> Overlay {
    let cidrs = [pod_cidr.parse().unwrap()];
    space.run(|| Overlay::ensure(OverlayConfig::STANDARD, node_ip.parse().unwrap(), &cidrs, journal).unwrap())
}

#[test]
fn pods_of_two_nodes_reach_each_other() {
    let mut world = World::new();
    let (one, two) = (Node::new(&mut world, "node1"), Node::new(&mut world, "node2"));
    wire(&one.space, "192.0.2.1/24", &two.space, "192.0.2.2/24", "wire0");
    let mut first = ensure(&one.space, &one.journal, "192.0.2.1", "10.42.1.0/24");
    let mut second = ensure(&two.space, &two.journal, "192.0.2.2", "10.42.2.0/24");
    assert_eq!(first.vtep().mtu, 1450);
    assert_ne!(first.vtep().mac, second.vtep().mac);
    let to_second = [peer("192.0.2.2", "10.42.2.0/24", &second)];
    first.set_peers(&to_second).unwrap();
    second.set_peers(&[peer("192.0.2.1", "10.42.1.0/24", &first)]).unwrap();
    let here = one.pod(&mut world, "here", "10.42.1.2");
    let there = two.pod(&mut world, "there", "10.42.2.2");
    let rules = PodRulesConfig {
        pod_cidrs: vec!["10.42.1.0/24".parse().unwrap()],
        non_masquerade_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        ..Default::default()
    };
    let _rules = one.space.run(|| PodRules::open(rules, &[], &one.journal).unwrap());
    two.space.serve(9000, "host2");

    assert_eq!(here.ask("10.42.2.2:8080").unwrap(), ("there".into(), "10.42.1.2".parse().unwrap()));
    assert_eq!(there.ask("10.42.1.2:8080").unwrap(), ("here".into(), "10.42.2.2".parse().unwrap()));
    assert_eq!(one.space.ask("10.42.2.2:8080").unwrap(), ("there".into(), "10.42.1.0".parse().unwrap()), "host to pod");
    assert_eq!(here.ask("192.0.2.2:9000").unwrap(), ("host2".into(), "192.0.2.1".parse().unwrap()), "pod to other host");

    // A restart takes over the device, its index and what hangs on it.
    let look = || one.space.command("ip -d link show knarr.vxlan; ip route; bridge fdb show dev knarr.vxlan");
    let before = look();
    drop(first);
    let mut first = ensure(&one.space, &one.journal, "192.0.2.1", "10.42.1.0/24");
    assert_eq!(look(), before);
    first.set_peers(&to_second).unwrap();
    assert_eq!(here.ask("10.42.2.2:8080").unwrap().0, "there");
    // The peer got another MAC, then it goes.
    let mut moved = to_second.clone();
    moved[0].vtep_mac[5] ^= 1;
    first.set_peers(&moved).unwrap();
    assert!(look().contains(&overlay::format_mac(moved[0].vtep_mac)));
    assert!(!look().contains(&overlay::format_mac(to_second[0].vtep_mac)));
    first.set_peers(&to_second).unwrap();
    assert_eq!(here.ask("10.42.2.2:8080").unwrap().0, "there");
    first.set_peers(&[]).unwrap();
    assert!(!one.space.command("ip route; ip neigh; bridge fdb show dev knarr.vxlan").contains("10.42.2"));
    let many: Vec<Peer> = (0..300)
        .map(|n| Peer {
            node_ip: format!("192.0.2.{}", 3 + n % 200).parse().unwrap(),
            pod_cidr: format!("10.{}.{}.0/24", 50 + n / 250, n % 250).parse().unwrap(),
            vtep_mac: [2, 0, 0, 0, (n / 250) as u8, (n % 250) as u8],
        })
        .collect();
    first.set_peers(&many).unwrap();
    assert_eq!(one.space.command("ip route show dev knarr.vxlan").lines().count(), 300);
    first.remove().unwrap();
    assert!(!one.space.command("ip link").contains("knarr.vxlan"));
}

#[test]
fn macs_as_text() {
    let mac = [2, 0xab, 0, 0x10, 0xff, 9];
    assert_eq!(overlay::parse_mac(&overlay::format_mac(mac)), Some(mac));
    for wrong in ["", "02:ab:00:10:ff", "02:ab:00:10:ff:09:00", "02:ab:00:10:ff:zz"] {
        assert_eq!(overlay::parse_mac(wrong), None, "{wrong}");
    }
}

#[test]
fn address_changes_are_told() {
    let mut world = World::new();
    let (node, other) = (world.space("node"), world.space("other"));
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (mut watch, first) = runtime.block_on(async { AddressWatch::open() }).unwrap();
        assert_eq!(first, None);
        let mut next = || {
            let change = async { tokio::time::timeout(world::PATIENCE, watch.changed()).await };
            runtime.block_on(change).unwrap().unwrap()
        };
        wire(&node, "192.0.2.1/24", &other, "192.0.2.2/24", "wire0");
        let mut seen = next().unwrap();
        assert_eq!(seen.interface, "wire0");
        while seen.addresses.is_empty() {
            seen = next().unwrap();
        }
        assert_eq!(seen.addresses, ["192.0.2.1/24".parse().unwrap()]);
        // A second interface gets the default route.
        node.command("ip link add name dflt type veth peer name peer0; ip addr add 198.51.100.1/24 dev dflt; ip link set dflt up; ip link set peer0 up; ip route add default via 198.51.100.9");
        while seen.interface != "dflt" {
            seen = next().unwrap();
        }
        assert_eq!(seen.addresses, ["198.51.100.1/24".parse().unwrap()]);
        assert_eq!(addresses().unwrap(), Some(seen));
    });
}
