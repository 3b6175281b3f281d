//! From the bytes of a body to an object of the kind that the path names.

use api::{Object, Reason, Status, Type};
use bytes::Bytes;
use codec::{DecodeError, Strictness};
use serde_json::{Map, Value};

use crate::body::RequestBody;
use crate::write::Write;

/// An object as the client sent it, checked against its type, in normal form, not defaulted.
pub struct Decoded(pub(super) Object);

impl Decoded {
    /// The object.
    pub fn into_object(self) -> Object {
        self.0
    }
}

/// What a body must be.
#[derive(Clone, Copy)]
pub struct Expected<'a> {
    /// Type of the object.
    pub schema: &'a Type,
    /// `apiVersion`.
    pub api_version: &'a str,
    /// `kind`.
    pub kind: &'a str,
}

/// Encodings of bodies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encoding {
    /// JSON, also when nothing is said.
    Json,
    /// YAML.
    Yaml,
    /// Protobuf.
    Protobuf,
}

impl Encoding {
    /// Reads a content type.
    ///
    /// # Errors
    /// 415 for one that is not known.
    pub fn of(content_type: &str) -> Result<Encoding, Status> {
        match content_type.split(';').next().unwrap_or("").trim() {
            "" | "application/json" | "*/*" => Ok(Encoding::Json),
            "application/yaml" => Ok(Encoding::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Encoding::Protobuf),
            _ => Err(Status::new(
                Reason::UnsupportedMediaType,
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf",
            )),
        }
    }
}

/// Reads the body of a write.
///
/// # Errors
/// 400 for a body that is no such object, 413 and 415.
pub async fn decode(write: &Write<'_>, body: RequestBody, content_type: &str, expected: Expected<'_>) -> Result<Decoded, Status> {
    let encoding = Encoding::of(content_type)?;
    let bytes = body.collect().await?;
    let (object, problems) = object(&bytes, encoding, expected, write.options.strictness)?;
    write.warn_all(problems);
    Ok(Decoded(object))
}

/// Decodes bytes and checks that they are what the path expects.
///
/// # Errors
/// 400.
pub fn object(bytes: &Bytes, encoding: Encoding, expected: Expected<'_>, strictness: Strictness) -> Result<(Object, Vec<String>), Status> {
    let version = expected.api_version.rsplit('/').next().unwrap_or("");
    let custom = expected.schema.structural.is_some();
    let fail = |error: DecodeError| match error {
        DecodeError::Syntax(_) => unrecognized(bytes, expected.kind, &error),
        DecodeError::Type(ref text) if text.contains("into Go value of type") => {
            let found = text.split_whitespace().nth(3).unwrap_or("value");
            unrecognized(
                bytes,
                expected.kind,
                &format!(
                    "couldn't get version/kind; json parse error: json: cannot unmarshal {found} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
                ),
            )
        }
        other => other.status(version, expected.kind),
    };
    let null = Bytes::from_static(b"{}");
    let raw = bytes;
    let bytes = if encoding == Encoding::Json && bytes.trim_ascii() == b"null" { &null } else { bytes };
    let (mut object, mut problems) = match encoding {
        Encoding::Json => {
            let decoded = codec::json::decode(bytes, expected.schema, strictness).map_err(fail)?;
            (decoded.object, decoded.problems)
        }
        Encoding::Yaml => {
            let decoded = codec::yaml::decode(bytes, expected.schema, strictness).map_err(fail)?;
            (decoded.object, decoded.problems)
        }
        Encoding::Protobuf => {
            let envelope = codec::protobuf::open(bytes).map_err(|error| {
                // Go prints lists of bytes without commas.
                unrecognized(bytes, expected.kind, &error.to_string().replace("107, 56, 115, 0", "107 56 115 0"))
            })?;
            let fail = |error| {
                Status::bad_request(format!("{} in version {version:?} cannot be handled as a {}: {error}", expected.kind, expected.kind))
            };
            (codec::protobuf::decode(&envelope, expected.schema).map_err(fail)?, Vec::new())
        }
    };
    if custom && object.kind().is_empty() {
        let why = format!("Object 'Kind' is missing in '{}'", String::from_utf8_lossy(raw));
        return Err(unrecognized(raw, expected.kind, &why));
    }
    check_kind(&mut object, expected, bytes)?;
    keep_reset(&mut object);
    if custom {
        problems.sort_unstable();
    } else {
        codec::normalize(&mut object, expected.schema);
    }
    Ok((object, problems))
}

/// An empty list of owners asks to forget all of them, as one empty entry does; the list itself would be dropped as nothing.
pub fn keep_reset(object: &mut Object) {
    let owners = object.0.get_mut("metadata").and_then(|metadata| metadata.get_mut("managedFields")).and_then(Value::as_array_mut);
    if let Some(owners) = owners.filter(|owners| owners.is_empty()) {
        owners.push(Value::Object(Map::new()));
    }
}

/// A body that does not even say what it is; the failure shows how it begins.
fn unrecognized(bytes: &[u8], kind: &str, why: &impl std::fmt::Display) -> Status {
    const SHOWN: usize = 30;
    let start = &bytes[..bytes.len().min(SHOWN)];
    let more = if bytes.len() > SHOWN { " ..." } else { "" };
    let summary = match start.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(start)),
        Some(_) => format!("{}{more}", start.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    };
    Status::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why} ({summary})"))
}

/// What the real server says about a kind that nobody registered.
pub fn no_such_kind(api_version: &str, kind: &str) -> String {
    format!("no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/runtime/scheme.go:111\"")
}

/// A body may leave out its kind, but not bear another one.
fn check_kind(object: &mut Object, expected: Expected<'_>, bytes: &Bytes) -> Result<(), Status> {
    let (api_version, kind) = (object.api_version(), object.kind());
    if expected.schema.structural.is_none() && !(api_version.is_empty() && kind.is_empty()) {
        if api_version.split('/').count() > 2 {
            return Err(unrecognized(bytes, expected.kind, &format!("unexpected GroupVersion string: {api_version}")));
        }
        let whole = if api_version.is_empty() { expected.api_version } else { api_version };
        let (group, version) = whole.split_once('/').unwrap_or(("", whole));
        let kind = if kind.is_empty() { expected.kind } else { kind };
        if expected.kind != "DeleteOptions" && (whole != expected.api_version || kind != expected.kind) {
            let why = match api::schema::builtin_kind(group, version, kind) {
                None => Some(no_such_kind(whole, kind)),
                Some(_) if kind == expected.kind => None,
                Some(_) => {
                    let package =
                        expected.api_version.split_once('/').map_or("core", |(group, _)| group.split('.').next().unwrap_or(group));
                    Some(format!("converting ({version}.{kind}) to ({package}.{}): unknown conversion", expected.kind))
                }
            };
            if let Some(why) = why {
                let into = expected.kind;
                return Err(Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {into}: {why}")));
            }
        }
    }
    // Only custom resources have to say their version.
    let custom = expected.schema.structural.is_some();
    if (custom || !api_version.is_empty()) && api_version != expected.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version
        )));
    }
    if custom {
        // Another kind is refused when the object is validated.
        return Ok(());
    }
    if !kind.is_empty() && kind != expected.kind {
        return Err(Status::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: converting ({api_version}.{kind}) to ({}): unknown conversion",
            api_version.rsplit('/').next().unwrap_or(""),
            expected.kind,
            expected.kind
        )));
    }
    object.set_kind(expected.api_version, expected.kind);
    Ok(())
}
