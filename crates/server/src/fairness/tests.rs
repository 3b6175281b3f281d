//! Levels and schemas in force, with seats that the tests hold.

use std::time::{Duration, Instant};

use api::Object;
use futures_util::FutureExt;
use http::Method;
use serde_json::{Value, json};

use super::{Fairness, Schema, Seat, TooMany, keeper};
use crate::attributes::{Attributes, Classified, classify, path_verb};
use crate::user::User;

fn object(value: Value) -> Object {
    Object::from_value(value).unwrap()
}

fn level(name: &str, limited: Value) -> Object {
    object(json!({"kind": "PriorityLevelConfiguration", "metadata": {"name": name}, "spec": {"type": "Limited", "limited": limited}}))
}

/// A level with two seats of 600 that borrows nothing.
fn narrow(response: Value) -> Object {
    level("narrow", json!({"nominalConcurrencyShares": 1, "borrowingLimitPercent": 0, "limitResponse": response}))
}

fn schema(name: &str, precedence: i64, by: &str, subject: Value) -> Object {
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true});
    object(json!({
        "kind": "FlowSchema", "metadata": {"name": name, "uid": format!("uid-{name}")},
        "spec": {
            "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": "narrow"},
            "distinguisherMethod": {"type": by}, "rules": [{"subjects": [subject], "resourceRules": [all]}],
        },
    }))
}

fn everybody() -> Value {
    json!({"kind": "Group", "group": {"name": "*"}})
}

fn usual(more: impl IntoIterator<Item = Object>, level: Option<Object>) -> Fairness {
    within(Duration::from_secs(240), more, level)
}

/// With requests that may take so long; a quarter of it is what one waits.
fn within(timeout: Duration, more: impl IntoIterator<Item = Object>, level: Option<Object>) -> Fairness {
    let fairness = Fairness::new(600, timeout);
    let mut schemas = keeper::recorded("FlowSchema");
    schemas.extend(more);
    let mut levels = keeper::recorded("PriorityLevelConfiguration");
    levels.extend(level);
    fairness.load(schemas, levels);
    fairness
}

fn asked(method: Method, path: &str) -> Classified {
    let mut classified = classify(&method, path, path.contains("watch=1"));
    if !classified.attributes.is_resource() {
        classified.attributes.verb = path_verb(&method);
    }
    classified
}

fn pods() -> Attributes {
    asked(Method::GET, "/api/v1/namespaces/a/pods").attributes
}

async fn enter(fairness: &Fairness, user: &str, attributes: &Attributes, seats: u32) -> Result<Seat, TooMany> {
    let user = User::new(user, &[]);
    let schema = fairness.classify(&user, attributes, crate::attributes::Verb::List).unwrap();
    fairness.admit(&schema, &user, attributes, |_| seats).await
}

#[test]
fn requests_go_to_the_schemas_of_the_real_server() {
    let fairness = usual([], None);
    let node = || User::node("a");
    let account = |namespace: &str| User::service_account(namespace, "x");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a";
    let cases: Vec<(User, Method, &str, &str)> = vec![
        (User::new("admin", &["system:masters"]), Method::GET, "/api/v1/pods", "exempt exempt"),
        (User::anonymous(), Method::GET, "/livez", "probes exempt"),
        (User::anonymous(), Method::GET, "/livez/etcd", "global-default global-default"),
        (User::anonymous(), Method::GET, "/version", "global-default global-default"),
        (node(), Method::PUT, lease, "system-node-high node-high"),
        (node(), Method::PATCH, "/api/v1/nodes/a/status", "system-node-high node-high"),
        (node(), Method::PATCH, "/api/v1/namespaces/a/pods/b/status", "system-nodes system"),
        (User::new("system:kube-scheduler", &[]), Method::PUT, lease, "system-leader-election leader-election"),
        (User::new("system:kube-scheduler", &[]), Method::DELETE, lease, "kube-scheduler workload-high"),
        (User::new("system:kube-controller-manager", &[]), Method::GET, "/api/v1/pods", "kube-controller-manager workload-high"),
        (account("kube-system"), Method::GET, lease, "system-leader-election leader-election"),
        (account("kube-system"), Method::GET, "/api/v1/pods", "kube-system-service-accounts workload-high"),
        (account("default"), Method::GET, "/api/v1/pods", "service-accounts workload-low"),
        (User::new("bob", &[]), Method::GET, "/api/v1/pods?watch=1", "global-default global-default"),
        (User { name: "nobody".into(), ..User::default() }, Method::GET, "/api/v1/pods", "catch-all catch-all"),
    ];
    for (user, method, path, expected) in cases {
        let Classified { attributes, verb } = asked(method, path);
        let found = fairness.classify(&user, &attributes, verb).unwrap();
        assert_eq!(format!("{} {}", found.name, found.level.name), expected, "{} {path}", user.name);
    }
    let log = asked(Method::GET, "/api/v1/namespaces/a/pods/b/log");
    assert!(fairness.classify(&node(), &log.attributes, log.verb).is_none(), "long-running requests have no seat");
}

