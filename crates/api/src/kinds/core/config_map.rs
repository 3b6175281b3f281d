//! Config maps: keys that are file names, and data that may be sealed.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::Check;
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

/// Most bytes that the values may have together.
const MAX_SIZE: usize = 1024 * 1024;

/// The kind.
pub const fn kind() -> Kind {
    Kind { validate, validate_update, columns: Some(columns), ..Kind::plain("", "ConfigMap") }
}

fn validate(object: &Object, causes: &mut Causes) {
    let (data, binary) = (object.map("data"), object.map("binaryData"));
    let (data_path, binary_path) = (Path::root("data"), Path::root("binaryData"));
    let mut size = 0;
    for (key, value) in data {
        causes.each(&data_path.key(key), key, names::config_key_errors(key));
        if binary.contains_key(key) {
            causes.bad(&data_path.key(key), key.as_str(), "duplicate of key present in binaryData");
        }
        size += value.as_str().map_or(0, str::len);
    }
    for (key, value) in binary {
        causes.each(&binary_path.key(key), key, names::config_key_errors(key));
        size += decoded_len(value);
    }
    if size > MAX_SIZE {
        causes.too_long("", MAX_SIZE);
    }
}

/// Bytes behind base64 text.
pub(super) fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("");
    text.trim_end_matches('=').len() * 3 / 4
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    validate_sealed(&new.0, &old.0, &["data", "binaryData"], causes);
    validate(new, causes);
}

/// Once `immutable` is set, neither it nor the data may change.
pub(super) fn validate_sealed(new: &Map<String, Value>, old: &Map<String, Value>, fields: &[&str], causes: &mut Causes) {
    if !old.flag("immutable") {
        return;
    }
    const TEXT: &str = "field is immutable when `immutable` is set";
    if !new.flag("immutable") {
        causes.forbidden("immutable", TEXT);
    }
    for field in fields {
        if new.map(field) != old.map(field) {
            causes.forbidden(field, TEXT);
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let count = object.map("data").len() + object.map("binaryData").len();
    vec![object.name().into(), count.into(), print::age(object, clock)]
}
