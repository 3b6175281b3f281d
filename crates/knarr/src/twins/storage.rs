//! What upstream keeps in etcd: built-in kinds as protobuf, the rest as JSON. Here everything is JSON in memory, so that
//! values are translated on their way, which lets this server and the real one take over each other's data.

use std::sync::Arc;

use api::Object;
use api::schema::{TypeRef, builtin_kind};
use bytes::Bytes;
use store::{Cipher, CipherError, Key};

/// Groups whose objects the real server keeps as JSON.
const JSON: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// Translates outside of the encryption, as the real server does.
pub struct Upstream {
    inner: Arc<dyn Cipher>,
}

impl Upstream {
    /// A translation around an encryption.
    pub fn new(inner: Arc<dyn Cipher>) -> Upstream {
        Upstream { inner }
    }
}

fn schema(api_version: &str, kind: &str) -> Option<TypeRef> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if JSON.contains(&group) { None } else { builtin_kind(group, version, kind) }
}

fn failed(key: &Key, error: &dyn std::fmt::Display) -> CipherError {
    CipherError(format!("{key}: {error}"))
}

impl Cipher for Upstream {
    fn seal(&self, key: &Key, plain: &Bytes) -> Result<Bytes, CipherError> {
        let object = codec::json::parse(plain).ok().and_then(Object::from_value);
        let known = object.and_then(|object| Some((schema(object.api_version(), object.kind())?, object)));
        match known {
            Some((schema, object)) => {
                let message = codec::protobuf::encode(&object, &schema).map_err(|error| failed(key, &error))?;
                self.inner.seal(key, &message)
            }
            None => self.inner.seal(key, plain),
        }
    }

    fn open(&self, key: &Key, stored: &Bytes) -> Result<Bytes, CipherError> {
        let plain = self.inner.open(key, stored)?;
        if !codec::protobuf::is_protobuf(&plain) {
            return Ok(plain);
        }
        let envelope = codec::protobuf::open(&plain).map_err(|error| failed(key, &error))?;
        let (api_version, kind) = (envelope.api_version, envelope.kind);
        let schema = schema(api_version, kind).ok_or_else(|| failed(key, &format!("{api_version} {kind} is not known")))?;
        let mut object = codec::protobuf::decode(&envelope, &schema).map_err(|error| failed(key, &error))?;
        codec::normalize(&mut object, &schema);
        serde_json::to_vec(&object.0).map(Bytes::from).map_err(|error| failed(key, &error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_as_they_were() {
        let store = Upstream::new(Arc::new(store::Plain));
        let key = store::Kind::new("/registry/pods/".to_owned()).key("default/a");
        let pod = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a","namespace":"default"},"spec":{"containers":[{"name":"c"}]}}"#;
        let custom = r#"{"kind":"Thing","apiVersion":"example.com/v1","metadata":{"name":"a"}}"#;
        for (text, protobuf) in [(pod, true), (custom, false)] {
            let plain = Bytes::from_static(text.as_bytes());
            let stored = store.seal(&key, &plain).unwrap();
            assert_eq!(codec::protobuf::is_protobuf(&stored), protobuf, "{text}");
            let read: serde_json::Value = serde_json::from_slice(&store.open(&key, &stored).unwrap()).unwrap();
            for field in ["/kind", "/apiVersion", "/metadata/name"] {
                let expected: serde_json::Value = serde_json::from_str(text).unwrap();
                assert_eq!(read.pointer(field), expected.pointer(field), "{text} {field}");
            }
        }
    }
}
