//! One task per pod: everything that happens to a pod happens here, in order.
//!
//! ```text
//!  API watch --.                        .--> prepare (volumes, sandbox)
//!  runtime ----+--> inbox --> worker ---+--> wire    (network)
//!              |                        +--> start   (image, create, start, postStart)
//!  probes -----'    observe, plan, act  +--> stop    (preStop, signal, kill)
//!                        |              '--> release (sandbox, volumes, network)
//!                        '--> status to the API
//! ```
//!
//! Long work runs beside the worker and reports back, so that a deletion is never kept waiting. The life of a pod only
//! moves forward: syncing, ending, releasing, over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::EventKind;
use cri::engine::Sandbox;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::jiff::Timestamp;
use runtime::{ContainerEventKind, ContainerState, ContainerStatus};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinSet};

use super::backoff::Backoff;
use super::limits::{self, Class};
use super::message::{Message, ProbeKind, ProbeVerdict, Trouble};
use super::model::{self, Member, Observed, Progress, Role};
use super::plan::{Action, plan, plan_end};
use super::restart::{Restart, after_exit};
use super::wiring::Wired;
use super::{container, past, publish, release, resize, start, statics, status, stop, termination};
use crate::Kubelet;
use crate::clock::{even_ms, now_ms};
use crate::metrics::Turn;
use crate::placement::claim::PodClaim;
use crate::probes;
use crate::volumes::Mounted;

/// Where a pod is in its life on this node; forward only.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Life {
    /// It shall run.
    Syncing,
    /// Its containers shall end within the grace.
    Ending { grace: i64 },
    /// Its containers have ended, the rest is being released.
    Releasing,
    /// Nothing of it is left on the node but its logs.
    Over,
}

/// The worker of one pod.
pub struct Worker {
    pub(super) kubelet: Arc<Kubelet>,
    inbox: UnboundedReceiver<Message>,
    pub(super) sender: UnboundedSender<Message>,
    pub(super) pod: Arc<Pod>,
    pub(super) members: Vec<Member>,
    pub(super) class: Class,
    life: Life,
    /// The API no longer has the pod.
    gone: bool,
    failure: Option<(String, String)>,
    /// The failure is that the node did not take it.
    rejected: bool,
    /// When the pod was first seen, until it runs for the first time.
    seen: Option<Instant>,
    /// The node threw the pod out for reasons of its own.
    disrupted: bool,
    pub(super) sandbox: Option<Sandbox>,
    /// It was made just now: nothing is in it.
    pub(super) sandbox_is_new: bool,
    pub(super) wired: Wired,
    pub(super) volumes: BTreeMap<String, Mounted>,
    pub(super) observed: Observed,
    pub(super) preparing: bool,
    /// The network of a prepared sandbox is being made.
    pub(super) wiring: bool,
    pub(super) prepare_backoff: Backoff,
    pub(super) prepare_not_before: i64,
    restarts: BTreeMap<String, Backoff>,
    /// Attempts whose end was already counted for back-off.
    counted: BTreeMap<String, u32>,
    /// Messages of ended attempts.
    last_words: BTreeMap<(String, u32), String>,
    probes: BTreeMap<String, (u32, Vec<AbortHandle>)>,
    status: PodStatus,
    published: Option<PodStatus>,
    pub(super) wake: Option<i64>,
    /// Other resources were given and are not in force for all containers yet.
    pub(super) resizing: bool,
    pub(super) tasks: JoinSet<()>,
}

