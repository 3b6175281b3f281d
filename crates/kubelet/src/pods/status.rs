//! The status of a pod, always computed afresh from what was observed, never edited in place.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus as ApiStatus, ContainerUser, HostIP, LinuxContainerUser, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerState, ContainerStatus};

use sha2::{Digest, Sha256};

use super::limits;
use super::model::{ANNOTATION_IMAGE, ANNOTATION_IMAGE_ID, Member, Observed, Role, attempt};
use super::plan::{initialized, verdict};
use super::resize;

/// Everything a status is made of.
pub struct Facts<'a> {
    /// The pod as the API has it.
    pub pod: &'a Pod,
    /// Its containers.
    pub members: &'a [Member],
    /// What was observed.
    pub observed: &'a Observed,
    /// Addresses of the node.
    pub host_ips: &'a [String],
    /// The status as last computed or as the API has it; transition times and finished containers come from it.
    pub old: &'a PodStatus,
    /// The pod shall end, or has ended.
    pub ending: bool,
    /// Everything was released: phases are final.
    pub finished: bool,
    /// Overriding end of the whole pod (eviction, deadline): reason and message.
    pub failure: Option<(&'a str, &'a str)>,
    /// The node never took the pod: nothing is said of it but that.
    pub rejected: bool,
    /// The failure is the node's doing and not the pod's.
    pub disrupted: bool,
    /// The time.
    pub now: Timestamp,
}

/// The whole status.
pub fn compute(facts: &Facts) -> PodStatus {
    if facts.rejected {
        return rejection(facts);
    }
    let empty = PodSpec::default();
    let spec = facts.pod.spec.as_ref().unwrap_or(&empty);
    let by_role = |wanted: &[Role]| -> Vec<ApiStatus> {
        let members = facts.members.iter().filter(|member| wanted.contains(&member.role));
        members.map(|member| container(facts, member)).collect()
    };
    let mut init = by_role(&[Role::Init, Role::Sidecar]);
    let mut main = by_role(&[Role::Main]);
    let mut ephemeral = by_role(&[Role::Ephemeral]);
    let phase = phase(facts, spec);
    // Conditions are those of the last moment at which there was something to be seen.
    let lost = facts.finished && lose(&mut init, &mut main);
    let conditions = conditions(facts, spec, if lost { running_or_pending(facts) } else { &phase }, &init, &main);
    // Told by name; init containers stay in the order in which they run.
    for list in [&mut main, &mut ephemeral] {
        list.sort_by(|one, other| one.name.cmp(&other.name));
    }
    let some = |list: Vec<ApiStatus>| (!list.is_empty()).then_some(list);
    let addresses = &facts.observed.addresses;
    let (reason, message) = facts.failure.unzip();
    PodStatus {
        phase: Some(phase),
        reason: reason.map(str::to_owned).or_else(|| facts.old.reason.clone()),
        message: message.map(str::to_owned).or_else(|| facts.old.message.clone()),
        conditions: Some(conditions),
        container_statuses: some(main),
        init_container_statuses: some(init),
        ephemeral_container_statuses: some(ephemeral),
        host_ip: facts.host_ips.first().cloned(),
        host_ips: Some(facts.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: addresses.first().cloned().or_else(|| facts.old.pod_ip.clone()),
        pod_ips: if addresses.is_empty() {
            facts.old.pod_ips.clone()
        } else {
            Some(addresses.iter().map(|ip| PodIP { ip: ip.clone() }).collect())
        },
        qos_class: facts.old.qos_class.clone(),
        start_time: facts.old.start_time.clone().or(Some(Time(whole_seconds(facts.now)))),
        observed_generation: facts.pod.metadata.generation,
        resources: Some(pod_resources(facts)),
        allocated_resources: limits::sum(
            spec,
            |own| whole(&facts.observed.allocated, own).requests.clone(),
            |container| facts.allocated(container).requests,
        ),
        ..PodStatus::default()
    }
}

/// The status of a pod that the node refused.
fn rejection(facts: &Facts) -> PodStatus {
    let (reason, message) = facts.failure.unzip();
    PodStatus {
        phase: Some("Failed".into()),
        reason: reason.map(str::to_owned).or_else(|| facts.old.reason.clone()),
        message: message.map(|message| format!("Pod was rejected: {message}")).or_else(|| facts.old.message.clone()),
        qos_class: facts.old.qos_class.clone(),
        start_time: facts.old.start_time.clone().or(Some(Time(whole_seconds(facts.now)))),
        observed_generation: facts.pod.metadata.generation,
        ..PodStatus::default()
    }
}

/// What the pod as a whole has among these, or asks for.
fn whole<'a>(had: &'a BTreeMap<String, ResourceRequirements>, own: &'a ResourceRequirements) -> &'a ResourceRequirements {
    had.get(resize::WHOLE).unwrap_or(own)
}

/// What the pod as a whole has: sums over what its containers were given.
fn pod_resources(facts: &Facts) -> ResourceRequirements {
    let empty = PodSpec::default();
    let spec = facts.pod.spec.as_ref().unwrap_or(&empty);
    let given = |container: &Container| facts.observed.applied.get(&container.name).cloned().unwrap_or_else(|| facts.allocated(container));
    ResourceRequirements {
        requests: limits::sum(spec, |own| whole(&facts.observed.applied, own).requests.clone(), |container| given(container).requests),
        // A limit of the whole is there only where every container has one.
        limits: limits::sum(spec, |own| whole(&facts.observed.applied, own).limits.clone(), |container| given(container).limits)
            .map(|mut limits| {
                limits.retain(|resource, _| limits::all_limited(spec, resource));
                limits
            })
            .filter(|limits| !limits.is_empty()),
        ..ResourceRequirements::default()
    }
}

/// A pod that is over has no container that waits: of what was never seen to end nobody knows how it ended. True where there was
/// such a one.
fn lose(init: &mut [ApiStatus], main: &mut [ApiStatus]) -> bool {
    let ended = |status: &ApiStatus| status.state.as_ref().is_some_and(|state| state.terminated.is_some());
    let seen = |status: &ApiStatus| ended(status) || status.state.as_ref().is_some_and(|state| state.running.is_some());
    let through = init.last().is_none_or(|last| {
        last.state.as_ref().and_then(|state| state.terminated.as_ref()).is_some_and(|terminated| terminated.exit_code == 0) || last.ready
    });
    let started = init.iter().rposition(seen).map_or(0, |last| last + 1);
    let initialised = through || main.iter().any(seen);
    let mains = if initialised { main.len() } else { 0 };
    for status in init[..started].iter_mut().chain(&mut main[..mains]).filter(|status| !ended(status)) {
        status.state = Some(ApiState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                ..ContainerStateTerminated::default()
            }),
            ..ApiState::default()
        });
    }
    // Also when it was said before.
    main.iter().any(|status| status.container_id.is_none() && ended(status))
}

