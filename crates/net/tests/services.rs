//! Services through the real kernel: who answers, whom the answerer sees, what is refused, how fast.

mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use net::{Dataplane, DataplaneConfig, Endpoint, HostPort, LoopbackAddress, PodRules, PodRulesConfig, Protocol, ServicePort, TableWatch};
use world::{Node, Space, World, wire};

const CLIENT: &str = "192.0.2.9";

/// A node with two pods on it, one endpoint elsewhere (behind the wire), and an outside client.
struct Scene {
    world: World,
    node: Node,
    one: Space,
    two: Space,
    outside: Space,
}

impl Scene {
    fn new() -> Self {
        let mut world = World::new();
        let node = Node::new(&mut world, "node");
        let outside = world.space("outside");
        wire(&node.space, "192.0.2.1/24", &outside, &format!("{CLIENT}/24"), "wire0");
        let one = node.pod(&mut world, "one", "10.42.0.2");
        let two = node.pod(&mut world, "two", "10.42.0.3");
        Self { world, node, one, two, outside }
    }

    fn open(&self, services: &[ServicePort]) -> Dataplane {
        self.node.space.run(|| Dataplane::open(config(), &by_key(services), &self.node.journal).unwrap())
    }

    fn listing(&self) -> String {
        self.node.space.command("nft list ruleset")
    }
}

fn config() -> DataplaneConfig {
    DataplaneConfig {
        cluster_cidrs: vec!["10.42.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.43.0.0/16".parse().unwrap()],
        node_ips: vec!["192.0.2.1".parse().unwrap()],
        ..Default::default()
    }
}

fn by_key(services: &[ServicePort]) -> BTreeMap<String, ServicePort> {
    services.iter().map(|service| (service.key.clone(), service.clone())).collect()
}

fn ends(addresses: &[&str]) -> Vec<Endpoint> {
    let local = |ip: &std::net::IpAddr| ip.to_string().starts_with("10.42.0.");
    let parsed = addresses.iter().map(|address| address.parse().unwrap());
    parsed.map(|ip| Endpoint { ip, port: 8080, local: local(&ip), only_local: false }).collect()
}

fn service(protocol: Protocol, address: &str, endpoints: &[&str]) -> ServicePort {
    ServicePort {
        key: format!("default/{address}:{protocol:?}"),
        protocol,
        port: 80,
        cluster_ips: vec![address.parse().unwrap()],
        external_ips: vec![],
        load_balancer_ips: vec![],
        node_port: None,
        affinity: None,
        internal_local: false,
        external_local: false,
        source_ranges: vec![],
        endpoints: ends(endpoints),
    }
}

