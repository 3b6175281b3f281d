//! More classes of escape that other runtimes had to fix, each with the number under which it became known.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use runtime::{Bind, ContainerSpec, Mount, PidMode, Rootfs, User, UserRef};
use rustix::fs::{CWD, FileType, Mode};

use crate::fixture::{Node, id, run, start};

/// A container of a further layer above that of all others.
fn above(node: &Node, name: &str, script: &str, fill: impl FnOnce(PathBuf)) -> ContainerSpec {
    let layer = node.path(&format!("layer-{name}"));
    std::fs::create_dir_all(&layer).expect("a directory");
    fill(layer.clone());
    let mut spec = node.container(name, script);
    spec.rootfs = Rootfs::Overlay { layers: vec![node.path("layer"), layer], writable: node.path(&format!("writable-{name}")) };
    spec
}

/// Volumes over files of `/proc`, by name and through links of the image (CVE-2019-16884, CVE-2019-19921, CVE-2023-27561,
/// CVE-2023-28642, CVE-2025-52881): whoever chooses what stands there decides what is masked and where labels are written.
pub async fn nothing_is_mounted_into_proc(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    std::fs::create_dir_all(node.path("volume")).expect("a directory");
    std::fs::write(node.path("file"), "of the volume").expect("a file");
    let targets = [
        ("volume", "/proc/sys"),
        ("volume", "/proc/self"),
        ("volume", "/proc/1/attr"),
        ("file", "/proc/version"),
        ("file", "/proc/self/attr/exec"),
        ("file", "/sneaky/version"),
        ("volume", "/sneaky/sys/kernel"),
        ("volume", "/deep/../sneaky"),
        ("volume", "/dev/../proc/../sneaky/irq"),
    ];
    for (number, (source, target)) in targets.into_iter().enumerate() {
        let links = |layer: PathBuf| {
            symlink("/proc", layer.join("sneaky")).expect("a link");
            std::fs::create_dir(layer.join("deep")).expect("a directory");
        };
        let mut spec = above(&node, &format!("cover{number}"), "true", links);
        spec.mounts = vec![Mount::Bind(Bind::new(node.path(source), target))];
        let refused = sandbox.create_container(spec).await.expect_err(target);
        assert!(refused.to_string().contains("inside /proc"), "{target}: {refused}");
    }
    // What tells of the machine may be replaced by what tells of the container.
    let mut spec = node.container("honest", "cat /proc/uptime");
    spec.mounts = vec![Mount::Bind(Bind::new(node.path("file"), "/proc/uptime"))];
    assert_eq!(node.output(&sandbox, spec).await.trim(), "of the volume");
    sandbox.destroy().await.expect("destroyed");
}

/// A volume at `/dev` brings a null device and a console that are something else (CVE-2025-31133, CVE-2025-52565).
pub async fn what_hides_and_connects_cannot_be_swapped(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let (volume, outside) = (node.path("volume"), node.path("outside"));
    std::fs::create_dir_all(&volume).expect("a directory");
    std::fs::write(&outside, "outside").expect("a file");
    symlink("/proc/sys/kernel/core_pattern", volume.join("null")).expect("a link");
    symlink(&outside, volume.join("console")).expect("a link");
    symlink(&outside, volume.join("ptmx")).expect("a link");
    let script = "head -c 8 /proc/version | wc -c; echo changed > /proc/version; echo said > /dev/stdout; sleep 1000";
    let mut spec = node.container("main", script);
    spec.tty = true;
    spec.masked_paths = vec!["/proc/version".into()];
    spec.mounts = vec![Mount::Bind(Bind::new(&volume, "/dev"))];
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern");
    start(&sandbox, spec).await;
    crate::fixture::until("it has looked", || node.log("main").lines().count() > 0).await;
    assert_eq!(node.log("main").lines().next().map(str::trim), Some("0"), "what is masked stays masked");
    // A command with a terminal looks for one in a running container, where anything may stand at its path.
    let exec = runtime::ExecSpec { tty: true, ..runtime::ExecSpec::new(vec!["true".into()]) };
    let _refused_or_not = match sandbox.exec(&id("main"), exec).await {
        Ok(mut handle) => handle.wait().await.map(drop),
        Err(error) => Err(error),
    };
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern"), before);
    assert_eq!(std::fs::read_to_string(&outside).expect("a file"), "outside");
    sandbox.destroy().await.expect("destroyed");
}

