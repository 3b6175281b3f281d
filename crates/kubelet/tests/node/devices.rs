//! Devices of a plugin, from its registration to the process that uses them.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use grpc::client::Channel;
use kubelet::pod_resources::messages::*;
use serde_json::{Value, json};

use crate::plugin::{Plugin, RESOURCE};
use crate::world::{IMAGE, World, run};

fn with_device() -> Value {
    let env = json!([{"name": "SHADOWED", "value": "by the pod"}]);
    json!({"containers": [{"name": "main", "image": IMAGE, "env": env, "resources": {"limits": {(RESOURCE): "1"}}}]})
}

/// Describes the devices for CDI, in an `/etc` of the test's own.
fn describe(world: &World) {
    let (upper, work) = (world.folder.join("etc-upper"), world.folder.join("etc-work"));
    for folder in [&upper, &work] {
        std::fs::create_dir_all(folder).expect("a folder");
    }
    let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
    run(&format!("mount -t overlay overlay -o {options} /etc && mkdir -p /etc/cdi"));
    let hook = |name: &str, script: &str| {
        let env = [format!("TOLD={}", world.folder.display()), "PATH=/bin:/usr/bin".to_owned()];
        json!({"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", script], "env": env, "timeout": 30})
    };
    // As vendors' hooks do: the state names the bundle, its description the root.
    let inside = r#"bundle=$(sed 's/.*"bundle":"\([^"]*\)".*/\1/') && root=$(sed 's/.*"root":{"path":"\([^"]*\)".*/\1/' "$bundle/config.json") &&
        test -e "$root/etc/machine-release" && echo hooked > "$root/etc/hooked""#;
    let hooks = [hook("createRuntime", "cat > $TOLD/made"), hook("createContainer", inside), hook("poststop", "cat > $TOLD/stopped")];
    let node = json!({"path": "/dev/described", "hostPath": "/dev/zero", "type": "c", "fileMode": 0o640, "uid": 7, "gid": 8});
    let device = |id: &str| json!({"name": id, "containerEdits": {"env": [format!("CDI={id}")], "hooks": hooks, "deviceNodes": [node]}});
    let text = json!({"cdiVersion": "0.6.0", "kind": RESOURCE, "devices": [device("d0"), device("d1"), device("d2")]});
    std::fs::write("/etc/cdi/example.json", text.to_string()).expect("a description");
}

/// Waits until the node has so many devices, of which so many can be given.
async fn amounts(world: &World, all: &str, healthy: &str) {
    let has = |node: &Value, list: &str, wanted: &str| node["status"][list][RESOURCE] == wanted;
    let what = format!("the node has {all} devices, {healthy} in order");
    world.node(&what, |node| has(node, "capacity", all) && has(node, "allocatable", healthy)).await;
}

fn environment(pid: i32) -> Vec<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).expect("a process");
    bytes.split(|byte| *byte == 0).map(|line| String::from_utf8_lossy(line).into_owned()).collect()
}

