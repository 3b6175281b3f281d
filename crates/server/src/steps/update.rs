//! The one loop behind update, patch, apply, scale and every other change of an object: read, change, default,
//! mutate, prepare, validate, commit, and again when somebody else was faster.

use std::sync::Arc;

use api::{Causes, Object, Status};
use serde_json::{Map, Value};
use store::Entry;

use super::commit::{self, Written};
use super::{convert, default, mutate, prepare, validate};
use crate::write::Write;

/// How often a lost race is run again.
const ATTEMPTS: u32 = 1000;

/// What a change makes of an object.
pub struct Changed {
    /// The new object.
    pub object: Object,
    /// Managed fields are kept already (an apply).
    pub managed: bool,
    /// What is still to be done with it.
    pub strategy: Strategy,
}

/// Which rules a change still has to go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Those of the kind, and admission.
    Kind,
    /// Admission: a subresource took over only its part.
    Part,
    /// None: a subresource checked and admitted its own object.
    Done,
}

impl Changed {
    /// A change that goes through everything.
    pub fn whole(object: Object) -> Changed {
        Changed { object, managed: false, strategy: Strategy::Kind }
    }

    /// A change that is the result of an apply.
    pub fn applied(object: Object) -> Changed {
        Changed { object, managed: true, strategy: Strategy::Kind }
    }

    /// A part of the object that a subresource changed.
    pub fn part(object: Object) -> Changed {
        Changed { object, managed: false, strategy: Strategy::Part }
    }

    /// A change that a subresource checked itself.
    pub fn done(object: Object) -> Changed {
        Changed { object, managed: false, strategy: Strategy::Done }
    }
}

/// The object that others have changed meanwhile.
pub const MODIFIED: &str = "the object has been modified; please apply your changes to the latest version and try again";

/// Changes the object of a name with `change`, which is called again after a lost race.
///
/// # Errors
/// 404 where there is none, and whatever a step refuses with.
pub async fn guaranteed_update(
    write: &Write<'_>,
    name: &str,
    mut change: impl FnMut(&Object) -> Result<Changed, Status> + Send,
) -> Result<Written, Status> {
    let key = commit::key(write.served, write.namespace(), name);
    for _ in 0..ATTEMPTS {
        let Some(entry) = write.server.store.mvcc().get(&key).value else {
            return Err(write.served.not_found(name));
        };
        if let Some(written) = attempt(write, &entry, &mut change).await? {
            return Ok(written);
        }
        write.server.store.catch_up().await.map_err(crate::failure::read)?;
    }
    Err(conflict(write, name))
}

/// 409 for an object that others have changed.
pub fn conflict(write: &Write<'_>, name: &str) -> Status {
    Status::conflict(&write.served.def.group, &write.served.def.plural, name, MODIFIED)
}

async fn attempt(
    write: &Write<'_>,
    entry: &Arc<Entry>,
    change: &mut (impl FnMut(&Object) -> Result<Changed, Status> + Send),
) -> Result<Option<Written>, Status> {
    let old = Arc::new(convert::read(write.served, entry)?);
    let Changed { mut object, managed, strategy } = change(&old)?;
    check_identity(write, &object, &old)?;
    check_version(write, &object, &old)?;
    object.set_meta("resourceVersion", old.resource_version().to_owned());
    prepare::namespace(write, &mut object)?;
    let mut defaulted = default::of_object(write.served, object);
    prepare::keep_identity(defaulted.object_mut(), &old);
    if !managed {
        write.manage(Some(&old), defaulted.object_mut());
    }
    let mut valid = match strategy {
        Strategy::Kind => {
            let mutated = mutate::mutate(write, defaulted, Some(&old)).await?;
            let prepared = prepare::update(write, mutated, &old);
            validate::update(write, prepared, &old).await?
        }
        Strategy::Part => {
            let mutated = mutate::mutate(write, defaulted, Some(&old)).await?;
            validate::part(write, prepare::part(write, mutated, &old), &old).await?
        }
        Strategy::Done => validate::done(prepare::part(write, mutate::done(defaulted), &old)),
    };
    let reserved = crate::allocate::for_update(write, valid.object_mut(), &old).await?;
    if same(valid.object(), &old) && !write.server.is_stale(write.served, entry) {
        return Ok(Some(if write.options.dry_run { Written::DryRun(Arc::unwrap_or_clone(old)) } else { Written::Stored(entry.clone()) }));
    }
    if is_finished(valid.object()) && !write.options.dry_run {
        // The answer has what the request made of the object, watchers see it as it was stored before.
        let last = valid.object().clone();
        return Ok(remove(write, valid, entry).await?.map(|_| Written::DryRun(last)));
    }
    let gives_back = reserved.is_some().then(|| valid.object().clone());
    let written = commit::replace(write, valid, entry).await?;
    if let (Some(reserved), Some(Written::Stored(_))) = (reserved, &written) {
        reserved.keep(write.server).await;
    }
    if let (Some(new), Some(Written::Stored(_))) = (gives_back, &written) {
        crate::allocate::after_update(write.server, write.served, &new, &old).await;
    }
    Ok(written)
}

