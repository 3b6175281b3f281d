//! What a Job does next, as a pure function of the Job, its pods, the time and the back-off that it remembers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::job_indexes::Indexes;
use crate::job_policy::{self, Verdict};

/// Annotation and label with the completion index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// Annotation with the failures of the index so far.
pub(crate) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// Annotation with the failures of the index that a policy ignored.
pub(crate) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Pods made or removed, and pods counted, in one round at most.
const BURST: usize = 500;
const FIRST_BACKOFF: i64 = 10;
const LONGEST_BACKOFF: i64 = 600;

/// A pod of the Job.
#[derive(Debug, Clone, Default)]
pub(crate) struct JobPod {
    pub(crate) uid: String,
    /// Its completion index.
    pub(crate) index: Option<i32>,
    pub(crate) succeeded: bool,
    /// Phase is Failed.
    pub(crate) failed: bool,
    pub(crate) leaving: bool,
    pub(crate) ready: bool,
    pub(crate) scheduled: bool,
    /// Whether it still has to be counted.
    pub(crate) finalizer: bool,
    /// Restarts of its containers, where the Job counts them.
    pub(crate) restarts: i32,
    /// The whole pod, where it is needed to judge its failure.
    pub(crate) pod: Option<Box<Pod>>,
}

impl JobPod {
    pub(crate) fn is_active(&self) -> bool {
        !self.succeeded && !self.failed && !self.leaving
    }

    fn annotation(&self, key: &str) -> i32 {
        let annotations = self.pod.as_ref().and_then(|pod| pod.metadata.annotations.as_ref());
        annotations.and_then(|annotations| annotations.get(key)).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn finished_at(&self, now: i64) -> i64 {
        let status = self.pod.as_ref().and_then(|pod| pod.status.as_ref());
        let ends = status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let ends =
            ends.filter_map(|container| container.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()).map(|time| time.0.as_second());
        let deleted = || self.pod.as_ref().and_then(|pod| pod.metadata.deletion_timestamp.as_ref()).map(|time| time.0.as_second());
        ends.max().or_else(deleted).unwrap_or(now).min(now)
    }
}

/// Failures since the last success, remembered between rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backoff {
    pub(crate) failures: u32,
    pub(crate) last: i64,
}

impl Backoff {
    fn left(self, now: i64) -> i64 {
        if self.failures == 0 { 0 } else { self.last + backoff(self.failures) - now }
    }
}

fn backoff(failures: u32) -> i64 {
    (FIRST_BACKOFF << (failures - 1).min(10)).min(LONGEST_BACKOFF)
}

/// A pod to make: its index and the annotations about earlier failures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPod {
    pub(crate) index: Option<i32>,
    pub(crate) annotations: BTreeMap<String, String>,
}

/// What to do; the numbers are places in the list of pods.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) delete: Vec<usize>,
    pub(crate) create: Vec<NewPod>,
    /// Pods that have been counted.
    pub(crate) release: Vec<usize>,
    /// Status to write before finalizers go.
    pub(crate) status: JobStatus,
    /// The condition that ends the Job when everything is counted.
    pub(crate) ending: Option<JobCondition>,
    /// Seconds until time alone changes something.
    pub(crate) after: Option<i64>,
    pub(crate) backoff: Backoff,
    /// Pods are left to be counted in the next round.
    pub(crate) partial: bool,
    /// Reason and message of an event about suspension.
    pub(crate) event: Option<(&'static str, &'static str)>,
}

struct Round<'a> {
    spec: &'a JobSpec,
    pods: &'a [JobPod],
    now: &'a Time,
    completions: i32,
    indexed: bool,
    /// Deleted pods are replaced only when they have failed.
    only_failed: bool,
    per_index: bool,
    /// Indexes that succeeded before this round, and with it.
    before: Indexes,
    succeeded: Indexes,
    failed: Indexes,
    /// The last failed pod of an index, kept until its successor carries the count on.
    kept: BTreeMap<i32, usize>,
}

