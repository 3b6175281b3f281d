//! A real node: the kubelet with real containers, against a real API server in this process.
//!
//! The program has a `main` of its own because it is also the keeper of its pods. Each test runs in a process with name spaces of
//! its own for network and mounts, so that addresses, rules and disks are the test's to break. `cargo test -p kubelet --test node
//! name` runs the tests whose names contain `name`. Needs root.

mod access;
mod calls;
mod classes;
mod counted;
mod csi;
mod deaths;
mod devices;
mod driver;
mod eviction;
mod faults;
mod follow;
mod huge_pages;
#[path = "../../../image/tests/support/mod.rs"]
mod images;
mod network;
mod placement;
mod plugin;
mod registry;
mod shutdown;
mod users;
mod volumes;
mod world;

use std::path::Path;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use world::World;

/// A test in a world of its own.
type Test = fn(World) -> Pin<Box<dyn Future<Output = ()>>>;

/// Names a test function by its path.
macro_rules! tests {
    ($($module:ident :: $name:ident),* $(,)?) => {
        &[$((concat!(stringify!($module), "::", stringify!($name)), (|world| Box::pin($module::$name(world))) as Test)),*]
    };
}

const TESTS: &[(&str, Test)] = tests![
    csi::a_driver_registers_and_goes,
    csi::an_inline_volume_goes_with_its_pod,
    csi::a_claim_is_attached_staged_published_grown_and_given_back,
    csi::a_device_reaches_the_container,
    csi::a_sub_path_does_not_lead_out_of_the_volume,
    csi::what_a_driver_refuses_for_good_is_not_given_back,
    csi::volumes_outlive_a_killed_node,
    csi::a_pod_does_not_wait_for_a_deleted_one_of_its_name,
    classes::a_pod_of_another_runtime_does_not_run_in_ours,
    eviction::a_volume_beyond_its_limit_costs_its_pod_the_place,
    eviction::files_that_every_pod_has_count_as_well,
    eviction::a_full_disk_evicts_by_rank_and_keeps_critical_pods,
    eviction::a_node_that_is_short_takes_no_more_pods,
    eviction::a_pod_beyond_its_request_goes_when_memory_runs_out,
    eviction::a_soft_threshold_waits_and_gives_time,
    shutdown::a_machine_that_goes_down_ends_its_pods_in_order,
    faults::a_pull_goes_on_where_its_registry_died,
    faults::an_image_store_that_can_only_be_read_costs_new_images_only,
    faults::a_probe_that_hangs_is_ended_and_counts,
    faults::a_clock_that_jumps_changes_no_wait,
    deaths::a_killed_container_starts_again_by_policy,
    deaths::a_killed_keeper_costs_its_own_pod_alone,
    deaths::keepers_that_die_with_the_node_are_noticed,
    deaths::a_machine_that_starts_anew_runs_its_pods_again,
    deaths::a_fork_bomb_stays_in_its_pod,
    deaths::a_memory_hog_is_killed_alone,
    deaths::a_profile_of_the_node_is_never_left_out,
    access::a_private_image_is_for_those_who_may_pull_it,
    calls::strangers_are_sent_away_and_names_lead_nowhere,
    users::pods_have_users_of_their_own,
    volumes::volumes_of_objects_cannot_be_written,
    devices::a_pod_uses_devices_of_a_plugin,
    devices::a_plugin_that_hangs_keeps_nobody_else_waiting,
    huge_pages::pods_get_the_huge_pages_that_they_ask_for,
    network::a_pod_without_network_does_not_run,
    network::a_network_that_was_half_made_is_made_anew,
    placement::whole_processors_are_a_pods_own,
    follow::removed_rules_come_back,
    follow::a_changed_address_reaches_status_pods_and_the_own_api,
];

/// Argument of a run that is inside of name spaces of its own; the test's name and its folder follow.
const INSIDE: &str = "--inside";

fn main() -> ExitCode {
    runtime::reexec::dispatch();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [first, name, folder] = arguments.as_slice() {
        if first == INSIDE {
            inside(name, Path::new(folder));
            return ExitCode::SUCCESS;
        }
    }
    if let [first, folder, port] = arguments.as_slice() {
        if first == world::PROCESS {
            let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
            tokio.block_on(world::process(Path::new(folder), port));
            return ExitCode::SUCCESS;
        }
    }
    if arguments.iter().any(|argument| argument == "--list") {
        TESTS.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        println!("skipped: nodes need root");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let chosen = |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(filter.as_str()));
    let mut failed = 0;
    for (name, _) in TESTS.iter().filter(|(name, _)| chosen(name)) {
        let started = Instant::now();
        let passed = outside(name);
        println!("test {name} ... {} ({:?})", if passed { "ok" } else { "FAILED" }, started.elapsed());
        failed += u8::from(!passed);
    }
    println!("{failed} failed");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a test in a process of its own and removes what it left.
fn outside(name: &str) -> bool {
    let folder = tempfile::Builder::new().prefix("knarr-node-").tempdir().expect("a folder");
    let exe = std::env::current_exe().expect("own program");
    let separate = ["--net", "--mount", "--propagation", "private"];
    let status = Command::new("unshare").args(separate).arg(exe).args([INSIDE, name]).arg(folder.path()).status();
    let clean = world::remove_groups(folder.path());
    status.is_ok_and(|status| status.success()) && clean
}

fn inside(name: &str, folder: &Path) {
    let (_, test) = TESTS.iter().find(|(known, _)| *known == name).expect("a test of this name");
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("tokio");
    tokio.block_on(async {
        let world = World::new(folder).await;
        tokio::time::timeout(Duration::from_secs(240), test(world)).await.expect("the test ends in time");
    });
    // Tasks of the node would go on for ever.
    tokio.shutdown_background();
}
