//! Volumes of drivers: registration, inline volumes, claims with attachment, devices, growth, figures, and nothing left.

use client::{DeleteOptions, PatchKind, ResourceId, attachment_name};
use http::Method;
use kubelet::csi::unique_name;
use serde_json::{Value, json};

use crate::driver::{DRIVER, Driver};
use crate::world::{IMAGE, NODES, PODS, World, run};

const CSI_NODES: ResourceId = ResourceId::new("storage.k8s.io", "v1", "csinodes");
const CSI_DRIVERS: ResourceId = ResourceId::new("storage.k8s.io", "v1", "csidrivers");
const ATTACHMENTS: ResourceId = ResourceId::new("storage.k8s.io", "v1", "volumeattachments");
const VOLUMES: ResourceId = ResourceId::new("", "v1", "persistentvolumes");
const CLAIMS: ResourceId = ResourceId::new("", "v1", "persistentvolumeclaims");

async fn make(world: &World, resource: &ResourceId, object: Value) -> Value {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
    world.admin.call(Method::POST, &resource.collection_path(&namespace), &object).await.expect("an object")
}

async fn driver_object(world: &World, spec: Value) {
    let object = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": DRIVER}, "spec": spec});
    make(world, &CSI_DRIVERS, object).await;
}

/// A claim that is bound to a volume of the driver.
async fn claim(world: &World, name: &str, mode: &str) {
    let (spec, resources) = (json!(["ReadWriteOnce"]), json!({"requests": {"storage": "1Mi"}}));
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "default"},
        "spec": {"accessModes": spec, "volumeMode": mode, "resources": resources, "volumeName": format!("pv-{name}"), "storageClassName": ""},
    });
    let claim = make(world, &CLAIMS, object).await;
    let object = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{name}")},
        "spec": {
            "accessModes": spec, "volumeMode": mode, "capacity": {"storage": "1Mi"}, "persistentVolumeReclaimPolicy": "Retain",
            "csi": {"driver": DRIVER, "volumeHandle": name, "volumeAttributes": {"color": "red"}},
            "claimRef": {"namespace": "default", "name": name, "uid": claim["metadata"]["uid"]},
        },
    });
    make(world, &VOLUMES, object).await;
    let status = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Mi"}, "accessModes": spec}});
    world.admin.patch(&CLAIMS, "default", name, "status", &PatchKind::Merge, &status).await.expect("a bound claim");
}

