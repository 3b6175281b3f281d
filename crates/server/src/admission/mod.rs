//! Admission: plugins that change or refuse writes, one a file, run in upstream's order.
//!
//! Controllers' writes come this way, too: there is no other way to the store.

mod certificate_requests;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod facts;
mod limit_ranger;
mod list;
mod matching;
mod namespace_lifecycle;
mod node_restriction;
mod persistent_volume_claim_resize;
mod pod_security;
mod policies;
mod priority;
mod rbac_escalation;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod webhooks;

use std::sync::Arc;

use api::{Object, Status};
use async_trait::async_trait;
use store::Store;

use crate::catalog::Served;
use crate::server::Server;
use crate::user::User;
use crate::write::Write;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// It is made.
    Create,
    /// It is changed.
    Update,
    /// It is removed.
    Delete,
    /// Somebody connects to it (exec, proxy).
    Connect,
}

impl Operation {
    /// As webhooks read it.
    pub fn text(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One write under admission.
pub struct Admission {
    /// What is done.
    pub operation: Operation,
    /// To which resource.
    pub served: Arc<Served>,
    /// Or its subresource.
    pub subresource: String,
    /// Namespace, empty for none.
    pub namespace: String,
    /// Name, empty while it is not known.
    pub name: String,
    /// The new object; none for deletions.
    pub object: Option<Object>,
    /// The object before; none for creations.
    pub old: Option<Arc<Object>>,
    /// Options object of the request.
    pub options: serde_json::Value,
    /// Who.
    pub user: User,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// Something was changed.
    pub changed: bool,
    /// What the client is told.
    pub warnings: Vec<String>,
    /// What plugins keep until the write is over.
    pub holds: Vec<Box<dyn Send + Sync>>,
}

impl Admission {
    /// The admission of a write.
    pub fn of_write(write: &Write<'_>, operation: Operation, object: Option<Object>, old: Option<Arc<Object>>) -> Admission {
        let name = object.as_ref().or(old.as_deref()).map(|object| object.name().to_owned()).unwrap_or_default();
        let namespace = if &*write.served.def.plural == "namespaces" && write.served.def.group.is_empty() {
            name.clone()
        } else {
            write.namespace().to_owned()
        };
        let options = match operation {
            Operation::Create => "CreateOptions",
            Operation::Delete => "DeleteOptions",
            _ => "UpdateOptions",
        };
        Admission {
            operation,
            served: write.served.clone(),
            subresource: write.subresource().to_owned(),
            namespace,
            name,
            object,
            old,
            options: serde_json::json!({"kind": options, "apiVersion": "meta.k8s.io/v1"}),
            user: write.user().clone(),
            dry_run: write.options.dry_run,
            changed: false,
            warnings: Vec::new(),
            holds: Vec::new(),
        }
    }

    /// Whether this is about a built-in resource itself (not a subresource).
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.subresource.is_empty() && self.is_any(group, plural)
    }

    /// Whether this is about a built-in resource or any of its subresources.
    pub fn is_any(&self, group: &str, plural: &str) -> bool {
        &*self.served.def.group == group && &*self.served.def.plural == plural
    }

    /// The new object, to be changed.
    pub fn change(&mut self) -> Option<&mut Object> {
        self.changed = true;
        self.object.as_mut()
    }

    /// 403 in the words of admission.
    pub fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.served.def.group, &self.served.def.plural, &self.name, why)
    }
}

/// One plugin. Either half may be left out.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Name as upstream has it.
    fn name(&self) -> &'static str;

    /// Changes or refuses.
    async fn mutate(&self, _server: &Arc<Server>, _admission: &mut Admission) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses.
    async fn validate(&self, _server: &Arc<Server>, _admission: &mut Admission) -> Result<(), Status> {
        Ok(())
    }
}

/// All plugins in order.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The plugins that are on by default.
    pub fn new(store: Arc<dyn Store>) -> Chain {
        Chain { plugins: list::plugins(store) }
    }

    /// Lets every plugin change the object.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn mutate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        for plugin in &self.plugins {
            let result = plugin.mutate(server, admission).await;
            result.inspect_err(|status| tracing::debug!(plugin = plugin.name(), %status, "refused"))?;
        }
        Ok(())
    }

    /// Lets every plugin refuse the object.
    ///
    /// # Errors
    /// The first refusal.
    pub async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        for plugin in &self.plugins {
            let result = plugin.validate(server, admission).await;
            result.inspect_err(|status| tracing::debug!(plugin = plugin.name(), %status, "refused"))?;
        }
        Ok(())
    }
}
