//! Certificate signing requests: the request is fixed, approval and certificate have subresources of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind, NameRule, Selectable, keep, keep_spec, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};

const SPEC: Path<'static> = Path::root("spec");
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

/// The kind. Who asks (`spec.username` and so on) is set by the server, which knows it.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::PathSegment,
        prepare_create: |object| reset_status_of(object, "certificates.v1.CertificateSigningRequest"),
        prepare_update: |new, old| {
            keep(new, old, "spec");
            keep(new, old, "status");
        },
        prepare_status_update: keep_spec,
        validate,
        validate_status_update,
        selectable: &[Selectable { field: "spec.signerName", value: |object| object.text_at(&["spec", "signerName"]).into() }],
        columns: Some(columns),
        ..Kind::plain("certificates.k8s.io", "CertificateSigningRequest")
    }
}

fn decides(condition: &Map<String, Value>) -> bool {
    matches!(condition.text("type"), "Approved" | "Denied")
}

/// Through `approval` come conditions, and nothing else.
pub fn prepare_approval(new: &mut Object, old: &Object) {
    let conditions = new.at(&["status", "conditions"]).cloned();
    keep(new, old, "spec");
    keep(new, old, "status");
    let status = new.map_at_mut(&["status"]);
    match conditions {
        Some(conditions) => status.insert("conditions".into(), conditions),
        None => status.remove("conditions"),
    };
}

/// Conditions without times get `now`; what did not turn keeps the time at which it last did.
pub fn stamp_conditions(new: &mut Object, old: &Object, now: &str) {
    let before = old.map("status");
    for condition in new.map_at_mut(&["status"]).maps_mut("conditions") {
        if !condition.has("lastUpdateTime") {
            condition.insert("lastUpdateTime".into(), now.into());
        }
        if !condition.has("lastTransitionTime") {
            let same = |one: &&Map<String, Value>| ["type", "status"].iter().all(|field| one.text(field) == condition.text(field));
            let kept = before.maps("conditions").find(same).map(|one| one.text("lastTransitionTime")).filter(|time| !time.is_empty());
            let turned = kept.unwrap_or(now).to_owned();
            condition.insert("lastTransitionTime".into(), turned.into());
        }
    }
}

/// What was decided stays decided; only `approval` may decide.
pub fn validate_approval(new: &Object, old: &Object, causes: &mut Causes) {
    validate_conditions(new, causes);
    validate_decisions(new, old, "remove", causes);
}

fn validate_status_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate_conditions(new, causes);
    validate_decisions(new, old, "remove", causes);
    validate_decisions(old, new, "add", causes);
    let (certificate, before) = (new.map("status").text("certificate"), old.map("status").text("certificate"));
    if !before.is_empty() && certificate != before {
        causes.forbidden("status.certificate", "updates may not modify an existing certificate");
    }
}

/// Every decision of `old` must be in `new`.
fn validate_decisions(new: &Object, old: &Object, word: &str, causes: &mut Causes) {
    for kind in ["Approved", "Denied"] {
        let has = |object: &Object| object.map("status").maps("conditions").any(|one| one.text("type") == kind);
        if has(old) && !has(new) {
            causes.forbidden("status.conditions", &format!("updates may not {word} a condition of type {kind:?}"));
        }
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    let request = STANDARD.decode(spec.text("request")).unwrap_or_default();
    if !String::from_utf8_lossy(&request).contains("-----BEGIN CERTIFICATE REQUEST-----") {
        causes.bad(&SPEC.field("request"), spec.text("request"), "PEM block type must be CERTIFICATE REQUEST");
    }
    let usages = SPEC.field("usages");
    if spec.list("usages").is_empty() {
        causes.needed(&usages, "");
    }
    let mut seen: Vec<&str> = Vec::new();
    for (index, usage) in spec.texts("usages").enumerate() {
        if !USAGES.contains(&usage) {
            causes.unsupported(&usages.index(index), usage, &USAGES);
        }
        if seen.contains(&usage) {
            causes.twice(&usages.index(index), usage);
        }
        seen.push(usage);
    }
    validate_signer(spec.text("signerName"), causes);
    if let Some(seconds) = spec.int("expirationSeconds").filter(|seconds| *seconds < 600) {
        causes.bad(&SPEC.field("expirationSeconds"), seconds, "may not specify a duration less than 600 seconds (10 minutes)");
    }
    validate_conditions(object, causes);
}

fn validate_signer(signer: &str, causes: &mut Causes) {
    let at = SPEC.field("signerName");
    if signer.is_empty() {
        causes.needed(&at, "");
        return;
    }
    if signer == "kubernetes.io/legacy-unknown" {
        causes.bad(&at, signer, "the legacy signerName is not allowed via this API version");
        return;
    }
    match signer.split_once('/') {
        Some((domain, path)) if !path.is_empty() => {
            causes.each(&at, domain, names::subdomain_errors(domain));
            if !domain.contains('.') {
                causes.bad(&at, domain, "should be a domain with at least two segments separated by dots");
            }
        }
        _ => causes.bad(&at, signer, "must be a fully qualified domain and path of the form 'example.com/signer-name'"),
    }
}

fn validate_conditions(object: &Object, causes: &mut Causes) {
    let status = Path::root("status");
    let list = status.field("conditions");
    let mut seen: Vec<&str> = Vec::new();
    for (index, condition) in object.map("status").maps("conditions").enumerate() {
        let (at, kind) = (list.index(index), condition.text("type"));
        causes.need_text(condition, "type", &at);
        if decides(condition) || kind == "Failed" {
            causes.need_one_of(condition, "status", &at, &["True"]);
        }
        if (kind == "Approved" && seen.contains(&"Denied")) || (kind == "Denied" && seen.contains(&"Approved")) {
            causes.bad(&at.field("type"), kind, "Approved and Denied conditions are mutually exclusive");
        }
        if seen.contains(&kind) {
            causes.twice(&at.field("type"), kind);
        }
        seen.push(kind);
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let (spec, status) = (object.map("spec"), object.map("status"));
    let has = |kind: &str| status.maps("conditions").any(|one| one.text("type") == kind);
    let mut state = if has("Denied") {
        "Denied"
    } else if has("Approved") {
        "Approved"
    } else {
        "Pending"
    }
    .to_owned();
    if has("Failed") {
        state += ",Failed";
    }
    if !status.text("certificate").is_empty() {
        state += ",Issued";
    }
    let duration = spec.int("expirationSeconds").map_or_else(|| "<none>".to_owned(), print::human_duration);
    vec![
        object.name().into(),
        print::age(object, clock),
        print::or_none(spec.text("signerName")),
        spec.text("username").into(),
        duration.into(),
        state.into(),
    ]
}

/// Fills in who asks; called by the server on create.
pub fn set_requestor(object: &mut Object, username: &str, uid: &str, groups: &[String], extra: Map<String, Value>) {
    let spec = object.0.object_made("spec");
    spec.insert("username".into(), username.into());
    if uid.is_empty() {
        spec.remove("uid");
    } else {
        spec.insert("uid".into(), uid.into());
    }
    spec.insert("groups".into(), groups.to_vec().into());
    if extra.is_empty() {
        spec.remove("extra");
    } else {
        spec.insert("extra".into(), extra.into());
    }
}