fn pod_with(source: Value) -> Value {
    json!({
        "containers": [{"name": "main", "image": IMAGE, "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
        "volumes": [{"name": "data", "csi": source["csi"], "persistentVolumeClaim": source["persistentVolumeClaim"]}],
    })
}

fn of_claim(name: &str) -> Value {
    pod_with(json!({"persistentVolumeClaim": {"claimName": name}}))
}

async fn delete(world: &World, name: &str) {
    world.admin.delete(&PODS, "default", name, &DeleteOptions::default()).await.expect("a deletion");
    world.gone(&PODS, "default", name).await;
}

fn mounts(world: &World) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let folder = world.kubelet_dir().display().to_string();
    all.lines().filter(|line| line.contains(&folder) && line.contains("csi")).map(str::to_owned).collect()
}

async fn nothing_is_left(world: &World) {
    assert_eq!(mounts(world), Vec::<String>::new());
    let plugins = world.kubelet_dir().join("plugins/kubernetes.io");
    let left = run(&format!("find {0} -type f 2>/dev/null; find {0} -name globalmount 2>/dev/null; true", plugins.display()));
    assert_eq!(left, "");
    assert_eq!(run(&format!("ls {}", world.kubelet_dir().join("pods").display())), "");
    world.node("nothing is in use", |node| node["status"]["volumesInUse"].is_null()).await;
}

pub async fn a_driver_registers_and_goes(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    let shown = world.until("the driver is shown", &CSI_NODES, "", "node", |node| !node["spec"]["drivers"][0].is_null()).await;
    let expected = json!({
        "name": DRIVER, "nodeID": "node-of-the-driver", "topologyKeys": ["topology.example.com/rack"], "allocatable": {"count": 7},
    });
    assert_eq!(shown["spec"]["drivers"], json!([expected]));
    assert_eq!(shown["metadata"]["ownerReferences"][0]["kind"], "Node");
    let node =
        world.node("the node has its id", |node| !node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"].is_null()).await;
    assert_eq!(node["metadata"]["annotations"]["csi.volume.kubernetes.io/nodeid"], format!("{{\"{DRIVER}\":\"node-of-the-driver\"}}"));
    assert_eq!(node["metadata"]["labels"]["topology.example.com/rack"], "r1");
    world.eventually("the driver hears of it", || driver.count("NotifyRegistrationStatus true ") == 1).await;
    driver.stop();
    world
        .until("the driver is no longer shown", &CSI_NODES, "", "node", |node| node["spec"]["drivers"].as_array().is_none_or(Vec::is_empty))
        .await;
}

pub async fn an_inline_volume_goes_with_its_pod(world: World) {
    world.start("").await;
    let inline = || pod_with(json!({"csi": {"driver": DRIVER, "volumeAttributes": {"color": "blue"}}}));
    world.create("early", inline()).await;
    let early = "MountVolume.SetUp failed for volume \"data\" : ";
    let refused = format!("{early}volume mode \"Ephemeral\" not supported by driver {DRIVER} (no CSIDriver object)");
    world.eventually_async("the pod hears why it waits", async || world.has_event("early", "FailedMount", &refused).await).await;
    driver_object(
        &world,
        json!({"attachRequired": false, "podInfoOnMount": true, "volumeLifecycleModes": ["Ephemeral"], "tokenRequests": [{"audience": "vault"}]}),
    )
    .await;
    let unknown = format!("{early}driver name {DRIVER} not found in the list of registered CSI drivers");
    world
        .eventually_async("the pod hears that the driver is missing", async || world.has_event("early", "FailedMount", &unknown).await)
        .await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    let pod = world.pod("early", "runs", |pod| crate::world::condition(pod, "Ready")["status"] == "True").await;
    let uid = pod["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let told = driver.context.lock().clone();
    assert!(told.target_path.ends_with(&format!("pods/{uid}/volumes/kubernetes.io~csi/data/mount")), "{}", told.target_path);
    let context = |key: &str| told.context.get(key).cloned().unwrap_or_default();
    assert_eq!(context("color"), "blue");
    assert_eq!(context("csi.storage.k8s.io/pod.name"), "early");
    assert_eq!(context("csi.storage.k8s.io/pod.uid"), uid);
    assert_eq!(context("csi.storage.k8s.io/ephemeral"), "true");
    let tokens: Value = serde_json::from_str(&context("csi.storage.k8s.io/serviceAccount.tokens")).expect("tokens");
    assert!(tokens["vault"]["token"].is_string() && tokens["vault"]["expirationTimestamp"].is_string(), "{tokens}");
    assert!(told.staging_path.is_empty());
    delete(&world, "early").await;
    assert_eq!(driver.count(&format!("NodeUnpublishVolume {}", told.volume_id)), 1);
    nothing_is_left(&world).await;
}

/// What controller and attacher do.
async fn attach(world: &World, handles: &[&str]) {
    for handle in handles {
        let name = attachment_name(DRIVER, handle, "node");
        let source = json!({"persistentVolumeName": format!("pv-{handle}")});
        let spec = json!({"attacher": DRIVER, "nodeName": "node", "source": source});
        make(
            world,
            &ATTACHMENTS,
            json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": name}, "spec": spec}),
        )
        .await;
        let status = json!({"status": {"attached": true, "attachmentMetadata": {"slot": "3"}}});
        world.admin.patch(&ATTACHMENTS, "", &name, "status", &PatchKind::Merge, &status).await.expect("an attachment");
    }
    let volumes: Vec<Value> = handles.iter().map(|handle| json!({"name": unique_name(DRIVER, handle), "devicePath": ""})).collect();
    let status = json!({"status": {"volumesAttached": volumes}});
    world.admin.patch(&NODES, "", "node", "status", &PatchKind::Merge, &status).await.expect("attached volumes");
}

pub async fn a_claim_is_attached_staged_published_grown_and_given_back(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": true, "fsGroupPolicy": "File"})).await;
    claim(&world, "one", "Filesystem").await;
    let mut first = of_claim("one");
    first["securityContext"] = json!({"fsGroup": 4711});
    world.create("first", first).await;
    let name = unique_name(DRIVER, "one");
    world.node("the volume is in use before it is attached", |node| node["status"]["volumesInUse"] == json!([name])).await;
    assert_eq!(driver.count("NodeStageVolume one"), 0);
    attach(&world, &["one"]).await;
    let pod = world.pod("first", "runs", |pod| crate::world::condition(pod, "Ready")["status"] == "True").await;
    let told = driver.context.lock().clone();
    assert_eq!(told.publish_context.get("slot").map(String::as_str), Some("3"));
    assert_eq!(told.context.get("color").map(String::as_str), Some("red"));
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let inside = world.kubelet_dir().join("pods").join(uid).join("volumes/kubernetes.io~csi/pv-one/mount");
    assert_eq!(std::os::unix::fs::MetadataExt::gid(&inside.metadata().expect("the mount")), 4711);
    std::fs::write(inside.join("note"), "written by the first\n").expect("a file");
    // A second pod shares what is staged, and reads what the first has written.
    let mut second = of_claim("one");
    second["containers"][0]["command"] = json!(["/bin/sh", "-c", "cat /data/note; sleep infinity"]);
    world.running("second", second).await;
    world
        .eventually_async("the file is read", async || world.log("second").await.is_ok_and(|log| log.contains("written by the first")))
        .await;
    assert_eq!((driver.count("NodeStageVolume one"), driver.count("NodePublishVolume one")), (1, 2));
    let summary = world.summary().await;
    let pods = summary["pods"].as_array().expect("pods");
    let volumes =
        pods.iter().find(|pod| pod["podRef"]["name"] == "first").expect("the pod")["volume"].as_array().cloned().unwrap_or_default();
    let volume = volumes.iter().find(|volume| volume["name"] == "data").expect("the volume");
    assert_eq!((&volume["usedBytes"], &volume["inodesFree"]), (&json!(40), &json!(6)));
    assert_eq!((&volume["pvcRef"]["name"], &volume["volumeHealthStats"]["abnormal"]), (&json!("one"), &json!(true)));
    // The volume has grown; the claim follows when the node has done its part.
    let grown = json!({"spec": {"capacity": {"storage": "2Mi"}}});
    world.admin.patch(&VOLUMES, "", "pv-one", "", &PatchKind::Merge, &grown).await.expect("a larger volume");
    world
        .admin
        .patch(&PODS, "default", "second", "", &PatchKind::Merge, &json!({"metadata": {"labels": {"look": "again"}}}))
        .await
        .expect("a label");
    world.until("the claim has grown", &CLAIMS, "default", "one", |claim| claim["status"]["capacity"]["storage"] == "2Mi").await;
    assert!(driver.count("NodeExpandVolume one") >= 1);
    delete(&world, "first").await;
    assert_eq!(driver.count("NodeUnstageVolume one"), 0);
    delete(&world, "second").await;
    assert_eq!((driver.count("NodeUnpublishVolume one"), driver.count("NodeUnstageVolume one")), (2, 1));
    assert_eq!(std::fs::read_to_string(driver.state.join("one/note")).expect("the file"), "written by the first\n");
    nothing_is_left(&world).await;
}

pub async fn a_device_reaches_the_container(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": false})).await;
    claim(&world, "disk", "Block").await;
    let pod = |device: &str| {
        json!({
            "containers": [{
                "name": "main", "image": IMAGE, "volumeDevices": [{"name": "data", "devicePath": device}],
                "command": ["/bin/sh", "-c", format!("cat {device}; sleep infinity")],
            }],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}],
        })
    };
    let raw = world.running("raw", pod("/dev/xvda")).await;
    let volumes = world.kubelet_dir().join("pods").join(raw["metadata"]["uid"].as_str().expect("a uid")).join("volumes");
    assert!(volumes.is_dir(), "programs of the node look for volumes in {}", volumes.display());
    let device = run(&format!("losetup -j {} -O NAME -n", driver.state.join("disk/disk").display()));
    std::fs::write(device.trim(), "bytes on the device\n").expect("a device");
    let elsewhere = pod("/mnt/volume");
    world.running("elsewhere", elsewhere).await;
    world
        .eventually_async("the device is read", async || world.log("elsewhere").await.is_ok_and(|log| log.contains("bytes on the device")))
        .await;
    assert_eq!((driver.count("NodeStageVolume disk"), driver.count("NodePublishVolume disk")), (1, 2));
    delete(&world, "raw").await;
    assert_eq!(driver.count("NodeUnstageVolume disk"), 0);
    delete(&world, "elsewhere").await;
    assert_eq!(driver.count("NodeUnstageVolume disk"), 1);
    nothing_is_left(&world).await;
}

pub async fn what_a_driver_refuses_for_good_is_not_given_back(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": false})).await;
    claim(&world, "refused", "Filesystem").await;
    claim(&world, "refused-disk", "Block").await;
    world.create("mounts", of_claim("refused")).await;
    let mut raw = of_claim("refused-disk");
    let container = &mut raw["containers"][0];
    container["volumeMounts"] = Value::Null;
    container["volumeDevices"] = json!([{"name": "data", "devicePath": "/dev/xvda"}]);
    world.create("raw", raw).await;
    for (pod, volume) in [("mounts", "refused"), ("raw", "refused-disk")] {
        world.eventually("the driver refuses", || driver.count(&format!("NodeStageVolume {volume}")) > 0).await;
        delete(&world, pod).await;
        assert_eq!(driver.count(&format!("NodeUnpublishVolume {volume}")) + driver.count(&format!("NodeUnstageVolume {volume}")), 0);
    }
    nothing_is_left(&world).await;
}

pub async fn volumes_outlive_a_killed_node(world: World) {
    let mut node = world.start_process().await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": true, "volumeLifecycleModes": ["Ephemeral", "Persistent"]})).await;
    for name in ["kept", "lost", "half"] {
        claim(&world, name, "Filesystem").await;
    }
    attach(&world, &["kept", "lost", "half"]).await;
    world.running("kept", of_claim("kept")).await;
    world.running("lost", of_claim("lost")).await;
    world.running("inline", pod_with(json!({"csi": {"driver": DRIVER}}))).await;
    node.kill().expect("a running node");
    node.wait().expect("an end");
    // While nobody looks two pods go for good, and a volume is left staged that nobody has.
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    for name in ["lost", "inline"] {
        world.admin.delete(&PODS, "default", name, &now).await.expect("a deletion");
    }
    let staged = world.kubelet_dir().join("plugins/kubernetes.io/csi").join(DRIVER).join(kubelet::csi::hex("half"));
    std::fs::create_dir_all(staged.join("globalmount")).expect("a folder");
    std::fs::write(staged.join("vol_data.json"), json!({"driverName": DRIVER, "volumeHandle": "half"}).to_string()).expect("a file");
    let staged_before = driver.count("NodeStageVolume kept");
    let mut node = world.start_process().await;
    world
        .eventually("what nobody wants is given back", || {
            ["NodeUnpublishVolume lost", "NodeUnstageVolume lost", "NodeUnstageVolume half"].iter().all(|call| driver.count(call) == 1)
        })
        .await;
    let name = unique_name(DRIVER, "kept");
    world.node("only the one is in use", |node| node["status"]["volumesInUse"] == json!([name])).await;
    world.pod("kept", "runs on", |pod| crate::world::condition(pod, "Ready")["status"] == "True").await;
    assert_eq!((driver.count("NodeStageVolume kept"), driver.count("NodePublishVolume kept")), (staged_before, 1));
    world.eventually("the mount of the inline volume goes too", || mounts(&world).len() == 2).await;
    delete(&world, "kept").await;
    nothing_is_left(&world).await;
    node.kill().expect("a running node");
    node.wait().expect("an end");
}

pub async fn a_pod_does_not_wait_for_a_deleted_one_of_its_name(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]})).await;
    let old = world.running("same", pod_with(json!({"csi": {"driver": DRIVER}}))).await;
    // Without its driver the volume cannot be given back, so that the old pod stays for as long as we want.
    driver.stop();
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    world.admin.delete(&PODS, "default", "same", &now).await.expect("a deletion");
    let tool = json!({"name": "tool", "mountPath": "/busybox"});
    let script = "echo new; trap 'exit 0' TERM; while :; do /busybox sleep 1000 & wait; done";
    let spec = json!({
        "containers": [{"name": "main", "image": IMAGE, "command": ["/busybox", "sh", "-c", script], "volumeMounts": [tool]}],
        "volumes": [{"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}}],
    });
    let new = world.running("same", spec).await;
    assert_ne!(old["metadata"]["uid"], new["metadata"]["uid"]);
    assert_eq!(mounts(&world).len(), 1, "the old one is still here");
    world.eventually_async("the name is the new one's", async || world.log("same").await.is_ok_and(|text| text == "new\n")).await;
    let _driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    world.eventually("the old one goes when it can", || mounts(&world).is_empty()).await;
    let new = world.pod("same", "runs on", |pod| crate::world::condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(new["status"]["containerStatuses"][0]["restartCount"], 0);
    delete(&world, "same").await;
    nothing_is_left(&world).await;
}

pub async fn a_sub_path_does_not_lead_out_of_the_volume(world: World) {
    world.start("").await;
    let driver = Driver::start(&world.kubelet_dir(), &world.folder.join("driver"));
    driver_object(&world, json!({"attachRequired": false})).await;
    claim(&world, "linked", "Filesystem").await;
    let volume = driver.state.join("linked");
    std::fs::create_dir_all(volume.join("inside/note")).expect("a folder");
    let pod = |part: &str| {
        let mut pod = of_claim("linked");
        pod["containers"][0]["volumeMounts"][0]["subPath"] = json!(part);
        pod["containers"][0]["command"] = json!(["/bin/sh", "-c", "ls /data; sleep infinity"]);
        pod
    };
    // Inside the volume each of these would mean something else than on the node; neither is to be had.
    for (name, link) in [("back", "../"), ("absolute", "/bin"), ("file", "/bin/sh"), ("nowhere", "/bin/nowhere")] {
        std::os::unix::fs::symlink(link, volume.join(name)).expect("a link");
        world.create(name, pod(name)).await;
        let waits = |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let pod = world.pod(name, "has no such part", |pod| waits(pod)["reason"] == "CreateContainerConfigError").await;
        let text = waits(&pod)["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!(text, "failed to prepare subPath for volumeMount \"data\" of container \"main\"");
        delete(&world, name).await;
    }
    std::os::unix::fs::symlink("inside", volume.join("within")).expect("a link");
    world.running("within", pod("within")).await;
    world.eventually_async("the part is read", async || world.log("within").await.is_ok_and(|log| log.contains("note"))).await;
    delete(&world, "within").await;
    nothing_is_left(&world).await;
}
