//! Huge pages from the node's capacity to what a process gets: the machine sets some aside for this test and takes them back.

use std::sync::Arc;

use cgroup::{Group, Layout};
use serde_json::{Value, json};

use crate::world::{IMAGE, World, condition, run};

const FILE: &str = "/proc/sys/vm/nr_hugepages";
const MIB: i64 = 1 << 20;

/// Pages of the machine for as long as it lives.
struct Pages {
    before: i64,
}

impl Pages {
    /// Sets so many more aside; none where the machine has no huge pages of 2 MiB, or no room.
    fn reserve(count: i64) -> Option<Pages> {
        let now = || std::fs::read_to_string(FILE).ok()?.trim().parse::<i64>().ok();
        let before = now()?;
        let pages = Pages { before };
        std::fs::write(FILE, (before + count).to_string()).ok()?;
        let known = std::path::Path::new("/sys/kernel/mm/hugepages/hugepages-2048kB").is_dir();
        (known && now()? == before + count).then_some(pages)
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        std::fs::write(FILE, self.before.to_string()).expect("pages are given back");
    }
}

/// A pod that asks for pages, with a volume, whose script runs with tools of this machine and then waits.
fn pod(pages: Option<&str>, medium: &str, script: &str) -> Value {
    let mut limits = json!({"memory": "64Mi"});
    if let Some(pages) = pages {
        limits["hugepages-2Mi"] = pages.into();
    }
    let check = json!({"exec": {"command": ["/busybox", "test", "-e", "/done"]}, "periodSeconds": 1});
    json!({
        "containers": [{
            "name": "main", "image": IMAGE, "readinessProbe": check, "resources": {"limits": limits, "requests": limits},
            "volumeMounts": [{"name": "tool", "mountPath": "/busybox"}, {"name": "pages", "mountPath": "/pages"}],
            "command": ["/busybox", "sh", "-c", format!("{script}; echo > /done; exec /busybox sleep 1000")],
        }],
        "volumes": [
            {"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}},
            {"name": "pages", "emptyDir": {"medium": medium}},
        ],
    })
}

/// Allocates so many MiB of the volume.
fn take(file: &str, mib: i64) -> String {
    format!("/busybox fallocate -l {} /pages/{file} && echo {file} given || echo {file} refused", mib * MIB)
}

fn amount(node: &Value, list: &str, resource: &str) -> i64 {
    let text = node["status"][list][resource].as_str().unwrap_or_default();
    api::Quantity::parse(text).unwrap_or_else(|| panic!("{resource} of {node:#}")).value()
}

pub async fn pods_get_the_huge_pages_that_they_ask_for(world: World) {
    let Some(pages) = Pages::reserve(8) else {
        println!("skipped: this machine sets no huge pages aside");
        return;
    };
    let layout = Arc::new(Layout::detect().expect("control groups"));
    let limited = layout.has("hugetlb");
    world.start("").await;
    let node = world.node("tells of its pages", |node| !node["status"]["capacity"]["hugepages-2Mi"].is_null()).await;
    let all = (pages.before + 8) * 2 * MIB;
    for list in ["capacity", "allocatable"] {
        assert_eq!(amount(&node, list, "hugepages-2Mi"), all);
    }
    assert_eq!(amount(&node, "capacity", "memory") - amount(&node, "allocatable", "memory"), all);

    let script = format!("/busybox grep ' /pages ' /proc/mounts; {}; {}", take("within", 8), take("beyond", 2));
    let first = world.running("first", pod(Some("8Mi"), "HugePages", &script)).await;
    let log = world.log("first").await.expect("a log");
    assert!(log.contains("hugetlbfs") && log.contains("pagesize=2M") && log.contains("within given"), "{log}");
    assert_eq!(log.contains("beyond refused"), limited, "{log}");

    // Who asks for none gets none, by whatever way.
    let folder = world.folder.join("pages");
    std::fs::create_dir(&folder).expect("a folder");
    run(&format!("mount -t hugetlbfs -o pagesize=2M none {}", folder.display()));
    let mut thief = pod(None, "", &take("stolen", 2));
    thief["volumes"][1] = json!({"name": "pages", "hostPath": {"path": folder}});
    let thief_pod = world.running("thief", thief).await;
    assert_eq!(world.log("thief").await.expect("a log").contains("stolen refused"), limited);
    if limited {
        for (pod, container, wanted) in [(&first, "", 8 * MIB), (&first, "/main-0", 8 * MIB), (&thief_pod, "", 0)] {
            let path = format!("{}{container}", world.pod_group(pod));
            let group = Group::new(layout.clone(), &path).expect("a plain name");
            let (dir, file) = match group.dir("hugetlb") {
                Some(dir) if layout.is_v1("hugetlb") => (dir, "hugetlb.2MB.limit_in_bytes"),
                _ => (group.unified_dir().expect("a directory"), "hugetlb.2MB.max"),
            };
            let text = std::fs::read_to_string(dir.join(file)).expect("a limit");
            assert_eq!(text.trim(), wanted.to_string(), "{path}");
        }
    }

    // More than are left, none at all, and pages of a size that the pod does not ask for.
    world.create("greedy", pod(Some(&format!("{}", all - 6 * MIB)), "", "true")).await;
    let refused = world.pod("greedy", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(refused["status"]["reason"], "OutOfhugepages-2Mi");
    for (name, asked, medium) in [("without", None, "HugePages"), ("other", Some("2Mi"), "HugePages-1Gi")] {
        world.create(name, pod(asked, medium, "true")).await;
        let text = format!("medium {medium}: hugePages storage requested, but there is no resource request for huge pages");
        let message = format!("MountVolume.SetUp failed for volume \"pages\" : {text}");
        world.eventually_async(&format!("{name} waits"), async || world.has_event(name, "FailedMount", &message).await).await;
        let pod = world.pod(name, "waits", |_| true).await;
        assert_ne!(condition(&pod, "Ready")["status"], "True");
        world.delete(name).await;
    }

    // Pages of a pod that is gone are there for the next, whose medium names their size.
    world.delete("first").await;
    world.running("second", pod(Some(&all.to_string()), "HugePages-2Mi", &take("all", all / MIB))).await;
    let log = world.log("second").await.expect("a log");
    assert!(log.contains("all given"), "{log}");
    for name in ["second", "thief"] {
        world.delete(name).await;
    }
    run(&format!("umount {}", folder.display()));
}
