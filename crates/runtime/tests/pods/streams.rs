//! Commands, terminals, attached sessions, logs.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use runtime::{AttachSpec, ExecError, ExecSpec, LogSpec};

use crate::fixture::{Node, id, read_log, run, start, until, words};

/// Reads until a text appears or the end comes.
async fn read_until(fd: OwnedFd, text: &'static str) -> (String, OwnedFd) {
    tokio::task::spawn_blocking(move || {
        let mut file = std::fs::File::from(fd);
        let mut all = String::new();
        let mut buffer = [0; 4096];
        while !all.contains(text) {
            match file.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(size) => all.push_str(&String::from_utf8_lossy(&buffer[..size])),
            }
        }
        (all, file.into())
    })
    .await
    .expect("reading ends")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe")
}

pub async fn exec_runs_with_streams_and_exit_codes(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "sleep 1000");
    spec.env = vec!["COLOUR=red".into(), "SIZE=1".into()];
    spec.cwd = "/tmp".into();
    spec.user.user = runtime::UserRef::Name("web".into());
    start(&sandbox, spec).await;
    let main = id("main");
    let (stdin_read, stdin) = pipe();
    let (stdout, stdout_write) = pipe();
    let mut handle = sandbox
        .exec(
            &main,
            ExecSpec {
                stdin: Some(stdin_read),
                stdout: Some(stdout_write),
                env: vec!["SIZE=2".into()],
                ..ExecSpec::new(words("sh -c").into_iter().chain(["cat; echo $COLOUR $SIZE $(pwd) $(id -u); exit 5".into()]).collect())
            },
        )
        .await
        .expect("runs");
    std::fs::File::from(stdin).write_all(b"from outside\n").expect("written");
    let (text, _) = read_until(stdout, "\0").await;
    assert_eq!(text, "from outside\nred 2 /tmp 101\n");
    assert_eq!(handle.wait().await.expect("an end").code, 5);
    assert_eq!(handle.wait().await.expect("asked again").code, 5);

    let output =
        sandbox.exec_sync(&main, words("sh -c").into_iter().chain(["echo out; echo err >&2; exit 9".into()]).collect(), None, 1024);
    let output = output.await.expect("output");
    assert_eq!((output.exit.code, &output.stdout[..], &output.stderr[..]), (9, &b"out\n"[..], &b"err\n"[..]));
    let output = sandbox.exec_sync(&main, words("seq 1 100000"), None, 10).await.expect("output");
    assert_eq!(output.stdout, b"1\n2\n3\n4\n5\n");
    let error = sandbox.exec_sync(&main, words("nosuch"), None, 10).await.expect_err("no such program");
    assert!(matches!(&error, ExecError::Start(text) if text.contains("executable file not found in $PATH")), "{error}");
    let as_root = ExecSpec { user: Some(runtime::User::default()), ..ExecSpec::new(words("sh -c true")) };
    assert!(sandbox.exec(&main, as_root).await.expect("runs").wait().await.expect("an end").success());
    run(&sandbox, node.container("done", "true")).await;
    let error = sandbox.exec_sync(&id("done"), words("true"), None, 10).await.expect_err("not running");
    assert!(matches!(error, ExecError::NotRunning(_)), "{error}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn exec_has_a_terminal(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("main", "sleep 1000")).await;
    let spec = ExecSpec { tty: true, ..ExecSpec::new(words("sh")) };
    let mut handle = sandbox.exec(&id("main"), spec).await.expect("runs");
    handle.resize(91, 31).await.expect("resized");
    let terminal = handle.take_terminal().expect("a terminal");
    let mut writer = std::fs::File::from(terminal.try_clone().expect("a copy"));
    writer.write_all(b"tty; stty size; echo $TERM; exit 6\n").expect("written");
    let (text, _) = read_until(terminal, "\0").await;
    assert!(text.contains("/dev/pts/0") && text.contains("31 91") && text.contains("xterm"), "{text:?}");
    assert_eq!(handle.wait().await.expect("an end").code, 6);
    sandbox.destroy().await.expect("destroyed");
}

