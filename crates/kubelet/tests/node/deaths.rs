//! What dies on a node: processes of containers, keepers, the node with them, the whole machine; and what tries to take the
//! rest with it. Each time the pods end as their policies say, the others notice nothing, and nothing is left behind.

use http::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::counted::{Counted, count, keeper, nothing_is_left};
use crate::faults::stayed_ready;
use crate::world::{IMAGE, World, condition, remove_groups, run};

/// A script that waits until it is told to end.
const WAIT: &str = "trap 'exit 0' TERM; while :; do /busybox sleep 1000 & wait; done";

fn container(name: &str, script: &str) -> Value {
    let mount = |name: &str, path: &str| json!({"name": name, "mountPath": path});
    json!({
        "name": name, "image": IMAGE, "command": ["/busybox", "sh", "-c", script],
        "volumeMounts": [mount("tool", "/busybox"), mount("room", "/room"), mount("memory", "/memory"), mount("words", "/words")],
    })
}

/// A pod of these containers, with an init container that counts its runs.
fn pod(policy: &str, containers: &[Value]) -> Value {
    json!({
        "restartPolicy": policy,
        "initContainers": [container("first", "echo begun >> /room/begun")],
        "containers": containers,
        "volumes": [
            {"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}},
            {"name": "room", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "words", "secret": {"secretName": "words"}},
        ],
    })
}

fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    statuses.into_iter().find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("killed");
}

async fn words(world: &World) {
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "words"}, "stringData": {"word": "hello"}});
    world.admin.call(Method::POST, "/api/v1/namespaces/default/secrets", &secret).await.expect("a secret");
}

/// One pod of each policy with one container more that has done its work, and one that is left alone.
struct Pods {
    victims: Vec<Value>,
    bystander: Value,
}

const POLICIES: [(&str, &str); 3] = [("always", "Always"), ("on-failure", "OnFailure"), ("never", "Never")];

impl Pods {
    async fn new(world: &World) -> Pods {
        words(world).await;
        let mut victims = Vec::new();
        for (name, policy) in POLICIES {
            let mut containers = vec![container("main", &format!("echo kept > /room/kept; echo gone > /memory/gone; echo said; {WAIT}"))];
            if policy != "Always" {
                containers.push(container("done", "exit 0"));
            }
            world.create(name, pod(policy, &containers)).await;
        }
        for (name, _) in POLICIES {
            let up = |pod: &Value| {
                let done = &status(pod, "done")["state"];
                status(pod, "main")["state"]["running"].is_object() && (name == "always" || done["terminated"].is_object())
            };
            victims.push(world.pod(name, "runs", up).await);
        }
        let bystander = world.running("bystander", pod("Always", &[container("main", WAIT)])).await;
        Pods { victims, bystander }
    }

    fn uid(pod: &Value) -> &str {
        pod["metadata"]["uid"].as_str().expect("a uid")
    }

    /// The pods are as their policies say after their sandboxes were lost: `code` is how the main containers ended.
    async fn came_back(&self, world: &World, codes: &[i64]) {
        for name in ["always", "on-failure"] {
            let pod = world.pod(name, "runs again", |pod| {
                let main = status(pod, "main");
                main["restartCount"] == 1 && main["state"]["running"].is_object()
            });
            let pod = pod.await;
            let last = &status(&pod, "main")["lastState"]["terminated"];
            assert!(codes.contains(&last["exitCode"].as_i64().unwrap_or(-1)), "{name}: {last}");
            assert_eq!(last["reason"], "ContainerStatusUnknown", "{name}");
            let main = world.folder.join("kubelet/pods").join(Pods::uid(&pod)).join("volumes/kubernetes.io~empty-dir/room");
            assert_eq!(std::fs::read_to_string(main.join("kept")).expect("a file"), "kept\n", "{name}: its volume stayed");
            let begun = std::fs::read_to_string(main.join("begun")).expect("a file");
            assert_eq!(begun.lines().count(), 2, "{name}: a new sandbox begins with the init containers");
        }
        world
            .eventually_async("the new attempt has a log", async || world.log("always").await.is_ok_and(|text| text.contains("said")))
            .await;
        let done = world.pod("on-failure", "has done its work", |pod| !status(pod, "done").is_null()).await;
        let done = status(&done, "done");
        assert_eq!((&done["restartCount"], &done["state"]["terminated"]["exitCode"]), (&0.into(), &0.into()), "{done}");
        let never = world.pod("never", "has failed", |pod| pod["status"]["phase"] == "Failed").await;
        let main = status(&never, "main");
        assert_eq!(
            (&main["restartCount"], &status(&never, "done")["state"]["terminated"]["exitCode"]),
            (&0.into(), &0.into()),
            "{never:#}"
        );
        assert!(codes.contains(&main["state"]["terminated"]["exitCode"].as_i64().unwrap_or(-1)), "{main}");
    }

    /// The one that was left alone has noticed nothing.
    async fn others_are_untouched(&self, world: &World) {
        let now = world.pod("bystander", "is ready", |pod| condition(pod, "Ready")["status"] == "True").await;
        assert_eq!(status(&now, "main"), status(&self.bystander, "main"));
        assert_eq!(condition(&now, "Ready"), condition(&self.bystander, "Ready"));
    }

