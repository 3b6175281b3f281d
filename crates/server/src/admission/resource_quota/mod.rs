//! Resource quotas: what is in use is counted from the store at the moment of the write, together with the writes
//! that are on their way.

mod usage;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::{Object, Quantity, Status};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::Value;
use store::Kind;

use super::{Admission, Operation, Plugin};
use crate::server::Server;
use usage::{Usage, matches_scopes, usage_of};

/// The plugin.
pub fn plugin() -> Box<dyn Plugin> {
    Box::new(ResourceQuota { pending: Arc::default() })
}

/// Admitted writes that are not stored yet, by namespace.
type Pending = Mutex<HashMap<String, Vec<(u64, Arc<Object>)>>>;

struct ResourceQuota {
    pending: Arc<Pending>,
}

/// Keeps an admitted write counted until it is stored or given up.
struct Hold {
    pending: Arc<Pending>,
    namespace: String,
    number: u64,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut pending = self.pending.lock();
        if let Some(list) = pending.get_mut(&self.namespace) {
            list.retain(|(number, _)| *number != self.number);
            if list.is_empty() {
                pending.remove(&self.namespace);
            }
        }
    }
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    async fn validate(&self, server: &Arc<Server>, admission: &mut Admission) -> Result<(), Status> {
        let counted = matches!(admission.operation, Operation::Create | Operation::Update) && admission.subresource.is_empty();
        if !counted || admission.namespace.is_empty() || admission.is_any("", "namespaces") {
            return Ok(());
        }
        let quotas = quotas(server, &admission.namespace);
        let Some(object) = &admission.object else { return Ok(()) };
        if quotas.is_empty() {
            return Ok(());
        }
        let object = Arc::new(object.clone());
        // Counting and entering the count of this write must not be torn apart by another write.
        let mut pending = self.pending.lock();
        let waiting: Vec<Arc<Object>> = pending.get(&admission.namespace).into_iter().flatten().map(|(_, object)| object.clone()).collect();
        for quota in &quotas {
            check(server, admission, quota, &object, &waiting)?;
        }
        let number = rand::random();
        pending.entry(admission.namespace.clone()).or_default().push((number, object));
        drop(pending);
        admission.holds.push(Box::new(Hold { pending: self.pending.clone(), namespace: admission.namespace.clone(), number }));
        Ok(())
    }
}

fn quotas(server: &Server, namespace: &str) -> Vec<Object> {
    let kind = Kind::new(api::resources::storage_prefix("", "resourcequotas", false));
    let prefix = kind.namespace(namespace);
    let snapshot = server.store.mvcc().snapshot(&kind);
    snapshot.under(&prefix).filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)).collect()
}

fn check(server: &Server, admission: &Admission, quota: &Object, object: &Object, waiting: &[Arc<Object>]) -> Result<(), Status> {
    let hard = quota.at(&["spec", "hard"]).and_then(Value::as_object);
    let hard: BTreeMap<String, Quantity> =
        hard.into_iter().flatten().filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value)?))).collect();
    let def = &admission.served.def;
    if !matches_scopes(quota, object, def) {
        return Ok(());
    }
    let after = usage_of(object, def);
    let before = admission.old.as_ref().map(|old| usage_of(old, def)).unwrap_or_default();
    require_compute(admission, quota, &hard, object)?;
    let asked: BTreeMap<&String, Quantity> = hard
        .keys()
        .filter_map(|name| {
            let now = after.get(name)?;
            let more = before.get(name).map_or(*now, |before| now.sub(*before));
            (!more.is_zero() && !more.is_negative()).then_some((name, more))
        })
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let mut used = used(server, admission, quota);
    for other in waiting.iter().filter(|other| other.kind() == object.kind() && matches_scopes(quota, other, def)) {
        // A write that was stored since is in both counts for a moment; a quota may be too strict then, never too lax.
        if other.name() != object.name() {
            add(&mut used, &usage_of(other, def));
        }
    }
    let zero = Quantity::from_milli(0);
    let exceeded: Vec<&String> = asked
        .iter()
        .filter(|(name, more)| used.get(**name).copied().unwrap_or(zero).add(**more) > hard[**name])
        .map(|(name, _)| *name)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let list = |value: &dyn Fn(&String) -> Quantity| -> String {
        exceeded.iter().map(|name| format!("{name}={}", value(name))).collect::<Vec<_>>().join(",")
    };
    let why = format!(
        "exceeded quota: {}, requested: {}, used: {}, limited: {}",
        quota.name(),
        list(&|name| asked[name]),
        list(&|name| used.get(name).copied().unwrap_or(zero)),
        list(&|name| hard[name])
    );
    Err(admission.forbidden(&why))
}

fn add(sum: &mut Usage, more: &Usage) {
    for (name, amount) in more {
        let next = sum.get(name).map_or(*amount, |before| before.add(*amount));
        sum.insert(name.clone(), next);
    }
}

/// What the stored objects of the resource use of a quota.
fn used(server: &Server, admission: &Admission, quota: &Object) -> Usage {
    let served = &admission.served;
    let prefix = served.store.namespace(&admission.namespace);
    let snapshot = server.store.mvcc().snapshot(&served.store);
    let mut sum = Usage::new();
    for entry in snapshot.under(&prefix) {
        let Some(object) = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value) else { continue };
        if matches_scopes(quota, &object, &served.def) {
            add(&mut sum, &usage_of(&object, &served.def));
        }
    }
    sum
}

/// Where a quota limits a resource, every container must say how much it takes.
fn require_compute(admission: &Admission, quota: &Object, hard: &BTreeMap<String, Quantity>, pod: &Object) -> Result<(), Status> {
    if !admission.is("", "pods") || admission.operation != Operation::Create {
        return Ok(());
    }
    let mut missing: Vec<(String, Vec<String>)> = Vec::new();
    for name in hard.keys() {
        let (part, resource) = match name.as_str() {
            "cpu" | "memory" => ("requests", name.as_str()),
            "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory" => name.split_once('.').expect("the names have a dot"),
            _ => continue,
        };
        let containers = ["containers", "initContainers"]
            .iter()
            .flat_map(|field| pod.at(&["spec", field]).and_then(Value::as_array).into_iter().flatten());
        let without: Vec<String> = containers
            .filter(|container| container["resources"][part][resource].is_null())
            .map(|container| container["name"].as_str().unwrap_or("").to_owned())
            .collect();
        if !without.is_empty() {
            missing.push((name.clone(), without));
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let texts: Vec<String> = missing.iter().map(|(name, containers)| format!("{name} for: {}", containers.join(","))).collect();
    Err(admission.forbidden(&format!("failed quota: {}: must specify {}", quota.name(), texts.join("; "))))
}
