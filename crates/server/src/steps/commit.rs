//! The write itself: one compare-and-put or compare-and-delete.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use store::{Change, Entry, Key, Outcome, Revision};

use super::validate::Valid;
use super::{convert, prepare};
use crate::catalog::Served;
use crate::failure;
use crate::write::Write;

/// What became of a write.
pub enum Written {
    /// It is stored, or was stored like this already.
    Stored(Arc<Entry>),
    /// It would have been.
    DryRun(Object),
}

/// How many names are tried for `generateName`.
const NAME_ATTEMPTS: u32 = 8;

/// The key of an object.
pub fn key(served: &Served, namespace: &str, name: &str) -> Key {
    if served.def.namespaced() { served.store.key(format!("{namespace}/{name}")) } else { served.store.key(name) }
}

/// Stores a new object.
///
/// # Errors
/// 409 where the name is taken.
pub async fn create(write: &Write<'_>, valid: Valid, generated: bool) -> Result<Written, Status> {
    let mut object = valid.0;
    let store = &write.server.store;
    for attempt in 1.. {
        let key = key(write.served, object.namespace(), object.name());
        if write.options.dry_run {
            return match store.mvcc().get(&key).value {
                Some(_) => Err(taken(write.served, &object)),
                None => Ok(Written::DryRun(object)),
            };
        }
        let mut change = Change::create(key, raw(write.served, &mut object)?);
        if &*write.served.store == "/registry/events/" {
            change = change.with_ttl(write.server.config.event_ttl);
        }
        match store.commit(change).await.map_err(failure::commit)? {
            Outcome::Committed(entry) => return Ok(Written::Stored(entry)),
            Outcome::Lost { .. } if generated && attempt < NAME_ATTEMPTS => {
                let name = prepare::generate(object.generate_name());
                object.set_meta("name", name);
            }
            Outcome::Lost { .. } => return Err(taken(write.served, &object)),
        }
    }
    unreachable!("the last attempt returns")
}

fn taken(served: &Served, object: &Object) -> Status {
    Status::already_exists(&served.def.group, &served.def.plural, object.name())
}

/// Stores the next version of an object; `None` when somebody else was faster.
///
/// # Errors
/// What the store reports.
pub async fn replace(write: &Write<'_>, valid: Valid, old: &Entry) -> Result<Option<Written>, Status> {
    let mut object = valid.0;
    if write.options.dry_run {
        return Ok(Some(Written::DryRun(object)));
    }
    let mut change = Change::replace(old.key.clone(), old.revision, raw(write.served, &mut object)?);
    if &*write.served.store == "/registry/events/" {
        change = change.with_ttl(write.server.config.event_ttl);
    }
    let outcome = write.server.store.commit(change).await.map_err(failure::commit)?;
    Ok(outcome.committed().map(Written::Stored))
}

/// Removes an object; `None` when somebody changed it meanwhile.
///
/// # Errors
/// What the store reports.
pub async fn remove(write: &Write<'_>, key: &Key, revision: Revision) -> Result<Option<Arc<Entry>>, Status> {
    let change = Change::delete(key.clone(), revision);
    let outcome = write.server.store.commit(change).await.map_err(failure::commit)?;
    Ok(outcome.committed())
}

/// The bytes of an object as they are stored: in the stored version, without revision (which the object loses).
///
/// # Errors
/// 500 where it cannot be converted.
pub fn raw(served: &Served, object: &mut Object) -> Result<Bytes, Status> {
    object.metadata_mut().remove("resourceVersion");
    if object.api_version() == served.storage_version {
        return Ok(Bytes::from(codec::json::encode(object)));
    }
    Ok(Bytes::from(codec::json::encode(&convert::convert(served, object, &served.storage_version)?)))
}