    async fn go(&self, world: &World, before: &Counted) {
        for (name, _) in POLICIES {
            world.delete(name).await;
        }
        world.delete("bystander").await;
        nothing_is_left(world, before).await;
    }
}

pub async fn a_killed_container_starts_again_by_policy(world: World) {
    world.start("").await;
    let ready = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let before = count(&world);
    let pods = Pods::new(&world).await;
    for pod in &pods.victims {
        kill(world.process(pod, "main"));
    }
    for name in ["always", "on-failure"] {
        let up = |pod: &Value| status(pod, "main")["restartCount"] == 1 && status(pod, "main")["state"]["running"].is_object();
        let pod = world.pod(name, "runs again", up).await;
        let last = &status(&pod, "main")["lastState"]["terminated"];
        assert_eq!((&last["exitCode"], &last["reason"]), (&137.into(), &"Error".into()), "{name}");
    }
    let never = world.pod("never", "has failed", |pod| pod["status"]["phase"] == "Failed").await;
    let main = status(&never, "main");
    assert_eq!((&main["restartCount"], &main["state"]["terminated"]["exitCode"]), (&0.into(), &137.into()));
    pods.others_are_untouched(&world).await;
    stayed_ready(&world, &ready).await;
    pods.go(&world, &before).await;
}

pub async fn a_killed_keeper_costs_its_own_pod_alone(world: World) {
    world.start("").await;
    let ready = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let before = count(&world);
    let pods = Pods::new(&world).await;
    for pod in &pods.victims {
        kill(keeper(&world, Pods::uid(pod)));
    }
    pods.came_back(&world, &[255]).await;
    let told = "Pod sandbox changed, it will be killed and re-created.";
    assert!(world.has_event("always", "SandboxChanged", told).await);
    pods.others_are_untouched(&world).await;
    stayed_ready(&world, &ready).await;
    pods.go(&world, &before).await;
}

pub async fn keepers_that_die_with_the_node_are_noticed(world: World) {
    let mut node = world.start_process().await;
    let before = count(&world);
    let pods = Pods::new(&world).await;
    node.kill().expect("the node ends");
    node.wait().expect("it ended");
    for pod in &pods.victims {
        kill(keeper(&world, Pods::uid(pod)));
    }
    let mut node = world.start_process().await;
    pods.came_back(&world, &[255]).await;
    pods.others_are_untouched(&world).await;
    pods.go(&world, &before).await;
    node.kill().expect("the node ends");
    node.wait().expect("it ended");
}

/// Everything goes that a machine has in memory only: processes, control groups, mounts, links, rules and `/run`.
fn lose_memory(world: &World) {
    assert!(remove_groups(&world.folder));
    let own = world.folder.display().to_string();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    for place in mounts.lines().rev().filter_map(|line| line.split(' ').nth(4)).filter(|place| place.starts_with(&own)) {
        run(&format!("umount -l {place}"));
    }
    for line in run("ip -o link").lines() {
        let name = line.split(": ").nth(1).unwrap_or_default().split('@').next().unwrap_or_default().to_owned();
        if !matches!(name.as_str(), "lo" | "up0" | "cable0") {
            run(&format!("ip link del {name} 2>/dev/null || true"));
        }
    }
    run("nft flush ruleset");
    std::fs::remove_dir_all(world.folder.join("run")).expect("lost");
}

pub async fn a_machine_that_starts_anew_runs_its_pods_again(world: World) {
    let mut node = world.start_process().await;
    let before = count(&world);
    let pods = Pods::new(&world).await;
    node.kill().expect("the node ends");
    node.wait().expect("it ended");
    lose_memory(&world);
    let mut node = world.start_process().await;
    pods.came_back(&world, &[137]).await;
    // What was in memory is gone, and is in memory again.
    let always = world.pod("always", "is ready", |pod| condition(pod, "Ready")["status"] == "True").await;
    let memory = world.kubelet_dir().join("pods").join(Pods::uid(&always)).join("volumes/kubernetes.io~empty-dir/memory");
    const TMPFS: i64 = 0x0102_1994;
    assert_eq!(rustix::fs::statfs(&memory).expect("a volume").f_type, TMPFS);
    let secret = world.kubelet_dir().join("memory").join(Pods::uid(&always)).join("kubernetes.io~secret/words");
    assert_eq!(rustix::fs::statfs(&secret).expect("a volume").f_type, TMPFS);
    assert_eq!(std::fs::read_to_string(secret.join("word")).expect("a word"), "hello");
    let bystander = world.pod("bystander", "runs again", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(status(&bystander, "main")["restartCount"], 1);
    // Every pod has an address of its own, new ones too.
    world.running("new", json!({})).await;
    let mut addresses = Vec::new();
    for name in ["always", "on-failure", "bystander", "new"] {
        let pod = world.pod(name, "has an address", |pod| pod["status"]["podIP"].is_string()).await;
        let address = pod["status"]["podIP"].as_str().expect("an address").to_owned();
        // Nobody listens there, and it is the pod that says so.
        let refused = tokio::net::TcpStream::connect((address.as_str(), 9)).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{name}");
        addresses.push(address);
    }
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 4);
    world.delete("new").await;
    pods.go(&world, &before).await;
    node.kill().expect("the node ends");
    node.wait().expect("it ended");
}

