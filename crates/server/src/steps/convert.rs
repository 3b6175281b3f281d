//! The same object in another version of its group: a change of one field for most, a mapping for few.

use std::sync::Arc;

use api::{Object, Status};
use bytes::Bytes;
use store::Entry;

use crate::catalog::Served;

/// Converts an object to another `apiVersion` of the same kind.
///
/// # Errors
/// 500 where there is no such conversion.
pub fn convert(served: &Served, object: &Object, to: &str) -> Result<Object, Status> {
    let from = object.api_version();
    if from == to {
        return Ok(object.clone());
    }
    if let Some(custom) = &served.custom {
        return custom.converter.convert(object, to);
    }
    let mut converted = object.clone();
    api::convert::convert(&mut converted, to).map_err(Status::internal)?;
    Ok(converted)
}

/// A stored object in the version of the request.
///
/// # Errors
/// 500 where the bytes are damaged.
pub fn read(served: &Served, entry: &Entry) -> Result<Object, Status> {
    let value = codec::json::parse(&entry.bytes).map_err(Status::internal)?;
    let mut object = Object::from_value(value).ok_or_else(|| Status::internal("stored value is no object"))?;
    if object.api_version() != served.api_version {
        object = match &served.custom {
            Some(custom) => pruned(served, custom.converter.read(entry, object, &served.api_version)?)?,
            None => convert(served, &object, &served.api_version)?,
        };
    }
    if served.custom.as_ref().is_some_and(|custom| custom.has_defaults) {
        crate::catalog::defaulting::default(&mut object.0, served.raw_schema());
    }
    Ok(object)
}

/// A converted object without what its version does not know.
fn pruned(served: &Served, object: Object) -> Result<Object, Status> {
    let decoded = codec::json::decode_value(object.into_value(), served.schema(), codec::Strictness::Ignore);
    decoded.map(|decoded| decoded.object).map_err(Status::internal)
}

/// Makes ready what reading these objects needs: one call of a webhook where reading would make many.
///
/// # Errors
/// 500 where they cannot be converted.
pub async fn prepare(served: &Served, entries: &[Arc<Entry>]) -> Result<(), Status> {
    match &served.custom {
        Some(custom) => custom.converter.prepare(entries, &served.api_version).await,
        None => Ok(()),
    }
}

/// Whether a custom resource is stored in a version that is not the stored one any more.
pub fn is_stored_otherwise(served: &Served, entry: &Entry) -> bool {
    served.custom.is_some() && !starts_with_version(&entry.bytes, &served.storage_version)
}

/// Whether the bytes of an entry can be sent as they are.
pub fn is_verbatim(served: &Served, entry: &Entry) -> bool {
    match &served.custom {
        None => served.is_stored_version(),
        Some(custom) => !custom.has_defaults && starts_with_version(&entry.bytes, &served.api_version),
    }
}

/// Objects are written with sorted fields, so `apiVersion` comes first.
fn starts_with_version(bytes: &[u8], api_version: &str) -> bool {
    let head = b"{\"apiVersion\":\"";
    bytes.strip_prefix(head).and_then(|rest| rest.strip_prefix(api_version.as_bytes())).is_some_and(|rest| rest.first() == Some(&b'"'))
}

/// The JSON of a stored object in the version of the request.
///
/// # Errors
/// As `read`.
pub fn json(served: &Served, entry: &Entry) -> Result<Bytes, Status> {
    if is_verbatim(served, entry) {
        return Ok(entry.bytes.clone());
    }
    Ok(Bytes::from(codec::json::encode(&read(served, entry)?)))
}