impl Facts<'_> {
    /// What a container was given of the node: what it asks for, unless that is more than there was room for.
    fn allocated(&self, container: &Container) -> ResourceRequirements {
        let accepted = self.observed.allocated.get(&container.name).cloned();
        accepted.or_else(|| container.resources.clone()).unwrap_or_default()
    }
}

fn phase(facts: &Facts, spec: &PodSpec) -> String {
    let old = facts.old.phase.as_deref().unwrap_or("");
    if matches!(old, "Succeeded" | "Failed") {
        return old.to_owned();
    }
    let text = if facts.failure.is_some() {
        // Failed is final, so that it is said only when nothing runs any more.
        if facts.finished { "Failed" } else { running_or_pending(facts) }
    } else {
        let verdict = verdict(spec, facts.members, facts.observed);
        match (verdict.finished, facts.observed.any_running()) {
            (true, false) if verdict.failed => "Failed",
            (true, false) => "Succeeded",
            _ if facts.finished && facts.ending => ended_early(facts),
            _ => running_or_pending(facts),
        }
    };
    text.to_owned()
}

/// A deleted pod whose containers were all stopped: their exit codes decide.
fn ended_early(facts: &Facts) -> &'static str {
    let mains = facts.members.iter().filter(|member| member.role == Role::Main);
    let bad = mains.filter(|member| facts.observed.exit_code(&member.spec.name).is_none_or(|code| code != 0)).count();
    if bad > 0 { "Failed" } else { "Succeeded" }
}