/// Plans one round.
pub(crate) fn plan(job: &Job, pods: &[JobPod], now: &Time, remembered: Backoff) -> Plan {
    let spec = job.spec.clone().unwrap_or_default();
    let mut status = job.status.clone().unwrap_or_default();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default().clone();
    let round = Round::new(&spec, &status, pods, now);
    let suspended = spec.suspend == Some(true);
    let seconds = now.0.as_second();
    let mut plan = Plan { backoff: remembered, ..Plan::default() };

    let counted = |list: &Option<Vec<String>>, uid: &str| list.iter().flatten().any(|one| one == uid);
    let fresh = |pod: &&JobPod| pod.finalizer && (!round.indexed || round.has_place(pod));
    let new_succeeded: Vec<&JobPod> =
        pods.iter().filter(fresh).filter(|pod| pod.succeeded && !counted(&uncounted.succeeded, &pod.uid)).collect();
    let new_failed: Vec<&JobPod> =
        pods.iter().filter(fresh).filter(|pod| round.is_failed(pod) && !counted(&uncounted.failed, &pod.uid)).collect();
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len) as i32;
    let succeeded = if round.indexed {
        round.succeeded.count()
    } else {
        status.succeeded.unwrap_or(0) + new_succeeded.len() as i32 + count(&uncounted.succeeded)
    };
    let failures = new_failed.iter().filter(|pod| round.judge(pod) != Verdict::Ignore).count() as i32;
    let failed = status.failed.unwrap_or(0) + failures + count(&uncounted.failed);
    plan.backoff = remember(remembered, &new_succeeded, &new_failed, seconds);

    if status.start_time.is_none() && !suspended {
        status.start_time = Some(now.clone());
    }
    let active: Vec<usize> = (0..pods.len()).filter(|index| pods[*index].is_active()).collect();
    let mut terminating = pods.iter().filter(|pod| pod.leaving && !pod.succeeded && !pod.failed).count() as i32;
    let mut active_count = active.len() as i32;
    let mut ready = active.iter().filter(|index| pods[**index].ready).count() as i32;

    let mut ending = round.ending(&status, failed, &mut plan.after, suspended);
    let leave = |plan: &mut Plan, victims: Vec<usize>, active_count: &mut i32, ready: &mut i32, terminating: &mut i32| {
        *active_count -= victims.len() as i32;
        *ready -= victims.iter().filter(|index| pods[**index].ready).count() as i32;
        *terminating += victims.iter().filter(|index| pods[**index].scheduled).count() as i32;
        plan.delete = victims;
    };
    if ending.is_some() {
        leave(&mut plan, active, &mut active_count, &mut ready, &mut terminating);
    } else {
        let gone = job.metadata.deletion_timestamp.is_some();
        if !gone {
            let victims = round.surplus(&active, succeeded, suspended);
            if victims.is_empty() && !suspended {
                round.make(&mut plan, &active, succeeded, terminating, seconds);
                active_count += plan.create.len() as i32;
            } else {
                leave(&mut plan, victims, &mut active_count, &mut ready, &mut terminating);
            }
        }
        let complete = match spec.completions {
            None => succeeded > 0 && active_count == 0,
            Some(completions) => succeeded >= completions && active_count == 0,
        };
        if complete {
            ending = Some(condition("SuccessCriteriaMet", "CompletionsReached", "Reached expected number of succeeded pods", now));
        } else if !gone {
            plan.event = suspend(&mut status, suspended, now);
        }
    }
    status.active = Some(active_count).filter(|count| *count > 0);
    status.ready = Some(ready);
    status.terminating = Some(terminating);
    round.track(&mut plan, &mut status, job, ending.as_ref());
    plan.ending = round.conclude(&mut status, ending).filter(|_| !plan.partial);
    plan.status = status;
    plan
}

/// Moves what has been counted and no longer has a finalizer into the totals.
pub(crate) fn settle(status: &mut JobStatus, holding: &BTreeSet<String>) {
    let Some(uncounted) = &mut status.uncounted_terminated_pods else {
        return;
    };
    let move_on = |list: &mut Option<Vec<String>>, total: &mut Option<i32>| {
        let Some(uids) = list else {
            return;
        };
        let before = uids.len();
        uids.retain(|uid| holding.contains(uid));
        let moved = (before - uids.len()) as i32;
        if moved > 0 {
            *total = Some(total.unwrap_or(0) + moved);
        }
        if uids.is_empty() {
            *list = None;
        }
    };
    move_on(&mut uncounted.succeeded, &mut status.succeeded);
    move_on(&mut uncounted.failed, &mut status.failed);
}

