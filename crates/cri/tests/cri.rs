//! The service over its socket, spoken to by our own client: one pod from its making to its removal, and what is refused.
//!
//! Each test runs in a process with name spaces of its own. Keepers are this same program, so `main` dispatches first.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::time::Duration;

use cgroup::{Group, Layout};
use cri::messages::*;
use cri::service::{self, Parts};
use grpc::client::Channel;
use grpc::wire::Message;
use grpc::{Code, Failure};
use image::{ImageConfig, ImageStore};
use net::{HostJournal, NodeNetwork};
use runtime::{Runtime, RuntimeConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

type Test = fn(World) -> Pin<Box<dyn Future<Output = ()>>>;

const TESTS: &[(&str, Test)] = &[
    ("a_pod_lives_and_leaves_nothing", |world| Box::pin(a_pod_lives_and_leaves_nothing(world))),
    ("pods_have_users_of_their_own", |world| Box::pin(pods_have_users_of_their_own(world))),
    ("what_is_not_supported_is_refused_by_name", |world| Box::pin(what_is_not_supported_is_refused_by_name(world))),
    ("an_address_of_a_stream_works_once", |world| Box::pin(an_address_of_a_stream_works_once(world))),
];
const INSIDE: &str = "--inside";
const IMAGE: &str = "knarr.io/demo:1";
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    runtime::reexec::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, folder] = arguments.as_slice()
        && first == INSIDE
    {
        inside(name, Path::new(folder));
        return ExitCode::SUCCESS;
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: containers need root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let mut failed = 0;
    for (name, _) in TESTS.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()))) {
        let passed = outside(name);
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed += u8::from(!passed);
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test in a process of its own and removes what it left.
fn outside(name: &str) -> bool {
    let folder = tempfile::Builder::new().prefix("knarr-cri-").tempdir().expect("a folder");
    let exe = std::env::current_exe().expect("own program");
    let separate = ["--net", "--mount", "--propagation", "private"];
    let status = Command::new("unshare").args(separate).arg(exe).args([INSIDE, name]).arg(folder.path()).status();
    let group = Group::new(Arc::new(Layout::detect().expect("control groups")), &group(folder.path())).expect("a plain name");
    let _none_is_fine = group.kill_all();
    group.remove(Duration::from_secs(30)).is_ok() && status.is_ok_and(|status| status.success())
}

fn group(folder: &Path) -> String {
    folder.file_name().expect("a name").to_string_lossy().replace('.', "-")
}

fn inside(name: &str, folder: &Path) {
    let (_, test) = TESTS.iter().find(|(known, _)| *known == name).expect("a test of this name");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let world = World::new(folder).await;
        tokio::time::timeout(Duration::from_secs(240), test(world)).await.expect("the test ends in time");
    });
    tokio.shutdown_background();
}

struct World {
    folder: PathBuf,
    channel: Channel,
}