fn running_or_pending(facts: &Facts) -> &'static str {
    let mut mains = facts.members.iter().filter(|member| member.role == Role::Main);
    if !initialized(facts.members, facts.observed) {
        return "Pending";
    }
    // Running means that every main container was started at least once and one of them still matters.
    if mains.all(|member| facts.observed.latest(&member.spec.name).is_some_and(|status| status.state != ContainerState::Created)) {
        "Running"
    } else {
        "Pending"
    }
}

/// The status of one container.
fn container(facts: &Facts, member: &Member) -> ApiStatus {
    let name = &member.spec.name;
    let progress = facts.observed.of(name);
    let latest = facts.observed.latest(name).filter(|status| status.state != ContainerState::Created);
    let Some(latest) = latest else {
        if let Some(kept) = kept(facts, name) {
            return kept;
        }
        return waiting(facts, member, &progress.waiting);
    };
    let image_id = latest.annotations.get(ANNOTATION_IMAGE_ID).cloned().unwrap_or_default();
    let running = latest.state == ContainerState::Running;
    let restarting = !running && progress.waiting.is_some() && !facts.ending;
    let last = if restarting { Some(latest) } else { facts.observed.previous(name) };
    let state = match (&progress.waiting, running) {
        (_, true) => ApiState { running: Some(ContainerStateRunning { started_at: latest.started_at.map(time) }), ..ApiState::default() },
        (Some((reason, message)), false) if restarting => waiting_state(reason, message),
        _ => ApiState { terminated: Some(terminated(facts, latest)), ..ApiState::default() },
    };
    let started = running && progress.started && progress.post_started;
    let given = facts.allocated(&member.spec);
    let applied = if running { facts.observed.applied.get(name).cloned() } else { None };
    ApiStatus {
        name: name.clone(),
        image: latest.annotations.get(ANNOTATION_IMAGE).cloned().unwrap_or_else(|| member.spec.image.clone().unwrap_or_default()),
        image_id,
        container_id: Some(container_id(facts.pod, latest)),
        state: Some(state),
        last_state: Some(
            last.map_or_else(ApiState::default, |status| ApiState { terminated: Some(terminated(facts, status)), ..ApiState::default() }),
        ),
        restart_count: attempt(latest) as i32,
        ready: ready(member, &progress, running, latest),
        started: (member.role != Role::Ephemeral).then_some(started),
        allocated_resources: given.requests.clone(),
        resources: Some(applied.unwrap_or(given)),
        user: Some(user(latest)),
        volume_mounts: volume_mounts(member),
        ..ApiStatus::default()
    }
}

fn ready(member: &Member, progress: &super::model::Progress, running: bool, latest: &ContainerStatus) -> bool {
    match member.role {
        Role::Init => latest.exit.is_some_and(|exit| exit.code == 0),
        Role::Ephemeral => false,
        Role::Main | Role::Sidecar => running && !progress.stopping && progress.started && progress.post_started && progress.ready,
    }
}

/// The status of a container that the runtime no longer knows but the API remembers as ended or started.
fn kept(facts: &Facts, name: &str) -> Option<ApiStatus> {
    let lists = [&facts.old.container_statuses, &facts.old.init_container_statuses, &facts.old.ephemeral_container_statuses];
    let old = lists.into_iter().flatten().flatten().find(|status| status.name == name)?;
    let state = old.state.as_ref()?;
    if state.terminated.is_some() {
        return Some(old.clone());
    }
    // It ran when we last looked and is gone now: nobody knows how it ended.
    let running = state.running.as_ref().filter(|_| facts.ending || facts.finished)?;
    let mut lost = old.clone();
    lost.ready = false;
    lost.started = Some(false);
    lost.state = Some(ApiState {
        terminated: Some(ContainerStateTerminated {
            exit_code: 137,
            reason: Some("ContainerStatusUnknown".into()),
            message: Some("The container could not be located when the pod was terminated".into()),
            started_at: running.started_at.clone(),
            ..ContainerStateTerminated::default()
        }),
        ..ApiState::default()
    });
    Some(lost)
}

