//! Policies and their bindings as they stand in the store, compiled once per version.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::label_selector::LabelSelector;
use api::{Object, Status};
use cel::policy::Policy;
use serde_json::Value;
use store::{Entry, Kind, Store};

use crate::admission::Admission;
use crate::admission::matching::Matching;
use crate::catalog::Served;
use crate::follow::{Follow, Projection};
use crate::server::Server;

/// A policy that may be judged by.
pub struct Compiled {
    /// Its name.
    pub name: String,
    /// The expressions.
    pub policy: Policy,
    /// What it concerns.
    pub matching: Matching,
    /// Failures refuse the request.
    pub fails_closed: bool,
    /// Kind of its parameters: `apiVersion` and `kind`.
    pub param_kind: Option<(String, String)>,
    /// A mutating policy is run again when later ones changed the object.
    pub reinvoke: bool,
}

/// What binds a policy.
pub struct Binding {
    /// Its name.
    pub name: String,
    /// Which part of what the policy concerns.
    pub matching: Option<Matching>,
    /// `paramRef` as given.
    pub params: Value,
    /// What a refusal does: `Deny`, `Warn`, `Audit`.
    pub actions: Vec<String>,
}

/// All policies and bindings of one sort.
pub struct Policies {
    policies_kind: Kind,
    policies: BTreeMap<Box<str>, Arc<Compiled>>,
    bindings: BTreeMap<Box<str>, (String, Arc<Binding>)>,
}

impl Policies {
    /// A view of the policies and bindings in a store.
    pub fn follow(store: Arc<dyn Store>, policies: &str, bindings: &str) -> Follow<Policies> {
        let kind = |plural: &str| Kind::new(api::resources::storage_prefix("admissionregistration.k8s.io", plural, false));
        let empty = Policies { policies_kind: kind(policies), policies: BTreeMap::new(), bindings: BTreeMap::new() };
        Follow::new(store, vec![kind(policies), kind(bindings)], empty)
    }

    /// Every binding with its policy.
    pub fn all(&self) -> Vec<(Arc<Compiled>, Arc<Binding>)> {
        let pairs =
            self.bindings.values().filter_map(|(policy, binding)| Some((self.policies.get(policy.as_str())?.clone(), binding.clone())));
        pairs.collect()
    }
}

impl Projection for Policies {
    fn clear(&mut self) {
        self.policies.clear();
        self.bindings.clear();
    }

    fn put(&mut self, entry: &Arc<Entry>, _previous: Option<&Arc<Entry>>) {
        let object: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
        let name = entry.header.name.clone();
        let spec = &object["spec"];
        if entry.key.kind == self.policies_kind {
            match Policy::compile(spec) {
                Ok(policy) => {
                    self.policies.insert(name, Arc::new(compiled(&entry.header.name, policy, spec)));
                }
                Err(faults) => {
                    tracing::warn!(policy = %name, faults = faults.len(), "a policy cannot be compiled and is not applied");
                    self.policies.remove(&name);
                }
            }
        } else {
            let binding = Binding {
                name: name.to_string(),
                matching: spec["matchResources"].is_object().then(|| Matching::read(&spec["matchResources"])),
                params: spec["paramRef"].clone(),
                actions: spec["validationActions"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect(),
            };
            let policy = spec["policyName"].as_str().unwrap_or("").to_owned();
            self.bindings.insert(name, (policy, Arc::new(binding)));
        }
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        if entry.key.kind == self.policies_kind {
            self.policies.remove(&entry.header.name);
        } else {
            self.bindings.remove(&entry.header.name);
        }
    }
}

fn compiled(name: &str, policy: Policy, spec: &Value) -> Compiled {
    let text = |field: &str| spec["paramKind"][field].as_str().unwrap_or("").to_owned();
    Compiled {
        name: name.to_owned(),
        policy,
        matching: Matching::read(&spec["matchConstraints"]),
        fails_closed: spec["failurePolicy"] != "Ignore",
        param_kind: spec["paramKind"].is_object().then(|| (text("apiVersion"), text("kind"))),
        reinvoke: spec["reinvocationPolicy"] == "IfNeeded",
    }
}

/// The version in which a bound policy judges a request, if it does.
pub fn concerned(server: &Server, policy: &Compiled, binding: &Binding, admission: &Admission) -> Option<Arc<Served>> {
    // Policies cannot lock themselves in.
    if &*admission.served.def.group == "admissionregistration.k8s.io" {
        return None;
    }
    let served = policy.matching.version(server, admission)?;
    let chosen = policy.matching.selects(server, admission)
        && binding.matching.as_ref().is_none_or(|matching| {
            (!matching.has_rules() || matching.version(server, admission).is_some()) && matching.selects(server, admission)
        });
    chosen.then_some(served)
}

/// The parameters of a binding: one run for each. No parameters are one run with null.
///
/// # Errors
/// The reason why the policy cannot be judged by.
pub fn params(server: &Server, policy: &Compiled, binding: &Binding, admission: &Admission) -> Result<Vec<Value>, String> {
    let Some((api_version, kind)) = &policy.param_kind else { return Ok(vec![Value::Null]) };
    if !binding.params.is_object() {
        return Ok(vec![Value::Null]);
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let catalog = server.catalog();
    let served = catalog
        .by_kind(group, version, kind)
        .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'"))?;
    let text = |field: &str| binding.params[field].as_str().unwrap_or("");
    let namespace = match text("namespace") {
        "" if served.def.namespaced() => admission.namespace.as_str(),
        namespace => namespace,
    };
    if served.def.namespaced() && namespace.is_empty() {
        return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
    }
    let prefix = if served.def.namespaced() { served.store.namespace(namespace) } else { served.store.all() };
    let name = text("name");
    let selector = LabelSelector::from_value(&binding.params["selector"]).unwrap_or_else(|_| LabelSelector::nothing());
    let snapshot = server.store.mvcc().snapshot(&served.store);
    let wanted =
        |entry: &&Arc<Entry>| if name.is_empty() { selector.matches_sorted(&entry.header.labels) } else { *entry.header.name == *name };
    let found: Vec<Value> = snapshot.under(&prefix).filter(wanted).filter_map(|entry| codec::json::parse(&entry.bytes).ok()).collect();
    if found.is_empty() && binding.params["parameterNotFoundAction"] == "Deny" {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found)
}

/// 403 (or what the policy's reason says) in the words of policies.
pub fn refusal(admission: &Admission, message: &str, reason: &str) -> Status {
    let def = &admission.served.def;
    let mut status = Status::forbidden(&def.group, &def.plural, &admission.name, message);
    let reason = api::Reason::parse(if reason.is_empty() { "Invalid" } else { reason });
    status.reason = reason;
    status.code = reason.code();
    status.details["causes"] = serde_json::json!([{"message": message}]);
    status
}

/// An object from a value, as the pipeline has it.
pub fn object(value: Value) -> Option<Object> {
    Object::from_value(value)
}