impl World {
    async fn new(folder: &Path) -> World {
        let up = Command::new("sh").args(["-c", "ip link set lo up"]).status();
        assert!(up.is_ok_and(|status| status.success()));
        let images = ImageStore::open(ImageConfig::new(folder.join("data"))).expect("an image store");
        image::demo::import_demo(&images).await.expect("the demo image");
        let config = RuntimeConfig { run_dir: folder.join("run"), cgroup_root: group(folder), self_exe: None };
        let journal = Arc::new(HostJournal::open(folder.join("journal")).expect("a journal"));
        let parts = Parts {
            runtime: Runtime::open(config).expect("a runtime"),
            images,
            network: NodeNetwork::open(1500, Vec::new(), journal).expect("a network"),
            state_dir: folder.join("cri"),
            pod_cidr: Some("10.77.0.0/24".parse().expect("a range")),
            version: "test".into(),
        };
        let socket = folder.join("cri.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        tokio::spawn(service::run(parts, listener));
        World { folder: folder.to_owned(), channel: Channel::new(socket) }
    }

    async fn call<M: Message>(&self, method: &str, request: impl Message) -> Result<M, Failure> {
        self.channel.call(&format!("/runtime.v1.RuntimeService/{method}"), &request, Some(PATIENCE)).await
    }

    fn pod(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: name.into(), uid: format!("uid-{name}"), namespace: "default".into(), attempt: 0 }),
            hostname: name.into(),
            log_directory: self.folder.join("logs").join(name).to_string_lossy().into_owned(),
            dns_config: Some(DNSConfig { servers: vec!["192.0.2.53".into()], searches: vec!["example".into()], options: Vec::new() }),
            labels: Map::from([("app".into(), name.into())]),
            ..PodSandboxConfig::default()
        }
    }

    async fn run_pod(&self, config: PodSandboxConfig) -> Result<String, Failure> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() };
        Ok(self.call::<RunPodSandboxResponse>("RunPodSandbox", request).await?.pod_sandbox_id)
    }

    async fn create(&self, pod: &str, config: ContainerConfig) -> Result<String, Failure> {
        let request = CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        Ok(self.call::<CreateContainerResponse>("CreateContainer", request).await?.container_id)
    }

    async fn status(&self, container: &str) -> Result<ContainerStatus, Failure> {
        let request = ContainerStatusRequest { container_id: container.into(), verbose: false };
        Ok(self.call::<ContainerStatusResponse>("ContainerStatus", request).await?.status.expect("a status"))
    }

    async fn exec(&self, container: &str, cmd: &[&str], timeout: i64) -> Result<ExecSyncResponse, Failure> {
        let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
        self.call("ExecSync", ExecSyncRequest { container_id: container.into(), cmd, timeout }).await
    }
}

fn container(words: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: "main".into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        envs: vec![KeyValue { key: "WORD".into(), value: "given".into() }],
        log_path: "main/0.log".into(),
        ..ContainerConfig::default()
    }
}

