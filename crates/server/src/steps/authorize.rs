//! Whether the caller may do what was asked; the only maker of [`Allowed`].

use api::Status;

use super::identify::Identified;
use crate::attributes::{Attributes, Classified, Verb};
use crate::server::Server;
use crate::user::User;

/// Proof that a request was authorized.
#[derive(Clone, Debug)]
pub struct Allowed {
    user: User,
    attributes: Attributes,
    verb: Verb,
}

impl Allowed {
    /// Who.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// What.
    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    /// How.
    pub fn verb(&self) -> Verb {
        self.verb
    }

    /// One object of a collection that the caller may do this to.
    pub fn within(&self, namespace: &str, name: &str) -> Allowed {
        let mut one = self.clone();
        one.attributes.namespace = namespace.to_owned();
        one.attributes.name = name.to_owned();
        one
    }

    /// The same caller creating what an update or apply found missing.
    ///
    /// # Errors
    /// 403 where the caller may not create.
    pub fn also_create(&self, server: &Server) -> Result<Allowed, Status> {
        let mut attributes = self.attributes.clone();
        attributes.verb = Verb::Create.text();
        check(server, &self.user, &attributes)?;
        Ok(Allowed { user: self.user.clone(), attributes, verb: Verb::Create })
    }
}

/// Checks one request.
///
/// # Errors
/// 403 with the reason.
pub async fn authorize(server: &Server, caller: Identified, classified: Classified) -> Result<Allowed, Status> {
    let Classified { attributes, verb } = classified;
    let verdict = crate::authorize::decide_async(server, caller.user(), &attributes).await;
    crate::audit::annotate("authorization.k8s.io/decision", if verdict.allowed { "allow" } else { "forbid" });
    crate::audit::annotate("authorization.k8s.io/reason", verdict.reason.as_str());
    if !verdict.allowed {
        return Err(forbidden(caller.user(), &attributes, &verdict.reason));
    }
    Ok(Allowed { user: caller.into_user(), attributes, verb })
}

/// Whether a user may do something, as a Status if not.
///
/// # Errors
/// 403 with the reason.
pub fn check(server: &Server, user: &User, attributes: &Attributes) -> Result<(), Status> {
    let verdict = crate::authorize::decide(server, user, attributes);
    if verdict.allowed {
        return Ok(());
    }
    Err(forbidden(user, attributes, &verdict.reason))
}

/// The refusal in upstream's words.
pub fn forbidden(user: &User, attributes: &Attributes, reason: &str) -> Status {
    let who = &user.name;
    let verb = attributes.verb;
    let mut why = if attributes.is_resource() {
        let resource = attributes.full_resource();
        let place = if attributes.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", attributes.namespace)
        };
        format!("User {who:?} cannot {verb} resource {resource:?} in API group {:?} {place}", attributes.group)
    } else {
        format!("User {who:?} cannot {verb} path {:?}", attributes.path)
    };
    if !reason.is_empty() {
        why.push_str(": ");
        why.push_str(reason);
    }
    Status::forbidden(&attributes.group, &attributes.resource, &attributes.name, &why)
}
