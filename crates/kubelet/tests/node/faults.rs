//! What nodes go through: registries that die, disks that turn read-only, probes that hang, clocks that jump.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::images::DebianRegistry;
use crate::registry::{Relay, processes, push};
use crate::world::{IMAGE, NODES, World, condition, run};

/// A pod of an image that has to be pulled.
fn of(image: &str) -> Value {
    json!({"containers": [{"name": "main", "image": image, "command": ["/demo", "serve"]}]})
}

fn waiting(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]["state"]["waiting"]
}

/// The node was never anything but ready since then.
pub async fn stayed_ready(world: &World, before: &Value) {
    let node = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    assert_eq!(condition(&node, "Ready")["lastTransitionTime"], condition(before, "Ready")["lastTransitionTime"]);
}

pub async fn a_pull_goes_on_where_its_registry_died(world: World) {
    const BALLAST: i64 = 12 << 20;
    world.start("").await;
    let before = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let registry = DebianRegistry::start();
    push(&world, &registry, "team/app:1", BALLAST as usize);
    let mut relay = Relay::new(registry.address).await;
    relay.start(BALLAST / 2).await;
    let image = format!("{}/team/app:1", relay.address);
    world.create("late", of(&image)).await;
    world.pod("late", "has no image", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
    assert!(relay.is_dead());
    let failed = world.pod("late", "waits before it asks again", |pod| waiting(pod)["reason"] == "ImagePullBackOff").await;
    let text = waiting(&failed)["message"].as_str().unwrap_or_default();
    assert!(text.starts_with(&format!("Back-off pulling image {image:?}")), "{text}");
    assert_eq!(failed["status"]["phase"], "Pending");
    let told = format!("Back-off pulling image {image:?}");
    world.eventually_async("the event is there", async || world.has_event("late", "BackOff", &told).await).await;
    world.running("bystander", json!({})).await;
    relay.start(i64::MAX).await;
    let late = world.pod("late", "runs", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(late["status"]["containerStatuses"][0]["restartCount"], 0);
    let again = relay.answered.load(Ordering::SeqCst);
    assert!(again < BALLAST * 3 / 4, "{again} bytes were fetched after the first half of {BALLAST}");
    let ballast = std::fs::metadata(format!("/proc/{}/root/ballast", world.process(&late, "main"))).expect("a file of the image");
    assert_eq!(ballast.len() as i64, BALLAST);
    let left = std::fs::read_dir(world.folder.join("data/images/ingest")).expect("a folder").count();
    assert_eq!(left, 0, "downloads that are over");
    stayed_ready(&world, &before).await;
}

pub async fn an_image_store_that_can_only_be_read_costs_new_images_only(world: World) {
    world.start("").await;
    let before = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let registry = DebianRegistry::start();
    push(&world, &registry, "team/app:1", 1 << 20);
    let image = format!("{}/team/app:1", registry.address);
    let store = world.folder.join("data");
    let store = store.display();
    run(&format!("mount --bind {store} {store} && mount -o remount,bind,ro {store}"));
    world.create("late", of(&image)).await;
    world.pod("late", "has no image", |pod| waiting(pod)["reason"] == "ErrImagePull").await;
    let begin = format!("Failed to pull image {image:?}: ");
    let is_told = |event: &Value| {
        let text = event["message"].as_str().unwrap_or_default();
        event["reason"] == "Failed" && text.starts_with(&begin) && text.contains("Read-only file system")
    };
    world.eventually_async("an event says why", async || world.events("late").await.iter().any(is_told)).await;
    // What is here already is not touched by that.
    world.running("present", json!({})).await;
    world.delete("present").await;
    run(&format!("umount {store}"));
    world.pod("late", "runs", |pod| condition(pod, "Ready")["status"] == "True").await;
    stayed_ready(&world, &before).await;
}

/// A pod with a probe of each kind that never comes back, and `marker` in the command line of what it leaves.
fn hanging(kind: &str, marker: &str) -> Value {
    let probe = json!({"exec": {"command": ["/busybox", "sleep", marker]}, "periodSeconds": 1, "timeoutSeconds": 1, "failureThreshold": 2});
    // Long enough to hear the signal on a busy machine.
    json!({
        "terminationGracePeriodSeconds": 30,
        "containers": [{
            "name": "main", "image": IMAGE, (kind): probe, "volumeMounts": [{"name": "tool", "mountPath": "/busybox"}],
        }],
        "volumes": [{"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}}],
    })
}

pub async fn a_probe_that_hangs_is_ended_and_counts(world: World) {
    world.start("").await;
    let before = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let (alive, ready) = ("98761", "98762");
    world.create("alive", hanging("livenessProbe", alive)).await;
    world.create("ready", hanging("readinessProbe", ready)).await;
    let status = |pod: &Value| pod["status"]["containerStatuses"][0].clone();
    let restarted = world.pod("alive", "is started again", |pod| status(pod)["restartCount"].as_i64() > Some(0)).await;
    assert_eq!(status(&restarted)["lastState"]["terminated"]["exitCode"], 143);
    let told = |events: &[Value], word: &str| {
        let text = format!(
            "{word} probe failed: command timed out: \"/busybox sleep {}\" timed out after 1s",
            if word == "Liveness" { alive } else { ready }
        );
        assert!(events.iter().any(|event| event["reason"] == "Unhealthy" && event["message"] == text), "{text}: {events:#?}");
    };
    told(&world.events("alive").await, "Liveness");
    let killing = "Container main failed liveness probe, will be restarted";
    assert!(world.has_event("alive", "Killing", killing).await);
    told(&world.events("ready").await, "Readiness");
    let unready = world.pod("ready", "runs and is not ready", |pod| status(pod)["state"]["running"].is_object()).await;
    assert_eq!((&status(&unready)["restartCount"], &condition(&unready, "Ready")["status"]), (&0.into(), &"False".into()));
    // Whatever was begun is ended: at most the one that runs now is there, however often it was begun.
    for marker in [alive, ready] {
        assert!(processes(&format!("^/busybox sleep {marker}")) <= 1);
    }
    world.delete("alive").await;
    world.delete("ready").await;
    for marker in [alive, ready] {
        world.eventually("nothing is left", || processes(&format!("^/busybox sleep {marker}")) == 0).await;
    }
    stayed_ready(&world, &before).await;
}

/// Puts the clock of every program that is started from now on under the test's control: a library that all of them load adds the
/// number in a file to what the kernel says. The kernel itself lets nobody set the clock for a part of the machine.
fn own_clock(folder: &Path) -> Clock {
    let (source, library, offset) = (folder.join("clock.c"), folder.join("clock.so"), folder.join("clock.offset"));
    std::fs::write(&offset, [0; 8]).expect("a file");
    let text = format!(
        r#"#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile const long *offset;
__attribute__((constructor)) static void begin(void) {{
    int file = open("{}", O_RDONLY | O_CLOEXEC);
    void *page = file < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (page != MAP_FAILED) offset = page;
}}
int clock_gettime(clockid_t clock, struct timespec *time) {{
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) && offset) time->tv_sec += *offset;
    return result;
}}
int gettimeofday(struct timeval *time, void *zone) {{
    struct timespec now;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &now);
    time->tv_sec = now.tv_sec;
    time->tv_usec = now.tv_nsec / 1000;
    return 0;
}}
time_t time(time_t *out) {{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}}
"#,
        offset.display()
    );
    std::fs::write(&source, text).expect("a file");
    run(&format!("cc -shared -fPIC -O1 -o {} {}", library.display(), source.display()));
    let (upper, work) = (folder.join("etc-upper"), folder.join("etc-work"));
    run(&format!("mkdir -p {} {}", upper.display(), work.display()));
    run(&format!("mount -t overlay overlay -o lowerdir=/etc,upperdir={},workdir={} /etc", upper.display(), work.display()));
    std::fs::write("/etc/ld.so.preload", format!("{}\n", library.display())).expect("a file");
    Clock { offset, since: 0 }
}

struct Clock {
    offset: std::path::PathBuf,
    since: i64,
}

impl Clock {
    fn set(&mut self, seconds: i64) {
        use std::os::unix::fs::FileExt;
        let file = std::fs::File::options().write(true).open(&self.offset).expect("a file");
        file.write_at(&seconds.to_ne_bytes(), 0).expect("a write");
        self.since = seconds;
        let shown: i64 = run("date +%s").trim().parse().expect("a number");
        let here = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time").as_secs() as i64;
        assert!((shown - here - seconds).abs() < 10, "the clock shows {shown} and not {here} and {seconds}");
    }
}

pub async fn a_clock_that_jumps_changes_no_wait(world: World) {
    const HOURS: i64 = 3 * 3600;
    let mut clock = own_clock(&world.folder);
    clock.set(0);
    let mut node = world.start_process().await;
    let before = world.node("is ready", |node| condition(node, "Ready")["status"] == "True").await;
    let probe = json!({"exec": {"command": ["/bin/echo", "well"]}, "periodSeconds": 1, "failureThreshold": 1});
    let token = json!({"serviceAccountToken": {"path": "token", "expirationSeconds": 7200}});
    let steady = json!({
        "containers": [{
            "name": "main", "image": IMAGE, "livenessProbe": probe, "volumeMounts": [{"name": "token", "mountPath": "/token"}],
        }],
        "volumes": [{"name": "token", "projected": {"sources": [token]}}],
    });
    let steady = world.running("steady", steady).await;
    let token = || std::fs::read_to_string(format!("/proc/{}/root/token/token", world.process(&steady, "main"))).expect("a token");
    let first = token();
    let crashing = json!({"containers": [{"name": "main", "image": IMAGE, "command": ["/bin/sh", "-c", "none"]}]});
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or(0);
    for (turn, offset) in [("forth", HOURS), ("back", 0)] {
        // It waits for ten seconds, or the second time for twenty, when the clock jumps.
        world.create(turn, crashing.clone()).await;
        let seen = world.pod(turn, "waits", |pod| waiting(pod)["reason"] == "CrashLoopBackOff").await;
        let (count, wait) = (restarts(&seen), 10 << (restarts(&seen) - 1));
        let renewed = world.renewed().await;
        let jumped = Instant::now();
        clock.set(offset);
        world.pod(turn, "is started again", |pod| restarts(pod) > count).await;
        let waited = jumped.elapsed();
        assert!(waited > Duration::from_secs(wait - 4) && waited < Duration::from_secs(wait + 6), "{turn}: {waited:?}");
        // It ended after the jump, and waits for twice as long.
        world.pod(turn, "waits again", |pod| waiting(pod)["reason"] == "CrashLoopBackOff").await;
        let again = Instant::now();
        world.pod(turn, "is started a third time", |pod| restarts(pod) > count + 1).await;
        assert!(
            again.elapsed() > Duration::from_secs(2 * wait - 4) && again.elapsed() < Duration::from_secs(2 * wait + 8),
            "{turn}: {:?}",
            again.elapsed()
        );
        assert_ne!(world.renewed().await, renewed, "the lease goes on");
        let began = Instant::now();
        world.running(&format!("{turn}-new"), json!({})).await;
        world.delete(&format!("{turn}-new")).await;
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        world.delete(turn).await;
    }
    assert_eq!(first, token(), "a token of two hours is not replaced for a jump of three");
    let after = world.pod("steady", "runs", |pod| condition(pod, "Ready")["status"] == "True").await;
    assert_eq!(restarts(&after), 0);
    assert_eq!(condition(&after, "Ready")["lastTransitionTime"], condition(&steady, "Ready")["lastTransitionTime"]);
    let path = NODES.path("", "node", "");
    let now = world.admin.call(http::Method::GET, &path, &Value::Null).await.expect("the node");
    assert_eq!(condition(&now, "Ready")["lastTransitionTime"], condition(&before, "Ready")["lastTransitionTime"]);
    node.kill().expect("the node ends");
    node.wait().expect("it ended");
}
