//! Stateful sets.

use serde_json::{Map, Value};

use super::deployment::keep_spec_and_labels;
use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, NameRule, keep_status, reset_status_of};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, persistent_volume_claim_spec, pod_template, pod_warnings};

const SPEC: Path<'static> = Path::root("spec");
/// Fields of the spec that may change.
const FREE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::Label,
        prepare_create: |object| reset_status_of(object, "apps.v1.StatefulSet"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec_and_labels,
        validate,
        validate_update,
        columns: Some(columns),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("apps", "StatefulSet")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("apps.v1.StatefulSet") }
}

fn default(object: &mut Map<String, Value>) {
    let spec = object.object_made("spec");
    spec.default_text("podManagementPolicy", "OrderedReady");
    let strategy = spec.object_made("updateStrategy");
    strategy.default_text("type", "RollingUpdate");
    if strategy.text("type") == "RollingUpdate" {
        strategy.object_made("rollingUpdate").default("partition", 0);
    }
    let retention = spec.object_made("persistentVolumeClaimRetentionPolicy");
    retention.default_text("whenDeleted", "Retain");
    retention.default_text("whenScaled", "Retain");
    spec.default("replicas", 1);
    spec.default("revisionHistoryLimit", 10);
    for claim in spec.maps_mut("volumeClaimTemplates") {
        claim.default_text("apiVersion", "v1");
        claim.default_text("kind", "PersistentVolumeClaim");
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let policy = spec.text("podManagementPolicy");
    if policy.is_empty() {
        causes.needed(&SPEC.field("podManagementPolicy"), "");
    } else if !matches!(policy, "OrderedReady" | "Parallel") {
        causes.bad(&SPEC.field("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'");
    }
    let at = SPEC.field("updateStrategy");
    let strategy = spec.map("updateStrategy");
    match strategy.text("type") {
        "" => causes.needed(&at, ""),
        "OnDelete" => {
            if let Some(rolling) = strategy.some("rollingUpdate") {
                causes.bad_struct(
                    &at.field("rollingUpdate"),
                    "apps.RollingUpdateStatefulSetStrategy",
                    rolling,
                    "only allowed for updateStrategy 'RollingUpdate'",
                );
            }
        }
        "RollingUpdate" => {
            let rolling = at.field("rollingUpdate");
            check::non_negative_field(strategy.map("rollingUpdate"), "partition", &rolling, causes);
            if let Some(value) = strategy.map("rollingUpdate").some("maxUnavailable") {
                check::int_or_percent(value, &rolling.field("maxUnavailable"), causes);
                check::at_most_hundred_percent(value, &rolling.field("maxUnavailable"), causes);
                if check::scaled_is_zero(value) {
                    causes.bad(&rolling.field("maxUnavailable"), value.clone(), "cannot be 0");
                }
            }
        }
        _ => causes.bad_struct(
            &at,
            "apps.StatefulSetUpdateStrategy",
            &Value::Object(strategy.clone()),
            "must be 'RollingUpdate' or 'OnDelete'",
        ),
    }
    let retention = SPEC.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        causes.need_one_of(spec.map("persistentVolumeClaimRetentionPolicy"), field, &retention, &["Retain", "Delete"]);
    }
    check::non_negative_field(spec, "replicas", &SPEC, causes);
    check::non_negative_field(spec, "minReadySeconds", &SPEC, causes);
    check::non_negative_field(spec, "revisionHistoryLimit", &SPEC, causes);
    check::non_negative_field(spec.map("ordinals"), "start", &SPEC.field("ordinals"), causes);
    let service = spec.text("serviceName");
    if !service.is_empty() {
        causes.each(&SPEC.field("serviceName"), service, crate::names::label_errors(service));
    }
    let claims = SPEC.field("volumeClaimTemplates");
    for (index, claim) in spec.maps("volumeClaimTemplates").enumerate() {
        let at = claims.index(index);
        persistent_volume_claim_spec::validate(claim.map("spec"), &at.field("spec"), causes);
    }
    pod_template::validate_workload(spec, &SPEC, "statefulset", "StatefulSet", causes);
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let bare = |object: &Object| {
        let mut spec = object.map("spec").clone();
        spec.retain(|field, _| !FREE.contains(&field.as_str()));
        // The phase in a claim template is filled in and means nothing.
        spec.maps_mut("volumeClaimTemplates").for_each(|claim| drop(claim.remove("status")));
        spec
    };
    validate(new, causes);
    if bare(new) != bare(old) {
        causes.refused(&SPEC, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}

fn warnings(object: &Object) -> Vec<String> {
    let mut warnings = pod_template::warnings(object);
    let list = SPEC.field("volumeClaimTemplates");
    for (index, claim) in object.map("spec").maps("volumeClaimTemplates").enumerate() {
        let at = list.index(index);
        let at = at.field("resources");
        let at = at.field("requests");
        pod_warnings::fractional(claim.map("spec").map("resources").map("requests"), "storage", &at.key("storage"), &mut warnings);
    }
    warnings
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let spec = object.map("spec");
    let ready = object.map("status").int("readyReplicas").unwrap_or(0);
    let [names, images] = print::containers(spec.map("template").map("spec"));
    vec![object.name().into(), format!("{ready}/{}", spec.int("replicas").unwrap_or(0)).into(), print::age(object, clock), names, images]
}