pub async fn exec_times_out_and_leaves_nothing(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("main", "sleep 1000")).await;
    let command = vec!["sh".into(), "-c".into(), "sleep 555 & sleep 555".into()];
    let error = sandbox.exec_sync(&id("main"), command, Some(Duration::from_millis(100)), 10).await.expect_err("too slow");
    assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
    let group = sandbox.container_cgroup(&id("main"));
    let hung = || {
        let pids = group.all_pids().expect("processes");
        let line = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        pids.iter().filter(|pid| line(pid).contains("555")).count()
    };
    until("the command and its children are gone", || hung() == 0).await;
    // Whoever gives up before a command has begun ends it too, however late it begins.
    for patience in [0, 1, 2, 5, 10] {
        let command = words("sleep 555");
        let error = sandbox.exec_sync(&id("main"), command, Some(Duration::from_millis(patience)), 10).await.expect_err("too slow");
        assert!(matches!(error, ExecError::Timeout { .. }), "{error}");
    }
    let output = sandbox.exec_sync(&id("main"), words("echo later"), None, 100).await.expect("runs");
    assert_eq!(output.stdout, b"later\n");
    until("nothing of what was given up is left", || hung() == 0).await;
    let command = vec!["sh".into(), "-c".into(), "sleep 9999 & echo started".into()];
    let output = sandbox.exec_sync(&id("main"), command, None, 100).await.expect("ends though a child holds its output");
    assert_eq!(output.stdout, b"started\n");
    drop(sandbox.exec(&id("main"), ExecSpec::new(words("sleep 555"))).await.expect("runs"));
    until("a dropped command is killed", || hung() == 0).await;
    sandbox.destroy().await.expect("destroyed");
}

