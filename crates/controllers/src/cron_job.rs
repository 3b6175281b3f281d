//! CronJob: makes a Job at every time of its schedule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use api::cron::Schedule;
use async_trait::async_trait;
use cache::BY_OWNER;
use client::{DeleteOptions, EventKind, Propagation, ResourceId, Selection};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::jiff::tz::TimeZone;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, job_plan, moment, pods};

const JOBS: ResourceId = ResourceId::new("batch", "v1", "jobs");
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times after which something must be wrong with the clock.
const TOO_MANY: usize = 100;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "cronjob-controller", controller: Arc::new(CronJobs) }
}

struct CronJobs;

#[async_trait]
impl Controller for CronJobs {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![Watch::own(Selection::of::<CronJob>()), Watch::owned_by(Selection::of::<Job>(), "CronJob")]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let Some(cron) = context.cache::<CronJob>().read::<CronJob>(&key.namespace, &key.name) else {
            return Ok(Next::Done);
        };
        let spec = cron.spec.clone();
        let uid = cron.metadata.uid.clone().unwrap_or_default();
        let entries = context.cache::<Job>().by(&BY_OWNER, &uid);
        let jobs: Vec<Job> = entries
            .iter()
            .filter(|entry| entry.header.controller().is_some_and(|owner| *owner.uid == uid))
            .filter_map(|entry| cache::decode(entry))
            .collect();
        let mut status = cron.status.clone().unwrap_or_default();
        note_jobs(context, &cron, &mut status, &jobs);
        clean_up(context, &cron, &spec, &jobs).await?;
        let mut next = Next::Done;
        if cron.metadata.deletion_timestamp.is_none() && spec.suspend != Some(true) {
            next = run(context, &cron, &spec, &mut status, &jobs).await?;
        }
        if cron.status.as_ref() != Some(&status) {
            context.client.update_status(&CronJob { status: Some(status), ..cron }).await?;
        }
        Ok(next)
    }
}

fn is_over(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| job_plan::find(status, "Complete").or_else(|| job_plan::find(status, "Failed")).is_some())
}

fn ending(job: &Job) -> &'static str {
    let status = job.status.as_ref();
    let is = |kind: &str| status.is_some_and(|status| job_plan::find(status, kind).is_some());
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else {
        ""
    }
}

/// The list of active jobs follows the jobs.
fn note_jobs(context: &Context, cron: &CronJob, status: &mut CronJobStatus, jobs: &[Job]) {
    let mut active = status.active.take().unwrap_or_default();
    for job in jobs {
        let place = active.iter().position(|one| one.uid == job.metadata.uid);
        let name = job.metadata.name.as_deref().unwrap_or("");
        match (place, is_over(job)) {
            (None, false) => active.push(reference(job)),
            (Some(place), true) => {
                active.remove(place);
                context.event(cron, EventKind::Normal, "SawCompletedJob", format!("Saw completed job: {name}, condition: {}", ending(job)));
            }
            _ => {}
        }
        let done = job.status.as_ref().filter(|_| ending(job) == "Complete").and_then(|status| status.completion_time.clone());
        if done.as_ref().is_some_and(|done| status.last_successful_time.as_ref().is_none_or(|known| known.0 < done.0)) {
            status.last_successful_time = done;
        }
    }
    active.retain(|one| {
        let there = jobs.iter().any(|job| job.metadata.uid == one.uid);
        if !there {
            context.event(cron, EventKind::Normal, "MissingJob", format!("Active job went missing: {}", one.name.as_deref().unwrap_or("")));
        }
        there
    });
    status.active = (!active.is_empty()).then_some(active);
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".into()),
        kind: Some("Job".into()),
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

/// The oldest ended jobs beyond the limits go.
async fn clean_up(context: &Context, cron: &CronJob, spec: &CronJobSpec, jobs: &[Job]) -> Result<()> {
    for (kind, limit) in [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)] {
        let Some(limit) = limit else {
            continue;
        };
        let mut ended: Vec<&Job> = jobs.iter().filter(|job| ending(job) == kind && job.metadata.deletion_timestamp.is_none()).collect();
        ended.sort_by_key(|job| (moment::of(job.status.as_ref().and_then(|status| status.start_time.as_ref())), job.metadata.name.clone()));
        let surplus = ended.len().saturating_sub(limit.max(0) as usize);
        for job in ended.into_iter().take(surplus) {
            remove(context, cron, job).await?;
        }
    }
    Ok(())
}

