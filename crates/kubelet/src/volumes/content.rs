//! Files that come from objects: which keys of a ConfigMap or Secret become which files with which mode.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::KeyToPath;
use serde_json::Value;
use store::Entry;

/// A file of a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Content.
    pub data: Vec<u8>,
    /// Mode bits.
    pub mode: u32,
    /// Owner instead of root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<String, File>;

/// The data of a ConfigMap (`data`, `binaryData`) or Secret (`data`), decoded.
pub fn data_of(entry: &Entry) -> BTreeMap<String, Vec<u8>> {
    let object: Value = serde_json::from_slice(&entry.bytes).unwrap_or(Value::Null);
    let secret = entry.key.kind.as_str().ends_with("/secrets/");
    let decoded = |value: &Value| value.as_str().and_then(|text| STANDARD.decode(text).ok()).unwrap_or_default();
    let mut data = BTreeMap::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let bytes = if secret { decoded(value) } else { value.as_str().unwrap_or("").as_bytes().to_vec() };
        data.insert(key.clone(), bytes);
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        data.insert(key.clone(), decoded(value));
    }
    data
}

/// Chooses and names files. Without items every key is a file.
///
/// # Errors
/// An item names a key that is not there and is not optional.
pub fn select(data: &BTreeMap<String, Vec<u8>>, items: Option<&[KeyToPath]>, default_mode: i32, optional: bool) -> Result<Files, String> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: mode as u32, owner: None };
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        return Ok(data.iter().map(|(key, bytes)| (key.clone(), file(bytes, default_mode))).collect());
    };
    let mut files = Files::new();
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => {
                files.insert(item.path.clone(), file(bytes, item.mode.unwrap_or(default_mode)));
            }
            None if optional => {}
            None => return Err(format!("references non-existent config key: {}", item.key)),
        }
    }
    Ok(files)
}
