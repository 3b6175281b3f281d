//! What types and fields mean, in the words of the `k8s-openapi` dependency.

use std::collections::HashMap;
use std::io::Read;

static PACKED: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.z"));

/// The unpacked words; made for one document and dropped with it, so that they cost no memory in between.
pub(super) struct Descriptions {
    texts: HashMap<String, String>,
}

impl Descriptions {
    pub(super) fn unpack() -> Descriptions {
        let mut text = String::new();
        flate2::read::ZlibDecoder::new(PACKED).read_to_string(&mut text).expect("what the build packed can be unpacked");
        let texts = text.lines().filter_map(|line| line.split_once('\t')).map(|(name, text)| (name.to_owned(), text.replace("\\n", "\n")));
        Descriptions { texts: texts.filter(|(_, text)| !text.is_empty()).collect() }
    }

    /// Of a type, by its published name.
    pub(super) fn of_type(&self, name: &str) -> Option<&str> {
        self.texts.get(name).map(String::as_str)
    }

    /// Of a field.
    pub(super) fn of_field(&self, name: &str, field: &str) -> Option<&str> {
        let known = self.texts.get(&format!("{name}/{field}")).map(String::as_str);
        known.or(match field {
            "apiVersion" => Some(API_VERSION),
            "kind" => Some(KIND),
            _ => None,
        })
    }
}

pub(super) const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
pub(super) const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";
