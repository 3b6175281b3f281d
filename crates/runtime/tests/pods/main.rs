//! Real pods with a busybox root: every promise of the runtime, tried on the kernel.
//!
//! The program has a `main` of its own because it is also the keeper of its pods. `cargo test -p runtime --test pods name`
//! runs the tests whose names contain `name`. Needs root.

mod escapes;
mod fixture;
mod hooks;
mod isolation;
mod lifecycle;
mod resources;
mod speed;
mod streams;
mod survival;
mod users;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::process::ExitCode;

use fixture::Node;

/// A test on a node of its own.
type Test = fn(Node) -> Pin<Box<dyn Future<Output = ()>>>;

/// Names a test function by its path.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), (|node| Box::pin($module::$name(node))) as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    lifecycle::output_and_exit_codes_are_kept,
    lifecycle::signals_end_and_stop_kills_after_grace,
    lifecycle::missing_programs_are_start_errors,
    lifecycle::events_tell_start_and_exit,
    lifecycle::removed_and_destroyed_pods_leave_nothing,
    lifecycle::sandboxes_and_containers_are_unique,
    lifecycle::name_spaces_are_shared_as_asked,
    lifecycle::programs_begin_with_no_signal_ignored_or_blocked,
    lifecycle::bad_set_ups_are_refused_and_leave_nothing,
    streams::exec_runs_with_streams_and_exit_codes,
    streams::exec_has_a_terminal,
    streams::exec_times_out_and_leaves_nothing,
    streams::terminals_log_and_resize,
    streams::attach_gives_input_and_output,
    streams::stdin_once_ends_with_its_session,
    streams::logs_rotate_and_reopen,
    streams::dial_reaches_the_pod,
    resources::limits_are_applied_and_updated,
    resources::memory_hogs_are_flagged,
    resources::devices_are_limited,
    isolation::users_groups_and_capabilities,
    isolation::read_only_roots_and_masked_paths,
    isolation::mounts_of_every_kind,
    isolation::links_do_not_lead_out,
    isolation::exchanged_links_do_not_lead_out,
    isolation::descriptors_and_executables_do_not_leak,
    isolation::system_calls_are_filtered,
    isolation::default_files_are_as_expected,
    escapes::nothing_is_mounted_into_proc,
    escapes::what_hides_and_connects_cannot_be_swapped,
    escapes::account_files_are_read_with_care,
    escapes::numbers_that_mean_no_change_are_no_users,
    escapes::images_as_volumes_give_no_power,
    escapes::kernel_parameters_of_the_node_are_out_of_reach,
    escapes::control_groups_are_not_written,
    escapes::capabilities_are_not_inherited,
    escapes::keepers_are_out_of_reach,
    escapes::output_is_kept_to_its_limit,
    users::owners_are_shifted_and_the_node_is_a_stranger,
    users::users_of_the_image_are_users_of_the_pod,
    users::what_the_pod_owns_it_may_change,
    users::processes_are_shared_within_the_pod,
    users::what_cannot_be_mapped_is_refused,
    hooks::hooks_run_where_they_belong,
    hooks::hooks_that_fail_end_their_container,
    hooks::a_described_device_is_as_described,
    survival::containers_outlive_the_main_process,
    survival::a_lost_keeper_takes_only_its_own_pod,
    survival::a_lost_run_directory_ends_its_pods,
    speed::create_and_start,
    speed::keepers_are_small,
    speed::many_at_once,
];

/// Argument of a run that sees only the unified hierarchy of the machine's control groups.
const UNIFIED: &str = "--only-unified";

fn main() -> ExitCode {
    runtime::reexec::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == survival::CHILD) {
        survival::child(&arguments[1..]);
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: pods need root");
        return ExitCode::SUCCESS;
    }
    let unified = arguments.iter().any(|argument| argument == UNIFIED);
    let layout = cgroup::Layout::detect().expect("control groups");
    if unified {
        for hierarchy in layout.v1_mounts() {
            rustix::mount::unmount(hierarchy, rustix::mount::UnmountFlags::DETACH).expect("unmounted");
        }
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut failed = Vec::new();
    for (name, test) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let started = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| run(name, *test)));
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({:?})", started.elapsed());
        if outcome.is_err() {
            failed.push(*name);
        }
    }
    println!("{} failed {failed:?}", failed.len());
    let again = !unified && layout.version() == cgroup::Version::Hybrid;
    if failed.is_empty() && (!again || run_unified(&arguments)) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs everything once more in a mount name space without the version 1 hierarchies.
fn run_unified(arguments: &[String]) -> bool {
    println!("once more on the unified hierarchy alone");
    let exe = std::env::current_exe().expect("own program");
    let status =
        std::process::Command::new("unshare").args(["--mount", "--propagation", "private"]).arg(exe).args(arguments).arg(UNIFIED).status();
    status.is_ok_and(|status| status.success())
}

fn run(name: &str, test: Test) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    let node = Node::new(&name.replace("::", "-"));
    let left = node.traces();
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
        tokio.block_on(async {
            let limit = std::time::Duration::from_secs(240);
            tokio::time::timeout(limit, test(node)).await.expect("the test ends in time");
        });
    }));
    match outcome {
        Ok(()) => left.assert_clean(),
        // What a failed test left is no news, and would stay on the machine for good.
        Err(panic) => {
            left.clear();
            std::panic::resume_unwind(panic);
        }
    }
}