/// Whether the Job may end: everything is counted and no pod is still stopping.
pub(crate) fn may_end(status: &JobStatus) -> bool {
    let empty = status.uncounted_terminated_pods.as_ref().is_none_or(|one| *one == UncountedTerminatedPods::default());
    empty && status.terminating.unwrap_or(0) == 0
}

/// Adds the condition that ends the Job.
pub(crate) fn end(status: &mut JobStatus, ending: &JobCondition) {
    if ending.type_ == "Complete" {
        status.completion_time = ending.last_transition_time.clone();
    }
    status.conditions.get_or_insert_default().push(ending.clone());
}

/// A true condition.
fn condition(kind: &str, reason: &str, message: &str, now: &Time) -> JobCondition {
    JobCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_probe_time: Some(now.clone()),
        last_transition_time: Some(now.clone()),
    }
}

/// A true condition of the status.
pub(crate) fn find<'a>(status: &'a JobStatus, kind: &str) -> Option<&'a JobCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == kind && condition.status == "True")
}

fn remember(old: Backoff, succeeded: &[&JobPod], failed: &[&JobPod], now: i64) -> Backoff {
    let last_success = succeeded.iter().map(|pod| pod.finished_at(now)).max();
    let after: Vec<i64> =
        failed.iter().map(|pod| pod.finished_at(now)).filter(|at| last_success.is_none_or(|success| *at > success)).collect();
    let base = if last_success.is_some() { Backoff::default() } else { old };
    Backoff { failures: base.failures + after.len() as u32, last: after.into_iter().max().unwrap_or(base.last).max(base.last) }
}

/// Condition `Suspended`; the event to record if it changed.
fn suspend(status: &mut JobStatus, suspended: bool, now: &Time) -> Option<(&'static str, &'static str)> {
    let (value, reason, message, event) =
        if suspended { ("True", "JobSuspended", "Job suspended", "Suspended") } else { ("False", "JobResumed", "Job resumed", "Resumed") };
    let known = status.conditions.iter_mut().flatten().find(|condition| condition.type_ == "Suspended");
    let fresh = JobCondition { status: value.into(), ..condition("Suspended", reason, message, now) };
    match known {
        Some(known) if known.status == value => return None,
        Some(known) => *known = fresh,
        None if !suspended => return None,
        None => status.conditions.get_or_insert_default().push(fresh),
    }
    if !suspended {
        status.start_time = Some(now.clone());
    }
    Some((event, message))
}