impl Worker {
    /// A worker for a pod, with the sandbox that an earlier run of ours left, if any, and the last words of one that is gone.
    pub fn new(
        kubelet: Arc<Kubelet>,
        pod: Arc<Pod>,
        sandbox: Option<Sandbox>,
        last_words: Vec<ContainerStatus>,
        sender: UnboundedSender<Message>,
        inbox: UnboundedReceiver<Message>,
    ) -> Worker {
        let members = pod.spec.as_ref().map(model::members).unwrap_or_default();
        let status = pod.status.clone().unwrap_or_default();
        let class = limits::class(status.qos_class.as_deref());
        let rejected = publish::is_final(&status) && status.conditions.is_none() && status.container_statuses.is_none();
        let fresh = sandbox.is_none() && status.phase.as_deref() != Some("Running");
        let mut earlier = past::from_status(&pod);
        past::add(&mut earlier, model::group(last_words));
        Worker {
            kubelet,
            inbox,
            sender,
            pod,
            members,
            class,
            life: Life::Syncing,
            gone: false,
            failure: None,
            rejected,
            resizing: false,
            seen: fresh.then(Instant::now),
            disrupted: false,
            sandbox,
            sandbox_is_new: false,
            wired: Wired::already(),
            volumes: BTreeMap::new(),
            observed: Observed { past: earlier, ..Observed::default() },
            preparing: false,
            wiring: false,
            prepare_backoff: Backoff::default(),
            prepare_not_before: 0,
            restarts: BTreeMap::new(),
            counted: BTreeMap::new(),
            last_words: BTreeMap::new(),
            probes: BTreeMap::new(),
            published: None,
            status,
            wake: None,
            tasks: JoinSet::new(),
        }
    }

    /// Runs until nothing of the pod is left on the node.
    pub async fn run(mut self) {
        self.adopt().await;
        let pod = self.pod.clone();
        self.take_pod(pod);
        if self.sandbox.is_some() {
            self.kubelet.pods.admitted(&self.pod);
            self.readmit();
        } else if !publish::is_final(&self.status) {
            self.failure = self.kubelet.pods.admit(&self.kubelet, &self.pod).await;
            if let Some((reason, message)) = self.failure.clone() {
                self.rejected = true;
                self.event(EventKind::Warning, &reason, &message);
                self.end(0);
            }
            self.observed.allocated = resize::asked(&self.pod, &self.members);
        }
        let mut turn = Turn::Create;
        loop {
            let began = Instant::now();
            self.observe().await;
            self.note();
            if self.life == Life::Syncing {
                self.resize().await;
            }
            self.act();
            self.publish().await;
            self.kubelet.metrics.turn(turn, began.elapsed());
            if self.life == Life::Over {
                break;
            }
            self.wait().await;
            turn = if self.life == Life::Syncing { Turn::Sync } else { Turn::Kill };
        }
        self.tasks.shutdown().await;
        self.kubelet.metrics.forget(model::uid(&self.pod));
    }

    /// A pod that an earlier run of ours started keeps what it was given, also where the files that said so are lost.
    fn readmit(&self) {
        if let Err(refusal) = self.kubelet.placement.readmit(&PodClaim::of(&self.pod)) {
            tracing::warn!(pod = model::name(&self.pod), "a running pod lost its place: {}", super::prepare::chain(&refusal));
        }
    }

    /// Tells the metrics what the pod has.
    fn note(&self) {
        let states = self.observed.attempts.values().flatten().map(|attempt| attempt.state);
        let (namespace, name) = (model::namespace(&self.pod), model::name(&self.pod));
        self.kubelet.metrics.note(model::uid(&self.pod), namespace, name, self.sandbox.is_some(), states);
    }