async fn remove(context: &Context, cron: &CronJob, job: &Job) -> Result<()> {
    let (namespace, name) = (job.metadata.namespace.as_deref().unwrap_or(""), job.metadata.name.as_deref().unwrap_or(""));
    let options =
        DeleteOptions { propagation: Some(Propagation::Background), ..DeleteOptions::uid(job.metadata.uid.clone().unwrap_or_default()) };
    match context.client.delete(&JOBS, namespace, name, &options).await {
        Err(status) if !status.is_not_found() => {
            context.event(cron, EventKind::Warning, "FailedDelete", format!("Deleted job: {status}"));
            Err(status.into())
        }
        _ => {
            context.event(cron, EventKind::Normal, "SuccessfulDelete", format!("Deleted job {name}"));
            Ok(())
        }
    }
}

/// What the schedule asks for now.
#[derive(Debug, PartialEq, Eq)]
struct Due {
    /// The last time that has passed and was not served.
    time: Option<Timestamp>,
    /// The next time.
    next: Option<Timestamp>,
    /// So many times were missed that the clock is in doubt.
    too_many: bool,
}

/// Times between the last start and now; nothing before the starting deadline counts.
fn due(schedule: &Schedule, zone: &TimeZone, since: Timestamp, now: Timestamp, deadline: Option<i64>) -> Due {
    let earliest = deadline.and_then(|seconds| Timestamp::from_second(now.as_second() - seconds).ok());
    let since = earliest.map_or(since, |earliest| since.max(earliest));
    let (mut time, mut at, mut count) = (None, schedule.next(since, zone), 0);
    while let Some(found) = at.filter(|found| *found <= now) {
        time = Some(found);
        count += 1;
        if count > TOO_MANY {
            // Far behind: jump close to now.
            let near = Timestamp::from_second(now.as_second() - (now.as_second() - found.as_second()) / 64 - 1).unwrap_or(now);
            at = if near > found {
                schedule.next(near.max(found), zone).filter(|one| *one <= now).or_else(|| schedule.next(found, zone))
            } else {
                schedule.next(found, zone)
            };
        } else {
            at = schedule.next(found, zone);
        }
    }
    Due { time, next: schedule.next(now, zone), too_many: count > TOO_MANY }
}

