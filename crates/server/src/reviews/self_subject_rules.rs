//! SelfSubjectRulesReview: everything that the caller may do in a namespace.

use std::sync::Arc;

use api::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Review, answered};
use crate::request::{Reply, Request};
use crate::server::Server;

/// The review.
pub fn review() -> Box<dyn Review> {
    Box::new(SelfSubjectRules)
}

struct SelfSubjectRules;

#[async_trait]
impl Review for SelfSubjectRules {
    fn resource(&self) -> (&'static str, &'static str) {
        ("authorization.k8s.io", "selfsubjectrulesreviews")
    }

    async fn serve(&self, server: &Arc<Server>, request: Request) -> Result<Reply, Status> {
        answered(server, request, |request, review| {
            let namespace = review.text_at(&["spec", "namespace"]).to_owned();
            if namespace.is_empty() {
                return Err(Status::bad_request("no namespace on request"));
            }
            let user = request.allowed.user();
            let (mut resources, mut paths): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
            for rule in server.rbac.read().rules_of(user, &namespace) {
                if !rule.resources.is_empty() {
                    let mut one = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
                    if !rule.resource_names.is_empty() {
                        one["resourceNames"] = json!(rule.resource_names);
                    }
                    resources.push(one);
                }
                if !rule.non_resource_urls.is_empty() {
                    paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": rule.non_resource_urls}));
                }
            }
            let incomplete = user.node_name().is_some();
            let mut status = json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": incomplete});
            if incomplete {
                status["evaluationError"] = "node authorizer does not support user rule resolution".into();
            }
            review.0.retain(|name, _| name == "kind" || name == "apiVersion");
            review.0.insert("metadata".into(), json!({}));
            review.0.insert("spec".into(), json!({}));
            review.0.insert("status".into(), status);
            Ok(())
        })
        .await
    }
}