/// Who answers when asked often.
fn answerers(client: &Space, to: &str) -> BTreeSet<String> {
    (0..40).map(|_| client.ask(to).unwrap().0).collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn cluster_addresses() {
    let scene = Scene::new();
    let both = ["10.42.0.2", "10.42.0.3"];
    let _dataplane = scene.open(&[
        service(Protocol::Tcp, "10.43.0.10", &both),
        service(Protocol::Udp, "10.43.0.10", &both),
        service(Protocol::Tcp, "10.43.0.11", &["10.42.0.2"]),
        service(Protocol::Tcp, "10.43.0.12", &["10.42.0.3"]),
    ]);
    println!("{}", scene.listing());

    assert_eq!(answerers(&scene.one, "10.43.0.10:80"), names(&["one", "two"]), "from a pod, itself included");
    assert_eq!(answerers(&scene.node.space, "10.43.0.10:80"), names(&["one", "two"]), "from the host");
    assert_eq!(scene.one.ask("10.43.0.12:80").unwrap(), ("two".into(), "10.42.0.2".parse().unwrap()));
    assert_eq!(scene.one.ask("10.43.0.11:80").unwrap().0, "one", "hairpin");
    let by_udp: BTreeSet<_> = (0..40).map(|_| scene.two.ask_udp(&scene.two.udp(world::PATIENCE), "10.43.0.10:80").unwrap().0).collect();
    assert_eq!(by_udp, names(&["one", "two"]));
    let from_host = scene.node.space.udp(world::PATIENCE);
    scene.node.space.ask_udp(&from_host, "10.43.0.10:80").unwrap();
    for (client, address) in [(&scene.one, "10.43.0.99:80"), (&scene.node.space, "10.43.0.99:80")] {
        assert_eq!(client.ask(address).unwrap_err().kind(), ErrorKind::ConnectionRefused, "unused service address");
    }
}

#[test]
fn services_come_change_and_go() {
    let scene = Scene::new();
    let mut dataplane = scene.open(&[]);
    let mut set = |services: &[ServicePort]| scene.node.space.run(|| dataplane.apply(&by_key(services)).unwrap());
    let refused = |client: &Space| client.ask("10.43.0.10:80").unwrap_err().kind() == ErrorKind::ConnectionRefused;

    assert!(refused(&scene.one));
    set(&[service(Protocol::Tcp, "10.43.0.10", &[])]);
    assert!(refused(&scene.one) && refused(&scene.node.space), "no endpoints");
    set(&[service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2"])]);
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap().0, "one");
    set(&[service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2", "10.42.0.3"])]);
    assert_eq!(answerers(&scene.two, "10.43.0.10:80"), names(&["one", "two"]));
    set(&[service(Protocol::Tcp, "10.43.0.10", &["10.42.0.3"])]);
    assert_eq!(answerers(&scene.two, "10.43.0.10:80"), names(&["two"]));
    // Another service takes the address over in the same step.
    let mut other = service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2"]);
    other.key = "default/other:".into();
    set(&[other.clone()]);
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap().0, "one");
    // Two want it: the first by key has it until it goes.
    let mut second = service(Protocol::Tcp, "10.43.0.10", &["10.42.0.3"]);
    second.key = "default/pother:".into();
    set(&[other, second.clone()]);
    assert_eq!(answerers(&scene.two, "10.43.0.10:80"), names(&["one"]));
    set(&[second]);
    assert_eq!(answerers(&scene.two, "10.43.0.10:80"), names(&["two"]));
    let applied = set(&[]);
    assert_eq!(applied.services, 1);
    assert!(refused(&scene.one));
}

#[test]
fn node_ports_and_external_addresses() {
    let scene = Scene::new();
    let mut spread = service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2", "10.42.0.3"]);
    spread.node_port = Some(30080);
    spread.external_ips = vec!["198.51.100.7".parse().unwrap()];
    let mut guarded = service(Protocol::Tcp, "10.43.0.11", &["10.42.0.2"]);
    guarded.load_balancer_ips = vec!["198.51.100.8".parse().unwrap()];
    guarded.source_ranges = vec!["192.0.2.8/29".parse().unwrap(), "203.0.113.5/32".parse().unwrap()];
    let mut closed = service(Protocol::Tcp, "10.43.0.12", &["10.42.0.2"]);
    closed.load_balancer_ips = vec!["198.51.100.9".parse().unwrap()];
    closed.source_ranges = vec!["203.0.113.5/32".parse().unwrap()];
    let mut empty = service(Protocol::Tcp, "10.43.0.13", &[]);
    empty.node_port = Some(30081);
    let _dataplane = scene.open(&[spread, guarded, closed, empty]);
    println!("{}", scene.listing());
    scene.outside.command("ip route add 198.51.100.0/24 via 192.0.2.1; ip route add 10.43.0.0/16 via 192.0.2.1");

    assert_eq!(answerers(&scene.outside, "192.0.2.1:30080"), names(&["one", "two"]));
    assert_ne!(scene.outside.ask("192.0.2.1:30080").unwrap().1.to_string(), CLIENT, "masqueraded");
    assert_eq!(answerers(&scene.one, "192.0.2.1:30080"), names(&["one", "two"]), "from a pod");
    assert_eq!(answerers(&scene.node.space, "192.0.2.1:30080"), names(&["one", "two"]), "from the host");
    assert_eq!(answerers(&scene.node.space, "127.0.0.1:30080"), names(&["one", "two"]), "from the host by loopback");
    assert_eq!(answerers(&scene.outside, "198.51.100.7:80"), names(&["one", "two"]));
    assert_eq!(answerers(&scene.outside, "10.43.0.10:80"), names(&["one", "two"]), "a cluster address from outside");
    assert_eq!(scene.outside.ask("198.51.100.8:80").unwrap().0, "one", "a client in range");
    let quick = Duration::from_millis(300);
    let closed = scene
        .outside
        .run(|| std::net::TcpStream::connect_timeout(&"198.51.100.9:80".parse().unwrap(), quick).map(drop).map_err(|e| e.kind()));
    assert_eq!(closed, Err(ErrorKind::TimedOut), "a client out of range");
    for client in [&scene.outside, &scene.node.space, &scene.one] {
        assert_eq!(client.ask("192.0.2.1:30081").unwrap_err().kind(), ErrorKind::ConnectionRefused, "no endpoints");
    }
}

#[test]
fn local_policies() {
    let scene = Scene::new();
    let mut here = service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2", "192.0.2.9"]);
    here.node_port = Some(30080);
    here.external_local = true;
    let mut inside = service(Protocol::Tcp, "10.43.0.11", &["10.42.0.3", "192.0.2.9"]);
    inside.internal_local = true;
    let mut elsewhere = service(Protocol::Tcp, "10.43.0.12", &["192.0.2.9"]);
    elsewhere.internal_local = true;
    elsewhere.external_local = true;
    elsewhere.node_port = Some(30082);
    let _dataplane = scene.open(&[here, inside, elsewhere]);
    scene.outside.serve(8080, "far");
    scene.outside.command("ip route add 10.42.0.0/16 via 192.0.2.1");

    for _ in 0..10 {
        let (name, client) = scene.outside.ask("192.0.2.1:30080").unwrap();
        assert_eq!((name.as_str(), client.to_string().as_str()), ("one", CLIENT), "local only, address kept");
    }
    assert_eq!(answerers(&scene.two, "192.0.2.1:30080"), names(&["one", "far"]), "clients in the cluster get all");
    assert_eq!(answerers(&scene.node.space, "192.0.2.1:30080"), names(&["one", "far"]));
    assert_eq!(answerers(&scene.one, "10.43.0.11:80"), names(&["two"]));
    assert_eq!(answerers(&scene.one, "10.43.0.10:80"), names(&["one", "far"]));
    let quick = Duration::from_millis(300);
    for (client, to) in [(&scene.one, "10.43.0.12:80"), (&scene.outside, "192.0.2.1:30082")] {
        let result = client.run(|| std::net::TcpStream::connect_timeout(&to.parse().unwrap(), quick).map(drop).map_err(|e| e.kind()));
        assert_eq!(result, Err(ErrorKind::TimedOut), "dropped: nothing here, something elsewhere");
    }
}

#[test]
fn affinity() {
    let scene = Scene::new();
    let both = ["10.42.0.2", "10.42.0.3"];
    let mut sticky = service(Protocol::Tcp, "10.43.0.10", &both);
    sticky.affinity = Some(Duration::from_secs(10800));
    sticky.node_port = Some(30080);
    let mut brief = service(Protocol::Tcp, "10.43.0.11", &both);
    brief.affinity = Some(Duration::from_secs(1));
    let mut dataplane = scene.open(&[sticky.clone(), brief]);
    println!("{}", scene.listing());

    for (client, to) in [(&scene.one, "10.43.0.10:80"), (&scene.outside, "192.0.2.1:30080")] {
        assert_eq!(answerers(client, to).len(), 1, "one answerer each");
    }
    let kept = scene.one.ask("10.43.0.10:80").unwrap().0;
    let (gone, left) = if kept == "one" { (0, "two") } else { (1, "one") };
    sticky.endpoints.remove(gone);
    scene.node.space.run(|| dataplane.apply_changes(vec![(sticky.key.clone(), Some(sticky.clone()))]).unwrap());
    assert_eq!(answerers(&scene.one, "10.43.0.10:80"), names(&[left]), "the remembered endpoint is gone");
    sticky.endpoints = ends(&both);
    scene.node.space.run(|| dataplane.apply_changes(vec![(sticky.key.clone(), Some(sticky))]).unwrap());
    assert_eq!(answerers(&scene.one, "10.43.0.10:80"), names(&[left]), "the new one is remembered");

    let start = Instant::now();
    let mut seen = BTreeSet::new();
    while seen.len() < 2 && start.elapsed() < Duration::from_secs(120) {
        seen.insert(scene.one.ask("10.43.0.11:80").unwrap().0);
        // The clock is what is tested here.
        std::thread::sleep(Duration::from_millis(1200));
    }
    assert_eq!(seen.len(), 2, "an expired memory is one no more");
}

#[test]
fn stale_udp_flows_are_cut() {
    let scene = Scene::new();
    let udp = |ends: &[&str]| by_key(&[service(Protocol::Udp, "10.43.0.10", ends)]);
    let mut dataplane = scene.open(&[service(Protocol::Udp, "10.43.0.10", &["10.42.0.2"])]);
    let socket = scene.two.udp(world::PATIENCE);
    assert_eq!(scene.two.ask_udp(&socket, "10.43.0.10:80").unwrap().0, "one");
    let applied = scene.node.space.run(|| dataplane.apply(&udp(&["10.42.0.3"])).unwrap());
    assert_eq!(applied.flows, 1);
    assert_eq!(scene.two.ask_udp(&socket, "10.43.0.10:80").unwrap().0, "two", "the same socket goes elsewhere");
    let applied = scene.node.space.run(|| dataplane.apply(&udp(&["10.42.0.2", "10.42.0.3"])).unwrap());
    assert_eq!(applied.flows, 0, "nobody lost an endpoint");
    scene.node.space.run(|| dataplane.apply(&udp(&[])).unwrap());
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(scene.two.ask_udp(&socket, "10.43.0.10:80").is_err());
}

#[test]
fn host_ports_and_leaving_the_cluster() {
    let scene = Scene::new();
    let config = PodRulesConfig {
        pod_cidrs: vec!["10.42.0.0/24".parse().unwrap()],
        non_masquerade_cidrs: vec!["10.42.0.0/16".parse().unwrap(), "10.43.0.0/16".parse().unwrap()],
        ..Default::default()
    };
    let port = |host_ip: Option<&str>, host_port, pod_ip: &str| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        protocol: Protocol::Tcp,
        host_port,
        pod_ip: pod_ip.parse().unwrap(),
        pod_port: 8080,
    };
    let ports = [port(None, 7001, "10.42.0.2"), port(Some("192.0.2.1"), 7002, "10.42.0.3"), port(Some("127.0.0.1"), 7002, "10.42.0.2")];
    let mut rules = scene.node.space.run(|| PodRules::open(config, &ports, &scene.node.journal).unwrap());
    println!("{}", scene.listing());
    scene.outside.serve(9000, "far");

    assert_eq!(scene.outside.ask("192.0.2.1:7001").unwrap(), ("one".into(), CLIENT.parse().unwrap()));
    assert_eq!(scene.outside.ask("192.0.2.1:7002").unwrap().0, "two");
    assert_eq!(scene.node.space.ask("127.0.0.1:7002").unwrap().0, "one", "another pod on another address");
    assert_eq!(scene.node.space.ask("127.0.0.1:7001").unwrap().0, "one");
    assert_eq!(scene.one.ask("192.0.2.1:7001").unwrap().0, "one", "hairpin");
    assert_eq!(scene.one.ask("192.0.2.9:9000").unwrap(), ("far".into(), "192.0.2.1".parse().unwrap()), "masqueraded");
    assert_eq!(scene.one.ask("10.42.0.3:8080").unwrap().1.to_string(), "10.42.0.2", "not masqueraded");
    let applied = scene.node.space.run(|| rules.set_host_ports(&ports[1..]).unwrap());
    assert_eq!(applied.elements, 1);
    assert_eq!(scene.outside.ask("192.0.2.1:7001").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    scene.node.space.run(|| rules.remove().unwrap());
    assert_eq!(scene.listing(), "");
}

#[test]
fn nothing_of_others_is_touched_and_nothing_of_ours_stays() {
    let scene = Scene::new();
    let node = &scene.node.space;
    node.command(
        "nft 'add table inet other; add chain inet other c { type filter hook forward priority 0; policy accept; }; \
         add rule inet other c counter; add table ip knarr; add table inet knarr'",
    );
    let others = node.command("nft list table inet other; nft list table ip knarr");
    let routes = node.command("ip route");
    let mut dataplane = scene.open(&[service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2"])]);
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap().0, "one");

    // Somebody removes all rules: the next change brings ours back.
    node.command("nft delete table inet knarr");
    let mut services = vec![service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2"]), service(Protocol::Tcp, "10.43.0.11", &["10.42.0.3"])];
    node.run(|| dataplane.apply(&by_key(&services)).unwrap());
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap().0, "one");
    assert_eq!(scene.one.ask("10.43.0.11:80").unwrap().0, "two");

    // A restart takes over without a gap and with other services.
    services.remove(0);
    drop(dataplane);
    let dataplane = scene.open(&services);
    assert_eq!(scene.one.ask("10.43.0.11:80").unwrap().0, "two");
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap_err().kind(), ErrorKind::ConnectionRefused);

    node.run(|| dataplane.remove().unwrap());
    let counters = |text: String| text.lines().filter(|line| !line.contains("counter")).collect::<Vec<_>>().join("\n");
    assert_eq!(counters(scene.listing()), counters(others));
    assert_eq!(node.command("ip route"), routes);
}

#[test]
fn the_node_answers_on_its_own_service_address() {
    let scene = Scene::new();
    let node = &scene.node.space;
    let before = node.command("ip -4 -o addr");
    let dns = "10.43.0.53".parse().unwrap();
    let own = node.run(|| LoopbackAddress::ensure(dns, &scene.node.journal).unwrap());
    node.run(|| LoopbackAddress::ensure(dns, &scene.node.journal).unwrap());
    let config = DataplaneConfig { own_addresses: vec![dns], ..config() };
    let services = by_key(&[service(Protocol::Tcp, "10.43.0.53", &["10.42.0.2"])]);
    let _dataplane = node.run(|| Dataplane::open(config, &services, &scene.node.journal).unwrap());
    node.serve(80, "node");

    assert_eq!(scene.one.ask("10.43.0.53:80").unwrap(), ("node".into(), "10.42.0.2".parse().unwrap()));
    assert_eq!(node.ask("10.43.0.53:80").unwrap().0, "node");
    assert_eq!(node.ask("10.42.0.2:8080").unwrap().1.to_string(), "192.0.2.1", "it is no source address");
    assert_eq!(scene.one.ask("10.43.0.53:81").unwrap_err().kind(), ErrorKind::ConnectionRefused);
    node.run(|| own.remove().unwrap());
    assert_eq!(node.command("ip -4 -o addr"), before);
}

#[test]
fn changes_and_restarts_leave_no_gap() {
    let scene = Scene::new();
    let with = |ends: &[&str]| by_key(&[service(Protocol::Tcp, "10.43.0.10", ends)]);
    let ends: [&[&str]; 3] = [&["10.42.0.2"], &["10.42.0.3", "10.42.0.2"], &["10.42.0.3"]];
    let mut dataplane = scene.open(&[service(Protocol::Tcp, "10.43.0.10", ends[0])]);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                scene.one.ask("10.43.0.10:80").unwrap_or_else(|error| panic!("after {asked}: {error}"));
                asked += 1;
            }
            asked
        });
        for round in 0..300 {
            scene.node.space.run(|| match round % 30 {
                29 => dataplane = Dataplane::open(config(), &with(ends[round % 3]), &scene.node.journal).unwrap(),
                _ => drop(dataplane.apply(&with(ends[round % 3])).unwrap()),
            });
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        println!("asked {} times", client.join().unwrap());
    });
}

