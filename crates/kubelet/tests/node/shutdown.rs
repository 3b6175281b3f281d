//! A machine that goes down, as a bus and a logind of the test tell it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kubelet::shutdown::wire::{CALL, Message, REPLY, Reader, SIGNAL, Writer};
use kubelet::shutdown::{Config, Period};
use serde_json::{Value, json};

use crate::world::{IMAGE, World, condition};

/// Name of logind's connection.
const LOGIND: &str = ":1.2";

/// Bus and logind in one, for one client.
struct FakeLogind {
    bus: PathBuf,
    settings: PathBuf,
    client: Arc<Mutex<Option<UnixStream>>>,
    /// Our ends of the locks: they read as ended once theirs are gone.
    locks: Receiver<OwnedFd>,
}

impl FakeLogind {
    fn start(folder: &Path) -> FakeLogind {
        let (bus, settings) = (folder.join("bus"), folder.join("logind.conf.d"));
        let listener = UnixListener::bind(&bus).expect("a socket");
        let (sender, locks) = channel();
        let client = Arc::new(Mutex::new(None));
        let (shared, told) = (client.clone(), settings.clone());
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut line = Vec::new();
            loop {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("a greeting");
                line.push(byte[0]);
                if !line.ends_with(b"\r\n") {
                    continue;
                }
                let word = String::from_utf8_lossy(&line).trim_matches(['\0', '\r', '\n']).to_owned();
                line.clear();
                let answer = match word.split(' ').next().expect("a word") {
                    "AUTH" => format!("OK {}\r\n", "0".repeat(32)),
                    "NEGOTIATE_UNIX_FD" => "AGREE_UNIX_FD\r\n".into(),
                    "BEGIN" => break,
                    other => panic!("unexpected {other}"),
                };
                stream.write_all(answer.as_bytes()).expect("an answer");
            }
            *shared.lock().expect("no panic") = Some(stream.try_clone().expect("a copy"));
            let mut bytes = Vec::new();
            loop {
                let mut buffer = [0; 4096];
                let Some(size) = stream.read(&mut buffer).ok().filter(|size| *size > 0) else { return };
                bytes.extend_from_slice(&buffer[..size]);
                while let Some((message, size)) = Message::decode(&bytes).expect("a message") {
                    bytes.drain(..size);
                    answer(&stream, &message, &told, |lock| drop(sender.send(lock)));
                }
            }
        });
        FakeLogind { bus, settings, client, locks }
    }

    fn say(&self, ending: bool) {
        self.say_as(LOGIND, ending);
    }

    fn say_as(&self, sender: &str, ending: bool) {
        let mut body = Writer::default();
        body.number(u32::from(ending));
        let signal = Message {
            kind: SIGNAL,
            serial: 99,
            path: "/org/freedesktop/login1".into(),
            interface: "org.freedesktop.login1.Manager".into(),
            member: "PrepareForShutdown".into(),
            sender: sender.into(),
            signature: "b".into(),
            body: body.0,
            ..Message::default()
        };
        let client = self.client.lock().expect("no panic");
        client.as_ref().expect("a client").write_all(&signal.encode()).expect("a signal");
    }
}

/// Answers one call as the bus, systemd or logind would. The delay is that of the settings, once there are some.
fn answer(stream: &UnixStream, call: &Message, settings: &Path, keep: impl FnOnce(OwnedFd)) {
    assert_eq!(call.kind, CALL);
    let mut reply = Message { kind: REPLY, serial: 1, reply_to: call.serial, ..Message::default() };
    let mut body = Writer::default();
    let mut given = None;
    match call.member.as_str() {
        "Hello" => {
            reply.signature = "s".into();
            body.text(":1.1");
        }
        "Get" => {
            let mut arguments = Reader::new(&call.body);
            assert_eq!(arguments.text().as_deref(), Ok("org.freedesktop.login1.Manager"));
            assert_eq!(arguments.text().as_deref(), Ok("InhibitDelayMaxUSec"));
            let file = std::fs::read_to_string(settings.join("99-kubelet.conf")).unwrap_or_default();
            let seconds = file.lines().find_map(|line| line.strip_prefix("InhibitDelayMaxSec=")?.parse::<u64>().ok()).unwrap_or(5);
            reply.signature = "v".into();
            body.signature("t");
            body.long(seconds * 1_000_000);
        }
        "Inhibit" => {
            let mut arguments = Reader::new(&call.body);
            let words: Vec<String> = (0..4).map(|_| arguments.text().expect("a text")).collect();
            assert_eq!((words[0].as_str(), words[3].as_str()), ("shutdown", "delay"));
            let (ours, theirs) = rustix::pipe::pipe().expect("a pipe");
            keep(ours);
            given = Some(theirs);
            reply.signature = "h".into();
            body.number(0);
        }
        "GetNameOwner" => {
            reply.signature = "s".into();
            body.text(LOGIND);
        }
        "AddMatch" | "KillUnit" => {}
        other => panic!("unexpected call {other}"),
    }
    reply.body = body.0;
    let descriptors: Vec<_> = given.iter().map(AsFd::as_fd).collect();
    reply.descriptors = descriptors.len() as u32;
    runtime::packets::send(stream.as_fd(), &reply.encode(), &descriptors).expect("a reply");
}

