//! What to do next about a pod: a pure function from the spec and what was observed to actions.
//!
//! The plan is made anew after every change, so it never has to remember anything; the worker carries it out.

use std::fmt;

use k8s_openapi::api::core::v1::PodSpec;
use runtime::{ContainerState, ContainerStatus};

use super::model::{Member, Observed, Role};
use super::restart::{Restart, after_exit};

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the sandbox with its network.
    Sandbox,
    /// Start an attempt of a container.
    Start {
        /// Container.
        name: String,
        /// Its number; 0 is the first.
        attempt: u32,
    },
    /// Stop a running container.
    Stop {
        /// Container.
        name: String,
        /// Why, for the event.
        why: String,
        /// Seconds that it has; the pod's own grace where absent.
        grace: Option<i64>,
    },
    /// Look again at this time (milliseconds of even time) at the latest.
    WakeAt(i64),
    /// All containers have ended for good: release everything, the phase is final.
    Finish,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Sandbox => write!(f, "make sandbox"),
            Action::Start { name, attempt } => write!(f, "start {name} attempt {attempt}"),
            Action::Stop { name, why, .. } => write!(f, "stop {name}: {why}"),
            Action::WakeAt(at) => write!(f, "wake at {at}"),
            Action::Finish => write!(f, "finish"),
        }
    }
}

/// What to do about a pod that shall run. `now` is in milliseconds of even time.
pub fn plan(spec: &PodSpec, members: &[Member], observed: &Observed, now: i64) -> Vec<Action> {
    let mut plan = Planner { spec, observed, now, actions: Vec::new() };
    let verdict = verdict(spec, members, observed);
    if verdict.finished {
        plan.stop_sidecars(members);
        if !observed.any_running() && !members.iter().any(|member| observed.of(&member.spec.name).busy) {
            plan.actions.push(Action::Finish);
        }
        return plan.actions;
    }
    if !observed.sandbox {
        return vec![Action::Sandbox];
    }
    if let Some(name) = restart_all(spec, members, observed) {
        plan.stop_everything(members, &format!("container {name} asks for a restart of all containers"));
        return plan.actions;
    }
    for member in members {
        plan.unhealthy(member);
    }
    if plan.init(members) {
        for member in members.iter().filter(|member| matches!(member.role, Role::Main)) {
            if !plan.advance(member) {
                break;
            }
        }
    }
    for member in members.iter().filter(|member| member.role == Role::Ephemeral) {
        match observed.latest(&member.spec.name) {
            None => plan.start(member, 0),
            Some(latest) if latest.state == ContainerState::Created => plan.start(member, super::model::attempt(latest)),
            Some(_) => {}
        }
    }
    plan.actions
}

/// Whether a pod has come to its end.
pub struct Verdict {
    /// All main containers have ended for good, or an init container failed for good.
    pub finished: bool,
    /// It ended badly.
    pub failed: bool,
}

/// Judges whether a pod has ended.
pub fn verdict(spec: &PodSpec, members: &[Member], observed: &Observed) -> Verdict {
    let ended = |member: &Member| observed.exit_code(&member.spec.name).filter(|code| after_exit(spec, member, *code) == Restart::No);
    let init_failed = members.iter().filter(|member| member.role == Role::Init).any(|member| ended(member).is_some_and(|code| code != 0));
    if init_failed {
        return Verdict { finished: true, failed: true };
    }
    let mains: Vec<Option<i32>> = members.iter().filter(|member| member.role == Role::Main).map(ended).collect();
    let finished = !mains.is_empty() && mains.iter().all(Option::is_some);
    Verdict { finished, failed: finished && mains.iter().flatten().any(|code| *code != 0) }
}

/// Whether all init containers are through: every main container may start. True once a main container ever started, also in
/// an earlier sandbox.
pub fn initialized(members: &[Member], observed: &Observed) -> bool {
    through(members, observed, Observed::latest)
}

/// As `initialized`, in this sandbox: a new one begins with the init containers again.
fn initialized_here(members: &[Member], observed: &Observed) -> bool {
    through(members, observed, Observed::here)
}

type Newest = for<'a> fn(&'a Observed, &str) -> Option<&'a ContainerStatus>;

fn through(members: &[Member], observed: &Observed, newest: Newest) -> bool {
    let main_started = members.iter().any(|member| member.role == Role::Main && newest(observed, &member.spec.name).is_some());
    main_started
        || members.iter().all(|member| match member.role {
            Role::Init => newest(observed, &member.spec.name).is_some_and(succeeded),
            Role::Sidecar => observed.is_running(&member.spec.name) && started(member, observed),
            Role::Main | Role::Ephemeral => true,
        })
}

fn succeeded(status: &ContainerStatus) -> bool {
    status.exit.is_some_and(|exit| exit.success())
}

fn started(member: &Member, observed: &Observed) -> bool {
    let progress = observed.of(&member.spec.name);
    progress.post_started && progress.started
}

fn restart_all(spec: &PodSpec, members: &[Member], observed: &Observed) -> Option<String> {
    let asks = |member: &&Member| {
        let code = observed.here(&member.spec.name).and_then(|status| status.exit).map(|exit| exit.code);
        code.is_some_and(|code| after_exit(spec, member, code) == Restart::AllContainers)
    };
    let asker = members.iter().find(asks)?;
    observed.any_running().then(|| asker.spec.name.clone())
}

struct Planner<'a> {
    spec: &'a PodSpec,
    observed: &'a Observed,
    now: i64,
    actions: Vec<Action>,
}