#[test]
fn a_removed_table_is_noticed() {
    let scene = Scene::new();
    let node = &scene.node.space;
    let mut dataplane = scene.open(&[service(Protocol::Tcp, "10.43.0.10", &["10.42.0.2"])]);
    node.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut watch = runtime.block_on(async { TableWatch::open(Dataplane::TABLE) }).unwrap();
        // Our own changes are no loss.
        dataplane.restore().unwrap();
        let lost = runtime.block_on(async { tokio::time::timeout(Duration::from_millis(100), watch.lost()).await });
        assert!(lost.is_err());
        node.command("nft add table inet other; nft flush ruleset");
        runtime.block_on(async { tokio::time::timeout(world::PATIENCE, watch.lost()).await }).unwrap().unwrap();
        dataplane.restore().unwrap();
    });
    assert_eq!(scene.two.ask("10.43.0.10:80").unwrap().0, "one");
}

#[test]
fn both_families() {
    let scene = Scene::new();
    let node = &scene.node.space;
    node.run(|| scene.node.pods.enable_v6(&scene.node.journal).unwrap());
    node.command("ip -6 addr add fd00:1::1/64 dev wire0 nodad");
    let mut world = World::new();
    let space = world.space("dual");
    let addresses: Vec<_> = ["10.42.0.9", "fd00:42::9"].iter().map(|a| a.parse().unwrap()).collect();
    scene.node.pods.attach(space.netns(), &net::PodAttachment { uid: "dual".into(), addresses }).unwrap();
    space.serve(8080, "dual");
    let mut dual = service(Protocol::Tcp, "10.43.0.10", &["10.42.0.9", "fd00:42::9"]);
    dual.cluster_ips.push("fd00:43::10".parse().unwrap());
    dual.node_port = Some(30080);
    dual.affinity = Some(Duration::from_secs(100));
    for end in &mut dual.endpoints {
        end.local = true;
    }
    let mut empty = service(Protocol::Tcp, "10.43.0.11", &["10.42.0.9"]);
    empty.cluster_ips.push("fd00:43::11".parse().unwrap());
    let mut config = config();
    config.cluster_cidrs.push("fd00:42::/64".parse().unwrap());
    config.service_cidrs.push("fd00:43::/112".parse().unwrap());
    config.node_ips.push("fd00:1::1".parse().unwrap());
    let _dataplane = node.run(|| Dataplane::open(config, &by_key(&[dual, empty]), &scene.node.journal).unwrap());
    println!("{}", scene.listing());

    for to in ["10.43.0.10:80", "[fd00:43::10]:80", "[fd00:1::1]:30080", "192.0.2.1:30080"] {
        for (client, name) in [(&space, "itself"), (node, "the host")] {
            assert_eq!(client.ask(to).unwrap_or_else(|e| panic!("{name} {to}: {e}")).0, "dual");
        }
    }
    assert_eq!(node.ask("[fd00:43::11]:80").unwrap_err().kind(), ErrorKind::ConnectionRefused, "no endpoint of the family");
    // The kernel takes v6 routes through the loopback interface for refusals.
    assert_eq!(space.ask("[fd00:43::99]:80").unwrap_err().kind(), ErrorKind::NetworkUnreachable, "unused");
    let _ = &world;
}

