//! Preemption: who must go, where, and what is said when nobody can.

mod world;

use api::label_selector::LabelSelector;
use scheduler::follow::Kind;
use scheduler::preempt::Budget;
use world::World;

fn world(lines: &str) -> World {
    let mut world = World::new();
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| world.line(line));
    world
}

fn check(lines: &str, expected: &str) {
    assert_eq!(world(lines).decide(), expected.trim(), "\n{lines}");
}

const CPU: &str = "0/1 nodes are available: 1 Insufficient cpu.";

#[test]
fn the_least_important_go() {
    check("node a cpu=1\npod low cpu=1 on=a priority=1\npod p cpu=1 priority=2", &format!("p: {CPU} a ! low"));
    check(
        "node a cpu=1\npod same cpu=1 on=a priority=2\npod p cpu=1 priority=2",
        &format!("p: {CPU} preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."),
    );
    check(
        "node a cpu=1\npod low cpu=1 on=a\npod p cpu=1 priority=2 {\"preemptionPolicy\": \"Never\"}",
        &format!("p: {CPU} preemption: not eligible due to preemptionPolicy=Never."),
    );
    // No more than needed, and the more important ones stay.
    check("node a cpu=2\npod x cpu=1 on=a priority=1\npod y cpu=1 on=a\npod p cpu=1 priority=2", &format!("p: {CPU} a ! y"));
    // Among equals those go that started last.
    check(
        "node a cpu=2\npod x cpu=1 on=a start=2026-01-01T00:00:00Z\npod y cpu=1 on=a start=2026-01-02T00:00:00Z\npod p cpu=1 priority=2",
        &format!("p: {CPU} a ! y"),
    );
    // Ports, affinity and spread are freed as well as amounts.
    check(
        "node a\npod low port=80 on=a\npod p port=80 priority=1",
        "p: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. a ! low",
    );
    check(
        "node a\npod low on=a apart=app:web\npod p app=web priority=1",
        "p: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. a ! low",
    );
    // What remains refused is said.
    check(
        "node a cpu=1\npod high cpu=600m on=a priority=9\npod low cpu=100m on=a\npod p cpu=500m priority=2",
        &format!("p: {CPU} preemption: 0/1 nodes are available: 1 Insufficient cpu."),
    );
}

#[test]
fn the_cheapest_node_is_cleared() {
    let two = "0/2 nodes are available: 2 Insufficient cpu.";
    // Least important victims.
    check(
        "node a cpu=1\nnode b cpu=1\npod x cpu=1 on=a priority=3\npod y cpu=1 on=b priority=1\npod p cpu=1 priority=5",
        &format!("p: {two} b ! y"),
    );
    // Fewest victims.
    check(
        "node a cpu=1\nnode b cpu=1\npod x cpu=500m on=a\npod y cpu=500m on=a\npod z cpu=1 on=b\npod p cpu=1 priority=5",
        &format!("p: {two} b ! z"),
    );
    // Budgets before all.
    let mut world =
        world("node a cpu=1\nnode b cpu=1\npod x cpu=1 on=a priority=1 app=kept\npod y cpu=1 on=b priority=2\npod p cpu=1 priority=5");
    let selector = LabelSelector::parse("app=kept").unwrap();
    world.budgets.push(Budget { namespace: "ns".into(), selector, allowed: 0, disrupted: Default::default() });
    assert_eq!(world.decide(), format!("p: {two} b ! y"));
}

#[test]
fn room_is_kept_for_whom_it_was_made() {
    let mut world = world("node a cpu=1\npod low cpu=1 on=a\npod p cpu=1 priority=2");
    assert_eq!(world.decide(), format!("p: {CPU} a ! low"));
    world.delete(Kind::Pod, "ns/low");
    // A less important pod does not get the room, although it comes first.
    world.line("pod q cpu=1");
    let decided = world.decide();
    assert!(decided.contains("p -> a") && decided.contains("q: 0/1 nodes are available: 1 Insufficient cpu."), "{decided}");
}

#[test]
fn nobody_goes_twice() {
    let mut world = world("node a cpu=1\npod low cpu=1 on=a\npod p cpu=1 priority=2");
    assert_eq!(world.decide(), format!("p: {CPU} a ! low"));
    // The victim is asked to go; something else makes the pod due.
    world.line("node b cordoned");
    let waits = "preemption: not eligible due to a terminating pod on the nominated node.";
    assert!(world.decide().ends_with(waits));
    // It is going but not gone.
    let mut low = world::pod("low", &["cpu=1", "on=a", "going"], serde_json::Value::Null);
    low["status"]["conditions"] = serde_json::json!([{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]);
    world.put(Kind::Pod, &low);
    world.line("node c cordoned");
    let decided = world.decide();
    assert!(decided.ends_with(waits), "{decided}");
    // It could not be made to go, so that another try is due.
    world.picture.spared("low");
    assert!(world.decide().ends_with("a ! low"));
}
