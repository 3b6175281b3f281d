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
