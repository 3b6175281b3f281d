//! Turns stored bytes into complete ones and into a header: the store's `Stamp`.
//!
//! The store never parses an object. This function does, once per version, and reads only what selectors,
//! ownership and the kind's selectable fields need; everything else is skipped over.

use std::any::Any;
use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use api::Object;
use api::kinds::Selectable;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Deserialize;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use store::{Header, Key, OwnerRef, Revision, Stamp, StampError};

use crate::{AttachmentLite, PodLite, ServiceLite};

/// The stamp function for JSON objects.
pub fn stamp() -> Stamp {
    Arc::new(|key, raw, revision| stamp_bytes(key, raw, revision).map_err(|error| StampError(error.to_string())))
}

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Meta<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    namespace: Cow<'a, str>,
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    resource_version: Option<&'a RawValue>,
    labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>,
    owner_references: Option<Vec<Owner<'a>>>,
    finalizers: Option<Vec<Box<str>>>,
    deletion_timestamp: Option<Box<str>>,
    generation: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Owner<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    controller: Option<bool>,
    #[serde(default)]
    block_owner_deletion: Option<bool>,
}

fn stamp_bytes(key: &Key, raw: Bytes, revision: Revision) -> Result<(Bytes, Header), serde_json::Error> {
    let top: Top = serde_json::from_slice(&raw)?;
    let meta: Meta = serde_json::from_str(top.metadata.get())?;
    let stamped = splice(&raw, top.metadata, meta.resource_version, revision);
    let header = header(key, &raw, meta)?;
    Ok((stamped, header))
}

/// The header of complete bytes, for objects that arrive over the network.
pub fn read(key: &Key, bytes: &Bytes) -> Result<Header, serde_json::Error> {
    let top: Top = serde_json::from_slice(bytes)?;
    header(key, bytes, serde_json::from_str(top.metadata.get())?)
}

