//! What a container is, sees and cannot do. Each test names a class of escape that other runtimes had to fix.

use std::os::unix::fs::symlink;
use std::sync::Arc;

use runtime::{Bind, Capabilities, Mount, Propagation, Seccomp, Source, SupplementalGroups, User, UserRef};
use rustix::fs::{Mode, OFlags};

use crate::fixture::{Node, id, run, start};

pub async fn users_groups_and_capabilities(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let look = "id -u; id -g; id -G; echo $HOME; grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; umask; echo x > /dev/stdout";
    let mut spec = node.container("web", look);
    spec.user = User { user: UserRef::Name("web".into()), supplemental: vec![2000], ..User::default() };
    spec.no_new_privs = true;
    let status = run(&sandbox, spec).await;
    assert_eq!((status.user.uid, status.user.gid), (101, 102));
    assert_eq!(status.user.supplemental, [4, 102, 2000]);
    let text = node.log("web");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(&lines[..4], ["101", "102", "102 4 2000", "/home/web"], "{text}");
    assert!(text.contains("CapEff:\t0000000000000000") && text.contains("NoNewPrivs:\t1"), "{text}");
    assert!(text.contains("0022") && text.ends_with("x\n"), "{text}");
    let mut spec = node.container("root", look);
    spec.capabilities = Capabilities::from_pod(&["NET_ADMIN".into()], &["ALL".into()], false);
    spec.user.policy = SupplementalGroups::Strict;
    let text = node.output(&sandbox, spec).await;
    assert!(text.contains("CapEff:\t0000000000001000") && text.contains("CapBnd:\t0000000000001000"), "{text}");
    assert!(text.contains("NoNewPrivs:\t0") && text.contains("/root"), "{text}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn read_only_roots_and_masked_paths(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let script = "touch /x && echo root-written; echo 1 > /proc/sys/kernel/panic && echo sys-written; head -c 1 /proc/kcore | \
                  wc -c; ls /proc/scsi /sys/firmware | wc -l; touch /sys/x && echo sysfs-written; mount -o remount,rw / && echo \
                  remounted; touch /dev/shm/x && echo shm; echo 0 > /proc/sysrq-trigger && echo sysrq";
    let mut spec = node.container("tight", script);
    spec.read_only_root = true;
    let text = node.output(&sandbox, spec).await;
    for word in ["root-written", "sys-written", "sysfs-written", "remounted", "sysrq"] {
        assert!(text.lines().all(|line| line != word), "{text}");
    }
    assert!(text.contains("shm\n"), "{text}");
    let numbers: Vec<&str> = text.lines().filter(|line| line.parse::<u32>().is_ok()).collect();
    assert_eq!(numbers[0], "0", "kcore is empty: {text}");
    let text = node.output(&sandbox, node.container("open", "touch /x && echo written; cat /dev/shm/x && echo shared")).await;
    assert!(text.contains("written") && text.contains("shared"), "{text}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn mounts_of_every_kind(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    for dir in ["data/sub", "ro", "other", "image-a/d", "image-b/d"] {
        std::fs::create_dir_all(node.path(dir)).expect("a directory");
    }
    std::fs::write(node.path("data/sub/file"), "sub").expect("a file");
    std::fs::write(node.path("ro/file"), "ro").expect("a file");
    std::fs::write(node.path("hosts"), "hosts").expect("a file");
    std::fs::write(node.path("image-a/d/low"), "low").expect("a file");
    std::fs::write(node.path("image-b/d/high"), "high").expect("a file");
    let script = "cat /data/sub/file /ro/file /etc/hosts /sub/file /open/file; echo; touch /data/new && echo rw; \
                  touch /ro/new 2>/dev/null || echo ro; stat -f -c %T /mem; df -k /mem | tail -n 1; touch /mem/x && echo mem; \
                  ls /image/d; touch /image/d/x 2>/dev/null || echo image-ro; cat /part/low; pwd; echo done > /dev/termination-log; cat /deep/er/file";
    let mut spec = node.container("main", script);
    spec.cwd = "/made/for/me".into();
    std::fs::write(node.path("termination"), "").expect("a file");
    let open = rustix::fs::open(node.path("data/sub"), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("open");
    let bind = |source: Source, target: &str| Bind { source, ..Bind::new("", target) };
    spec.mounts = vec![
        Mount::Bind(Bind::new(node.path("ro/file"), "/deep/er/file")),
        Mount::Bind(Bind::new(node.path("other"), "/deep")),
        Mount::Bind(Bind::new(node.path("data"), "/data")),
        Mount::Bind(Bind::read_only(node.path("ro"), "/ro")),
        Mount::Bind(Bind::new(node.path("hosts"), "/etc/hosts")),
        Mount::Bind(Bind::new(node.path("termination"), "/dev/termination-log")),
        Mount::Bind(bind(Source::Beneath { root: node.path("data"), path: "sub".into() }, "/sub")),
        Mount::Bind(bind(Source::Fd(Arc::new(open)), "/open")),
        Mount::Tmpfs { target: "/mem".into(), size: Some(1 << 20), mode: 0o1777, read_only: false },
        Mount::Image(runtime::ImageMount {
            layers: vec![node.path("image-a"), node.path("image-b")],
            target: "/image".into(),
            sub_path: "".into(),
        }),
        Mount::Image(runtime::ImageMount {
            layers: vec![node.path("image-a"), node.path("image-b")],
            target: "/part".into(),
            sub_path: "d".into(),
        }),
    ];
    let text = node.output(&sandbox, spec).await;
    assert!(text.starts_with("subrohostssubsub\nrw\nro\ntmpfs\n"), "{text}");
    for part in ["1024", "mem\n", "high\nlow\n", "image-ro\nlow", "/made/for/me\n"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.ends_with("ro"), "{text}");
    assert_eq!(std::fs::read_to_string(node.path("termination")).expect("a file"), "done\n");

    let volume = node.path("shared");
    std::fs::create_dir_all(volume.join("sub")).expect("a directory");
    rustix::mount::mount_bind(&volume, &volume).expect("a mount");
    rustix::mount::mount_change(&volume, rustix::mount::MountPropagationFlags::SHARED).expect("shared");
    let propagated = |propagation| Bind { propagation, ..Bind::new(node.path("shared"), "/volume") };
    let mut spec = node.container("giver", "mount -t tmpfs given /volume/sub && touch /volume/sub/given && sleep 1000");
    spec.mounts = vec![Mount::Bind(propagated(Propagation::Shared))];
    spec.privileged = true;
    spec.capabilities = Capabilities::from_pod(&[], &[], true);
    start(&sandbox, spec).await;
    crate::fixture::until("the host sees the mount", || volume.join("sub/given").exists()).await;
    let mut spec = node.container("taker", "ls /volume/sub; while ! test -e /volume/sub/late; do sleep 0.01; done; echo late");
    spec.mounts = vec![Mount::Bind(propagated(Propagation::Slave))];
    start(&sandbox, spec).await;
    let mut spec = node.container("alone", "echo up; while ! test -e /volume/go; do sleep 0.01; done; ls /volume/sub");
    spec.mounts = vec![Mount::Bind(propagated(Propagation::Private))];
    start(&sandbox, spec).await;
    crate::fixture::until("all are up", || node.log("taker").contains("given") && node.log("alone").contains("up")).await;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("late", volume.join("sub"), "tmpfs", flags, None::<&std::ffi::CStr>).expect("a mount");
    std::fs::write(volume.join("sub/late"), "").expect("a file");
    std::fs::write(volume.join("go"), "").expect("a file");
    sandbox.wait(&id("taker")).await.expect("it sees later mounts");
    sandbox.wait(&id("alone")).await.expect("an end");
    assert_eq!(node.log("alone"), "up\ngiven\n", "a private copy does not change");
    sandbox.destroy().await.expect("destroyed");
    for _ in 0..2 {
        rustix::mount::unmount(volume.join("sub"), rustix::mount::UnmountFlags::DETACH).expect("unmounted");
    }
    rustix::mount::unmount(&volume, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
}

pub async fn links_do_not_lead_out(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let outside = node.path("outside");
    std::fs::create_dir_all(&outside).expect("a directory");
    std::fs::write(outside.join("secret"), "secret").expect("a file");
    let layer = node.path("layer");
    let up = format!("../../../../../../../../..{}", outside.display());
    symlink(&outside, layer.join("absolute")).expect("a link");
    symlink(&up, layer.join("relative")).expect("a link");
    std::fs::create_dir_all(node.path("volume")).expect("a directory");
    std::fs::write(node.path("volume/inside"), "").expect("a file");
    symlink(&outside, node.path("volume/escape")).expect("a link");
    symlink(&up, node.path("volume/climb")).expect("a link");

    let mut spec = node.container("targets", "test -e /absolute/secret && echo leaked; ls /absolute/point /relative/point");
    spec.mounts = ["/absolute/point", "/relative/point"].map(|target| Mount::Bind(Bind::new(node.path("volume"), target))).to_vec();
    let text = node.output(&sandbox, spec).await;
    assert!(!text.contains("leaked") && text.matches("inside").count() == 2, "{text}");
    assert!(!outside.join("point").exists(), "mount points are made inside only");

    for (name, path) in [("escape", "escape"), ("climb", "climb"), ("dots", "../outside"), ("through", "escape/secret")] {
        let mut spec = node.container(name, "true");
        let source = Source::Beneath { root: node.path("volume"), path: path.into() };
        spec.mounts = vec![Mount::Bind(Bind { source, ..Bind::new("", "/mnt") })];
        let error = sandbox.create_container(spec).await.expect_err("leads out");
        assert!(error.to_string().contains("in volume"), "{error}");
    }
    for (name, link) in [("proc", "proc"), ("dev", "dev"), ("sys", "sys")] {
        let bad = node.path(&format!("bad-{name}"));
        std::fs::create_dir_all(bad.join("target")).expect("a directory");
        symlink("target", bad.join(link)).expect("a link");
        let mut spec = node.container(&format!("image-{name}"), "true");
        spec.rootfs = runtime::Rootfs::Overlay { layers: vec![bad], writable: node.path(&format!("writable-bad-{name}")) };
        let error = sandbox.create_container(spec).await.expect_err("a link in place of a directory");
        assert!(error.to_string().contains(&format!("/{link}")), "{error}");
    }
    let mut spec = node.container("log", "echo text");
    let log = node.path("logs/pod/log/0.log");
    std::fs::create_dir_all(log.parent().expect("a folder")).expect("a directory");
    symlink(outside.join("secret"), &log).expect("a link");
    spec.log = Some(runtime::LogSpec { path: log, max_size: 0, max_files: 0 });
    assert!(sandbox.create_container(spec).await.is_err(), "a log is not written through a link");
    assert_eq!(std::fs::read_to_string(outside.join("secret")).expect("a file"), "secret");
    sandbox.destroy().await.expect("destroyed");
}

/// A pod exchanges a directory of its volume for a link while another container mounts it (CVE-2021-25741, CVE-2021-30465).
pub async fn exchanged_links_do_not_lead_out(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let outside = node.path("outside");
    std::fs::create_dir_all(&outside).expect("a directory");
    std::fs::write(outside.join("secret"), "secret").expect("a file");
    let volume = node.path("volume");
    std::fs::create_dir_all(volume.join("part")).expect("a directory");
    symlink(&outside, volume.join("link")).expect("a link");
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let racer = std::thread::spawn({
        let (stop, volume) = (stop.clone(), rustix::fs::open(&volume, OFlags::PATH, Mode::empty()).expect("open"));
        move || {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let swap = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(&volume, "part", &volume, "link", swap).expect("exchanged");
            }
        }
    });
    let (mut refused, mut mounted) = (0, 0);
    for round in 0..40 {
        let name = format!("round{round}");
        let mut spec = node.container(&name, "cat /mnt/secret /volume/part/inner/secret; true");
        let source = Source::Beneath { root: volume.clone(), path: "part".into() };
        // The second mount point lies in the volume, too, so it is made while the first component is exchanged.
        spec.mounts = vec![
            Mount::Bind(Bind { source, ..Bind::new("", "/mnt") }),
            Mount::Bind(Bind::new(&volume, "/volume")),
            Mount::Bind(Bind::new(node.path("layer"), "/volume/part/inner")),
        ];
        match sandbox.create_container(spec).await {
            Ok(_) => {
                sandbox.start(&id(&name)).await.expect("started");
                sandbox.wait(&id(&name)).await.expect("an end");
                assert!(!node.log(&name).contains("secret\n") && !node.log(&name).ends_with("secret"));
                mounted += 1;
            }
            Err(_) => refused += 1,
        }
        assert!(!outside.join("inner").exists(), "nothing is made outside");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    racer.join().expect("the racer ends");
    assert!(mounted > 0 && refused > 0, "the race took place: {mounted} mounted, {refused} refused");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn descriptors_and_executables_do_not_leak(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("main", "ls -l /proc/self/fd; exec sleep 1000")).await;
    let main = format!("/proc/{}", sandbox.container(&id("main")).await.expect("a status").pid.expect("a process"));
    // A shell has more of its own for a moment; what it becomes has what it was given.
    crate::fixture::until("the list", || {
        std::fs::read_to_string(format!("{main}/comm")).is_ok_and(|name| name == "sleep\n") && node.log("main").contains(" 2 -> ")
    })
    .await;
    let text = node.log("main");
    assert!(!text.contains("memfd") && !text.contains("cgroup") && !text.contains("run/"), "{text}");
    let held = std::fs::read_dir(format!("{main}/fd")).expect("its descriptors").count();
    assert_eq!(held, 3, "descriptors: {text}");
    // The program of the keeper cannot be opened for writing, even by the node's own root (CVE-2019-5736).
    let exe = rustix::fs::open(format!("/proc/{}/exe", sandbox.pid()), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let flags = rustix::fs::fstatvfs(exe.as_ref().expect("a program")).expect("its mount").f_flag;
    assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    assert!(std::fs::OpenOptions::new().write(true).open(format!("/proc/{}/exe", sandbox.pid())).is_err());
    // A working directory cannot be one of a leaked descriptor (CVE-2024-21626).
    for (number, cwd) in ["/proc/self/fd/7", "/proc/self/fd/8", "/proc/1/cwd"].iter().enumerate() {
        let name = format!("cwd{number}");
        let mut spec = node.container(&name, "pwd; ls");
        spec.cwd = (*cwd).into();
        let created = sandbox.create_container(spec).await;
        if created.is_ok() && sandbox.start(&id(&name)).await.is_ok() {
            sandbox.wait(&id(&name)).await.expect("an end");
            assert!(node.log(&name).starts_with("/\n"), "{}", node.log(&name));
        }
    }
    let output = sandbox.exec_sync(&id("main"), vec!["ls".into(), "-l".into(), "/proc/self/fd".into()], None, 4096).await;
    let text = String::from_utf8_lossy(&output.expect("output").stdout).into_owned();
    assert!(!text.contains("ns") && !text.contains("memfd"), "{text}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn system_calls_are_filtered(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let script = "grep Seccomp: /proc/self/status; unshare -U true || echo refused; mkdir /tmp/d && echo works";
    for (name, seccomp, mode, refused) in [("free", Seccomp::Unconfined, "0", false), ("default", Seccomp::RuntimeDefault, "2", true)] {
        for no_new_privs in [false, true] {
            let name = format!("{name}{no_new_privs}");
            let mut spec = node.container(&name, script);
            (spec.seccomp, spec.no_new_privs) = (seccomp.clone(), no_new_privs);
            spec.user.user = UserRef::Id(1000);
            spec.cwd = "/tmp".into();
            let text = node.output(&sandbox, spec).await;
            assert!(text.contains(&format!("Seccomp:\t{mode}")), "{name}: {text}");
            assert_eq!(text.contains("refused"), refused, "{name}: {text}");
        }
    }
    let profile =
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}]}"#;
    let mut spec = node.container("custom", script);
    spec.seccomp = Seccomp::Custom(profile.into());
    let text = node.output(&sandbox, spec).await;
    assert!(text.contains("No space left") && !text.contains("works"), "{text}");
    let mut spec = node.container("long", "sleep 1000");
    spec.seccomp = Seccomp::RuntimeDefault;
    start(&sandbox, spec).await;
    let command = vec!["grep".into(), "Seccomp:".into(), "/proc/self/status".into()];
    let output = sandbox.exec_sync(&id("long"), command, None, 100).await;
    assert_eq!(output.expect("output").stdout, b"Seccomp:\t2\n", "commands are filtered like their container");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn default_files_are_as_expected(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let script = "for f in null zero full random urandom tty ptmx fd stdin stdout stderr shm mqueue pts; do test -e /dev/$f || \
                  echo missing $f; done; echo x > /dev/null; stat -c %a /dev/null /dev/shm; cat /proc/self/cgroup | \
                  grep -c ':/$'; cat /proc/1/oom_score_adj; env; mount | grep -c ' / '; df -k /dev/shm | tail -n 1";
    let mut spec = node.container("main", script);
    spec.oom_score_adj = Some(700);
    spec.env = vec!["A=b c".into()];
    let text = node.output(&sandbox, spec).await;
    assert!(!text.contains("missing"), "{text}");
    for part in ["666\n1777\n", "700\n", "A=b c\n", "HOSTNAME=host-pod\n", "HOME=/root\n", "PATH=/usr/local/sbin:", "65536"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    sandbox.destroy().await.expect("destroyed");
}