fn ended(lock: &OwnedFd) -> bool {
    let mut fds = [rustix::event::PollFd::new(lock, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

fn finished(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["state"]["terminated"]["finishedAt"].as_str().expect("an end").to_owned()
}

/// A container that needs a second and a half to stop.
fn slow() -> Value {
    let script = "trap '/busybox sleep 1.5; exit 0' TERM; while true; do /busybox sleep 0.1; done";
    json!({
        "terminationGracePeriodSeconds": 20,
        "containers": [{
            "name": "main", "image": IMAGE, "command": ["/busybox", "sh", "-c", script],
            "volumeMounts": [{"name": "tool", "mountPath": "/busybox"}],
        }],
        "volumes": [{"name": "tool", "hostPath": {"path": "/bin/busybox", "type": "File"}}],
    })
}

pub async fn a_machine_that_goes_down_ends_its_pods_in_order(world: World) {
    let logind = FakeLogind::start(&world.folder);
    let periods = vec![Period { priority: 0, seconds: 20 }, Period { priority: 2_000_000_000, seconds: 10 }];
    let shutdown = Config { periods, bus: logind.bus.clone(), logind_settings: logind.settings.clone() };
    world.start_as(|config| config.shutdown = shutdown).await;
    let lock = logind.locks.recv_timeout(Duration::from_secs(30)).expect("a lock");
    assert!(logind.settings.join("99-kubelet.conf").exists(), "30 seconds are more than the 5 that logind gives");
    // Somebody else who says so is not believed.
    logind.say_as(":1.66", true);
    world.running("plain", slow()).await;
    let mut important = slow();
    important["priorityClassName"] = "system-node-critical".into();
    world.running("critical", important).await;
    assert!(!ended(&lock));

    logind.say(true);
    let plain = world.pod("plain", "is ended", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(plain["status"]["reason"], "Terminated");
    assert_eq!(plain["status"]["message"], "Pod was terminated in response to imminent node shutdown.");
    assert_eq!(condition(&plain, "DisruptionTarget")["reason"], "TerminationByKubelet");
    assert_eq!(plain["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 0, "it had its time");
    let node = world.node("is not ready", |node| condition(node, "Ready")["status"] == "False").await;
    assert_eq!(condition(&node, "Ready")["reason"], "KubeletNotReady");
    assert_eq!(condition(&node, "Ready")["message"], "node is shutting down");
    let critical = world.pod("critical", "is ended", |pod| pod["status"]["phase"] == "Failed").await;
    assert!(finished(&plain) < finished(&critical), "{} {}", finished(&plain), finished(&critical));
    world.create("late", json!({})).await;
    let late = world.pod("late", "is refused", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(late["status"]["reason"], "NodeShutdown");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !ended(&lock) {
        assert!(Instant::now() < deadline, "the machine may go down once no pod runs");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(world.has_event("node", "NodeShutdown", "Shutdown manager detected shutdown event").await);

    // It was called off.
    logind.say(false);
    let again = logind.locks.recv_timeout(Duration::from_secs(30)).expect("a lock");
    world.node("is ready again", |node| condition(node, "Ready")["status"] == "True").await;
    world.running("after", json!({})).await;
    assert!(!ended(&again));
}
