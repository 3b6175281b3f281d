//! Volumes that the node writes, and the pod only reads.

use std::os::unix::fs::PermissionsExt;

use http::Method;
use serde_json::json;

use crate::world::{IMAGE, World};

/// Whoever could write there could have the node follow or remove what it put there (CVE-2017-1002102).
pub async fn volumes_of_objects_cannot_be_written(world: World) {
    world.start("").await;
    for (kind, path) in [("ConfigMap", "configmaps"), ("Secret", "secrets")] {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "words"}, "data": {"word": "aGVsbG8="}});
        world.admin.call(Method::POST, &format!("/api/v1/namespaces/default/{path}"), &object).await.expect("an object");
    }
    let name = json!([{"path": "word", "fieldRef": {"fieldPath": "metadata.name"}}]);
    let volumes = json!([
        {"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}},
        {"name": "config", "configMap": {"name": "words"}},
        {"name": "secret", "secret": {"secretName": "words"}},
        {"name": "downward", "downwardAPI": {"items": name}},
        {"name": "projected", "projected": {"sources": [{"configMap": {"name": "words"}}]}},
    ]);
    let kinds = ["config", "secret", "downward", "projected"];
    let script = "for v in config secret downward projected; do cd /$v; /busybox test -s word || echo no word in $v; for c in 'touch made' \
                  'touch word' 'ln -s / ..link' 'rm ..data' 'mv ..data ..gone' 'mount -o remount,rw .'; do /busybox $c 2>/dev/null && echo \
                  $c in $v; done; done; echo end";
    let mut mounts = vec![json!({"name": "tool", "mountPath": "/busybox"})];
    mounts.extend(kinds.map(|kind| json!({"name": kind, "mountPath": format!("/{kind}")})));
    let container = json!({"name": "main", "image": IMAGE, "command": ["/busybox", "sh", "-c", script], "volumeMounts": mounts});
    world.create("writer", json!({"restartPolicy": "Never", "containers": [container], "volumes": volumes})).await;
    world.pod("writer", "has ended", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(world.log("writer").await.expect("a log"), "end\n");
    // Neither can other users of the node: nobody but root reaches what is below (CVE-2021-41103).
    for folder in [world.kubelet_dir(), world.kubelet_dir().join("pods"), world.kubelet_dir().join("memory")] {
        let mode = std::fs::metadata(&folder).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o7, 0, "{folder:?} {mode:o}");
    }
}