/// Time of a processor that this thread has used.
fn own_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn many_services_are_quick() {
    let scene = Scene::new();
    let node = &scene.node.space;
    let address = |n: u32| format!("10.43.{}.{}", 1 + n / 250, 1 + n % 250);
    let end = |n: u32| format!("10.42.{}.{}", 1 + n / 250, 1 + n % 250);
    let make = |n: u32, count: u32| {
        let ends: Vec<_> = (0..count).map(|e| end(n * 3 + e)).collect();
        service(Protocol::Tcp, &address(n), &ends.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let mut services = by_key(&(0..5000).map(|n| make(n, 1 + n % 5)).collect::<Vec<_>>());
    let start = Instant::now();
    let mut dataplane = node.run(|| Dataplane::open(config(), &services, &scene.node.journal).unwrap());
    println!("5,000 services made in {:?}", start.elapsed());
    let mut times: Vec<_> = (0..50)
        .map(|n| {
            let changed = make(n * 97, 1 + (n + 1) % 7);
            let change = vec![(changed.key.clone(), Some(changed.clone()))];
            // The kernel does its part in the call, on the same account; time on the clock would measure the neighbours, too.
            let time = node.run(|| {
                let before = own_time();
                dataplane.apply_changes(change).unwrap();
                own_time() - before
            });
            services.insert(changed.key.clone(), changed);
            time
        })
        .collect();
    times.sort();
    println!("one service changed: median {:?} of a processor, longest {:?}", times[25], times[49]);
    let start = Instant::now();
    let applied = node.run(|| dataplane.apply(&services).unwrap());
    println!("nothing changed: {:?}", start.elapsed());
    assert_eq!(applied, net::Applied::default());
    let mut real = service(Protocol::Tcp, &address(7), &["10.42.0.2"]);
    real.endpoints = ends(&["10.42.0.2"]);
    services.insert(real.key.clone(), real);
    let start = Instant::now();
    node.run(|| dataplane.apply(&services).unwrap());
    println!("one of all changed: {:?}", start.elapsed());
    assert_eq!(scene.two.ask(&format!("{}:80", address(7))).unwrap().0, "one");
    assert!(times[25] < Duration::from_millis(10), "an endpoint change takes {:?} of a processor", times[25]);
    let _ = &scene.world;
}