async fn run(context: &Context, cron: &CronJob, spec: &CronJobSpec, status: &mut CronJobStatus, jobs: &[Job]) -> Result<Next> {
    let zone = match spec.time_zone.as_deref().filter(|zone| !zone.is_empty()) {
        Some(name) => match TimeZone::get(name) {
            Ok(zone) => zone,
            Err(error) => {
                context.event(cron, EventKind::Warning, "UnknownTimeZone", format!("invalid timeZone: {name:?}: {error}"));
                return Ok(Next::Done);
            }
        },
        None => TimeZone::UTC,
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            context.event(cron, EventKind::Warning, "UnparseableSchedule", format!("unparseable schedule: {} : {error}", spec.schedule));
            return Ok(Next::Done);
        }
    };
    let now = Timestamp::now();
    let since = status.last_schedule_time.as_ref().or(cron.metadata.creation_timestamp.as_ref()).map_or(now, |time| time.0);
    let Due { time, next, too_many } = due(&schedule, &zone, since, now, spec.starting_deadline_seconds);
    let wait = next
        .map_or(Next::Done, |next| Next::After(Duration::from_millis((next.as_millisecond() - now.as_millisecond()).max(0) as u64 + 20)));
    let Some(time) = time else {
        return Ok(wait);
    };
    if too_many {
        context.event(
            cron,
            EventKind::Warning,
            "TooManyMissedTimes",
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew",
        );
    }
    if spec.starting_deadline_seconds.is_some_and(|deadline| time.as_second() + deadline < now.as_second()) {
        context.event(
            cron,
            EventKind::Warning,
            "MissSchedule",
            format!("Missed scheduled time to start a job: {}", time.strftime("%a, %d %b %Y %H:%M:%S UTC")),
        );
        return Ok(wait);
    }
    let mut job = job(cron, spec, time, &zone);
    let name = job.metadata.name.clone().unwrap_or_default();
    if status.active.iter().flatten().any(|one| one.name.as_deref() == Some(&name))
        || status.last_schedule_time.as_ref().is_some_and(|last| last.0 == time)
    {
        return Ok(wait);
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if status.active.is_some() => {
            context.event(
                cron,
                EventKind::Normal,
                "JobAlreadyActive",
                "Not starting job because prior execution is running and concurrency policy is Forbid",
            );
            return Ok(wait);
        }
        Some("Replace") => {
            for one in status.active.take().unwrap_or_default() {
                if let Some(job) = jobs.iter().find(|job| job.metadata.uid == one.uid) {
                    remove(context, cron, job).await?;
                }
            }
        }
        _ => {}
    }
    job = match context.client.create(&job).await {
        Ok(job) => job,
        Err(status) if status.message.contains("is being terminated") => return Ok(Next::Done),
        Err(error) if error.is_already_exists() => {
            // Made before the status could be written.
            let found: Job = context.client.get(cron.metadata.namespace.as_deref().unwrap_or(""), &name).await?;
            let ours = found.metadata.owner_references.iter().flatten().any(|owner| Some(&owner.uid) == cron.metadata.uid.as_ref());
            if !ours {
                anyhow::bail!("job {name} belongs to somebody else");
            }
            found
        }
        Err(status) => {
            context.event(cron, EventKind::Warning, "FailedCreate", format!("Error creating job: {status}"));
            return Err(status.into());
        }
    };
    context.event(cron, EventKind::Normal, "SuccessfulCreate", format!("Created job {name}"));
    if !is_over(&job) {
        status.active.get_or_insert_default().push(reference(&job));
    }
    status.last_schedule_time = Some(Time(time));
    Ok(wait)
}

/// The Job of one time; its name holds the time in minutes, so that it is made once.
fn job(cron: &CronJob, spec: &CronJobSpec, time: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.clone();
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations: BTreeMap<String, String> = metadata.annotations.unwrap_or_default();
    let local = time.to_zoned(zone.clone());
    let stamp = if spec.time_zone.as_deref().is_some_and(|zone| !zone.is_empty()) && local.offset().seconds() != 0 {
        local.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
    } else {
        format!("{time:.0}")
    };
    annotations.insert(SCHEDULED.into(), stamp);
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{}-{}", cron.metadata.name.as_deref().unwrap_or(""), time.as_second() / 60)),
            namespace: cron.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![pods::controller_ref("batch/v1", "CronJob", &cron.metadata)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, since: &str, now: &str, deadline: Option<i64>, time: Option<&str>, next: &str, too_many: bool) {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let found = due(&Schedule::parse(schedule).unwrap(), &TimeZone::UTC, at(since), at(now), deadline);
        assert_eq!(found, Due { time: time.map(at), next: Some(at(next)), too_many }, "{schedule} since {since}");
    }

    #[test]
    fn times_become_due() {
        check("*/5 * * * *", "2026-01-01T00:01:00Z", "2026-01-01T00:03:00Z", None, None, "2026-01-01T00:05:00Z", false);
        check(
            "*/5 * * * *",
            "2026-01-01T00:01:00Z",
            "2026-01-01T00:05:00Z",
            None,
            Some("2026-01-01T00:05:00Z"),
            "2026-01-01T00:10:00Z",
            false,
        );
        check(
            "*/5 * * * *",
            "2026-01-01T00:01:00Z",
            "2026-01-01T00:16:00Z",
            None,
            Some("2026-01-01T00:15:00Z"),
            "2026-01-01T00:20:00Z",
            false,
        );
        check("*/5 * * * *", "2026-01-01T00:01:00Z", "2026-01-01T00:17:00Z", Some(60), None, "2026-01-01T00:20:00Z", false);
        check(
            "* * * * *",
            "2026-01-01T00:00:00Z",
            "2026-01-02T00:00:30Z",
            None,
            Some("2026-01-02T00:00:00Z"),
            "2026-01-02T00:01:00Z",
            true,
        );
    }
}
