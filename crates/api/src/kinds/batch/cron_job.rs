//! Cron jobs.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::cron::Schedule;
use crate::kind::{Clock, Generation, Kind, keep_spec, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, job_spec, object_meta, pod_warnings};

const SPEC: Path<'static> = Path::root("spec");
/// Jobs get eleven more characters, pods a few more.
const MAX_NAME: usize = 52;

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "batch.v1.CronJob"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update: |new, _old, causes| validate_spec(new, causes),
        columns: Some(columns),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("batch", "CronJob")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("batch.v1.CronJob") }
}

fn default(object: &mut Map<String, Value>) {
    let spec = object.object_made("spec");
    spec.default_text("concurrencyPolicy", "Allow");
    spec.default("suspend", false);
    spec.default("successfulJobsHistoryLimit", 3);
    spec.default("failedJobsHistoryLimit", 1);
}

fn validate(object: &Object, causes: &mut Causes) {
    validate_spec(object, causes);
    if object.name().len() > MAX_NAME {
        causes.bad(&Path::root("metadata.name"), object.name(), "must be no more than 52 characters");
    }
}

fn validate_spec(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    validate_schedule(spec, causes);
    check::non_negative_field(spec, "startingDeadlineSeconds", &SPEC, causes);
    validate_zone(spec, causes);
    causes.need_one_of(spec, "concurrencyPolicy", &SPEC, &["Allow", "Forbid", "Replace"]);
    let template = SPEC.field("jobTemplate");
    object_meta::validate_template_meta(spec.map("jobTemplate").map("metadata"), &template.field("metadata"), causes);
    let (job, job_path) = (spec.map("jobTemplate").map("spec"), template.field("spec"));
    job_spec::validate(job, &job_path, causes);
    if let Some(selector) = job.some("selector") {
        causes.bad(&job_path.field("selector"), selector.clone(), "`selector` will be auto-generated");
    }
    if job.flag("manualSelector") {
        causes.unsupported_value(&job_path.field("manualSelector"), &true.into(), &["nil", "false"]);
    }
    check::non_negative_field(spec, "successfulJobsHistoryLimit", &SPEC, causes);
    check::non_negative_field(spec, "failedJobsHistoryLimit", &SPEC, causes);
}

fn validate_schedule(spec: &Map<String, Value>, causes: &mut Causes) {
    let (schedule, at) = (spec.text("schedule"), SPEC.field("schedule"));
    if schedule.is_empty() {
        causes.needed(&at, "");
        return;
    }
    if let Err(error) = Schedule::parse(schedule) {
        causes.bad(&at, schedule, &error);
    }
    if schedule.contains("TZ") {
        causes.bad(&at, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
}

fn validate_zone(spec: &Map<String, Value>, causes: &mut Causes) {
    let (zone, at) = (spec.text("timeZone"), SPEC.field("timeZone"));
    if !spec.has("timeZone") {
        return;
    }
    if zone.is_empty() {
        causes.bad(&at, zone, "timeZone must be nil or non-empty string");
        return;
    }
    if zone.eq_ignore_ascii_case("Local") {
        causes.bad(&at, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    }
    if zone != "Local" && jiff::tz::TimeZone::get(zone).is_err() {
        causes.bad(&at, zone, &format!("unknown time zone {zone}"));
    }
}

fn warnings(object: &Object) -> Vec<String> {
    const TEMPLATE: Path<'static> = Path::root("spec.jobTemplate.spec.template");
    let mut warnings = Vec::new();
    pod_warnings::of_workload_name(object.name(), &mut warnings);
    pod_warnings::of_template(object.map("spec").map("jobTemplate").map("spec").map("template"), &TEMPLATE, &mut warnings);
    warnings
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let suspend = match spec.some("suspend").and_then(Value::as_bool) {
        Some(true) => "True",
        Some(false) => "False",
        None => "<unset>",
    };
    let last = match status.text("lastScheduleTime") {
        "" => "<none>".to_owned(),
        time => print::since(time, clock),
    };
    let job = spec.map("jobTemplate").map("spec");
    let [names, images] = print::containers(job.map("template").map("spec"));
    vec![
        object.name().into(),
        spec.text("schedule").into(),
        print::or_none(spec.text("timeZone")),
        suspend.into(),
        status.list("active").len().into(),
        last.into(),
        print::age(object, clock),
        names,
        images,
        print::selector(job.object("selector")),
    ]
}