pub async fn a_pod_uses_devices_of_a_plugin(world: World) {
    describe(&world);
    world.start("").await;
    let plugin = Plugin::start(&world.kubelet_dir()).await;
    amounts(&world, "2", "2").await;
    let first = world.running("first", with_device()).await;
    let pid = world.process(&first, "main");
    let environment = environment(pid);
    for line in ["DEVICES=d1", "CDI=d1", "SHADOWED=by the pod"] {
        assert!(environment.iter().any(|known| known == line), "{line} in {environment:?}");
    }
    let inside = |path: &str| format!("/proc/{pid}/root{path}");
    let device = std::fs::metadata(inside("/dev/d1")).expect("the device");
    assert!(device.file_type().is_char_device());
    assert_eq!(device.rdev(), std::fs::metadata("/dev/zero").expect("a device").rdev());
    assert_eq!(std::fs::read(inside("/etc/machine-release")).expect("the mount"), std::fs::read("/etc/os-release").expect("a file"));
    assert_eq!(*plugin.started.lock(), ["d1"]);
    assert_eq!(std::fs::read_to_string(inside("/etc/hooked")).expect("what the hook left"), "hooked\n");
    let left = |file: &str| serde_json::from_slice::<Value>(&std::fs::read(world.folder.join(file)).unwrap_or_default()).ok();
    assert_eq!(left("made").expect("a state")["status"], "creating");
    let described = std::fs::metadata(inside("/dev/described")).expect("the device");
    assert_eq!((described.mode() & 0o7777, described.uid(), described.gid(), described.rdev()), (0o640, 7, 8, device.rdev()));

    // What agents of the node are told.
    let agent = Channel::new(world.kubelet_dir().join("pod-resources/kubelet.sock"));
    let call = |method: &str| format!("/v1.PodResourcesLister/{method}");
    let wanted = GetPodResourcesRequest { pod_name: "first".into(), pod_namespace: "default".into() };
    let found: GetPodResourcesResponse = agent.call(&call("Get"), &wanted, None).await.expect("resources of a pod");
    let topology = Some(TopologyInfo { nodes: vec![NumaNode { id: 0 }] });
    let device = |ids: &[&str]| ContainerDevices {
        resource_name: RESOURCE.into(),
        device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        topology: topology.clone(),
    };
    let main = ContainerResources { name: "main".into(), devices: vec![device(&["d1"])], ..ContainerResources::default() };
    let pod = PodResources { name: "first".into(), namespace: "default".into(), containers: vec![main] };
    assert_eq!(found.pod_resources.as_ref(), Some(&pod));
    let listed: ListPodResourcesResponse = agent.call(&call("List"), &wanted, None).await.expect("a list");
    assert_eq!(listed.pod_resources, [pod]);
    let all: AllocatableResourcesResponse = agent.call(&call("GetAllocatableResources"), &wanted, None).await.expect("resources");
    assert_eq!((all.devices, all.cpu_ids), (vec![device(&["d0", "d1"])], Vec::new()));

    // What is out of order is there and cannot be given.
    plugin.devices.send_replace(vec![("d0", false), ("d1", true)]);
    amounts(&world, "2", "1").await;
    let health = |word: &str| json!([{"name": RESOURCE, "resources": [{"resourceID": "d1", "health": word}]}]);
    assert_eq!(first["status"]["containerStatuses"][0]["allocatedResourcesStatus"], health("Healthy"));
    world.create("second", with_device()).await;
    let refused = world.pod("second", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "UnexpectedAdmissionError");
    let text = "Pod was rejected: Allocate failed due to requested number of devices unavailable for example.com/device. Requested: 1, \
                Available: 0, which is unexpected";
    assert_eq!(refused["status"]["message"], text);
    plugin.devices.send_replace(vec![("d0", true), ("d1", true), ("d2", true)]);
    amounts(&world, "3", "3").await;
    world.running("third", with_device()).await;
    assert_eq!(*plugin.started.lock(), ["d1", "d2"]);

    plugin.devices.send_replace(vec![("d0", true), ("d1", false), ("d2", true)]);
    let told = |pod: &Value| pod["status"]["containerStatuses"][0]["allocatedResourcesStatus"].clone();
    world.pod("first", "tells of its device", |pod| told(pod) == health("Unhealthy")).await;
    plugin.devices.send_replace(vec![("d0", true), ("d1", true), ("d2", true)]);
    world.pod("first", "tells that it is well again", |pod| told(pod) == health("Healthy")).await;

    // Who asks in a circle is sent away.
    let list = call("List");
    let calls = (0..100).map(|_| agent.call::<ListPodResourcesResponse>(&list, &wanted, None));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().any(|answer| answer.as_ref().is_err_and(|failure| failure.message == "rejected by rate limit")));

    // A plugin that ends takes nothing from running pods, and what pods leave is given again when it is back.
    plugin.stop();
    amounts(&world, "3", "0").await;
    world.pod("first", "runs on", |pod| pod["status"]["phase"] == "Running").await;
    world.delete("first").await;
    world.eventually("the last hook of the first pod", || left("stopped").is_some_and(|state| state["status"] == "stopped")).await;
    let plugin = Plugin::start(&world.kubelet_dir()).await;
    amounts(&world, "2", "2").await;
    world.running("fourth", with_device()).await;
    assert_eq!(*plugin.started.lock(), ["d1"]);
    let file = std::fs::read_to_string(world.kubelet_dir().join("device-plugins/kubelet_internal_checkpoint")).expect("a file");
    assert!(file.contains("\"ResourceName\":\"example.com/device\",\"DeviceIDs\":{\"0\":[\"d1\"]}"), "{file}");
}

pub async fn a_plugin_that_hangs_keeps_nobody_else_waiting(world: World) {
    describe(&world);
    world.start("").await;
    let plugin = Plugin::start(&world.kubelet_dir()).await;
    amounts(&world, "2", "2").await;
    plugin.hangs.send_replace(true);
    world.create("stuck", with_device()).await;
    let begun = std::time::Instant::now();
    world.running("other", json!({})).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(8), "it waited for the plugin: {:?}", begun.elapsed());
    let refused = world.pod("stuck", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "UnexpectedAdmissionError");
    let message = refused["status"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("code = DeadlineExceeded") && message.contains("no answer within 10s"), "{message}");
    plugin.hangs.send_replace(false);
    world.running("third", with_device()).await;
}