pub async fn terminals_log_and_resize(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "tty; read line; stty size; echo got $line; test -e /dev/console && echo console");
    (spec.tty, spec.stdin) = (true, true);
    start(&sandbox, spec).await;
    let main = id("main");
    let (stdout, stdout_write) = pipe();
    let mut handle = sandbox.attach(&main, AttachSpec { stdin: true, stdout: Some(stdout_write), stderr: None }).await.expect("attached");
    sandbox.resize_tty(&main, 77, 22).await.expect("resized");
    let stdin = handle.take_stdin().expect("its input");
    std::fs::File::from(stdin).write_all(b"words\n").expect("written");
    let (text, _) = read_until(stdout, "console").await;
    assert!(text.contains("22 77") && text.contains("got words"), "{text:?}");
    assert_eq!(handle.wait().await.expect("an end").code, 0);
    let log = node.log("main");
    assert!(log.contains("/dev/pts/0") && log.contains("got words"), "{log:?}");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn attach_gives_input_and_output(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "while read line; do echo out $line; echo err $line >&2; done; seq 1 50000; echo end");
    spec.stdin = true;
    start(&sandbox, spec).await;
    let main = id("main");
    let plain = sandbox.attach(&main, AttachSpec::default()).await.expect("attached to nothing");
    drop(plain);
    let (stdout, stdout_write) = pipe();
    let (stderr, stderr_write) = pipe();
    let spec = AttachSpec { stdin: true, stdout: Some(stdout_write), stderr: Some(stderr_write) };
    let mut handle = sandbox.attach(&main, spec).await.expect("attached");
    let mut stdin = std::fs::File::from(handle.take_stdin().expect("its input"));
    stdin.write_all(b"one\n").expect("written");
    let (text, stdout) = read_until(stdout, "out one\n").await;
    assert_eq!(text, "out one\n");
    let (text, _) = read_until(stderr, "err one\n").await;
    assert_eq!(text, "err one\n");
    drop(stdin);
    let mut second = sandbox.attach(&main, AttachSpec { stdin: true, ..AttachSpec::default() }).await.expect("attached");
    let mut stdin = std::fs::File::from(second.take_stdin().expect("its input stays open for the next"));
    stdin.write_all(b"two\n").expect("written");
    let (text, stdout) = read_until(stdout, "out two\n").await;
    assert!(text.contains("out two"), "{text:?}");
    sandbox.kill(&main, 9).await.expect("killed");
    assert_eq!(handle.wait().await.expect("an end").code, 137);
    let (rest, _) = read_until(stdout, "\0").await;
    assert_eq!(rest, "");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn stdin_once_ends_with_its_session(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("main", "cat; seq 1 60000; echo end of input");
    (spec.stdin, spec.stdin_once) = (true, true);
    start(&sandbox, spec).await;
    let (stdout, stdout_write) = pipe();
    let spec = AttachSpec { stdin: true, stdout: Some(stdout_write), stderr: None };
    // One that waits to be started must not hold the input of another open.
    sandbox.create_container(node.container("waiting", "true")).await.expect("created");
    let mut handle = sandbox.attach(&id("main"), spec).await.expect("attached");
    let mut stdin = std::fs::File::from(handle.take_stdin().expect("its input"));
    stdin.write_all(b"text\n").expect("written");
    drop(stdin);
    // The session reads late: the container waits for it, and nothing is lost.
    let (text, _) = read_until(stdout, "end of input").await;
    assert_eq!(text.lines().count(), 60_002, "{:?}", text.get(..100));
    assert_eq!(handle.wait().await.expect("an end").code, 0);
    assert_eq!(node.log("main").lines().count(), 60_002);
    assert!(sandbox.attach(&id("main"), AttachSpec::default()).await.is_err(), "it has ended");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn logs_rotate_and_reopen(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    let mut spec = node.container("rotating", "seq 1 20000; head -c 40000 /dev/zero | tr '\\0' x; echo");
    spec.log = Some(LogSpec { path: node.log_path("rotating"), max_size: 100_000, max_files: 3 });
    run(&sandbox, spec).await;
    let dir = node.log_path("rotating").parent().expect("a folder").to_owned();
    let sizes: Vec<u64> = std::fs::read_dir(&dir).expect("a folder").flatten().map(|e| e.metadata().expect("a file").len()).collect();
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size < 250_000), "{sizes:?}");
    let long = node.log("rotating");
    assert!(long.ends_with("x\n"), "partial records join: {:?}", long.get(long.len() - 20..));
    let raw = std::fs::read_to_string(node.log_path("rotating")).expect("a log");
    assert!(raw.lines().all(|line| line.len() <= 16 * 1024 + 64));

    start(&sandbox, node.container("moved", "echo before; sleep 1000")).await;
    until("the first line", || node.log("moved").contains("before")).await;
    let aside = node.path("aside.log");
    std::fs::rename(node.log_path("moved"), &aside).expect("moved");
    sandbox.reopen_log(&id("moved")).await.expect("reopened");
    let stdout = rustix::fs::open(
        format!("/proc/{}/fd/1", sandbox.container(&id("moved")).await.expect("a status").pid.expect("a process")),
        rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    std::fs::File::from(stdout.expect("its output")).write_all(b"after\n").expect("written");
    until("the second line", || node.log("moved").contains("after")).await;
    assert_eq!(read_log(&aside), "before\n");
    sandbox.destroy().await.expect("destroyed");
}

pub async fn dial_reaches_the_pod(mut node: Node) {
    let sandbox = node.sandbox("pod").await;
    start(&sandbox, node.container("main", "echo hello | nc -l -p 8080")).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut stream = loop {
        match sandbox.dial(8080).await {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error:?}; {:?}: {}", sandbox.status().await, node.log("main")),
        }
        // Asking without a pause would take from the container the time that it needs to begin.
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let mut text = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut text).await.expect("read");
    assert_eq!(text, "hello\n");
    assert!(sandbox.dial(9).await.is_err());
    sandbox.destroy().await.expect("destroyed");
}
