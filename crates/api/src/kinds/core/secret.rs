//! Secrets: plain text becomes encoded data, and known types must have their keys.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::config_map::{decoded_len, validate_sealed};
use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, Selectable};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const MAX_SIZE: usize = 1024 * 1024;
const ACCOUNT: &str = "kubernetes.io/service-account.name";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update,
        selectable: &[Selectable { field: "type", value: |secret| secret.text_at(&["type"]).into() }],
        columns: Some(columns),
        warnings,
        ..Kind::plain("", "Secret")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Secret") }
}

fn default(secret: &mut Map<String, Value>) {
    secret.default_text("type", "Opaque");
    if let Some(Value::Object(plain)) = secret.remove("stringData") {
        let data = secret.object_made("data");
        for (key, value) in plain {
            data.insert(key, STANDARD.encode(value.as_str().unwrap_or("")).into());
        }
        if data.is_empty() {
            secret.remove("data");
        }
    }
}

fn validate(secret: &Object, causes: &mut Causes) {
    let (data, path) = (secret.map("data"), Path::root("data"));
    for key in data.keys() {
        causes.each(&path.key(key), key, names::config_key_errors(key));
    }
    if data.values().map(decoded_len).sum::<usize>() > MAX_SIZE {
        causes.too_long("data", MAX_SIZE);
    }
    let mut need = |keys: &[&str]| {
        for key in keys.iter().filter(|key| !data.contains_key(**key)) {
            causes.needed(&path.key(key), "");
        }
    };
    match secret.text("type") {
        "kubernetes.io/service-account-token" if secret.annotation(ACCOUNT).unwrap_or("").is_empty() => {
            causes.required(&format!("metadata.annotations[{ACCOUNT}]"), "");
        }
        "kubernetes.io/dockercfg" => json(data, ".dockercfg", causes),
        "kubernetes.io/dockerconfigjson" => json(data, ".dockerconfigjson", causes),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => need(&["username", "password"]),
        "kubernetes.io/ssh-auth" => need(&["ssh-privatekey"]),
        "kubernetes.io/tls" => need(&["tls.crt", "tls.key"]),
        _ => {}
    }
}

fn json(data: &Map<String, Value>, key: &str, causes: &mut Causes) {
    let path = Path::root("data");
    let Some(text) = data.get(key).and_then(Value::as_str) else {
        causes.needed(&path.key(key), "");
        return;
    };
    let bytes = STANDARD.decode(text).unwrap_or_default();
    if serde_json::from_slice::<Map<String, Value>>(&bytes).is_err() {
        let first = String::from_utf8_lossy(&bytes).trim_start().chars().next();
        let error = match first {
            Some('{') | None => "unexpected end of JSON input".to_owned(),
            Some(first) => format!("invalid character '{first}' looking for beginning of value"),
        };
        causes.bad(&path.key(key), "<secret contents redacted>", &error);
    }
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    check::immutable(new.get("type"), old.get("type"), &Path::root("type"), causes);
    validate_sealed(&new.0, &old.0, &["data"], causes);
    validate(new, causes);
}

fn warnings(secret: &Object) -> Vec<String> {
    if secret.text("type") != "kubernetes.io/tls" {
        return Vec::new();
    }
    let has_pem = |key: &str| {
        STANDARD.decode(secret.map("data").text(key)).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains("-----BEGIN "))
    };
    let parts = [("tls.crt", "certificate"), ("tls.key", "key")];
    let missing = parts.iter().find(|(key, _)| !has_pem(key));
    missing.map(|(_, word)| format!("tls: failed to find any PEM data in {word} input")).into_iter().collect()
}

fn columns(secret: &Object, clock: &Clock) -> Vec<Value> {
    vec![secret.name().into(), secret.text("type").into(), secret.map("data").len().into(), print::age(secret, clock)]
}