#[tokio::test]
async fn a_full_level_without_queues_refuses() {
    let fairness = usual([schema("all", 10, "ByUser", everybody())], Some(narrow(json!({"type": "Reject"}))));
    let nominal = fairness.plan.load().levels["narrow"].view().limits.nominal;
    let mut held = Vec::new();
    for _ in 0..nominal {
        held.push(enter(&fairness, "a", &pods(), 1).await.unwrap());
    }
    assert_eq!(enter(&fairness, "b", &pods(), 1).await.err().unwrap().retry_after, 1);
    let answer = TooMany { retry_after: 1 }.answer();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (429, &"1".parse().unwrap()));
    held.pop();
    assert!(enter(&fairness, "b", &pods(), 1).await.is_ok());
    // Wider than the whole level: only when nothing else runs, but then it does.
    held.clear();
    let wide = enter(&fairness, "b", &pods(), nominal + 5).await.unwrap();
    assert!(enter(&fairness, "b", &pods(), 1).await.is_err());
    drop(wide);
    let view = fairness.plan.load().levels["narrow"].view();
    assert_eq!((view.seats, view.running, view.counts.refused), (0, 0, 2));
}

#[tokio::test]
async fn a_full_level_queues_in_turn_and_gives_up_in_time() {
    let queuing = json!({"type": "Queue", "queuing": {"queues": 64, "handSize": 4, "queueLengthLimit": 20}});
    let fairness = std::sync::Arc::new(usual([schema("all", 10, "ByUser", everybody())], Some(narrow(queuing))));
    let nominal = fairness.plan.load().levels["narrow"].view().limits.nominal;
    let mut held = Vec::new();
    for _ in 0..nominal {
        held.push(enter(&fairness, "heavy", &pods(), 1).await.unwrap());
    }
    // The heavy flow fills its hand of queues; more of it is refused, while another flow still has a place.
    let attributes = pods();
    let mut heavy: Vec<_> = (0..200).map(|_| Box::pin(enter(&fairness, "heavy", &attributes, 1))).collect();
    let mut refused = 0;
    heavy.retain_mut(|one| match one.now_or_never() {
        None => true,
        Some(answer) => {
            refused += usize::from(answer.is_err());
            false
        }
    });
    assert_eq!((refused, heavy.len()), (200 - 4 * 20, 4 * 20));
    let mut light = Box::pin(enter(&fairness, "light", &attributes, 1));
    assert!(light.as_mut().now_or_never().is_none(), "it waits");
    let waiting = fairness.plan.load().levels["narrow"].view();
    assert_eq!(waiting.waiting, 81);
    assert!(fairness.dump("dump_requests").unwrap().lines().count() == 82 && fairness.dump("nothing").is_none());
    // Few seats come free until it is the turn of the light one, though eighty came before.
    let mut turns = 0;
    let seat = loop {
        drop(held.pop().expect("the light flow comes in turn"));
        turns += 1;
        if let Some(seat) = light.as_mut().now_or_never() {
            break seat.unwrap();
        }
        heavy.retain_mut(|one| match one.now_or_never() {
            None => true,
            Some(answer) => {
                held.extend(answer.ok());
                false
            }
        });
        assert!(turns < 12);
    };
    drop(seat);
    drop(heavy);
    assert_eq!(fairness.plan.load().levels["narrow"].view().waiting, 0, "who goes away leaves the queue");
    held.clear();
    while (held.len() as u32) < nominal {
        held.push(enter(&fairness, "heavy", &pods(), 1).await.unwrap());
    }
    // Seats that come free while somebody waits are theirs, and the last of them are given back.
    let waiter = tokio::spawn({
        let fairness = fairness.clone();
        async move { enter(&fairness, "late", &pods(), 1).await.is_ok() }
    });
    tokio::task::yield_now().await;
    held.clear();
    assert!(waiter.await.unwrap());
    let view = fairness.plan.load().levels["narrow"].view();
    assert_eq!((view.seats, view.running, view.waiting, view.counts.timed_out), (0, 0, 0, 0));
    let mut text = String::new();
    fairness.render(&mut text);
    for wanted in [
        "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"all\",priority_level=\"narrow\",reason=\"queue-full\"} 120",
        "apiserver_flowcontrol_current_executing_seats{flow_schema=\"all\",priority_level=\"narrow\"} 0",
        "apiserver_flowcontrol_current_inqueue_requests{flow_schema=\"all\",priority_level=\"narrow\"} 0",
    ] {
        assert!(text.contains(wanted), "{wanted}\n{text}");
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_a_quarter_of_the_time_of_a_request() {
    let queuing = json!({"type": "Queue", "queuing": {"queues": 64, "handSize": 4, "queueLengthLimit": 20}});
    let timeout = Duration::from_millis(400);
    let fairness = within(timeout, [schema("all", 10, "ByUser", everybody())], Some(narrow(queuing)));
    let level = fairness.plan.load().levels["narrow"].clone();
    let mut held = Vec::new();
    for _ in 0..level.view().limits.nominal {
        held.push(enter(&fairness, "heavy", &pods(), 1).await.unwrap());
    }
    let began = Instant::now();
    assert!(enter(&fairness, "late", &pods(), 1).await.is_err());
    assert!(began.elapsed() >= timeout / 4);
    let view = level.view();
    assert_eq!((view.waiting, view.counts.timed_out), (0, 1));
    let mut text = String::new();
    fairness.render(&mut text);
    let wanted = "apiserver_flowcontrol_rejected_requests_total{flow_schema=\"all\",priority_level=\"narrow\",reason=\"time-out\"} 1";
    assert!(text.contains(wanted), "{text}");
}

#[tokio::test]
async fn changes_are_in_force_at_once_and_dangling_schemas_are_not() {
    let subject = json!({"kind": "User", "user": {"name": "bob"}});
    let fairness = usual([schema("bobs", 10, "ByUser", subject)], None);
    let bob = User::new("bob", &[]);
    let found =
        |fairness: &Fairness| -> std::sync::Arc<Schema> { fairness.classify(&bob, &pods(), crate::attributes::Verb::List).unwrap() };
    assert_eq!(found(&fairness).name, "global-default", "its level is not there");
    let mut levels = keeper::recorded("PriorityLevelConfiguration");
    levels.push(narrow(json!({"type": "Reject"})));
    fairness.load(vec![schema("bobs", 10, "ByUser", json!({"kind": "User", "user": {"name": "bob"}}))], levels);
    let held = enter(&fairness, "bob", &pods(), 1).await.unwrap();
    let before = found(&fairness);
    assert_eq!((before.name.as_str(), &before.uid), ("bobs", &"uid-bobs".parse::<http::HeaderValue>().unwrap()));
    // Nothing is stored: what every server has is in force all the same, and who runs goes on.
    fairness.load(Vec::new(), Vec::new());
    assert_eq!(found(&fairness).name, "catch-all");
    assert!(before.level.view().quiescing && before.level.view().running == 1);
    drop(held);
    assert_eq!(before.level.view().running, 0);
}

/// What a request pays when nothing is full. Code that is not optimized is many times slower.
#[tokio::test]
async fn it_costs_next_to_nothing_when_nothing_is_full() {
    let fairness = usual([], None);
    let user = User::service_account("default", "x");
    let attributes = pods();
    let rounds = 20_000;
    let began = Instant::now();
    for _ in 0..rounds {
        let schema = fairness.classify(&user, &attributes, crate::attributes::Verb::Get).unwrap();
        drop(fairness.admit(&schema, &user, &attributes, |_| 1).await);
    }
    let each = began.elapsed().as_nanos() / rounds;
    eprintln!("{each} ns a request");
    assert!(each < if cfg!(debug_assertions) { 100_000 } else { 2_000 }, "{each} ns");
}
