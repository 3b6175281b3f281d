//! Nothing is made in a namespace that is missing or going, and the three namespaces of the system stay.

use std::sync::Arc;

use api::{Reason, Status};
use async_trait::async_trait;
use serde_json::json;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(NamespaceLifecycle)
}

struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let namespace_itself = admission.is_any("", "namespaces");
        if namespace_itself {
            if admission.operation == Operation::Delete && IMMORTAL.contains(&admission.name.as_str()) {
                return Err(admission.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        if admission.namespace.is_empty() || !matches!(admission.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        // Reviews ask about namespaces that need not exist.
        if &*admission.served.def.group == "authorization.k8s.io" {
            return Ok(());
        }
        let namespace = server.store.mvcc().get(&Kind::new("/registry/namespaces/").key(admission.namespace.as_str())).value;
        let Some(namespace) = namespace else {
            return Err(Status::not_found("", "namespaces", &admission.namespace));
        };
        if admission.operation != Operation::Create || namespace.header.deletion_timestamp.is_none() {
            return Ok(());
        }
        let why = format!("unable to create new content in namespace {} because it is being terminated", admission.namespace);
        let mut status = admission.forbidden(&why);
        status.reason = Reason::Forbidden;
        status.details["causes"] = json!([{
            "reason": "NamespaceTerminating",
            "message": format!("namespace {} is being terminated", admission.namespace),
            "field": "metadata.namespace",
        }]);
        Err(status)
    }
}