async fn a_pod_lives_and_leaves_nothing(world: World) {
    let version: VersionResponse = world.call("Version", VersionRequest::default()).await.expect("a version");
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("knarr", "v1"));
    let mut events = world.channel.send("/runtime.v1.RuntimeService/GetContainerEvents", &GetEventsRequest {}).await.expect("events");
    let pod = world.run_pod(world.pod("web")).await.expect("a pod");
    let again = world.run_pod(world.pod("web")).await.expect_err("there is one");
    assert_eq!(again.code, Code::AlreadyExists);
    let request = PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status: PodSandboxStatusResponse = world.call("PodSandboxStatus", request).await.expect("a status");
    let status = status.status.expect("a status");
    assert_eq!(status.state, sandbox_state::READY);
    assert!(status.network.expect("addresses").ip.starts_with("10.77.0."));

    let id = world.create(&pod, container(&["sleep", "1000"])).await.expect("a container");
    assert_eq!(world.status(&id).await.expect("a status").state, container_state::CREATED);
    let _: StartContainerResponse =
        world.call("StartContainer", StartContainerRequest { container_id: id.clone() }).await.expect("a start");
    assert_eq!(world.status(&id).await.expect("a status").state, container_state::RUNNING);
    let resolver = world.exec(&id, &["cat", "/etc/resolv.conf"], 0).await.expect("a command");
    assert_eq!((resolver.exit_code, &resolver.stdout[..]), (0, &b"search example\nnameserver 192.0.2.53\n"[..]));
    assert_eq!(world.exec(&id, &["hostname"], 0).await.expect("a command").stdout, "web\n");
    assert_ne!(world.exec(&id, &["cat", "/nothing"], 0).await.expect("a command").exit_code, 0);
    assert_eq!(world.exec(&id, &["sleep", "100"], 1).await.expect_err("it takes too long").code, Code::DeadlineExceeded);
    let variables = world.exec(&id, &["env"], 0).await.expect("a command").stdout;
    assert!(String::from_utf8_lossy(&variables).lines().any(|line| line == "WORD=given"), "{variables:?}");

    let brief = ContainerConfig {
        metadata: Some(ContainerMetadata { name: "brief".into(), attempt: 0 }),
        log_path: "brief/0.log".into(),
        ..container(&["echo", "said"])
    };
    let brief = world.create(&pod, brief).await.expect("a container");
    let _: StartContainerResponse =
        world.call("StartContainer", StartContainerRequest { container_id: brief.clone() }).await.expect("a start");
    while world.status(&brief).await.expect("a status").state != container_state::EXITED {
        tokio::task::yield_now().await;
    }
    let ended = world.status(&brief).await.expect("a status");
    assert_eq!((ended.exit_code, ended.reason.as_str()), (0, "Completed"));
    let log = std::fs::read_to_string(world.folder.join("logs/web/brief/0.log")).expect("a log");
    assert!(log.trim_end().ends_with(" stdout F said"), "{log:?}");

    let mut pieces =
        world.channel.send("/runtime.v1.RuntimeService/StreamContainers", &ListContainersRequest::default()).await.expect("a list");
    let mut names: Vec<String> = Vec::new();
    while let Some(piece) = pieces.next::<ListContainersResponse>().await.expect("no failure") {
        names.extend(piece.containers.into_iter().filter_map(|container| container.metadata).map(|metadata| metadata.name));
    }
    names.sort();
    assert_eq!(names, ["brief", "main"]);
    let by_label = |value: &str| {
        let filter = PodSandboxFilter { label_selector: Map::from([("app".into(), value.into())]), ..PodSandboxFilter::default() };
        world.call::<ListPodSandboxResponse>("ListPodSandbox", ListPodSandboxRequest { filter: Some(filter) })
    };
    assert_eq!(by_label("web").await.expect("a list").items.len(), 1);
    assert_eq!(by_label("other").await.expect("a list").items.len(), 0);
    let stats: ListContainerStatsResponse = world.call("ListContainerStats", ListContainerStatsRequest::default()).await.expect("numbers");
    assert!(stats.stats[0].memory.as_ref().and_then(|memory| memory.usage_bytes.as_ref()).is_some_and(|usage| usage.value > 0));

    let stop = StopContainerRequest { container_id: id.clone(), timeout: 10 };
    let _: StopContainerResponse = world.call("StopContainer", stop).await.expect("a stop");
    let ended = world.status(&id).await.expect("a status");
    assert_eq!((ended.state, ended.exit_code), (container_state::EXITED, 143));
    assert_eq!(world.exec(&id, &["ls"], 0).await.expect_err("it has ended").code, Code::FailedPrecondition);
    for _twice in 0..2 {
        let stop = StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
        let _: StopPodSandboxResponse = world.call("StopPodSandbox", stop).await.expect("a stop");
    }
    assert_eq!(world.status(&id).await.expect("what is over is told").exit_code, 143);
    let remove = RemovePodSandboxRequest { pod_sandbox_id: pod.clone() };
    let _: RemovePodSandboxResponse = world.call("RemovePodSandbox", remove).await.expect("a removal");
    assert_eq!(world.status(&id).await.expect_err("it is gone").code, Code::NotFound);
    for left in ["cri/pods", "cri/containers"] {
        assert_eq!(std::fs::read_dir(world.folder.join(left)).expect("a folder").count(), 0, "{left}");
    }
    let links = Command::new("ip").args(["-o", "link"]).output().expect("links");
    assert_eq!(String::from_utf8_lossy(&links.stdout).matches("link-netnsid").count(), 0);
    let mut seen = Vec::new();
    while seen.last() != Some(&(pod.clone(), event::DELETED)) {
        let next = tokio::time::timeout(PATIENCE, events.next::<ContainerEventResponse>()).await.expect("in time");
        let next = next.expect("no failure").expect("one more");
        seen.push((next.container_id, next.container_event_type));
    }
    let of_container: Vec<i32> = seen.iter().filter(|(name, _)| *name == id).map(|(_, kind)| *kind).collect();
    assert_eq!(of_container, [event::CREATED, event::STARTED, event::STOPPED, event::DELETED]);
}

