//! Figures, printed. The bounds are loose and of processor time: they catch a mistake of an order of magnitude, not a busy machine.

use std::time::{Duration, Instant};

use crate::fixture::{Node, id, start};

const ROUNDS: u64 = 30;

fn each(nanos: u64) -> Duration {
    Duration::from_nanos(nanos / ROUNDS)
}

/// Processor time of this process so far, in nanoseconds.
fn own_cpu() -> u64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").expect("own accounts");
    let threads = std::fs::read_dir("/proc/self/task").expect("own threads").flatten();
    let of = |text: String| text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let all: u64 = threads.filter_map(|t| std::fs::read_to_string(t.path().join("schedstat")).ok()).map(of).sum();
    all.max(of(text))
}

pub async fn create_and_start(mut node: Node) {
    let (mut sandboxes, mut creates, mut starts, mut execs) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let limited = node.has_controllers();
    let runtime = node.runtime();
    let keepers = runtime.cgroup_root().clone();
    let (before, own_before) = (keepers.stats().expect("accounts").cpu_usage_ns, own_cpu());
    for round in 0..ROUNDS {
        let spec = node.sandbox_spec(&format!("pod{round}"));
        let at = Instant::now();
        let sandbox = runtime.create_sandbox(spec).await.expect("a sandbox");
        sandboxes.push(at.elapsed());
        let name = format!("main{round}");
        let mut spec = node.program(&name, &["sleep", "1000"]);
        spec.seccomp = runtime::Seccomp::RuntimeDefault;
        if limited {
            spec.limits.memory_limit = Some(64 << 20);
            spec.limits.cpu_shares = Some(512);
        }
        let at = Instant::now();
        sandbox.create_container(spec).await.expect("created");
        creates.push(at.elapsed());
        let at = Instant::now();
        sandbox.start(&id(&name)).await.expect("started");
        starts.push(at.elapsed());
        let at = Instant::now();
        sandbox.exec_sync(&id(&name), vec!["true".into()], None, 10).await.expect("a command");
        execs.push(at.elapsed());
        sandbox.destroy().await.expect("destroyed");
    }
    let spent = keepers.stats().expect("accounts").cpu_usage_ns - before;
    let own = own_cpu() - own_before;
    println!("  processor time per pod: keeper and container {:?}, ours {:?}", each(spent), each(own));
    assert!(each(spent + own) < Duration::from_millis(400), "{:?}", each(spent + own));
    for (name, times) in [("sandbox", &mut sandboxes), ("create", &mut creates), ("start", &mut starts), ("exec", &mut execs)] {
        times.sort();
        println!("  {name}: p50 {:?} p90 {:?}", times[times.len() / 2], times[times.len() * 9 / 10]);
    }
}

pub async fn keepers_are_small(mut node: Node) {
    let mut sandboxes = Vec::new();
    for round in 0..10 {
        let sandbox = node.sandbox(&format!("pod{round}")).await;
        start(&sandbox, node.container(&format!("main{round}"), "echo hello; sleep 1000")).await;
        sandboxes.push(sandbox);
    }
    let mut total = 0;
    for sandbox in &sandboxes {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", sandbox.pid())).expect("its memory");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
        total += line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number");
    }
    println!("  keeper: {} KiB PSS each of {}", total / sandboxes.len() as u64, sandboxes.len());
    for sandbox in sandboxes {
        sandbox.destroy().await.expect("destroyed");
    }
}

pub async fn many_at_once(mut node: Node) {
    let runtime = node.runtime();
    let specs: Vec<_> =
        (0..MANY).map(|n| (node.sandbox_spec(&format!("pod{n}")), node.program(&format!("main{n}"), &["sleep", "1000"]))).collect();
    let at = Instant::now();
    let mut tasks = Vec::new();
    for (sandbox, container) in specs {
        let runtime = runtime.clone();
        tasks.push(tokio::spawn(async move {
            let sandbox = runtime.create_sandbox(sandbox).await.expect("a sandbox");
            start(&sandbox, container).await;
            sandbox
        }));
    }
    let mut sandboxes = Vec::new();
    for task in tasks {
        sandboxes.push(task.await.expect("made"));
    }
    let made = at.elapsed();
    let at = Instant::now();
    let ends: Vec<_> = sandboxes.into_iter().map(|sandbox| tokio::spawn(sandbox.destroy())).collect();
    for end in ends {
        end.await.expect("no panic").expect("destroyed");
    }
    println!("  {MANY} at once: made in {made:?}, destroyed in {:?}", at.elapsed());
}

const MANY: usize = 50;
