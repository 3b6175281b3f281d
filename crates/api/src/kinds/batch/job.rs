//! Jobs: they select their own pods by a generated label, and their template is fixed.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, Selectable, keep_spec, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, job_spec, pod_template};

const SPEC: Path<'static> = Path::root("spec");
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create,
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        selectable: &[Selectable {
            field: "status.successful",
            value: |job| job.map("status").int("succeeded").unwrap_or(0).to_string().into(),
        }],
        columns: Some(columns),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("batch", "Job")
    }
}

/// Defaults; templates of cron jobs stay bare until a Job is made of them.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("batch.v1.Job") }
}

fn default(job: &mut Map<String, Value>) {
    let labels = job.map("spec").map("template").map("metadata").map("labels").clone();
    if job.map("metadata").map("labels").is_empty() && !labels.is_empty() {
        job.object_made("metadata").insert("labels".into(), labels.into());
    }
    let spec = job.object_made("spec");
    if !spec.has("completions") && !spec.has("parallelism") {
        spec.default("completions", 1);
    }
    spec.default("parallelism", 1);
    let limit = if spec.has("backoffLimitPerIndex") { i64::from(i32::MAX) } else { 6 };
    spec.default("backoffLimit", limit);
    spec.default("completionMode", "NonIndexed");
    spec.default("suspend", false);
    spec.default("manualSelector", false);
    let replacement = if spec.has("podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
    spec.default("podReplacementPolicy", replacement);
}

fn prepare_create(job: &mut Object) {
    reset_status_of(job, "batch.v1.Job");
    if job.map("spec").flag("manualSelector") {
        return;
    }
    let (name, uid) = (job.name().to_owned(), job.uid().to_owned());
    // Labels that were taken from the template follow it.
    let template_labels = job.map("spec").map("template").map("metadata").map("labels");
    let shared = job.metadata().map_or(true, |meta| meta.map("labels") == template_labels);
    let spec = job.map_at_mut(&["spec"]);
    let labels = spec.object_made("template").object_made("metadata").object_made("labels");
    for (key, value) in [("job-name", &name), (NAME_LABEL, &name), ("controller-uid", &uid), (UID_LABEL, &uid)] {
        labels.entry(key).or_insert_with(|| value.clone().into());
    }
    let labels = labels.clone();
    spec.object_made("selector").object_made("matchLabels").entry(UID_LABEL).or_insert_with(|| uid.into());
    if shared {
        job.set_meta("labels", labels);
    }
}

fn validate(job: &Object, causes: &mut Causes) {
    validate_generated(job, causes);
    validate_spec(job, causes);
}

fn validate_spec(job: &Object, causes: &mut Causes) {
    let spec = job.map("spec");
    job_spec::validate(spec, &SPEC, causes);
    match spec.object("selector") {
        None => causes.needed(&SPEC.field("selector"), ""),
        Some(selector) => check::label_selector(selector, &SPEC.field("selector"), causes),
    }
    pod_template::validate_match(spec, &SPEC, causes);
}

/// What the server fills in is there and means this Job alone.
fn validate_generated(job: &Object, causes: &mut Causes) {
    let spec = job.map("spec");
    if !spec.has("selector") {
        return;
    }
    let labels = spec.map("template").map("metadata").map("labels");
    if !spec.flag("manualSelector") && !job.uid().is_empty() {
        let at = SPEC.field("template");
        let metadata = at.field("metadata");
        let path = metadata.field("labels");
        for (key, expected) in [("controller-uid", job.uid()), ("job-name", job.name()), (UID_LABEL, job.uid()), (NAME_LABEL, job.name())] {
            let value = labels.text(key);
            if value.is_empty() {
                causes.needed(&path, &format!("must be '{expected}'"));
            } else if value != expected {
                causes.bad(&path, Value::Object(labels.clone()), &format!("must be '{expected}'"));
            }
        }
    }
    let selected = spec.map("selector").map("matchLabels");
    let by_uid = [UID_LABEL, "controller-uid"].iter().any(|label| selected.text(label) == job.uid());
    let generated = by_uid && selected.len() == 1 && spec.map("selector").list("matchExpressions").is_empty();
    if !spec.flag("manualSelector") && !job.uid().is_empty() && !generated {
        causes.bad(&SPEC.field("selector"), spec.get("selector").cloned().unwrap_or(Value::Null), "`selector` not auto-generated");
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    // The real server asks the rules for new Jobs first, and tells of both.
    validate(new, causes);
    validate_spec(new, causes);
    if spec.text("completionMode") != "Indexed" {
        check::immutable_field(spec, before, "completions", &SPEC, causes);
    } else if spec.get("completions") != before.get("completions") {
        let together = |spec: &Map<String, Value>| spec.get("completions") == spec.get("parallelism");
        if !together(spec) || !together(before) {
            causes.bad(&SPEC.field("completions"), spec.int("completions"), "can only be modified in tandem with spec.parallelism");
        }
    }
    check::immutable_field(spec, before, "selector", &SPEC, causes);
    validate_template_update(old, spec, before, causes);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"] {
        check::immutable_field(spec, before, field, &SPEC, causes);
    }
}

/// The template is fixed, but a suspended Job that never ran may still choose where its pods go.
fn validate_template_update(old: &Object, spec: &Map<String, Value>, before: &Map<String, Value>, causes: &mut Causes) {
    let waiting = before.flag("suspend") && !old.map("status").has("startTime");
    let bare = |spec: &Map<String, Value>| {
        let mut template = spec.map("template").clone();
        if waiting {
            template.remove("metadata");
            if let Some(pod) = template.object_mut("spec") {
                pod.retain(|field, _| !matches!(field.as_str(), "nodeSelector" | "affinity" | "tolerations" | "schedulingGates"));
                for field in ["containers", "initContainers"] {
                    pod.maps_mut(field).for_each(|container| drop(container.remove("resources")));
                }
            }
        }
        template
    };
    if bare(spec) != bare(before) {
        let template = SPEC.field("template");
        let at = if waiting { template.field("spec") } else { template };
        let template = spec.get("template").unwrap_or(&Value::Null);
        if waiting {
            causes.bad_struct(&at, "core.PodSpec", &template["spec"], check::IMMUTABLE);
        } else {
            causes.bad_struct(&at, "core.PodTemplateSpec", template, check::IMMUTABLE);
        }
    }
}

fn warnings(job: &Object) -> Vec<String> {
    let (spec, mut warnings) = (job.map("spec"), pod_template::named_warnings(job));
    let number = |field: &str| spec.int(field).unwrap_or(0);
    if spec.text("completionMode") == "Indexed" && number("completions") > 100_000 && number("parallelism") > 10_000 {
        warnings.push("spec: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail".to_owned());
    }
    warnings
}

fn columns(job: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (job.map("spec"), job.map("status"));
    let succeeded = status.int("succeeded").unwrap_or(0);
    let completions = match (spec.int("completions"), spec.int("parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism @ 2..) => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    };
    let start = print::seconds(status.text("startTime"));
    let end = print::seconds(status.text("completionTime")).unwrap_or(clock.now);
    let is = |kind: &str| print::condition_true(status, kind);
    let state = if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if job.deletion_timestamp().is_some() {
        "Terminating"
    } else {
        ["Suspended", "FailureTarget", "SuccessCriteriaMet"].into_iter().find(|kind| is(kind)).unwrap_or("Running")
    };
    let [names, images] = print::containers(spec.map("template").map("spec"));
    vec![
        job.name().into(),
        state.into(),
        completions.into(),
        start.map_or_else(String::new, |start| print::human_duration(end - start)).into(),
        print::age(job, clock),
        names,
        images,
        print::selector(spec.object("selector")),
    ]
}
