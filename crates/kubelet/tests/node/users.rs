//! Pods with users of their own.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::world::{IMAGE, World};

/// Owners of files in memory can be shifted since Linux 6.3.
fn memory_can_be_shifted() -> bool {
    runtime::kernel::is_at_least((6, 3))
}

/// A pod whose script runs with a tool of this machine, and then waits.
fn pod(world: &World, script: &str) -> Value {
    // The machine's own root may be of a kind whose owners cannot be shifted.
    let tool = world.folder.join("busybox");
    if !tool.exists() {
        std::fs::copy("/bin/busybox", &tool).expect("a copy");
    }
    let memory = if memory_can_be_shifted() { json!({"medium": "Memory"}) } else { json!({}) };
    let check = json!({"exec": {"command": ["/busybox", "test", "-e", "/done"]}, "periodSeconds": 1});
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    let mounts = [mount("tool", "/busybox"), mount("words", "/words"), mount("room", "/room"), mount("memory", "/memory")];
    json!({
        "hostUsers": false,
        "securityContext": {"fsGroup": 2000, "sysctls": [{"name": "net.ipv4.ip_local_port_range", "value": "20000 30000"}]},
        "containers": [{
            "name": "main", "image": IMAGE, "readinessProbe": check, "volumeMounts": mounts,
            "command": ["/busybox", "sh", "-c", format!("{script}; echo end; echo > /done; exec /busybox sleep 1000")],
        }],
        "volumes": [
            {"name": "tool", "hostPath": {"path": tool, "type": "File"}},
            {"name": "words", "configMap": {"name": "words", "defaultMode": 0o440}},
            {"name": "room", "emptyDir": {}},
            {"name": "memory", "emptyDir": memory},
        ],
    })
}

pub async fn pods_have_users_of_their_own(world: World) {
    world.start("").await;
    let words =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "words", "namespace": "default"}, "data": {"word": "hello"}});
    world.admin.call(http::Method::POST, "/api/v1/namespaces/default/configmaps", &words).await.expect("a config map");
    let script = "/busybox cat /proc/self/uid_map; /busybox id -u; /busybox id -G; /busybox cat /words/word; echo; /busybox stat -L -c 'owner %u %g' \
                  /words/word /room /memory /etc/hosts; echo x > /room/x && /busybox stat -c 'made %u %g' /room/x; echo y > /memory/y && \
                  echo memory; /busybox cat /proc/sys/net/ipv4/ip_local_port_range; echo said > /dev/termination-log && echo told";
    let first = world.running("first", pod(&world, script)).await;
    let log = world.log("first").await.expect("a log");
    let lines: Vec<&str> = log.lines().collect();
    let map: Vec<&str> = lines[0].split_whitespace().collect();
    assert_eq!((map[0], map[2]), ("0", "65536"), "{log}");
    for line in ["0", "0 2000", "hello", "owner 0 2000", "owner 0 0", "made 0 2000", "memory", "20000\t30000", "told"] {
        assert!(lines.contains(&line), "no {line:?} in {log}");
    }
    let uid = first["metadata"]["uid"].as_str().expect("a uid");
    let folder = world.kubelet_dir().join("pods").join(uid);
    let kept: Value = serde_json::from_slice(&std::fs::read(folder.join("userns")).expect("a file")).expect("json");
    assert_eq!(kept["uidMappings"][0]["hostId"].to_string(), map[1]);
    assert_eq!(kept["uidMappings"], kept["gidMappings"]);
    // The volume keeps the pod's own numbers on the disk.
    let made = std::fs::metadata(folder.join("volumes/kubernetes.io~empty-dir/room/x")).expect("a file");
    assert_eq!((made.uid(), made.gid()), (0, 2000));
    world.running("second", pod(&world, "/busybox cat /proc/self/uid_map")).await;
    let other = world.log("second").await.expect("a log");
    assert_ne!(other.split_whitespace().nth(1), Some(map[1]), "no two pods share ids");
    let node = world.node("tells that it can", |node| node["status"]["runtimeHandlers"][0]["features"]["userNamespaces"] == true).await;
    assert!(node.is_object());
    // A pod that is gone gives its ids back with its folder.
    world.admin.call(http::Method::DELETE, "/api/v1/namespaces/default/pods/first", &Value::Null).await.expect("a deletion");
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while folder.exists() {
        assert!(std::time::Instant::now() < deadline, "the folder of the pod stays");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    world.running("third", pod(&world, "/busybox cat /proc/self/uid_map")).await;
    let third = world.log("third").await.expect("a log");
    assert_eq!(third.split_whitespace().nth(1), Some(map[1]), "ids that are free are given again");
}