/// Files of accounts that are links, pipes, endless or full of nonsense, in the image and put there later.
pub async fn account_files_are_read_with_care(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    std::fs::write(node.path("passwd"), "web:x:0:0::/:/bin/sh\n").expect("a file");
    let outside = node.path("passwd");
    let named = |spec: &mut ContainerSpec| spec.user = User { user: UserRef::Name("web".into()), ..User::default() };
    let bad = |name: &str, fill: &dyn Fn(PathBuf)| {
        let mut spec = above(&node, name, "id -u", |layer| {
            std::fs::create_dir_all(layer.join("etc")).expect("a directory");
            fill(layer.join("etc/passwd"));
        });
        named(&mut spec);
        spec
    };
    let refused = [
        bad("pipe", &|file| rustix::fs::mknodat(CWD, file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).expect("a pipe")),
        bad("link", &|file| symlink(&outside, file).expect("a link")),
        bad("folder", &|file| std::fs::create_dir(file).expect("a directory")),
        bad("endless", &|file| symlink("/dev/zero", file).expect("a link")),
        bad("large", &|file| std::fs::File::create(file).and_then(|file| file.set_len(1 << 40)).expect("a file")),
    ];
    for spec in refused {
        let name = spec.id.clone();
        let created = tokio::time::timeout(Duration::from_secs(20), sandbox.create_container(spec)).await.expect("nobody waits");
        assert!(created.is_err(), "{name}: there is no such user");
    }
    // Later than that, by the container itself: commands look again.
    let swap = "rm /etc/passwd; /bin/busybox mkfifo /etc/passwd; echo swapped; sleep 1000";
    start(&sandbox, node.container("main", swap)).await;
    crate::fixture::until("it is swapped", || node.log("main").contains("swapped")).await;
    let command = sandbox.exec_sync(&id("main"), vec!["echo".into(), "ran".into()], Some(Duration::from_secs(20)), 100).await;
    assert!(command.as_ref().is_ok_and(|output| output.stdout == b"ran\n"), "{command:?}");
    sandbox.destroy().await.expect("destroyed");
}

/// The largest number of a user or group stands for "as it was" where a process changes who it is, and it was root (CVE-2024-40635).
pub async fn numbers_that_mean_no_change_are_no_users(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let accounts = |layer: PathBuf| {
        std::fs::create_dir_all(layer.join("etc")).expect("a directory");
        std::fs::write(layer.join("etc/passwd"), "all:x:4294967295:4294967295::/:\n").expect("a file");
    };
    for (number, user) in ["4294967295", "1000:4294967295", "all"].into_iter().enumerate() {
        let mut spec = above(&node, &format!("user{number}"), "id -u; id -g", accounts);
        spec.user.user = UserRef::Name(user.into());
        let created = sandbox.create_container(spec).await;
        assert!(created.as_ref().is_err_and(|error| error.to_string().contains("out of range")), "{user}: {created:?}");
    }
    sandbox.destroy().await.expect("destroyed");
}

