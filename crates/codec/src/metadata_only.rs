//! `PartialObjectMetadata`: an object reduced to its metadata, for clients that watch only names, labels and owners.

use crate::{DecodeError, json};

/// The JSON of a `PartialObjectMetadata` (version `v1` of `meta.k8s.io`) made from the JSON of an object.
pub fn object(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let value = json::parse(bytes)?;
    let metadata = value.get("metadata").cloned().unwrap_or_default();
    let partial = serde_json::json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
    Ok(partial.to_string().into_bytes())
}
