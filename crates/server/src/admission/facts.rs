//! What expressions of policies and match conditions can ask: the request, the objects, the namespace, the authorizer.

use std::sync::Arc;

use api::{Object, Status};
use cel::policy::Facts;
use cel::{Failure, Host, Value as Cel};
use serde_json::{Value, json};
use store::Kind;

use super::{Admission, Operation};
use crate::attributes::Attributes;
use crate::authorize::{self, Verdict};
use crate::catalog::Served;
use crate::server::Server;
use crate::steps::convert;
use crate::user::User;

/// Everything that expressions may look at, as JSON.
pub struct Known {
    object: Value,
    old: Value,
    request: Value,
    namespace: Value,
    authorizer: Arc<Authorizer>,
}

impl Known {
    /// The facts of a request, its objects in the version that is asked for.
    ///
    /// # Errors
    /// 500 where an object has no such version.
    pub fn of(server: &Arc<Server>, admission: &Admission, served: &Served) -> Result<Known, Status> {
        let request = request(admission, served);
        let authorizer = Authorizer {
            server: server.clone(),
            user: admission.user.clone(),
            asked: Attributes::default(),
            own: Some(Box::new(own_attributes(admission))),
        };
        Ok(Known {
            object: shown(admission, admission.object.as_ref(), served)?,
            old: shown(admission, admission.old.as_deref(), served)?,
            request,
            namespace: namespace(server, admission),
            authorizer: Arc::new(authorizer),
        })
    }

    /// The facts, with parameters.
    pub fn facts<'a>(&'a self, params: Option<&'a Value>) -> Facts<'a> {
        let some = |value: &'a Value| (!value.is_null()).then_some(value);
        Facts {
            object: some(&self.object),
            old_object: some(&self.old),
            request: &self.request,
            params,
            namespace: some(&self.namespace),
            authorizer: Some(self.authorizer.clone()),
        }
    }
}

/// An object in the version that is wanted, as JSON; null for none.
///
/// # Errors
/// 500 where it has no such version.
pub fn shown(admission: &Admission, object: Option<&Object>, served: &Served) -> Result<Value, Status> {
    match object {
        None => Ok(Value::Null),
        // Subresources exchange kinds of their own, which have one version.
        Some(object) if object.kind() != &*admission.served.def.kind => Ok(Value::Object(object.0.clone())),
        Some(object) => Ok(convert::convert(&admission.served, object, &served.api_version)?.into_value()),
    }
}

/// The request as webhooks and expressions see it, without uid and objects.
pub fn request(admission: &Admission, served: &Served) -> Value {
    let own = &admission.served.def;
    let posted = admission.object.as_ref().filter(|object| object.kind() != &*own.kind);
    let kind = |served: &Served| match posted {
        Some(object) => {
            let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
            json!({"group": group, "version": version, "kind": object.kind()})
        }
        None => json!({"group": &*served.def.group, "version": &*served.def.version, "kind": &*served.def.kind}),
    };
    let resource = |served: &Served| json!({"group": &*served.def.group, "version": &*served.def.version, "resource": &*served.def.plural});
    let mut request = json!({
        "kind": kind(served), "resource": resource(served),
        "requestKind": kind(&admission.served), "requestResource": resource(&admission.served),
        "operation": admission.operation.text(),
        "userInfo": admission.user.to_value(),
        "dryRun": admission.dry_run,
        "options": if admission.operation == Operation::Connect { Value::Null } else { admission.options.clone() },
    });
    for (field, text) in [
        ("name", &admission.name),
        ("namespace", &admission.namespace),
        ("subResource", &admission.subresource),
        ("requestSubResource", &admission.subresource),
    ] {
        if !text.is_empty() {
            request[field] = text.as_str().into();
        }
    }
    request
}

fn namespace(server: &Server, admission: &Admission) -> Value {
    if admission.namespace.is_empty() || admission.is_any("", "namespaces") {
        return Value::Null;
    }
    let key = Kind::new(api::resources::storage_prefix("", "namespaces", false)).key(admission.namespace.as_str());
    let entry = server.store.mvcc().get(&key).value;
    entry.and_then(|entry| codec::json::parse(&entry.bytes).ok()).unwrap_or(Value::Null)
}