/// Whoever makes an image decides on owners, modes and devices in it; mounted as a volume, none of that gives power.
pub async fn images_as_volumes_give_no_power(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    for dir in ["image-a", "image-b"] {
        std::fs::create_dir(node.path(dir)).expect("a directory");
    }
    let null = node.path("image-a/null");
    rustix::fs::mknodat(CWD, &null, FileType::CharacterDevice, Mode::from_raw_mode(0o666), rustix::fs::makedev(1, 3)).expect("a device");
    std::fs::set_permissions(&null, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("for everybody");
    let script = "cat /dev/null && echo own; for image in /one /two; do cat $image/null 2>/dev/null && echo opened; grep \" $image \" /proc/self/mountinfo; done";
    let mut spec = node.container("main", script);
    let image = |layers: &[&str], target: &str| {
        let layers = layers.iter().map(|layer| node.path(layer)).collect();
        Mount::Image(runtime::ImageMount { layers, target: target.into(), sub_path: "".into() })
    };
    spec.mounts = vec![image(&["image-a"], "/one"), image(&["image-a", "image-b"], "/two")];
    let text = node.output(&sandbox, spec).await;
    assert!(text.starts_with("own\n") && !text.contains("opened"), "{text}");
    let options: Vec<&str> = text.lines().skip(1).filter_map(|line| line.split(' ').nth(5)).collect();
    assert_eq!(options.len(), 2, "{text}");
    for option in ["ro", "nosuid", "nodev"] {
        assert!(options.iter().all(|options| options.split(',').any(|one| one == option)), "{option}: {text}");
    }
    sandbox.destroy().await.expect("destroyed");
}

/// Names that would reach another file below `/proc/sys`, and such that belong to no name space (CVE-2022-0811 came in here).
pub async fn kernel_parameters_of_the_node_are_out_of_reach(mut node: Node) {
    let before = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern");
    for name in [
        "kernel.core_pattern",
        "kernel/core_pattern",
        "kernel.shm..core_pattern",
        "kernel.shm/../core_pattern",
        "kernel/shm/../core_pattern",
        "net/../kernel/core_pattern",
        "net.ipv4/../../kernel.core_pattern",
        "/net/../kernel/core_pattern",
        "net/ipv4/conf/../../../kernel/core_pattern",
        "fs.mqueue../../kernel/core_pattern",
        "net",
        "",
    ] {
        let mut spec = node.sandbox_spec("pod");
        spec.sysctls.insert(name.into(), "|/evil".into());
        let refused = node.runtime().create_sandbox(spec).await.expect_err(name);
        assert!(refused.to_string().contains("is not in a separate kernel namespace"), "{name}: {refused}");
    }
    for (value, host) in [("kernel.shm_rmid_forced", runtime::NameSpace::Host)] {
        let mut spec = node.sandbox_spec("pod");
        spec.ipc = host;
        spec.sysctls.insert(value.into(), "1".into());
        assert!(node.runtime().create_sandbox(spec).await.is_err(), "it is the node's there");
    }
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern"), before);
}

/// A container that may write to control groups can have the node run a program (CVE-2022-0492).
pub async fn control_groups_are_not_written(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let script = "cd /sys/fs/cgroup; for f in release_agent notify_on_release cgroup.procs cgroup.subtree_control tasks devices.allow; do \
                  for d in . */; do test -e $d/$f && { echo 1 2>/dev/null > $d/$f && echo wrote $d/$f; }; done; done; \
                  mkdir made 2>/dev/null && echo made; mkdir memory/made 2>/dev/null && echo made; echo end";
    let text = node.output(&sandbox, node.container("main", script)).await;
    assert!(text.lines().filter(|line| line.starts_with("wrote") || line.starts_with("made")).count() == 0, "{text}");
    assert!(text.contains("end"), "{text}");
    sandbox.destroy().await.expect("destroyed");
}

/// Capabilities that are inheritable come back with file capabilities (CVE-2022-24769), for containers and commands.
pub async fn capabilities_are_not_inherited(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let look = "grep -E 'CapInh|CapAmb' /proc/self/status";
    for uid in [0, 1000] {
        let name = format!("user{uid}");
        let mut spec = node.container(&name, &format!("{look}; sleep 1000"));
        spec.user.user = UserRef::Id(uid);
        start(&sandbox, spec).await;
        crate::fixture::until("it has looked", || node.log(&name).contains("CapAmb")).await;
        let command = ["/bin/sh", "-c", look].map(String::from).to_vec();
        let output = sandbox.exec_sync(&id(&name), command, None, 4096).await.expect("output");
        for text in [node.log(&name), String::from_utf8_lossy(&output.stdout).into_owned()] {
            assert_eq!(text.matches("0000000000000000").count(), 2, "{text}");
        }
    }
    sandbox.destroy().await.expect("destroyed");
}

/// Who shares the node's network reaches abstract sockets (CVE-2020-15257); who shares processes sees those of keepers and of
/// containers that are still being made (CVE-2016-9962).
pub async fn keepers_are_out_of_reach(mut node: Node) {
    let mut described = node.sandbox_spec("pod");
    described.net = runtime::NetNs::Host;
    described.uts = runtime::NameSpace::Host;
    let sandbox = node.runtime().create_sandbox(described).await.expect("a sandbox");
    let mode = std::fs::metadata(node.path("run")).expect("a folder").permissions().mode() & 0o777;
    let inner = std::fs::metadata(node.path("run/pod")).expect("a folder").permissions().mode() & 0o777;
    assert_eq!((mode, inner), (0o700, 0o700), "sockets of keepers are for the node alone");
    let held: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", sandbox.pid()))
        .expect("descriptors of the keeper")
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    assert!(!held.is_empty());
    let sockets = std::fs::read_to_string("/proc/net/unix").expect("sockets");
    let abstracts = sockets.lines().filter(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        fields.get(6).is_some_and(|inode| held.iter().any(|own| own == inode)) && fields.get(7).is_some_and(|name| name.starts_with('@'))
    });
    assert_eq!(abstracts.count(), 0, "{sockets}");
    // A container that waits to be started, in the same name space of processes as one that looks at it.
    let mut waiting = node.container("waiting", "true");
    waiting.pid = PidMode::Pod;
    sandbox.create_container(waiting).await.expect("created");
    let script = "for p in /proc/[0-9]*; do test $p = /proc/self && continue; n=$(cat $p/comm); case $n in sh|cat|ls) continue;; esac; \
                  for f in $p/fd/*; do readlink $f >/dev/null 2>&1 && echo opened $f $n; done; ls $p/root/ >/dev/null 2>&1 && echo entered $p $n; \
                  test -r $p/environ && cat $p/environ >/dev/null 2>&1 && echo read $p $n; done; echo looked";
    let mut looking = node.container("looking", script);
    looking.pid = PidMode::Pod;
    run(&sandbox, looking).await;
    let text = node.log("looking");
    assert!(text.ends_with("looked\n") && text.lines().count() == 1, "{text}");
    sandbox.destroy().await.expect("destroyed");
}

/// Output without end is not kept without end (CVE-2022-1708, CVE-2022-31030), and who writes it is not held up.
pub async fn output_is_kept_to_its_limit(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("main", "sleep 1000")).await;
    let command = ["/bin/sh", "-c", "yes | head -c 20000000; yes | head -c 20000000 >&2; exit 3"].map(String::from).to_vec();
    let output = sandbox.exec_sync(&id("main"), command, Some(Duration::from_secs(60)), 1000).await.expect("output");
    assert_eq!((output.stdout.len(), output.stderr.len(), output.exit.code), (1000, 1000, 3));
    assert!(output.stdout.capacity() < 1 << 20);
    sandbox.destroy().await.expect("destroyed");
}