impl Planner<'_> {
    /// Brings init containers forward; true when the main containers may run.
    fn init(&mut self, members: &[Member]) -> bool {
        let mains_may_run = initialized_here(members, self.observed);
        for member in members {
            match member.role {
                Role::Init if mains_may_run => {}
                Role::Init => {
                    if !self.observed.here(&member.spec.name).is_some_and(succeeded) {
                        self.advance(member);
                        return false;
                    }
                }
                Role::Sidecar => {
                    let through = self.advance(member) && self.observed.is_running(&member.spec.name) && started(member, self.observed);
                    if !through && !mains_may_run {
                        return false;
                    }
                }
                Role::Main | Role::Ephemeral => {}
            }
        }
        mains_may_run
    }

    /// Starts a container or starts it again where that is due; true when later containers need not wait for it.
    fn advance(&mut self, member: &Member) -> bool {
        let name = &member.spec.name;
        let progress = self.observed.of(name);
        if progress.busy || progress.stopping {
            return !(progress.busy && member.role != Role::Main);
        }
        let Some(latest) = self.observed.latest(name) else {
            self.start(member, 0);
            return true;
        };
        match latest.state {
            // Nobody is about to start it: whoever made it was killed, or could not start it.
            ContainerState::Created => {
                self.start(member, super::model::attempt(latest));
                true
            }
            ContainerState::Running => progress.post_started,
            ContainerState::Exited => {
                let code = latest.exit.map_or(255, |exit| exit.code);
                let again = member.role == Role::Init && self.observed.here(name).is_none();
                if again || after_exit(self.spec, member, code) != Restart::No {
                    self.start(member, super::model::attempt(latest) + 1);
                }
                true
            }
        }
    }

    fn start(&mut self, member: &Member, attempt: u32) {
        let progress = self.observed.of(&member.spec.name);
        if progress.busy {
            return;
        }
        if progress.not_before > self.now {
            self.actions.push(Action::WakeAt(progress.not_before));
            return;
        }
        self.actions.push(Action::Start { name: member.spec.name.clone(), attempt });
    }

    fn unhealthy(&mut self, member: &Member) {
        let progress = self.observed.of(&member.spec.name);
        if progress.stopping || !self.observed.is_running(&member.spec.name) {
            return;
        }
        if let Some((why, grace)) = progress.unhealthy {
            // 137 is how it ends when it is killed.
            let again = after_exit(self.spec, member, 137) != Restart::No;
            let why = if again { why } else { String::new() };
            self.actions.push(Action::Stop { name: member.spec.name.clone(), why, grace });
        }
    }

    /// Sidecars end after the main containers, the last one first and one at a time.
    fn stop_sidecars(&mut self, members: &[Member]) {
        let running = |member: &&Member| self.observed.is_running(&member.spec.name);
        let not_sidecar = members.iter().filter(running).filter(|member| member.role != Role::Sidecar);
        let next: Vec<&Member> = not_sidecar.collect();
        let next = if next.is_empty() { members.iter().rev().filter(running).take(1).collect() } else { next };
        for member in next {
            self.stop(member, "");
        }
    }

    fn stop_everything(&mut self, members: &[Member], why: &str) {
        for member in members {
            if self.observed.is_running(&member.spec.name) {
                self.stop(member, why);
            }
        }
    }

    fn stop(&mut self, member: &Member, why: &str) {
        if !self.observed.of(&member.spec.name).stopping {
            self.actions.push(Action::Stop { name: member.spec.name.clone(), why: why.to_owned(), grace: None });
        }
    }
}

/// What to do about a pod that shall end: main containers first, then sidecars from the last to the first.
/// `grace` is what the pod has in all. Empty when everything has ended.
pub fn plan_end(members: &[Member], observed: &Observed, grace: i64) -> Vec<Action> {
    let alive = |member: &&Member| observed.is_running(&member.spec.name);
    let ordinary: Vec<&Member> = members.iter().filter(alive).filter(|member| member.role != Role::Sidecar).collect();
    let due = if ordinary.is_empty() { members.iter().rev().filter(alive).take(1).collect() } else { ordinary };
    due.into_iter()
        .filter(|member| !observed.of(&member.spec.name).stopping)
        .map(|member| Action::Stop { name: member.spec.name.clone(), why: String::new(), grace: Some(grace) })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use runtime::{ContainerId, ResolvedUser};
    use serde_json::json;

    use super::*;
    use crate::pods::model::{self, LABEL_ATTEMPT};

    /// What a kubelet finds that was killed between making a container and starting it.
    #[test]
    fn what_was_made_and_never_started_is_started() {
        let spec: PodSpec = serde_json::from_value(json!({"containers": [{"name": "main", "image": "i"}]})).unwrap();
        let members = model::members(&spec);
        let status = ContainerStatus {
            id: ContainerId::new("main-2").unwrap(),
            state: ContainerState::Created,
            pid: Some(7),
            created_at: 1,
            started_at: None,
            finished_at: None,
            exit: None,
            oom_killed: false,
            reason: String::new(),
            message: String::new(),
            user: ResolvedUser::default(),
            log_path: None,
            labels: BTreeMap::from([(LABEL_ATTEMPT.to_owned(), "2".to_owned())]),
            annotations: BTreeMap::new(),
        };
        let mut observed = Observed { sandbox: true, ..Observed::default() };
        observed.attempts.insert("main".into(), vec![status]);
        assert_eq!(plan(&spec, &members, &observed, 0), [Action::Start { name: "main".into(), attempt: 2 }]);
        // Somebody is at it.
        observed.progress.entry("main".to_owned()).or_default().busy = true;
        assert_eq!(plan(&spec, &members, &observed, 0), []);
    }
}