fn own_attributes(admission: &Admission) -> Attributes {
    let def = &admission.served.def;
    Attributes {
        group: def.group.to_string(),
        version: def.version.to_string(),
        resource: def.plural.to_string(),
        subresource: admission.subresource.clone(),
        namespace: admission.namespace.clone(),
        name: admission.name.clone(),
        ..Attributes::default()
    }
}

/// The authorizer as expressions have it: a question that is put together call by call.
struct Authorizer {
    server: Arc<Server>,
    user: User,
    asked: Attributes,
    /// The resource of the request; only at the start of the chain.
    own: Option<Box<Attributes>>,
}

/// The answer to such a question.
struct Decision(Verdict);

impl Authorizer {
    fn with<'a>(&self, change: impl FnOnce(&mut Authorizer)) -> Cel<'a> {
        let mut next = Authorizer { server: self.server.clone(), user: self.user.clone(), asked: self.asked.clone(), own: None };
        change(&mut next);
        Cel::Host(Arc::new(next) as Arc<dyn Host<'a> + 'a>)
    }
}

fn text(args: &[Cel<'_>], index: usize) -> Result<String, Failure> {
    match args.get(index) {
        Some(Cel::String(text)) => Ok(text.to_string()),
        _ => Err(Failure::new("no such overload")),
    }
}

impl<'a> Host<'a> for Authorizer {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Authorizer"
    }

    fn field(&self, name: &str) -> Option<Result<Cel<'a>, Failure>> {
        let own = self.own.as_ref().filter(|_| name == "requestResource")?;
        Some(Ok(self.with(|next| next.asked = (**own).clone())))
    }

    fn call(&self, method: &str, args: &[Cel<'a>]) -> Option<Result<Cel<'a>, Failure>> {
        let one = || text(args, 0);
        let result = match (method, args.len()) {
            ("path", 1) => one().map(|path| self.with(|next| next.asked.path = path)),
            ("group", 1) => one().map(|group| self.with(|next| next.asked.group = group)),
            ("resource", 1) => one().map(|resource| {
                self.with(|next| {
                    next.asked.resource = resource;
                    next.asked.version = "*".into();
                })
            }),
            ("subresource", 1) => one().map(|part| self.with(|next| next.asked.subresource = part)),
            ("namespace", 1) => one().map(|namespace| self.with(|next| next.asked.namespace = namespace)),
            ("name", 1) => one().map(|name| self.with(|next| next.asked.name = name)),
            ("fieldSelector" | "labelSelector", 1) => one().map(|_| self.with(|_| {})),
            ("serviceAccount", 2) => one().and_then(|namespace| {
                let name = text(args, 1)?;
                Ok(self.with(|next| next.user = User::service_account(&namespace, &name)))
            }),
            ("check", 1) => one().map(|verb| {
                let mut asked = self.asked.clone();
                asked.verb = crate::reviews::verb(&verb);
                Cel::Host(Arc::new(Decision(authorize::decide(&self.server, &self.user, &asked))) as Arc<dyn Host<'a> + 'a>)
            }),
            _ => return None,
        };
        Some(result)
    }
}

impl<'a> Host<'a> for Decision {
    fn type_name(&self) -> &'static str {
        "kubernetes.authorization.Decision"
    }

    fn field(&self, _name: &str) -> Option<Result<Cel<'a>, Failure>> {
        None
    }

    fn call(&self, method: &str, args: &[Cel<'a>]) -> Option<Result<Cel<'a>, Failure>> {
        if !args.is_empty() {
            return None;
        }
        Some(Ok(match method {
            "allowed" => Cel::Bool(self.0.allowed),
            "reason" => Cel::String(self.0.reason.clone().into()),
            "errored" => Cel::Bool(false),
            "error" => Cel::String("".into()),
            _ => return None,
        }))
    }
}