/// Removes an object whose last finalizer went. What watchers see last is the object as it was stored before.
async fn remove(write: &Write<'_>, valid: validate::Valid, entry: &Arc<Entry>) -> Result<Option<Arc<Entry>>, Status> {
    let object = valid.object().clone();
    let removed = commit::remove(write, &entry.key, entry.revision).await?;
    if removed.is_some() {
        crate::allocate::after_delete(write.server, write.served, &object).await;
    }
    Ok(removed)
}

/// Whether a change leaves an object that is being deleted with nothing to wait for.
pub fn is_finished(object: &Object) -> bool {
    let grace = object.metadata().and_then(|meta| meta.get("deletionGracePeriodSeconds")).and_then(Value::as_i64);
    object.deletion_timestamp().is_some()
        && grace.unwrap_or(0) == 0
        && object.finalizers().next().is_none()
        && (object.kind() != "Namespace" || object.api_version() != "v1" || !has_namespace_finalizers(object))
}

/// Whether `spec.finalizers` of a namespace is not empty.
pub fn has_namespace_finalizers(object: &Object) -> bool {
    object.at(&["spec", "finalizers"]).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

fn check_identity(write: &Write<'_>, new: &Object, old: &Object) -> Result<(), Status> {
    let def = &write.served.def;
    if !new.name().is_empty() && new.name() != old.name() {
        let mut causes = Causes::default();
        causes.invalid("metadata.name", &Value::from(new.name()), "field is immutable");
        return Err(Status::invalid(&def.group, &def.kind, old.name(), &causes));
    }
    if !new.uid().is_empty() && new.uid() != old.uid() {
        if write.allowed.attributes().verb == "patch" {
            let mut causes = Causes::default();
            // Both the patch and the rules for metadata tell of it.
            causes.invalid("metadata.uid", &Value::from(new.uid()), "field is immutable");
            causes.invalid("metadata.uid", &Value::from(new.uid()), "field is immutable");
            return Err(Status::invalid(&def.group, &def.kind, old.name(), &causes));
        }
        let key = commit::key(write.served, write.namespace(), old.name());
        let why = format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {}, UID in object meta: {}",
            new.uid(),
            old.uid()
        );
        return Err(Status::conflict(&def.group, &def.plural, old.name(), &why));
    }
    Ok(())
}

fn check_version(write: &Write<'_>, new: &Object, old: &Object) -> Result<(), Status> {
    let given = new.resource_version();
    if given.is_empty() || given == "0" {
        if requires_version(write) {
            let mut causes = Causes::default();
            causes.invalid("metadata.resourceVersion", &Value::from(0), "must be specified for an update");
            return Err(Status::invalid(&write.served.def.group, &write.served.def.plural, old.name(), &causes));
        }
        return Ok(());
    }
    if given.parse::<u64>().is_err() {
        return Err(crate::failure::unexplained(format!("strconv.ParseUint: parsing {given:?}: invalid syntax")));
    }
    if given == old.resource_version() { Ok(()) } else { Err(conflict(write, old.name())) }
}

/// Kinds whose updates must say which version they change.
const CONDITIONAL: &[(&str, &str)] = &[
    ("", "pods/ephemeralcontainers"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "validatingadmissionpolicybindings"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicies"),
    ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("apiregistration.k8s.io", "apiservices"),
    ("coordination.k8s.io", "leases"),
    ("node.k8s.io", "runtimeclasses"),
    ("policy", "poddisruptionbudgets"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("storage.k8s.io", "volumeattachments"),
];

fn requires_version(write: &Write<'_>) -> bool {
    if write.allowed.attributes().verb != "update" {
        return false;
    }
    let resource = &write.served.def.plural;
    write.served.custom.is_some() || CONDITIONAL.iter().any(|(group, plural)| *group == &*write.served.def.group && *plural == &**resource)
}

/// Whether nothing changed.
fn same(new: &Object, old: &Object) -> bool {
    let no_metadata = Map::new();
    let (left, right) = (new.metadata().unwrap_or(&no_metadata), old.metadata().unwrap_or(&no_metadata));
    let size = |map: &Map<String, Value>| map.len() - usize::from(map.contains_key("resourceVersion"));
    new.0.len() == old.0.len()
        && new.0.iter().all(|(name, value)| name == "metadata" || old.0.get(name) == Some(value))
        && size(left) == size(right)
        && left.iter().all(|(name, value)| name == "resourceVersion" || right.get(name) == Some(value))
}