    /// Takes over what an earlier run of ours left.
    async fn adopt(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        self.observed.sandbox = !sandbox.is_lost();
        if let Some(network) = &self.kubelet.network {
            self.observed.addresses = network.addresses(model::uid(&self.pod));
        }
        if self.observed.addresses.is_empty() {
            let known = self.status.pod_ips.iter().flatten().map(|ip| ip.ip.clone());
            self.observed.addresses = known.collect();
        }
        if let Ok(volumes) = super::prepare::volumes(&self.kubelet, &self.pod, &self.observed.addresses).await {
            self.volumes = volumes;
        }
        let attempts = sandbox.status().await.unwrap_or_default();
        if attempts.iter().all(|attempt| attempt.state == ContainerState::Created) && !self.is_wired() {
            self.observed.sandbox = false;
        }
        for attempt in attempts {
            if let Some(image) = attempt.annotations.get(model::ANNOTATION_STORED) {
                self.kubelet.hold_image(model::uid(&self.pod), image);
            }
        }
        let lists = [&self.status.container_statuses, &self.status.init_container_statuses];
        for status in lists.into_iter().flatten().flatten() {
            if let Some(resources) = &status.resources {
                self.observed.applied.insert(status.name.clone(), resources.clone());
                self.observed.allocated.insert(status.name.clone(), resize::given(resources, status.allocated_resources.as_ref()));
            }
        }
        if let Some((applied, allocated)) = resize::whole_given(&self.pod, &self.status) {
            self.observed.applied.insert(resize::WHOLE.to_owned(), applied);
            self.observed.allocated.insert(resize::WHOLE.to_owned(), allocated);
        }
        if let (Some(spec), Some(network)) = (&self.pod.spec, &self.kubelet.network) {
            network.adopt(model::uid(&self.pod), |address| crate::network::host_ports(spec, address));
        }
        for member in &self.members {
            let name = member.spec.name.clone();
            let progress = Progress {
                post_started: true,
                started: member.spec.startup_probe.is_none(),
                ready: member.spec.readiness_probe.is_none() || was_ready(&self.status, &name),
                ..Progress::default()
            };
            self.observed.progress.insert(name, progress);
        }
    }

