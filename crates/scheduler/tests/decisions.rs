//! Decisions and their reasons: nodes and pods as text, outcomes as text.

mod world;

use world::World;

/// Reads the lines of a world and compares all decisions.
fn check(lines: &str, expected: &str) {
    let mut world = World::new();
    lines.lines().map(str::trim).filter(|line| !line.is_empty()).for_each(|line| world.line(line));
    assert_eq!(world.decide(), expected.trim(), "\n{lines}");
}

#[test]
fn resources() {
    check("node a cpu=1\npod p cpu=500m", "p -> a");
    check("pod p cpu=1", "p: no nodes available to schedule pods");
    check(
        "node a cpu=1\nnode b cpu=2 memory=1Gi\npod p cpu=1500m memory=2Gi",
        "p: 0/2 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    check(
        "node a cpu=1 pods=1\npod old cpu=600m on=a\npod p cpu=600m",
        "p: 0/1 nodes are available: 1 Insufficient cpu, 1 Too many pods. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check(
        "node a\npod p example.com/gpu=1",
        "p: 0/1 nodes are available: 1 Insufficient example.com/gpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    check("node a example.com/gpu=1\nnode b\npod p example.com/gpu=1", "p -> a");
    // The largest init container counts, sidecars add up, overhead is added.
    let init = r#"{"initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}], "overhead": {"cpu": "500m"}}"#;
    check(&format!("node a cpu=2\nnode b cpu=2500m\npod p cpu=1 {init}"), "p -> b");
    let sidecar = r#"{"initContainers": [{"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}}, {"name": "i", "resources": {"requests": {"cpu": "1500m"}}}]}"#;
    check(&format!("node a cpu=2\nnode b cpu=2500m\npod p cpu=1 {sidecar}"), "p -> b");
    // Requests of the pod as a whole replace those of its containers.
    check("node a cpu=1\npod p cpu=2 {\"resources\": {\"requests\": {\"cpu\": \"1\"}}}", "p -> a");
    // Finished pods need nothing, those that are going still do.
    check("node a cpu=1\npod old cpu=1 on=a phase=Succeeded\npod p cpu=1", "p -> a");
    // The emptier node is liked.
    check("node a cpu=4\nnode b cpu=4\npod old cpu=2 on=a\npod p cpu=1", "p -> b");
}

#[test]
fn nodes() {
    check(
        "node a cordoned\nnode b taint=k=v:NoSchedule\nnode c disk=hdd\npod p select=disk:ssd",
        "p: 0/3 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
    );
    check("node a taint=k=v:NoExecute\npod p tolerate=k", "p -> a");
    check("node a cordoned\npod p tolerate=node.kubernetes.io/unschedulable", "p -> a");
    check("node a cordoned\npod p {\"tolerations\": [{\"operator\": \"Exists\"}]}", "p -> a");
    check("node a taint=k=v:PreferNoSchedule\nnode b\npod p", "p -> b");
    check("node a taint=k=v:PreferNoSchedule\npod p", "p -> a");
    let affinity = |expression: &str| {
        format!(
            r#"{{"affinity": {{"nodeAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": {{"nodeSelectorTerms": [{expression}]}}}}}}}}"#
        )
    };
    for (term, expected) in [
        (r#"{"matchExpressions": [{"key": "n", "operator": "In", "values": ["2", "3"]}]}"#, "b"),
        (r#"{"matchExpressions": [{"key": "n", "operator": "NotIn", "values": ["1"]}]}"#, "b"),
        (r#"{"matchExpressions": [{"key": "n", "operator": "Gt", "values": ["1"]}]}"#, "b"),
        (r#"{"matchExpressions": [{"key": "n", "operator": "Lt", "values": ["2"]}]}"#, "a"),
        (r#"{"matchExpressions": [{"key": "x", "operator": "Exists"}]}"#, "b"),
        (r#"{"matchExpressions": [{"key": "x", "operator": "DoesNotExist"}]}"#, "a"),
        (r#"{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["b"]}]}"#, "b"),
        (r#"{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["b"]}]}"#, "a"),
    ] {
        check(&format!("node a n=1\nnode b n=2 x=y\npod p {}", affinity(term)), &format!("p -> {expected}"));
    }
    check(
        &format!(
            "node a cpu=1\nnode b\npod p cpu=2 {}",
            affinity(r#"{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}"#)
        ),
        "p: 0/2 nodes are available: 1 Insufficient cpu, 1 node(s) didn't satisfy plugin(s) [NodeAffinity]. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
    let preferred = r#"{"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 5, "preference": {"matchExpressions": [{"key": "x", "operator": "Exists"}]}}]}}}"#;
    check(&format!("node a\nnode b x=y\npod p {preferred}"), "p -> b");
    check("node a\npod p {\"schedulerName\": \"other\"}", "");
    check("node a\npod p gated", "");
    check("node a\npod p going", "");
}

#[test]
fn images() {
    let has = r#"{"status": {"images": [{"names": ["registry/i:latest"], "sizeBytes": 900000000}]}}"#;
    check(&format!("node a\nnode b {has}\npod p {{\"containers\": [{{\"name\": \"c\", \"image\": \"registry/i\"}}]}}"), "p -> b");
}

#[test]
fn ports() {
    check(
        "node a\npod old port=80 on=a\npod p port=80",
        "p: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check("node a\nnode b\npod old port=80 on=a\npod p port=80", "p -> b");
    let other = |ip: &str, protocol: &str| {
        format!(r#"{{"containers": [{{"name": "c", "ports": [{{"hostPort": 80, "hostIP": "{ip}", "protocol": "{protocol}"}}]}}]}}"#)
    };
    check(&format!("node a\npod old on=a {}\npod p {}", other("127.0.0.1", "TCP"), other("127.0.0.2", "TCP")), "p -> a");
    check(&format!("node a\npod old on=a {}\npod p {}", other("", "TCP"), other("", "UDP")), "p -> a");
}

#[test]
fn pods_near_and_apart() {
    let three = "node a zone=1\nnode b zone=1\nnode c zone=2\n";
    check(&format!("{three}pod x app=web on=a\npod y app=web on=b\npod p apart=app:web"), "p -> c");
    check(&format!("{three}pod x app=web on=a\npod p by=zone apart=app:web"), "p -> c");
    check(&format!("{three}pod x app=web on=c\npod p near=app:web"), "p -> c");
    check(&format!("{three}pod x app=web on=c\npod p by=zone near=app:web"), "p -> c");
    // Running pods keep others out, too.
    check(&format!("{three}pod x by=zone apart=app:web on=a\npod p app=web"), "p -> c");
    check(
        "node a\npod x apart=app:web on=a\npod p app=web",
        "p: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check(
        "node a\npod x app=web on=a\npod p apart=app:web",
        "p: 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    check(
        "node a\npod p near=app:web",
        "p: 0/1 nodes are available: 1 node(s) didn't match pod affinity rules. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    // The first of a set that wants to be together may start.
    check("node a\npod p app=web near=app:web", "p -> a");
    // Pods that keep each other out count from the moment of the decision.
    let mut world = World::new();
    format!(
        "{three}pod p1 app=web apart=app:web\npod p2 app=web apart=app:web\npod p3 app=web apart=app:web\npod p4 app=web apart=app:web"
    )
    .lines()
    .for_each(|line| world.line(line));
    let last = "p4: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod.";
    assert!(world.decide().ends_with(last));
}

#[test]
fn namespaces() {
    let term = |rest: &str| {
        format!(
            r#"{{"affinity": {{"podAntiAffinity": {{"requiredDuringSchedulingIgnoredDuringExecution": [{{"topologyKey": "kubernetes.io/hostname", "labelSelector": {{"matchLabels": {{"app": "web"}}}}{rest}}}]}}}}}}"#
        )
    };
    let lines = "namespace ns team=a\nnamespace other team=b\nnode a\nnode b cpu=100\npod x in=other app=web on=b\n";
    check(&format!("{lines}pod p cpu=1 {}", term("")), "p -> b");
    check(&format!("{lines}pod p cpu=1 {}", term(r#", "namespaces": ["other"]"#)), "p -> a");
    check(&format!("{lines}pod p cpu=1 {}", term(r#", "namespaceSelector": {}"#)), "p -> a");
    check(&format!("{lines}pod p cpu=1 {}", term(r#", "namespaceSelector": {"matchLabels": {"team": "b"}}"#)), "p -> a");
    check(&format!("{lines}pod p cpu=1 {}", term(r#", "namespaceSelector": {"matchLabels": {"team": "a"}}"#)), "p -> b");
    // Labels of a namespace that change count at once, for pods that run as well.
    check(
        &format!(
            "{lines}pod q on=a {}\nnamespace other team=a\npod p in=other app=web",
            term(r#", "namespaceSelector": {"matchLabels": {"team": "a"}}"#)
        ),
        "p -> b",
    );
}

#[test]
fn spread() {
    let zones = "node a zone=1\nnode b zone=2\n";
    check(&format!("{zones}pod x app=web on=a\npod p by=zone app=web spread=app:web"), "p -> b");
    check(
        &format!("{zones}node c\npod x app=web on=a\nnode b cordoned zone=2\npod p by=zone app=web spread=app:web"),
        "p: 0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable. preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.",
    );
    // Nodes that the pod may not use do not count, unless asked for.
    check(&format!("{zones}node c zone=1 disk=ssd\npod x app=web on=a\npod p by=zone app=web spread=app:web select=disk:ssd"), "p -> c");
    // Pods that are going do not count.
    check(&format!("{zones}pod x app=web on=a\npod z app=web on=b going\npod p by=zone app=web spread=app:web"), "p -> b");
    let min = |domains: i32| {
        format!(
            r#"{{"topologySpreadConstraints": [{{"maxSkew": 1, "minDomains": {domains}, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {{"matchLabels": {{"app": "web"}}}}}}]}}"#
        )
    };
    check(&format!("node a zone=1\npod x app=web on=a\npod p app=web {}", min(1)), "p -> a");
    check(
        &format!("node a zone=1\npod x app=web on=a\npod p app=web {}", min(2)),
        "p: 0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    let liked = r#"{"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": {"app": "web"}}}]}"#;
    check(&format!("{zones}pod x app=web on=a\npod p app=web {liked}"), "p -> b");
    // Only pods of the same revision count where labels are matched by key.
    let keys = r#"{"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["hash"], "labelSelector": {"matchLabels": {"app": "web"}}}]}"#;
    check(&format!("node a zone=1\nnode b zone=2 cordoned\npod x app=web hash=1 on=a\npod p app=web hash=2 {keys}"), "p -> a");
}

#[test]
fn volumes() {
    let class = "class late {\"provisioner\": \"example.com\", \"volumeBindingMode\": \"WaitForFirstConsumer\"}\nclass local {\"provisioner\": \"kubernetes.io/no-provisioner\", \"volumeBindingMode\": \"WaitForFirstConsumer\"}\n";
    let on_b = r#""nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]}]}}"#;
    let not_helpful = "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
    let nodes = "node a\nnode b\n";
    check(&format!("{nodes}pod p claim=x"), &format!("p: 0/2 nodes are available: persistentvolumeclaim \"x\" not found. {not_helpful}"));
    check(
        &format!("{nodes}claim x\npod p claim=x"),
        &format!("p: 0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {not_helpful}"),
    );
    check(
        &format!(
            "{nodes}volume v {{\"spec\": {{{on_b}}}}}\nclaim x {{\"spec\": {{\"volumeName\": \"v\"}}, \"status\": {{\"phase\": \"Bound\"}}}}\npod p claim=x"
        ),
        "p -> b",
    );
    check(
        &format!(
            "node a\nvolume v {{\"spec\": {{{on_b}}}}}\nclaim x {{\"spec\": {{\"volumeName\": \"v\"}}, \"status\": {{\"phase\": \"Bound\"}}}}\npod p claim=x"
        ),
        "p: 0/1 nodes are available: 1 node(s) didn't match PersistentVolume's node affinity. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
    );
    check(&format!("{class}node a\nclaim x {{\"spec\": {{\"storageClassName\": \"late\"}}}}\npod p claim=x"), "p -> a");
    check(
        &format!("{class}{nodes}claim x {{\"spec\": {{\"storageClassName\": \"local\"}}}}\npod p claim=x"),
        &format!("p: 0/2 nodes are available: 2 node(s) didn't find available persistent volumes to bind. {not_helpful}"),
    );
    check(
        &format!(
            "{class}{nodes}volume v {{\"spec\": {{\"storageClassName\": \"local\", \"capacity\": {{\"storage\": \"2Gi\"}}, {on_b}}}}}\nclaim x {{\"spec\": {{\"storageClassName\": \"local\", \"resources\": {{\"requests\": {{\"storage\": \"1Gi\"}}}}}}}}\npod p claim=x"
        ),
        "p -> b",
    );
    let once = "claim x {\"spec\": {\"volumeName\": \"v\", \"accessModes\": [\"ReadWriteOncePod\"]}, \"status\": {\"phase\": \"Bound\"}}\nvolume v\n";
    check(
        &format!("{nodes}{once}pod x on=a claim=x\npod p claim=x"),
        "p: 0/2 nodes are available: 2 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.",
    );
    check(&format!("{once}node a\npod p claim=x"), "p -> a");
}

#[test]
fn drivers_of_volumes() {
    let bound = |n: u32| {
        format!(
            "volume v{n} {{\"spec\": {{\"csi\": {{\"driver\": \"d\", \"volumeHandle\": \"h{n}\"}}}}}}\nclaim c{n} {{\"spec\": {{\"volumeName\": \"v{n}\"}}, \"status\": {{\"phase\": \"Bound\"}}}}\n"
        )
    };
    let world = format!("node a\n{}{}pod old claim=c1 on=a\n", bound(1), bound(2));
    let limit = |count: u32| {
        format!("driver-node a {{\"spec\": {{\"drivers\": [{{\"name\": \"d\", \"allocatable\": {{\"count\": {count}}}}}]}}}}\n")
    };
    check(
        &format!("{world}{}pod p claim=c2", limit(1)),
        "p: 0/1 nodes are available: 1 node(s) exceed max volume count. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.",
    );
    // A volume that is there already takes no second place, and who says no number takes any.
    check(&format!("{world}{}pod p claim=c1", limit(1)), "p -> a");
    check(&format!("{world}{}pod p claim=c2", limit(2)), "p -> a");
    check(&format!("{world}pod p claim=c2"), "p -> a");
    let world = "node a zone=one\nnode b zone=two\nclass late {\"provisioner\": \"d\", \"volumeBindingMode\": \"WaitForFirstConsumer\"}\nclaim x {\"spec\": {\"storageClassName\": \"late\", \"resources\": {\"requests\": {\"storage\": \"2Gi\"}}}}\n";
    let counts = "driver d {\"spec\": {\"storageCapacity\": true}}\n";
    let room = |size: &str| {
        format!(
            "room r {{\"storageClassName\": \"late\", \"nodeTopology\": {{\"matchLabels\": {{\"zone\": \"two\"}}}}, \"capacity\": \"{size}\"}}\n"
        )
    };
    check(&format!("{world}{counts}{}pod p claim=x", room("3Gi")), "p -> b");
    check(
        &format!("{world}{counts}{}pod p claim=x", room("1Gi")),
        "p: 0/2 nodes are available: 2 node(s) did not have enough free storage. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
    );
}
