//! When pods are due: order, back-off, and what wakes those that were refused.

mod world;

use std::time::{Duration, Instant};

use scheduler::follow::Kind;
use scheduler::plugin::Happenings;
use world::World;

#[test]
fn important_pods_first_then_old_ones() {
    let mut world = World::new();
    ["node a cpu=100", "pod x", "pod y priority=5", "pod z", "pod w priority=5"].iter().for_each(|line| world.line(line));
    assert_eq!(world.decide(), "y -> a\nw -> a\nx -> a\nz -> a");
}

#[test]
fn refused_pods_wait_for_what_may_help() {
    let mut world = World::new();
    ["node a cpu=1", "pod full cpu=1 on=a", "pod p cpu=1"].iter().for_each(|line| world.line(line));
    assert!(world.decide().starts_with("p: "));
    // A cordon lifts no lack of CPU, nor does a label.
    for line in ["node a cpu=1 cordoned", "node a cpu=1 x=y", "pod q cpu=1 on=a priority=3"] {
        world.line(line);
        assert_eq!(world.decide(), "", "{line}");
    }
    world.delete(Kind::Pod, "ns/q");
    assert!(world.decide().starts_with("p: "));
    // What happens to finished pods is no news twice.
    world.line("pod full cpu=1 on=a phase=Succeeded");
    assert_eq!(world.decide(), "p -> a");
    assert_eq!(world.picture.queue.depth(), [0, 0, 0]);
}

#[test]
fn a_new_spec_is_tried_at_once() {
    let mut world = World::new();
    ["node a cpu=1 disk=ssd", "pod p select=disk:hdd"].iter().for_each(|line| world.line(line));
    assert!(world.decide().starts_with("p: "));
    let mut open = world::pod("p", &["select=disk:ssd"], serde_json::Value::Null);
    open["metadata"]["generation"] = 2.into();
    world.put(Kind::Pod, &open);
    assert_eq!(world.decide(), "p -> a");
    // A gate that is lifted makes a pod due as well.
    world.line("pod g gated");
    assert_eq!(world.decide(), "");
    let mut open = world::pod("g", &[], serde_json::Value::Null);
    open["metadata"]["generation"] = 2.into();
    world.put(Kind::Pod, &open);
    assert_eq!(world.decide(), "g -> a");
}

#[test]
fn failed_bindings_back_off() {
    let mut world = World::new();
    ["node a cpu=1", "pod p cpu=1"].iter().for_each(|line| world.line(line));
    let mut now = Instant::now();
    for seconds in [1, 2, 4, 8, 10, 10] {
        let pod = world.picture.next(now).expect("it is due");
        assert_eq!(world.decide_one(pod), "p -> a");
        world.picture.take_back(pod);
        let wait = world.picture.queue.wake_at().expect("it waits") - now;
        assert_eq!(wait, Duration::from_secs(seconds));
        assert!(world.picture.next(now + wait / 2).is_none());
        now += wait;
    }
    assert_eq!(world.picture.queue.depth(), [0, 1, 0]);
    assert!(!Happenings::NONE.meets(Happenings::NODE_ADDED));
}