/// Writes the revision into the metadata: in place of the one that is there, or as the first field.
fn splice(raw: &Bytes, metadata: &RawValue, old: Option<&RawValue>, revision: Revision) -> Bytes {
    let offset = |part: &RawValue| part.get().as_ptr() as usize - raw.as_ptr() as usize;
    let mut digits = [0u8; 20];
    let digits = decimal(revision.0, &mut digits);
    let mut out = BytesMut::with_capacity(raw.len() + digits.len() + 22);
    if let Some(old) = old {
        let start = offset(old);
        out.put_slice(&raw[..start]);
        out.put_u8(b'"');
        out.put_slice(digits);
        out.put_u8(b'"');
        out.put_slice(&raw[start + old.get().len()..]);
    } else {
        let start = offset(metadata) + 1;
        out.put_slice(&raw[..start]);
        out.put_slice(b"\"resourceVersion\":\"");
        out.put_slice(digits);
        out.put_u8(b'"');
        if !metadata.get()[1..].trim_start().starts_with('}') {
            out.put_u8(b',');
        }
        out.put_slice(&raw[start..]);
    }
    Bytes::from(out.to_vec().into_boxed_slice())
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

fn header(key: &Key, raw: &Bytes, meta: Meta<'_>) -> Result<Header, serde_json::Error> {
    let mut header = Header {
        name: meta.name.into(),
        namespace: meta.namespace.into(),
        uid: meta.uid.into(),
        labels: labels(meta.labels),
        owners: meta.owner_references.into_iter().flatten().map(owner).collect(),
        finalizers: meta.finalizers.unwrap_or_default().into(),
        deletion_timestamp: meta.deletion_timestamp,
        generation: meta.generation,
        fields: Box::default(),
        projection: None,
    };
    if let Some(reader) = readers().get(key.kind.as_str()) {
        let pruned = reader.prune(raw)?;
        header.fields = reader.fields.iter().map(|(name, one)| (name.clone(), (one.value)(&pruned).into())).collect();
        header.projection = reader.projection.map(|projection| (projection.read)(&pruned));
    }
    Ok(header)
}

fn labels(labels: Option<std::collections::BTreeMap<Box<str>, Box<str>>>) -> Arc<[(Box<str>, Box<str>)]> {
    static NONE: OnceLock<Arc<[(Box<str>, Box<str>)]>> = OnceLock::new();
    match labels {
        Some(labels) if !labels.is_empty() => labels.into_iter().collect(),
        _ => NONE.get_or_init(|| Arc::from([])).clone(),
    }
}

fn owner(owner: Owner<'_>) -> OwnerRef {
    OwnerRef {
        uid: owner.uid.into(),
        api_version: owner.api_version.into(),
        kind: owner.kind.into(),
        name: owner.name.into(),
        controller: owner.controller == Some(true),
        block: owner.block_owner_deletion == Some(true),
    }
}

/// What is read of a kind beside its metadata.
struct Reader {
    fields: Vec<(Arc<str>, &'static Selectable)>,
    wanted: Vec<(String, String)>,
    projection: Option<&'static Projection>,
}

/// What is kept of every version of a kind, so that readers of a few columns need not decode.
struct Projection {
    group: &'static str,
    plural: &'static str,
    /// Paths that it reads: (top field, second field).
    paths: &'static [(&'static str, &'static str)],
    read: fn(&Object) -> Arc<dyn Any + Send + Sync>,
}

/// The projections of kinds.
const PROJECTIONS: &[Projection] = &[
    Projection { group: "", plural: "pods", paths: PodLite::PATHS, read: |pod| Arc::new(PodLite::of(pod)) },
    Projection { group: "", plural: "services", paths: ServiceLite::PATHS, read: |service| Arc::new(ServiceLite::of(service)) },
    Projection {
        group: "storage.k8s.io",
        plural: "volumeattachments",
        paths: AttachmentLite::PATHS,
        read: |attachment| Arc::new(AttachmentLite::of(attachment)),
    },
];

/// Readers by store prefix, for built-in kinds that have selectable fields or a projection.
fn readers() -> &'static HashMap<String, Reader> {
    static READERS: OnceLock<HashMap<String, Reader>> = OnceLock::new();
    READERS.get_or_init(|| {
        let mut readers = HashMap::new();
        for resource in api::resources::builtin() {
            let kind = api::kinds::find(&resource.group, &resource.kind);
            let projection = PROJECTIONS.iter().find(|one| one.group == &*resource.group && one.plural == &*resource.plural);
            if kind.selectable.is_empty() && projection.is_none() {
                continue;
            }
            let prefix = api::resources::storage_prefix(&resource.group, &resource.plural, false);
            readers.entry(prefix).or_insert_with(|| reader(kind.selectable, projection));
        }
        readers
    })
}

fn reader(selectable: &'static [Selectable], projection: Option<&'static Projection>) -> Reader {
    let mut fields: Vec<(Arc<str>, &'static Selectable)> = selectable.iter().map(|one| (Arc::from(one.field), one)).collect();
    fields.sort_by(|left, right| left.0.cmp(&right.0));
    let mut wanted: Vec<(String, String)> = selectable
        .iter()
        .map(|one| match one.field.split_once('.') {
            Some((top, rest)) => (top.to_owned(), rest.split('.').next().unwrap_or(rest).to_owned()),
            None => (one.field.to_owned(), String::new()),
        })
        .collect();
    let paths = projection.map_or(&[][..], |projection| projection.paths);
    wanted.extend(paths.iter().map(|(top, second)| ((*top).to_owned(), (*second).to_owned())));
    Reader { fields, wanted, projection }
}

impl Reader {
    /// The object with nothing but the wanted fields.
    fn prune(&self, raw: &Bytes) -> Result<Object, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(raw);
        Pruned { reader: self, top: None }.deserialize(&mut deserializer).map(Object)
    }

    fn wants_top(&self, name: &str) -> bool {
        self.wanted.iter().any(|(top, _)| top == name)
    }

    fn wants(&self, top: &str, second: &str) -> bool {
        self.wanted.iter().any(|(one, two)| one == top && two == second)
    }

    fn wants_whole(&self, name: &str) -> bool {
        self.wanted.iter().any(|(top, second)| top == name && second.is_empty())
    }
}

/// Reads one level of an object and skips what nobody wants.
struct Pruned<'r> {
    reader: &'r Reader,
    top: Option<String>,
}

impl<'de> DeserializeSeed<'de> for Pruned<'_> {
    type Value = Map<String, Value>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Pruned<'_> {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = access.next_key::<Cow<'de, str>>()? {
            match &self.top {
                None if self.reader.wants_whole(&name) => {
                    map.insert(name.into_owned(), access.next_value()?);
                }
                None if self.reader.wants_top(&name) => {
                    let inner = access.next_value_seed(Pruned { reader: self.reader, top: Some(name.to_string()) })?;
                    map.insert(name.into_owned(), Value::Object(inner));
                }
                Some(top) if self.reader.wants(top, &name) => {
                    map.insert(name.into_owned(), access.next_value()?);
                }
                _ => {
                    access.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(map)
    }
}
