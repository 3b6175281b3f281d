//! SubjectAccessReview and its local and self forms: may somebody do something?

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Causes, Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Review, answered};
use crate::attributes::Attributes;
use crate::authorize;
use crate::request::{Reply, Request};
use crate::server::Server;
use crate::user::User;

/// Whose access is asked about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Anybody,
    AnybodyHere,
    Own,
}

struct Access {
    plural: &'static str,
    whose: Whose,
}

/// SubjectAccessReview.
pub fn subject() -> Box<dyn Review> {
    Box::new(Access { plural: "subjectaccessreviews", whose: Whose::Anybody })
}

/// LocalSubjectAccessReview.
pub fn local_subject() -> Box<dyn Review> {
    Box::new(Access { plural: "localsubjectaccessreviews", whose: Whose::AnybodyHere })
}

/// SelfSubjectAccessReview.
pub fn self_subject() -> Box<dyn Review> {
    Box::new(Access { plural: "selfsubjectaccessreviews", whose: Whose::Own })
}

#[async_trait]
impl Review for Access {
    fn resource(&self) -> (&'static str, &'static str) {
        ("authorization.k8s.io", self.plural)
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        let whose = self.whose;
        answered(server, request, |request, review| {
            let asked = asked(request, review, whose)?;
            let user = if whose == Whose::Own { request.allowed.user().clone() } else { user(review) };
            let verdict = authorize::decide(server, &user, &asked);
            let mut status = json!({"allowed": verdict.allowed});
            if verdict.denied {
                status["denied"] = true.into();
            }
            if !verdict.reason.is_empty() {
                status["reason"] = verdict.reason.into();
            }
            review.0.insert("status".into(), status);
            Ok(())
        })
        .await
    }
}

fn user(review: &Object) -> User {
    let spec = review.get("spec").cloned().unwrap_or_default();
    let extra: BTreeMap<String, Vec<String>> = serde_json::from_value(spec["extra"].clone()).unwrap_or_default();
    User {
        name: spec["user"].as_str().unwrap_or("").to_owned(),
        uid: spec["uid"].as_str().unwrap_or("").to_owned(),
        groups: spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
        extra: extra.into_iter().map(|(key, values)| (key.to_lowercase(), values)).collect(),
    }
}

/// Verbs have static texts inside; others are interned once, a bounded number of them.
pub fn verb(text: &str) -> &'static str {
    const KNOWN: &[&str] = &[
        "get",
        "list",
        "watch",
        "create",
        "update",
        "patch",
        "delete",
        "deletecollection",
        "impersonate",
        "bind",
        "escalate",
        "approve",
        "sign",
        "attest",
        "use",
        "proxy",
        "post",
        "put",
        "head",
        "options",
        "*",
    ];
    KNOWN.iter().find(|known| **known == text).copied().unwrap_or("unknown")
}

fn asked(request: &Request, review: &Object, whose: Whose) -> Result<Attributes, Status> {
    let mut causes = Causes::default();
    let spec = review.get("spec").cloned().unwrap_or_default();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_object() == path.is_object() {
        let detail = if resource.is_object() {
            "cannot be specified in combination with resourceAttributes"
        } else {
            "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        };
        if resource.is_object() {
            let shown = api::shown::internal("authorization.NonResourceAttributes", path);
            causes.invalid_text("spec.nonResourceAttributes", &shown, detail);
        } else {
            causes.invalid("spec.resourceAttributes", &Value::Null, detail);
        }
    }
    let nobody = spec["user"].as_str().unwrap_or("").is_empty() && spec["groups"].as_array().is_none_or(Vec::is_empty);
    if whose != Whose::Own && nobody {
        causes.invalid("spec.user", &Value::from(""), "at least one of user or group must be specified");
    }
    let here = &request.allowed.attributes().namespace;
    if whose == Whose::AnybodyHere && resource["namespace"].as_str().unwrap_or("") != here {
        causes.invalid("spec.resourceAttributes.namespace", &resource["namespace"], "must match metadata.namespace");
    }
    if !causes.is_empty() {
        return Err(Status::invalid("authorization.k8s.io", "", review.name(), &causes));
    }
    Ok(if resource.is_object() { resource_attributes(resource) } else { path_attributes(path) })
}

fn resource_attributes(value: &Value) -> Attributes {
    let text = |field: &str| value[field].as_str().unwrap_or("").to_owned();
    Attributes {
        verb: verb(&text("verb")),
        group: text("group"),
        version: text("version"),
        resource: text("resource"),
        subresource: text("subresource"),
        namespace: text("namespace"),
        name: text("name"),
        ..Attributes::default()
    }
}

fn path_attributes(value: &Value) -> Attributes {
    let text = |field: &str| value[field].as_str().unwrap_or("").to_owned();
    Attributes { verb: verb(&text("verb")), path: text("path"), ..Attributes::default() }
}