impl<'a> Round<'a> {
    fn new(spec: &'a JobSpec, status: &JobStatus, pods: &'a [JobPod], now: &'a Time) -> Round<'a> {
        let completions = spec.completions.unwrap_or(0);
        let indexed = spec.completion_mode.as_deref() == Some("Indexed");
        let before = Indexes::parse(status.completed_indexes.as_deref().unwrap_or(""), completions);
        let failed = Indexes::parse(status.failed_indexes.as_deref().unwrap_or(""), completions);
        let per_index = indexed && spec.backoff_limit_per_index.is_some();
        let only_failed = spec.pod_replacement_policy.as_deref() == Some("Failed");
        let mut round = Round {
            spec,
            pods,
            now,
            completions,
            indexed,
            only_failed,
            per_index,
            succeeded: before.clone(),
            before,
            failed,
            kept: BTreeMap::new(),
        };
        if indexed {
            for index in pods
                .iter()
                .filter(|pod| pod.succeeded && pod.finalizer && round.has_place(pod))
                .filter_map(|pod| pod.index)
                .collect::<Vec<_>>()
            {
                round.succeeded.add(index);
            }
        }
        if per_index {
            round.find_failed_indexes();
        }
        round
    }

    fn has_place(&self, pod: &JobPod) -> bool {
        pod.index.is_some_and(|index| index < self.completions)
    }

    /// A deleted pod counts as failed too, unless only real failures are replaced.
    fn is_failed(&self, pod: &JobPod) -> bool {
        pod.failed || (!self.only_failed && pod.leaving && !pod.succeeded)
    }

    fn counts_as_failed(&self, pod: &JobPod) -> bool {
        pod.finalizer && self.has_place(pod) && self.is_failed(pod)
    }

    fn judge(&self, pod: &JobPod) -> Verdict {
        match &pod.pod {
            Some(pod) => job_policy::judge(self.spec.pod_failure_policy.as_ref(), pod),
            None => Verdict::Count,
        }
    }

    fn find_failed_indexes(&mut self) {
        let limit = self.spec.backoff_limit_per_index.unwrap_or(i32::MAX);
        let failed: Vec<usize> = (0..self.pods.len()).filter(|place| self.counts_as_failed(&self.pods[*place])).collect();
        for pod in failed.iter().map(|place| &self.pods[*place]) {
            let lost = match self.judge(pod) {
                Verdict::FailIndex => true,
                Verdict::Ignore => false,
                _ => pod.annotation(FAILURES) >= limit,
            };
            let index = pod.index.unwrap_or_default();
            if lost && !self.succeeded.has(index) {
                self.failed.add(index);
            }
        }
        let active: BTreeSet<i32> = self.pods.iter().filter(|pod| pod.is_active()).filter_map(|pod| pod.index).collect();
        let total = |pod: &JobPod| pod.annotation(FAILURES) + pod.annotation(IGNORED);
        for place in failed {
            let pod = &self.pods[place];
            let index = pod.index.unwrap_or_default();
            if self.succeeded.has(index) || self.failed.has(index) || active.contains(&index) {
                continue;
            }
            if self.kept.get(&index).is_none_or(|known| total(&self.pods[*known]) <= total(pod)) {
                self.kept.insert(index, place);
            }
        }
    }

    /// Why the Job ends, if it does.
    fn ending(&self, status: &JobStatus, failed: i32, after: &mut Option<i64>, suspended: bool) -> Option<JobCondition> {
        if let Some(met) = find(status, "SuccessCriteriaMet") {
            return Some(met.clone());
        }
        let fail = |reason: &str, message: &str| Some(condition("FailureTarget", reason, message, self.now));
        if let Some(target) = find(status, "FailureTarget") {
            return Some(target.clone());
        }
        let limit = self.spec.backoff_limit.unwrap_or(6);
        let message = self.pods.iter().filter(|pod| self.is_failed(pod) && pod.finalizer).find_map(|pod| match self.judge(pod) {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        });
        if let Some(message) = message {
            return fail("PodFailurePolicy", &message);
        }
        if failed > limit || self.restarted_too_often(limit) {
            return fail("BackoffLimitExceeded", "Job has reached the specified backoff limit");
        }
        if let (Some(deadline), Some(start), false) = (self.spec.active_deadline_seconds, &status.start_time, suspended) {
            let left = start.0.as_second() + deadline - self.now.0.as_second();
            if left <= 0 {
                return fail("DeadlineExceeded", "Job was active longer than specified deadline");
            }
            sooner(after, left);
        }
        if self.per_index {
            if self.spec.max_failed_indexes.is_some_and(|limit| self.failed.count() > limit) {
                return fail("MaxFailedIndexesExceeded", "Job has exceeded the specified maximal number of failed indexes");
            }
            if self.failed.count() > 0 && self.failed.count() + self.succeeded.count() >= self.completions {
                return fail("FailedIndexes", "Job has failed indexes");
            }
        }
        let policy = self.spec.success_policy.as_ref().filter(|_| self.indexed)?;
        let message = job_policy::success(policy, self.completions, &self.succeeded)?;
        Some(condition("SuccessCriteriaMet", "SuccessPolicy", &message, self.now))
    }

    /// Restarts count only where containers restart in place.
    fn restarted_too_often(&self, limit: i32) -> bool {
        let on_failure = self.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) == Some("OnFailure");
        let restarts: i32 = self.pods.iter().filter(|pod| !pod.succeeded && !pod.failed).map(|pod| pod.restarts).sum();
        on_failure && if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn wanted(&self, active: i32, succeeded: i32) -> i32 {
        let parallelism = self.spec.parallelism.unwrap_or(1);
        match self.spec.completions {
            None if succeeded > 0 => active,
            None => parallelism,
            Some(completions) => (completions - succeeded).min(parallelism).max(0),
        }
    }

    /// Active pods that shall go: duplicates of an index first, then the least useful.
    fn surplus(&self, active: &[usize], succeeded: i32, suspended: bool) -> Vec<usize> {
        let at_least =
            if suspended { active.len() } else { (active.len() as i32 - self.wanted(active.len() as i32, succeeded)).max(0) as usize };
        let mut order = active.to_vec();
        order.sort_by_key(|place| (self.pods[*place].scheduled, self.pods[*place].ready));
        let mut victims = Vec::new();
        if self.indexed {
            let mut seen = BTreeSet::new();
            // Of equal indexes the most useful stays.
            for place in order.iter().rev() {
                let pod = &self.pods[*place];
                if !self.has_place(pod) || !seen.insert(pod.index) {
                    victims.push(*place);
                }
            }
        }
        let rest = order.into_iter().filter(|place| !victims.contains(place)).collect::<Vec<_>>();
        let more = at_least.saturating_sub(victims.len());
        victims.extend(rest.into_iter().take(more));
        victims.truncate(BURST);
        victims
    }

    fn make(&self, plan: &mut Plan, active: &[usize], succeeded: i32, terminating: i32, now: i64) {
        let waiting = if self.only_failed { terminating } else { 0 };
        let missing = (self.wanted(active.len() as i32, succeeded) - waiting - active.len() as i32).clamp(0, BURST as i32) as usize;
        if missing == 0 {
            return;
        }
        let left = plan.backoff.left(now);
        if !self.per_index && left > 0 {
            return sooner(&mut plan.after, left);
        }
        if !self.indexed {
            plan.create = vec![NewPod { index: None, annotations: BTreeMap::new() }; missing];
            return;
        }
        let taken: BTreeSet<i32> = self
            .pods
            .iter()
            .filter(|pod| pod.is_active() || (self.only_failed && pod.leaving && !pod.failed && !pod.succeeded))
            .filter_map(|pod| pod.index)
            .collect();
        let free = (0..self.completions).filter(|index| !taken.contains(index) && !self.succeeded.has(*index) && !self.failed.has(*index));
        for index in free.take(missing) {
            let mut annotations = BTreeMap::new();
            if self.per_index {
                let last = self.kept.get(&index).map(|place| &self.pods[*place]);
                if let Some(left) = last.map(|pod| self.index_left(pod, now)).filter(|left| *left > 0) {
                    sooner(&mut plan.after, left);
                    continue;
                }
                let ignored = last.is_some_and(|pod| self.judge(pod) == Verdict::Ignore);
                let (failures, skipped) = last
                    .map_or((0, 0), |pod| (pod.annotation(FAILURES) + i32::from(!ignored), pod.annotation(IGNORED) + i32::from(ignored)));
                annotations.insert(FAILURES.into(), failures.to_string());
                if skipped > 0 {
                    annotations.insert(IGNORED.into(), skipped.to_string());
                }
            }
            plan.create.push(NewPod { index: Some(index), annotations });
        }
    }

    fn index_left(&self, pod: &JobPod, now: i64) -> i64 {
        let failures = pod.annotation(FAILURES) + pod.annotation(IGNORED) + 1;
        Backoff { failures: failures.max(1) as u32, last: pod.finished_at(now) }.left(now)
    }

    /// Which pods are counted now, and how.
    fn track(&self, plan: &mut Plan, status: &mut JobStatus, job: &Job, ending: Option<&JobCondition>) {
        let holding: BTreeSet<String> = self.pods.iter().filter(|pod| pod.finalizer).map(|pod| pod.uid.clone()).collect();
        settle(status, &holding);
        let failing = ending.is_some_and(|ending| ending.type_ == "FailureTarget");
        let mut counted = self.before.clone();
        let mut news = 0;
        let mut order: Vec<usize> = (0..self.pods.len()).collect();
        order.sort_by_key(|place| self.pods[*place].index);
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        for place in order {
            let pod = &self.pods[place];
            if news >= BURST {
                plan.partial = true;
                plan.after = Some(0);
                break;
            }
            if !pod.finalizer || !self.is_countable(pod, place, job, ending.is_some()) {
                continue;
            }
            plan.release.push(place);
            let known = |list: &Option<Vec<String>>| list.iter().flatten().any(|uid| *uid == pod.uid);
            if pod.succeeded && !known(&uncounted.failed) {
                if self.indexed {
                    let index = pod.index.filter(|_| self.has_place(pod));
                    news += usize::from(index.is_some_and(|index| counted.add(index)));
                } else if !known(&uncounted.succeeded) {
                    uncounted.succeeded.get_or_insert_default().push(pod.uid.clone());
                    news += 1;
                }
            } else if (self.is_failed(pod) || failing)
                && !known(&uncounted.failed)
                && (!self.indexed || self.has_place(pod))
                && self.judge(pod) != Verdict::Ignore
            {
                uncounted.failed.get_or_insert_default().push(pod.uid.clone());
                news += 1;
            }
        }
        if self.indexed {
            status.succeeded = Some(counted.count()).filter(|count| *count > 0);
            status.completed_indexes = Some(counted.text()).filter(|text| !text.is_empty());
            status.failed_indexes = self.per_index.then(|| self.failed.text());
        }
    }

    fn is_countable(&self, pod: &JobPod, place: usize, job: &Job, ends: bool) -> bool {
        if pod.succeeded || job.metadata.deletion_timestamp.is_some() {
            return true;
        }
        if !self.is_failed(pod) && !ends {
            return false;
        }
        ends || pod.index.and_then(|index| self.kept.get(&index)) != Some(&place)
    }

    /// Shows the interim condition; gives the final one.
    fn conclude(&self, status: &mut JobStatus, ending: Option<JobCondition>) -> Option<JobCondition> {
        let ending = ending?;
        if find(status, &ending.type_).is_none() {
            status.conditions.get_or_insert_default().push(ending.clone());
        }
        let kind = if ending.type_ == "FailureTarget" { "Failed" } else { "Complete" };
        Some(condition(kind, ending.reason.as_deref().unwrap_or(""), ending.message.as_deref().unwrap_or(""), self.now))
    }
}

fn sooner(after: &mut Option<i64>, seconds: i64) {
    *after = Some(after.map_or(seconds, |known| known.min(seconds)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    fn job(spec: Value, status: Value) -> Job {
        let mut spec = spec;
        spec["template"] = json!({"spec": {"containers": [], "restartPolicy": spec["restart"].as_str().unwrap_or("Never")}});
        serde_json::from_value(json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec, "status": status})).unwrap()
    }

    /// `a` active, `r` ready, `s` succeeded, `f` failed, `d` leaving; upper case once counted and released; then an index.
    fn pods(text: &str) -> Vec<JobPod> {
        let each = text.split_whitespace().enumerate().map(|(number, word)| {
            let letter = word.chars().next().unwrap();
            let state = letter.to_ascii_lowercase();
            let pod = json!({"metadata": {"name": "p", "namespace": "n", "annotations": {}}});
            JobPod {
                uid: format!("{word}-{number}"),
                index: word[1..].parse().ok(),
                succeeded: state == 's',
                failed: state == 'f',
                leaving: state == 'd',
                ready: state == 'r',
                scheduled: true,
                finalizer: letter.is_ascii_lowercase(),
                restarts: 0,
                pod: Some(Box::new(serde_json::from_value(pod).unwrap())),
            }
        });
        each.collect()
    }

    fn run(job: &Job, text: &str) -> Plan {
        plan(job, &pods(text), &Time(Timestamp::from_second(1000).unwrap()), Backoff::default())
    }

    fn check(spec: Value, status: Value, text: &str, wanted: &str) {
        let plan = run(&job(spec, status), text);
        let indexes: Vec<String> = plan.create.iter().map(|pod| pod.index.map_or("-".to_owned(), |index| index.to_string())).collect();
        let conditions: Vec<String> =
            plan.status.conditions.iter().flatten().map(|one| format!("{}={}", one.type_, one.reason.as_deref().unwrap_or(""))).collect();
        let ending = plan.ending.map_or(String::new(), |ending| ending.type_);
        let found = format!(
            "create {} delete {:?} release {:?} active {} | {} {ending}",
            indexes.join(","),
            plan.delete,
            plan.release,
            plan.status.active.unwrap_or(0),
            conditions.join(" ")
        );
        assert_eq!(found.trim(), wanted, "{text}");
    }

    #[test]
    fn plain_jobs() {
        let spec = || json!({"completions": 3, "parallelism": 2, "backoffLimit": 1});
        check(spec(), json!({}), "", "create -,- delete [] release [] active 2 |");
        check(spec(), json!({}), "a a", "create  delete [] release [] active 2 |");
        check(spec(), json!({}), "a s", "create - delete [] release [1] active 2 |");
        check(
            spec(),
            json!({"succeeded": 2}),
            "s S S",
            "create  delete [] release [0] active 0 | SuccessCriteriaMet=CompletionsReached Complete",
        );
        check(spec(), json!({}), "a f f", "create  delete [0] release [0, 1, 2] active 0 | FailureTarget=BackoffLimitExceeded Failed");
        check(json!({"parallelism": 2}), json!({}), "a s", "create  delete [] release [1] active 1 |");
        check(
            json!({"completions": 3, "parallelism": 2, "suspend": true}),
            json!({}),
            "a a",
            "create  delete [0, 1] release [] active 0 | Suspended=JobSuspended",
        );
        check(
            json!({"completions": 1, "parallelism": 1, "activeDeadlineSeconds": 10}),
            json!({"startTime": "1970-01-01T00:16:20Z"}),
            "a",
            "create  delete [0] release [0] active 0 | FailureTarget=DeadlineExceeded Failed",
        );
        check(
            json!({"completions": 1, "parallelism": 1, "podReplacementPolicy": "Failed"}),
            json!({}),
            "d",
            "create  delete [] release [] active 0 |",
        );
    }

    #[test]
    fn indexed_jobs() {
        let spec = || json!({"completions": 4, "parallelism": 2, "completionMode": "Indexed"});
        check(spec(), json!({}), "", "create 0,1 delete [] release [] active 2 |");
        check(spec(), json!({"completedIndexes": "0"}), "a1 S0", "create 2 delete [] release [] active 2 |");
        check(spec(), json!({}), "a1 r1", "create  delete [0] release [] active 1 |");
        let mut policy = spec();
        policy["successPolicy"] = json!({"rules": [{"succeededIndexes": "0"}]});
        check(policy, json!({}), "s0 a1", "create  delete [1] release [0, 1] active 0 | SuccessCriteriaMet=SuccessPolicy Complete");
        let plan = run(&job(spec(), json!({"completedIndexes": "0,1"})), "s2 S0 S1 a3");
        assert_eq!(plan.status.completed_indexes.as_deref(), Some("0-2"));
        assert_eq!(plan.status.succeeded, Some(3));
    }

    #[test]
    fn indexes_fail_by_themselves() {
        let spec =
            || json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed", "backoffLimitPerIndex": 0, "backoffLimit": 100});
        check(spec(), json!({}), "f0 a1", "create  delete [] release [0] active 1 |");
        check(
            spec(),
            json!({"completedIndexes": "1"}),
            "f0 S1",
            "create  delete [] release [0] active 0 | FailureTarget=FailedIndexes Failed",
        );
        let mut spec = spec();
        spec["backoffLimitPerIndex"] = 1.into();
        // The failed pod is kept until its successor carries the count.
        check(spec, json!({}), "f0 a1", "create  delete [] release [] active 1 |");
    }

    #[test]
    fn counted_pods_settle() {
        let mut status: JobStatus =
            serde_json::from_value(json!({"failed": 1, "uncountedTerminatedPods": {"failed": ["a", "b"]}, "terminating": 0})).unwrap();
        settle(&mut status, &BTreeSet::from(["b".to_owned()]));
        assert_eq!(status.failed, Some(2));
        assert!(!may_end(&status));
        settle(&mut status, &BTreeSet::new());
        assert!(may_end(&status));
    }
}
