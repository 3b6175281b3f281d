//! Pod Security: what the labels of a namespace say about its pods (`enforce`) and about what makes pods (`warn`).

mod checks;

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::audit;
use crate::server::Server;
use checks::{Level, violations};

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(PodSecurity)
}

struct PodSecurity;

/// Kinds with a pod template, and where it is.
const TEMPLATES: &[(&str, &str, &[&str])] = &[
    ("", "podtemplates", &["template"]),
    ("", "replicationcontrollers", &["spec", "template"]),
    ("apps", "replicasets", &["spec", "template"]),
    ("apps", "deployments", &["spec", "template"]),
    ("apps", "statefulsets", &["spec", "template"]),
    ("apps", "daemonsets", &["spec", "template"]),
    ("batch", "jobs", &["spec", "template"]),
    ("batch", "cronjobs", &["spec", "jobTemplate", "spec", "template"]),
];

/// So many pods of a namespace are looked at when its labels change.
const MOST_PODS: usize = 3000;

/// Level and version of one mode.
struct Policy {
    level: Level,
    version: String,
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        if !matches!(admission.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if admission.is("", "namespaces") && admission.subresource.is_empty() {
            return namespace(server, admission);
        }
        let pods = admission.is("", "pods") || (admission.is_any("", "pods") && admission.subresource == "ephemeralcontainers");
        let template = TEMPLATES.iter().find(|(group, plural, _)| admission.is(group, plural)).map(|(_, _, path)| *path);
        if !pods && template.is_none() {
            return Ok(());
        }
        let Some(object) = &admission.object else { return Ok(()) };
        if pods && admission.operation == Operation::Update && admission.subresource.is_empty() {
            let security =
                |object: &api::Object| object.get("spec").map(|spec| (spec["containers"].clone(), spec["initContainers"].clone()));
            if admission.old.as_ref().is_some_and(|old| security(old) == security(object)) {
                return Ok(());
            }
        }
        let template_value = match template {
            Some(path) => object.at(path).cloned().unwrap_or_default(),
            None => Value::Object(object.0.clone()),
        };
        if template.is_some() && !template_value.is_object() {
            return Ok(());
        }
        let warn = policy(server, &admission.namespace, "warn");
        if pods {
            let enforce = policy(server, &admission.namespace, "enforce");
            let found = violations(&template_value, enforce.level);
            audit::annotate("pod-security.kubernetes.io/enforce-policy", format!("{}:{}", enforce.level.text(), enforce.version));
            if !found.is_empty() {
                let why = format!("violates PodSecurity \"{}:{}\": {}", enforce.level.text(), enforce.version, found.join(", "));
                return Err(admission.forbidden(&why));
            }
        }
        let audited = policy(server, &admission.namespace, "audit");
        let found = violations(&template_value, audited.level);
        if !found.is_empty() {
            let told = format!("would violate PodSecurity \"{}:{}\": {}", audited.level.text(), audited.version, found.join(", "));
            audit::annotate("pod-security.kubernetes.io/audit-violations", told);
        }
        let found = violations(&template_value, warn.level);
        if !found.is_empty() {
            admission.warnings.push(format!("would violate PodSecurity \"{}:{}\": {}", warn.level.text(), warn.version, found.join(", ")));
        }
        Ok(())
    }
}

/// Labels of a namespace must say something that exists, and whoever makes them stricter is told which pods do not fit.
fn namespace(server: &Server, admission: &mut Admission) -> Result<(), Status> {
    let Some(object) = &admission.object else { return Ok(()) };
    let label = |object: &api::Object, mode: &str| {
        let labels = object.metadata().and_then(|meta| meta.get("labels"));
        labels.and_then(|labels| labels.get(format!("pod-security.kubernetes.io/{mode}"))).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let causes = |object: &api::Object| {
        let mut causes = api::Causes::default();
        for mode in ["enforce", "enforce-version", "audit", "audit-version", "warn", "warn-version"] {
            let text = label(object, mode);
            let minor = text.strip_prefix("v1.").is_some_and(|minor| minor.parse::<u32>().is_ok_and(|number| number.to_string() == minor));
            let wrong = match mode.ends_with("-version") {
                _ if text.is_empty() => None,
                true => (text != "latest" && !minor).then_some("must be \"latest\" or \"v1.x\""),
                false => (!matches!(&*text, "privileged" | "baseline" | "restricted"))
                    .then_some("must be one of privileged, baseline, restricted"),
            };
            if let Some(wrong) = wrong {
                causes.invalid(&format!("metadata.labels[pod-security.kubernetes.io/{mode}]"), &Value::from(text), wrong);
            }
        }
        causes
    };
    let (found, before) = (causes(object), admission.old.as_ref().map(|old| causes(old)));
    if !found.is_empty() && before.as_ref() != Some(&found) {
        return Err(Status::invalid("", "Namespace", object.name(), &found));
    }
    let Some(old) = &admission.old else { return Ok(()) };
    let enforced = |object: &api::Object| (Level::parse(&label(object, "enforce")), label(object, "enforce-version"));
    let ((level, version), (was, was_version)) = (enforced(object), enforced(old));
    if level == Level::Privileged || (version == was_version && level <= was) {
        return Ok(());
    }
    let kind = Kind::new(api::resources::storage_prefix("", "pods", false));
    let snapshot = server.store.mvcc().snapshot(&kind);
    let place = store::Prefix { kind, scope: store::Scope::Namespace(format!("{}/", object.name()).into()) };
    let mut refused: std::collections::BTreeMap<String, (String, usize)> = std::collections::BTreeMap::new();
    for entry in snapshot.under(&place).take(MOST_PODS) {
        let pod: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
        let found = violations(&pod, level);
        if found.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = found.iter().map(|one| one.split(" (").next().unwrap_or(one)).collect();
        let (_, count) = refused.entry(reasons.join(", ")).or_insert_with(|| (entry.header.name.to_string(), 0));
        *count += 1;
    }
    if refused.is_empty() {
        return Ok(());
    }
    let version = if version.is_empty() { "latest" } else { &version };
    let mut told = vec![format!(
        "existing pods in namespace {:?} violate the new PodSecurity enforce level \"{}:{version}\"",
        object.name(),
        level.text()
    )];
    let mut lines: Vec<String> = refused
        .into_iter()
        .map(|(why, (pod, count))| match count {
            1 => format!("{pod}: {why}"),
            2 => format!("{pod} (and 1 other pod): {why}"),
            more => format!("{pod} (and {} other pods): {why}", more - 1),
        })
        .collect();
    lines.sort();
    told.append(&mut lines);
    admission.warnings.append(&mut told);
    Ok(())
}

fn policy(server: &Server, namespace: &str, mode: &str) -> Policy {
    let key = Kind::new(api::resources::storage_prefix("", "namespaces", false)).key(namespace);
    let entry = server.store.mvcc().get(&key).value;
    let label = |name: &str| entry.as_ref().and_then(|entry| entry.header.label(name)).unwrap_or("").to_owned();
    let level = Level::parse(&label(&format!("pod-security.kubernetes.io/{mode}")));
    let version = match label(&format!("pod-security.kubernetes.io/{mode}-version")).as_str() {
        "" => "latest".to_owned(),
        version => version.to_owned(),
    };
    Policy { level, version }
}