fn waiting(facts: &Facts, member: &Member, why: &Option<(String, String)>) -> ApiStatus {
    let held_back = matches!(member.role, Role::Main) && !initialized(facts.members, facts.observed);
    let has_init = facts.members.iter().any(|member| matches!(member.role, Role::Init | Role::Sidecar));
    let default = if held_back || (member.role != Role::Main && has_init) { "PodInitializing" } else { "ContainerCreating" };
    let (reason, message) = why.clone().unwrap_or_else(|| (default.to_owned(), String::new()));
    ApiStatus {
        name: member.spec.name.clone(),
        image: member.spec.image.clone().unwrap_or_default(),
        state: Some(waiting_state(&reason, &message)),
        last_state: Some(ApiState::default()),
        started: (member.role != Role::Ephemeral).then_some(false),
        volume_mounts: volume_mounts(member),
        ..ApiStatus::default()
    }
}

fn waiting_state(reason: &str, message: &str) -> ApiState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    ApiState { waiting: Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message }), ..ApiState::default() }
}

fn terminated(facts: &Facts, status: &ContainerStatus) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(facts.pod, status)),
        exit_code: status.exit.map_or(255, |exit| exit.code),
        // Exits by a signal show as 128 + signal, as every runtime reports them.
        signal: None,
        reason: Some(status.reason.clone()).filter(|reason| !reason.is_empty()),
        message: Some(status.message.clone()).filter(|message| !message.is_empty()),
        started_at: status.started_at.map(time).or_else(|| Some(Time(Timestamp::UNIX_EPOCH))),
        finished_at: status.finished_at.map(time),
    }
}

fn user(status: &ContainerStatus) -> ContainerUser {
    let groups = status.user.supplemental.iter().map(|gid| i64::from(*gid)).collect();
    ContainerUser {
        linux: Some(LinuxContainerUser { uid: status.user.uid.into(), gid: status.user.gid.into(), supplemental_groups: Some(groups) }),
    }
}

