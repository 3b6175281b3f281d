//! Findings about hosts with and without obstacles.

mod world;

use net::check::{Finding, Severity, check_network};
use world::{Space, World};

fn look(space: &Space) -> Vec<Finding> {
    space.run(|| check_network(&["10.42.0.0/16".parse().unwrap()], &["10.43.0.0/16".parse().unwrap()]))
}

fn bad(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.severity != Severity::Fine).collect()
}

#[test]
fn a_clean_host_is_fine() {
    let mut world = World::new();
    let space = world.space("host");
    let before = space.command("ip link; nft list ruleset");
    let findings = look(&space);
    assert!(bad(&findings).is_empty(), "{findings:#?}");
    assert_eq!(space.command("ip link; nft list ruleset"), before);
}

#[test]
fn obstacles_are_named_with_a_mend() {
    for (obstacle, name, words) in [
        (
            "nft 'add table inet fw; add chain inet fw forward { type filter hook forward priority 0; policy drop; }'",
            "net/foreign-drop",
            "nft insert rule inet fw forward ip saddr 10.42.0.0/16 accept",
        ),
        ("iptables-nft -P INPUT DROP", "net/foreign-drop", "iptables -I INPUT -s 10.42.0.0/16 -j ACCEPT"),
        ("iptables-nft -P FORWARD DROP", "net/foreign-drop", "iptables -I FORWARD -s 10.42.0.0/16 -j ACCEPT"),
        ("iptables-legacy -P FORWARD DROP", "net/foreign-drop", "iptables -I FORWARD -d 10.42.0.0/16 -j ACCEPT"),
        ("ip link add d0 type veth peer name d1; ip addr add 10.42.7.1/24 dev d0", "net/address-clash", "--cluster-cidr"),
        (
            "ip link set lo up; ip link add d0 type veth peer name d1; ip link set d0 up; ip route add 10.0.0.0/8 dev d0",
            "net/address-clash",
            "--service-cidr",
        ),
    ] {
        let mut world = World::new();
        let space = world.space("host");
        space.command(obstacle);
        let findings = look(&space);
        let found = bad(&findings);
        assert!(found.iter().any(|f| f.name == name && f.mend.contains(words)), "{obstacle}: {findings:#?}");
        if let Some(mend) = found.iter().find(|f| f.mend.starts_with("nft insert")) {
            space.command(&mend.mend.split("; ").map(|line| format!("nft '{}'", &line[4..])).collect::<Vec<_>>().join("; "));
        }
    }
}