    async fn wait(&mut self) {
        let first = match self.wake {
            None => self.inbox.recv().await,
            Some(at) => {
                let left = Duration::from_millis(at.saturating_sub(now_ms()).max(0) as u64);
                tokio::time::timeout(left, self.inbox.recv()).await.unwrap_or(Some(Message::Look))
            }
        };
        self.wake = None;
        let mut next = first;
        while let Some(message) = next {
            self.handle(message);
            next = self.inbox.try_recv().ok();
        }
        while self.tasks.try_join_next().is_some() {}
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Pod(pod) => self.take_pod(pod),
            Message::Gone => {
                self.gone = true;
                self.end(1);
            }
            Message::Evict { reason, message, grace, disrupted } => {
                if self.failure.is_none() {
                    self.failure = Some((reason, message));
                    self.disrupted = disrupted;
                }
                self.end(grace);
            }
            Message::Runtime(event) => {
                let wanted = matches!(self.life, Life::Syncing | Life::Ending { .. });
                if event.kind == ContainerEventKind::SandboxLost && wanted {
                    self.lost_sandbox();
                }
            }
            Message::Prepared(result) => self.prepared(result),
            Message::Wired(result) => self.wired(result),
            Message::Started { name, attempt, result } => self.started(&name, attempt, result),
            Message::Waiting { name, why } => self.progress(&name).waiting = Some(why),
            Message::Stopped { name } => {
                let progress = self.progress(&name);
                progress.stopping = false;
                progress.unhealthy = None;
            }
            Message::Probe(verdict) => self.probed(verdict),
            Message::Poke => self.poked(),
            Message::Look => {}
            Message::Forgotten => self.published = None,
            Message::Released => self.life = Life::Over,
        }
    }

    fn progress(&mut self, name: &str) -> &mut Progress {
        self.observed.progress.entry(name.to_owned()).or_default()
    }

    fn take_pod(&mut self, pod: Arc<Pod>) {
        self.members = pod.spec.as_ref().map(model::members).unwrap_or_default();
        if let Some(class) = pod.status.as_ref().and_then(|status| status.qos_class.as_deref()) {
            self.class = limits::class(Some(class));
            self.status.qos_class = Some(class.to_owned());
        }
        if pod.metadata.deletion_timestamp.is_some() {
            let default = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
            self.end(pod.metadata.deletion_grace_period_seconds.unwrap_or(default));
        }
        let shown = self.pod.metadata.labels != pod.metadata.labels || self.pod.metadata.annotations != pod.metadata.annotations;
        self.pod = pod;
        if shown {
            self.poked();
        }
    }

    /// The pod shall end; a shorter grace wins, a longer one is ignored.
    fn end(&mut self, grace: i64) {
        let grace = grace.max(0);
        match &mut self.life {
            Life::Syncing => self.life = Life::Ending { grace },
            Life::Ending { grace: old } if grace < *old => {
                *old = grace;
                // Running stops began with the longer grace; they are asked again with the shorter one.
                self.observed.progress.values_mut().for_each(|progress| progress.stopping = false);
            }
            _ => {}
        }
    }

    /// The sandbox is kept until the next one is made or the pod is over: it still tells how its containers ended.
    fn lost_sandbox(&mut self) {
        // One that never came to be is not lost: whoever tried to make it tells why it did not.
        if self.sandbox.is_none() {
            return;
        }
        self.event(EventKind::Warning, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.");
        self.kubelet.pods.set_sandbox(model::uid(&self.pod), None);
        self.observed.sandbox = false;
    }

    /// Reads what the runtime says and counts the ends that are new.
    async fn observe(&mut self) {
        // A new one has nothing to say, and its containers wait.
        let new = std::mem::take(&mut self.sandbox_is_new);
        let Some(sandbox) = self.sandbox.as_ref().filter(|_| !new) else {
            return;
        };
        match sandbox.status().await {
            Ok(statuses) => {
                self.observed.attempts = model::group(statuses);
                self.hear_last_words();
            }
            Err(error) => tracing::debug!(pod = model::name(&self.pod), %error, "sandbox does not answer"),
        }
        for member in self.members.clone() {
            self.count_end(&member);
        }
    }

    /// Ended attempts get the message that they left.
    fn hear_last_words(&mut self) {
        let pod_dir = self.kubelet.pod_dir(model::uid(&self.pod));
        let log_dir = self.kubelet.log_dir(&self.pod);
        for member in &self.members {
            let name = &member.spec.name;
            for status in self.observed.attempts.get_mut(name).into_iter().flatten() {
                let Some(exit) = status.exit.filter(|_| status.message.is_empty()) else {
                    continue;
                };
                let attempt = model::attempt(status);
                let words = self.last_words.entry((name.clone(), attempt)).or_insert_with(|| {
                    let log = log_dir.join(name).join(format!("{attempt}.log"));
                    termination::message(&member.spec, &container::termination_file(&pod_dir, name, attempt), &log, exit.code)
                });
                status.message.clone_from(words);
            }
        }
    }

    /// An end that leads to a restart takes its place in the back-off.
    fn count_end(&mut self, member: &Member) {
        let name = &member.spec.name;
        let Some(latest) = self.observed.latest(name).filter(|latest| latest.state == ContainerState::Exited) else {
            return;
        };
        let attempt = model::attempt(latest);
        if self.counted.get(name) == Some(&attempt) {
            return;
        }
        let code = latest.exit.map_or(255, |exit| exit.code);
        let ended = even_ms(latest.finished_at.unwrap_or(0) / 1_000_000);
        self.counted.insert(name.clone(), attempt);
        self.end_probes(name);
        let member_name = name.clone();
        let progress = self.progress(&member_name);
        *progress = Progress { busy: progress.busy, ..Progress::default() };
        let spec = self.pod.spec.clone().unwrap_or_default();
        if self.life != Life::Syncing || after_exit(&spec, member, code) == Restart::No {
            return;
        }
        let until = self.restarts.entry(name.clone()).or_default().failed(ended);
        if until > now_ms() {
            let wait = (until - ended) / 1000;
            let pod = format!("{}_{}({})", model::name(&self.pod), model::namespace(&self.pod), model::uid(&self.pod));
            let text = format!("back-off {} restarting failed container={name} pod={pod}", duration(wait));
            let told = format!("Back-off restarting failed container {name} in pod {pod}");
            self.event_for(name, EventKind::Warning, "BackOff", &told);
            let progress = self.progress(&member_name);
            progress.not_before = until;
            progress.waiting = Some(("CrashLoopBackOff".into(), text));
        }
    }

    fn act(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        if self.life == Life::Syncing {
            self.check_deadline();
        }
        match self.life.clone() {
            Life::Syncing => {
                if publish::is_final(&self.status) && self.sandbox.is_none() {
                    self.release();
                    return;
                }
                for action in plan(&spec, &self.members, &self.observed, now_ms()) {
                    self.carry_out(action, None);
                }
                self.probe_running();
            }
            Life::Ending { grace } => {
                self.end_all_probes();
                let busy = self.preparing || self.wiring || self.observed.progress.values().any(|progress| progress.busy);
                if busy && !self.observed.any_running() {
                    return;
                }
                if !self.observed.any_running() {
                    self.release();
                    return;
                }
                for action in plan_end(&self.members, &self.observed, grace) {
                    self.carry_out(action, Some(grace));
                }
            }
            Life::Releasing | Life::Over => {}
        }
    }

    fn carry_out(&mut self, action: Action, grace: Option<i64>) {
        match action {
            Action::Sandbox => self.prepare(),
            Action::Start { name, attempt } => self.start(&name, attempt),
            Action::Stop { name, why, grace: own } => self.stop(&name, &why, own.or(grace)),
            Action::WakeAt(at) => self.wake_at(at),
            Action::Finish => self.release(),
        }
    }

    fn check_deadline(&mut self) {
        let deadline = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        let started = self.status.start_time.as_ref().map(|time| even_ms(time.0.as_millisecond()));
        if let (Some(seconds), Some(started)) = (deadline, started) {
            let due = started + seconds * 1000;
            if now_ms() >= due {
                let why = ("DeadlineExceeded", "Pod was active on the node longer than the specified deadline");
                if self.failure.is_none() {
                    self.event(EventKind::Normal, why.0, why.1);
                    self.failure = Some((why.0.into(), why.1.into()));
                }
                let grace = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
                self.end(grace);
            } else {
                self.wake_at(due);
            }
        }
    }

    fn start(&mut self, name: &str, attempt: u32) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        let Some(mut member) = self.members.iter().find(|member| member.spec.name == name).cloned() else {
            return;
        };
        if let Some(given) = self.observed.allocated.get(name) {
            member.spec.resources = Some(given.clone());
        }
        let progress = self.progress(name);
        progress.busy = true;
        progress.post_started = false;
        progress.started = member.spec.startup_probe.is_none();
        progress.ready = member.spec.readiness_probe.is_none();
        self.observed.applied.insert(name.to_owned(), member.spec.resources.clone().unwrap_or_default());
        let target = member.target.as_ref().and_then(|target| self.observed.latest(target)).map(|status| status.id.clone());
        let order = start::Order {
            kubelet: self.kubelet.clone(),
            pod: self.pod.clone(),
            member,
            attempt,
            sandbox,
            wired: self.wired.clone(),
            addresses: self.observed.addresses.clone(),
            volumes: self.volumes.clone(),
            class: self.class,
            target,
            sender: self.sender.clone(),
            old: self.observed.attempts.get(name).cloned().unwrap_or_default(),
        };
        self.tasks.spawn(start::start(order));
    }

    fn started(&mut self, name: &str, attempt: u32, result: Result<(), Trouble>) {
        let now = now_ms();
        let backoff = self.restarts.entry(format!("{name}/start")).or_default();
        let progress = self.observed.progress.entry(name.to_owned()).or_default();
        progress.busy = false;
        match result {
            Ok(()) => {
                *backoff = Backoff::default();
                progress.waiting = None;
                progress.post_started = true;
            }
            // It is started anew in the next sandbox.
            Err(trouble) if trouble.reason == start::NO_NETWORK => progress.waiting = None,
            Err(trouble) => {
                // The first retry comes at once for pulls too, like upstream's; 10 s doubling follow.
                let until = backoff.failed(now).max(now + 1_000);
                progress.not_before = until.max(progress.not_before);
                progress.waiting = Some((trouble.reason.clone(), trouble.message.clone()));
                tracing::debug!(pod = model::name(&self.pod), name, attempt, reason = trouble.reason, "container did not start");
            }
        }
    }

    pub(super) fn stop(&mut self, name: &str, why: &str, grace: Option<i64>) {
        let (Some(sandbox), Some(latest)) = (self.sandbox.clone(), self.observed.latest(name).cloned()) else {
            return;
        };
        let Some(member) = self.members.iter().find(|member| member.spec.name == name).cloned() else {
            return;
        };
        let default = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        let grace = grace.unwrap_or(default);
        self.progress(name).stopping = true;
        self.end_probes(name);
        let message = if why.is_empty() { format!("Stopping container {name}") } else { why.to_owned() };
        self.event_for(name, EventKind::Normal, "Killing", &message);
        let order = stop::Order {
            kubelet: self.kubelet.clone(),
            pod: self.pod.clone(),
            member,
            signal: model::stop_signal(&latest),
            id: latest.id,
            sandbox,
            addresses: self.observed.addresses.clone(),
            grace,
            sender: self.sender.clone(),
        };
        self.tasks.spawn(stop::stop(order));
    }

    fn probed(&mut self, verdict: ProbeVerdict) {
        let current = self.observed.latest(&verdict.name).map(model::attempt);
        if current != Some(verdict.attempt) || !self.observed.is_running(&verdict.name) {
            return;
        }
        let progress = self.progress(&verdict.name);
        let word = match verdict.kind {
            ProbeKind::Startup => "startup",
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
        };
        match (verdict.kind, verdict.healthy) {
            (ProbeKind::Startup, true) => progress.started = true,
            (ProbeKind::Readiness, healthy) => progress.ready = healthy,
            (ProbeKind::Startup | ProbeKind::Liveness, false) => {
                let why = format!("Container {} failed {word} probe, will be restarted", verdict.name);
                progress.unhealthy = Some((why, verdict.grace));
            }
            (ProbeKind::Liveness, true) => {}
        }
    }

    /// Content of volumes follows their objects.
    fn poked(&mut self) {
        if self.life == Life::Syncing && self.sandbox.is_some() {
            let (kubelet, pod, addresses) = (self.kubelet.clone(), self.pod.clone(), self.observed.addresses.clone());
            self.tasks.spawn(async move {
                if let Err(trouble) = super::prepare::volumes(&kubelet, &pod, &addresses).await {
                    tracing::debug!(pod = model::name(&pod), trouble = trouble.message, "volumes were not brought up to date");
                }
            });
        }
    }

    /// Probes run for each running attempt, once started.
    fn probe_running(&mut self) {
        let Some(sandbox) = self.sandbox.clone() else {
            return;
        };
        for member in self.members.clone() {
            let name = member.spec.name.clone();
            let progress = self.observed.of(&name);
            let Some(latest) = self.observed.latest(&name).cloned() else {
                continue;
            };
            let attempt = model::attempt(&latest);
            let known = self.probes.get(&name).is_some_and(|(probed, _)| *probed == attempt);
            let probed = matches!(member.role, Role::Main | Role::Sidecar);
            if latest.state != ContainerState::Running || progress.stopping || known || !probed {
                continue;
            }
            self.end_probes(&name);
            let target = probes::Target {
                kubelet: self.kubelet.clone(),
                pod: self.pod.clone(),
                container: member.spec.clone(),
                attempt,
                id: latest.id.clone(),
                sandbox: sandbox.clone(),
                address: self.observed.addresses.first().cloned().unwrap_or_default(),
                started_at: even_ms(latest.started_at.unwrap_or(0) / 1_000_000),
                started: progress.started,
                ready: progress.ready,
            };
            let handles = probes::run(target, &self.sender);
            self.probes.insert(name, (attempt, handles));
        }
    }

    fn end_probes(&mut self, name: &str) {
        if let Some((_, handles)) = self.probes.remove(name) {
            handles.iter().for_each(AbortHandle::abort);
        }
    }

    fn end_all_probes(&mut self) {
        let names: Vec<String> = self.probes.keys().cloned().collect();
        names.iter().for_each(|name| self.end_probes(name));
    }

    fn release(&mut self) {
        self.end_all_probes();
        self.life = Life::Releasing;
        self.kubelet.pods.set_sandbox(model::uid(&self.pod), None);
        let (kubelet, pod, sandbox, sender) = (self.kubelet.clone(), self.pod.clone(), self.sandbox.take(), self.sender.clone());
        self.tasks.spawn(async move {
            release::release(&kubelet, &pod, sandbox).await;
            let _ = sender.send(Message::Released);
        });
    }

    /// Computes the status and tells the API what changed; deletes the object when everything is over.
    async fn publish(&mut self) {
        if self.gone {
            return;
        }
        let released = self.life == Life::Over;
        let failure = self.failure.clone();
        let host_ips = self.kubelet.host_ips();
        let facts = status::Facts {
            pod: &self.pod,
            members: &self.members,
            observed: &self.observed,
            host_ips: &host_ips,
            old: &self.status,
            ending: self.life != Life::Syncing,
            finished: matches!(self.life, Life::Releasing | Life::Over),
            failure: failure.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())),
            rejected: self.rejected,
            disrupted: self.disrupted,
            now: Timestamp::now(),
        };
        let mut fresh = status::compute(&facts);
        self.kubelet.placement.devices.show_health(model::uid(&self.pod), &mut fresh);
        let began = self.seen.take_if(|_| fresh.phase.as_deref() == Some("Running"));
        if let Some(seen) = began {
            self.kubelet.metrics.started(seen.elapsed());
        }
        self.status = fresh.clone();
        if self.published.as_ref() != Some(&fresh) && !self.lingers(&fresh) {
            let told = self.published.as_ref().or(self.pod.status.as_ref()).cloned().unwrap_or_default();
            match publish::status(&self.kubelet.client, &self.pod, &fresh, &told).await {
                Ok(()) => self.published = Some(fresh),
                Err(error) if error.is_not_found() && statics::is_static(&self.pod) => {}
                Err(error) if error.is_not_found() => self.gone = true,
                Err(error) => {
                    tracing::debug!(pod = model::name(&self.pod), %error, "status was not written");
                    self.wake_at(now_ms() + 500);
                }
            }
        }
        if began.is_some() {
            self.kubelet.runtime.make_ahead();
        }
        if released && self.pod.metadata.deletion_timestamp.is_some() {
            publish::delete(&self.kubelet.client, &self.pod).await;
        }
    }

    /// Whether a status may wait, since it will be overtaken in a moment: that of a pod that is being made ready to run for
    /// the first time. Who waits for it to run then finds it ready as well, where nothing but a start was missing.
    fn lingers(&mut self, fresh: &PodStatus) -> bool {
        let busy = self.preparing || self.observed.any_starting();
        let plain = busy && self.life == Life::Syncing && self.failure.is_none() && !publish::is_final(fresh);
        let left = self.seen.filter(|_| plain).and_then(|seen| publish::LINGER.checked_sub(seen.elapsed()));
        if let Some(left) = left {
            self.wake_at(now_ms() + left.as_millis() as i64 + 1);
        }
        left.is_some()
    }

    /// Looks again at this time at the latest.
    pub(super) fn wake_at(&mut self, at: i64) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }

    pub(super) fn event(&self, kind: EventKind, reason: &str, message: &str) {
        self.kubelet.event(&self.pod, "", kind, reason, message);
    }

    pub(super) fn event_for(&self, container: &str, kind: EventKind, reason: &str, message: &str) {
        self.kubelet.event(&self.pod, container, kind, reason, message);
    }
}

fn was_ready(status: &PodStatus, name: &str) -> bool {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten().any(|status| status.name == name && status.ready)
}

/// `10s`, `1m20s`, as Go prints durations.
fn duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}