fn volume_mounts(member: &Member) -> Option<Vec<k8s_openapi::api::core::v1::VolumeMountStatus>> {
    let mounts = member.spec.volume_mounts.as_ref()?;
    Some(
        mounts
            .iter()
            .map(|mount| k8s_openapi::api::core::v1::VolumeMountStatus {
                name: mount.name.clone(),
                mount_path: mount.mount_path.clone(),
                read_only: mount.read_only.filter(|read_only| *read_only),
                recursive_read_only: mount
                    .read_only
                    .filter(|read_only| *read_only)
                    .map(|_| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
                ..Default::default()
            })
            .collect(),
    )
}

/// The identity of a container for clients.
pub fn container_id(pod: &Pod, status: &ContainerStatus) -> String {
    // Another runtime has a name of its own for it.
    let foreign = status.annotations.get(cri::client::ANNOTATION_ID).cloned();
    foreign.unwrap_or_else(|| format!("knarr://{}", log_id(super::model::uid(pod), status.id.as_str())))
}

/// The identity without its kind: 64 hexadecimal digits, since log shippers take nothing else for one.
pub fn log_id(uid: &str, id: &str) -> String {
    Sha256::digest(format!("{uid}/{id}")).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn conditions(facts: &Facts, spec: &PodSpec, phase: &str, init: &[ApiStatus], main: &[ApiStatus]) -> Vec<PodCondition> {
    let done = matches!(phase, "Succeeded" | "Failed");
    let unready =
        |list: &[ApiStatus]| -> Vec<String> { list.iter().filter(|status| !status.ready).map(|status| status.name.clone()).collect() };
    let sidecars: Vec<ApiStatus> =
        init.iter().zip(facts.members).filter(|(_, member)| member.role == Role::Sidecar).map(|(status, _)| status.clone()).collect();
    let not_ready: Vec<String> = unready(&sidecars).into_iter().chain(unready(main)).collect();
    let uninitialised: Vec<String> = unready_init(facts, init);
    let containers = match (done, not_ready.is_empty()) {
        (true, _) if phase == "Succeeded" => verdict_of(false, "PodCompleted", String::new()),
        (true, _) => verdict_of(false, "PodFailed", String::new()),
        (false, true) => verdict_of(true, "", String::new()),
        (false, false) => verdict_of(false, "ContainersNotReady", format!("containers with unready status: [{}]", not_ready.join(" "))),
    };
    let ready = if containers.0 { gates(facts, spec) } else { containers.clone() };
    let initialised = match (done && phase == "Succeeded", uninitialised.is_empty()) {
        (true, _) => verdict_of(true, "PodCompleted", String::new()),
        (_, true) => verdict_of(true, "", String::new()),
        (_, false) => {
            verdict_of(false, "ContainersNotInitialized", format!("containers with incomplete status: [{}]", uninitialised.join(" ")))
        }
    };
    let sandbox = verdict_of(facts.observed.sandbox && !facts.finished, "", String::new());
    let mut all = vec![
        condition(facts, "PodReadyToStartContainers", &sandbox),
        condition(facts, "Initialized", &initialised),
        condition(facts, "Ready", &ready),
        condition(facts, "ContainersReady", &containers),
        condition(facts, "PodScheduled", &verdict_of(true, "", String::new())),
    ];
    if let Some((reason, message)) = &facts.observed.resize_refused {
        all.push(probed(facts, condition(facts, "PodResizePending", &verdict_of(true, reason, message.clone()))));
    }
    if let Some(message) = &facts.observed.resize_failed {
        all.push(probed(facts, condition(facts, "PodResizeInProgress", &verdict_of(true, "Error", message.clone()))));
    }
    if let Some((_, message)) = facts.failure.filter(|_| facts.disrupted) {
        all.push(condition(facts, "DisruptionTarget", &verdict_of(true, "TerminationByKubelet", message.to_owned())));
    }
    all
}

fn unready_init(facts: &Facts, init: &[ApiStatus]) -> Vec<String> {
    if initialized(facts.members, facts.observed) {
        return Vec::new();
    }
    let through = |status: &&ApiStatus, member: &Member| match member.role {
        Role::Sidecar => status.started == Some(true),
        _ => status.ready,
    };
    init.iter().zip(facts.members).filter(|(status, member)| !through(status, member)).map(|(status, _)| status.name.clone()).collect()
}

type Holds = (bool, String, String);

fn verdict_of(status: bool, reason: &str, message: String) -> Holds {
    (status, reason.to_owned(), message)
}

/// Readiness gates are conditions that others set.
fn gates(facts: &Facts, spec: &PodSpec) -> Holds {
    let current = facts.pod.status.as_ref().and_then(|status| status.conditions.as_ref());
    let missing: Vec<String> = spec
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let found = current.into_iter().flatten().find(|condition| condition.type_ == gate.condition_type);
            match found {
                None => Some(format!("corresponding condition of pod readiness gate {:?} does not exist.", gate.condition_type)),
                Some(condition) if condition.status != "True" => {
                    Some(format!("the status of pod readiness gate {:?} is not \"True\", but {}", gate.condition_type, condition.status))
                }
                Some(_) => None,
            }
        })
        .collect();
    if missing.is_empty() { verdict_of(true, "", String::new()) } else { verdict_of(false, "ReadinessGatesNotReady", missing.join(", ")) }
}

fn condition(facts: &Facts, kind: &str, (holds, reason, message): &Holds) -> PodCondition {
    let status = if *holds { "True" } else { "False" };
    let old = facts.old.conditions.iter().flatten().find(|condition| condition.type_ == kind);
    let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: (!reason.is_empty()).then(|| reason.clone()),
        message: (!message.is_empty()).then(|| message.clone()),
        last_transition_time: since.or(Some(Time(whole_seconds(facts.now)))),
        observed_generation: facts.pod.metadata.generation,
        ..PodCondition::default()
    }
}

/// A condition that says when it was last looked at: when it came.
fn probed(facts: &Facts, condition: PodCondition) -> PodCondition {
    let old = facts.old.conditions.iter().flatten().find(|old| old.type_ == condition.type_ && old.message == condition.message);
    let at = old.and_then(|old| old.last_probe_time.clone()).or_else(|| Some(Time(whole_seconds(facts.now))));
    PodCondition { last_probe_time: at, ..condition }
}

fn time(nanoseconds: i64) -> Time {
    Time(whole_seconds(Timestamp::from_nanosecond(nanoseconds.into()).unwrap_or(Timestamp::UNIX_EPOCH)))
}

/// The API keeps seconds only; comparing statuses needs the same.
fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