/// What a probe finds in a neighbour shows that the node still works.
fn watched() -> Value {
    let probe = json!({"exec": {"command": ["/busybox", "true"]}, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3});
    let mut main = container("main", WAIT);
    main["livenessProbe"] = probe.clone();
    main["readinessProbe"] = probe;
    pod("Always", &[main])
}

pub async fn a_fork_bomb_stays_in_its_pod(world: World) {
    const MOST: usize = 48;
    world.start_as(|config| config.pod_pids_limit = Some(MOST as i64)).await;
    let ready = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let before = count(&world);
    words(&world).await;
    let bystander = world.running("bystander", watched()).await;
    // The shell that meets the limit ends; what it has started stays.
    let bomb = "(while :; do /busybox sleep 1000 & done); exec /busybox sleep 1000";
    let pod_of_bomb = world.running("bomb", pod("Always", &[container("main", bomb)])).await;
    let layout = std::sync::Arc::new(cgroup::Layout::detect().expect("control groups"));
    let group = cgroup::Group::new(layout, &world.pod_group(&pod_of_bomb)).expect("a plain name");
    world.eventually("the bomb has met its limit", || group.all_pids().is_ok_and(|pids| pids.len() >= MOST - 2)).await;
    assert!(group.all_pids().expect("processes").len() <= MOST, "and not more");
    world.running("later", pod("Always", &[container("main", WAIT)])).await;
    let now = world.pod("bystander", "is ready", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(condition(&now, "Ready"), condition(&bystander, "Ready"));
    assert_eq!(status(&now, "main")["restartCount"], 0);
    stayed_ready(&world, &ready).await;
    for name in ["bomb", "later", "bystander"] {
        world.delete(name).await;
    }
    nothing_is_left(&world, &before).await;
}

pub async fn a_memory_hog_is_killed_alone(world: World) {
    if !cgroup::Layout::detect().expect("control groups").has("memory") {
        println!("  without limits: the hierarchy has no controller for them");
        return;
    }
    world.start("").await;
    let ready = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let before = count(&world);
    words(&world).await;
    let bystander = world.running("bystander", watched()).await;
    let mut hog = container("main", "exec /busybox dd if=/dev/zero of=/dev/null bs=200M count=1");
    hog["resources"] = json!({"limits": {"memory": "32Mi"}});
    world.create("again", pod("Always", &[hog.clone(), container("beside", WAIT)])).await;
    world.create("once", pod("Never", &[hog])).await;
    let again = world.pod("again", "was started again", |pod| status(pod, "main")["restartCount"].as_i64() > Some(0)).await;
    let last = &status(&again, "main")["lastState"]["terminated"];
    assert_eq!((&last["reason"], &last["exitCode"]), (&"OOMKilled".into(), &137.into()), "{again:#}");
    let held = world.pod("again", "waits", |pod| status(pod, "main")["state"]["waiting"]["reason"] == "CrashLoopBackOff").await;
    assert_eq!(status(&held, "beside")["restartCount"], 0, "its neighbour in the pod runs on");
    let once = world.pod("once", "has failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(status(&once, "main")["state"]["terminated"]["reason"], "OOMKilled");
    let now = world.pod("bystander", "is ready", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(condition(&now, "Ready"), condition(&bystander, "Ready"));
    stayed_ready(&world, &ready).await;
    for name in ["again", "once", "bystander"] {
        world.delete(name).await;
    }
    nothing_is_left(&world, &before).await;
}

pub async fn a_profile_of_the_node_is_never_left_out(world: World) {
    world.start("").await;
    words(&world).await;
    let folder = world.kubelet_dir().join("seccomp/profiles");
    std::fs::create_dir_all(&folder).expect("a folder");
    let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    std::fs::write(folder.join("no-folders.json"), text).expect("a profile");
    let asking = |profile: &str| {
        let mut main = container("main", "/busybox mkdir /room/made; /busybox grep Seccomp: /proc/self/status");
        main["securityContext"] = json!({"seccompProfile": {"type": "Localhost", "localhostProfile": profile}});
        pod("Never", &[main])
    };
    world.create("good", asking("profiles/no-folders.json")).await;
    world.pod("good", "has ended", |pod| pod["status"]["phase"] == "Succeeded").await;
    let said = world.log("good").await.expect("a log");
    assert!(said.contains("No space left") && said.contains("Seccomp:\t2"), "{said}");
    for (name, profile) in [("missing", "profiles/none.json"), ("folder", "profiles")] {
        world.create(name, asking(profile)).await;
        let held = world.pod(name, "does not run", |pod| status(pod, "main")["state"]["waiting"]["reason"] == "CreateContainerError").await;
        let text = status(&held, "main")["state"]["waiting"]["message"].as_str().unwrap_or_default();
        assert!(text.starts_with("cannot load seccomp profile"), "{text}");
    }
}
