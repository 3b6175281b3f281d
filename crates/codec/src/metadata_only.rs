//! `PartialObjectMetadata`: an object reduced to its metadata, for clients that watch only names, labels and owners.
//!
//! The metadata is cut out of the object's JSON as it stands; nothing else of the object is built.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{DecodeError, json, protobuf};

#[derive(Deserialize)]
struct WithMetadata<'b> {
    #[serde(borrow)]
    metadata: Option<&'b RawValue>,
}

/// The JSON of a `PartialObjectMetadata` (version `v1` of `meta.k8s.io`) made from the JSON of an object.
pub fn object(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let metadata = metadata(bytes)?;
    Ok([br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#, metadata.as_bytes(), b"}"].concat())
}

/// The bare protobuf message of the same.
pub fn message(bytes: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let schema = api::schema::builtin("apis.meta.v1.PartialObjectMetadata").expect("the table has PartialObjectMetadata");
    let mut object = json::decode(&object(bytes)?, &schema, crate::Strictness::Ignore)?.object;
    crate::normalize(&mut object, &schema);
    protobuf::message(&object, &schema).map_err(|error| DecodeError::Type(error.to_string()))
}

fn metadata(bytes: &[u8]) -> Result<&str, DecodeError> {
    let object: WithMetadata = serde_json::from_slice(bytes).map_err(|error| DecodeError::Syntax(error.to_string()))?;
    Ok(object.metadata.map_or("{}", RawValue::get))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_cut_out() {
        let pod = br#"{"kind":"Pod","metadata":{"name":"x","labels":{"a":"b"}},"spec":{"containers":[]}}"#;
        let expected = r#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"x","labels":{"a":"b"}}}"#;
        assert_eq!(object(pod).map(String::from_utf8), Ok(Ok(expected.to_owned())));
        let message = message(pod).expect("a message");
        let schema = api::schema::builtin("apis.meta.v1.PartialObjectMetadata").expect("in the table");
        let map = protobuf::decode_message(&message, &schema).expect("the message can be read");
        assert_eq!(map["metadata"]["labels"]["a"], "b");
        assert!(object(b"{}").is_ok() && object(b"[]").is_err());
    }
}