async fn pods_have_users_of_their_own(world: World) {
    let range = IDMapping { host_id: 9 * 65536, container_id: 0, length: 65536 };
    let described = |pid: i32, ranges: Vec<IDMapping>| {
        let users = UserNamespace { mode: namespace::POD, uids: ranges.clone(), gids: ranges };
        let options = NamespaceOption { userns_options: Some(users), pid, ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..LinuxSandboxSecurityContext::default() };
        let linux = Some(LinuxPodSandboxConfig { security_context: Some(security), ..LinuxPodSandboxConfig::default() });
        PodSandboxConfig { linux, ..world.pod("users") }
    };
    let failure = world.run_pod(described(namespace::NODE, vec![range.clone()])).await.expect_err("the node's processes");
    assert_eq!(failure.code, Code::InvalidArgument, "{failure}");
    world.run_pod(described(namespace::CONTAINER, Vec::new())).await.expect_err("no user 0");
    let pod = world.run_pod(described(namespace::CONTAINER, vec![range.clone()])).await.expect("a pod");
    std::fs::write(world.folder.join("file"), "shown").expect("a file");
    let mount = |mappings: Vec<IDMapping>| Mount {
        container_path: "/file".into(),
        host_path: world.folder.join("file").to_string_lossy().into_owned(),
        uid_mappings: mappings.clone(),
        gid_mappings: mappings,
        ..Mount::default()
    };
    let other = IDMapping { host_id: 0, container_id: 0, length: 1 };
    let refused = world.create(&pod, ContainerConfig { mounts: vec![mount(vec![other])], ..container(&["sleep", "1000"]) }).await;
    assert_eq!(refused.expect_err("other owners").code, Code::InvalidArgument);
    let id = world
        .create(&pod, ContainerConfig { mounts: vec![mount(vec![range])], ..container(&["sleep", "1000"]) })
        .await
        .expect("a container");
    let _: StartContainerResponse =
        world.call("StartContainer", StartContainerRequest { container_id: id.clone() }).await.expect("a start");
    let status: ContainerStatusResponse =
        world.call("ContainerStatus", ContainerStatusRequest { container_id: id, verbose: true }).await.expect("a status");
    let pid = status.info.get("info").and_then(|info| info.split_once("\"pid\":")).map(|(_, rest)| rest.trim_end_matches('}'));
    let pid = pid.expect("a process");
    let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).expect("a map");
    assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "589824", "65536"]);
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(format!("/proc/{pid}")).expect("a process"));
    assert_eq!(owner, 589_824);
}

async fn what_is_not_supported_is_refused_by_name(world: World) {
    let pod = world.run_pod(world.pod("web")).await.expect("a pod");
    let image = |name: &str| Some(ImageSpec { image: name.into(), ..ImageSpec::default() });
    let cases = [
        (ContainerConfig { cdi_devices: vec![CDIDevice { name: "a/b=c".into() }], ..container(&["ls"]) }, Code::Unknown),
        (ContainerConfig { image: image("nothing:1"), ..container(&["ls"]) }, Code::NotFound),
        (
            ContainerConfig {
                command: Vec::new(),
                envs: vec![KeyValue { key: "A".into(), value: vec![0xff].into() }],
                ..container(&["ls"])
            },
            Code::InvalidArgument,
        ),
    ];
    for (config, code) in cases {
        let failure = world.create(&pod, config.clone()).await.expect_err("it is refused");
        assert_eq!(failure.code, code, "{failure}: {config:?}");
    }
    let unknown = world.call::<VersionResponse>("Nothing", VersionRequest::default()).await.expect_err("it is unknown");
    assert_eq!(unknown.code, Code::Unimplemented);
}

async fn an_address_of_a_stream_works_once(world: World) {
    let pod = world.run_pod(world.pod("web")).await.expect("a pod");
    let id = world.create(&pod, container(&["sleep", "1000"])).await.expect("a container");
    let _: StartContainerResponse =
        world.call("StartContainer", StartContainerRequest { container_id: id.clone() }).await.expect("a start");
    let ask = ExecRequest { container_id: id, cmd: vec!["ls".into()], stdout: true, ..ExecRequest::default() };
    let url = world.call::<ExecResponse>("Exec", ask).await.expect("an address").url;
    let (authority, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("an address");
    assert!(authority.starts_with("127.0.0.1:"), "{url}");
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(authority).await.expect("a connection");
        stream.write_all(format!("GET /{path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").as_bytes()).await.expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer.split(' ').nth(1).map(str::to_owned)
    };
    assert_eq!(get("exec/guessed").await.as_deref(), Some("404"));
    // A plain request is no caller of streams, and has used the address up.
    assert_eq!(get(path).await.as_deref(), Some("400"));
    assert_eq!(get(path).await.as_deref(), Some("404"));
}
