//! From the bytes of a body to an object of the kind that the path names.

use api::{Object, Reason, Status, Type};
use bytes::Bytes;
use codec::{DecodeError, Strictness};

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
    let fail = |error: DecodeError| error.status(version, expected.kind);
    let (mut object, problems) = match encoding {
        Encoding::Json => {
            let decoded = codec::json::decode(bytes, expected.schema, strictness).map_err(fail)?;
            (decoded.object, decoded.problems)
        }
        Encoding::Yaml => {
            let decoded = codec::yaml::decode(bytes, expected.schema, strictness).map_err(fail)?;
            (decoded.object, decoded.problems)
        }
        Encoding::Protobuf => {
            let fail = |error| {
                Status::bad_request(format!("{} in version {version:?} cannot be handled as a {}: {error}", expected.kind, expected.kind))
            };
            let envelope = codec::protobuf::open(bytes).map_err(fail)?;
            (codec::protobuf::decode(&envelope, expected.schema).map_err(fail)?, Vec::new())
        }
    };
    check_kind(&mut object, expected)?;
    if expected.schema.structural.is_none() {
        codec::normalize(&mut object, expected.schema);
    }
    Ok((object, problems))
}

/// A body may leave out its kind, but not bear another one.
fn check_kind(object: &mut Object, expected: Expected<'_>) -> Result<(), Status> {
    let (api_version, kind) = (object.api_version(), object.kind());
    if !api_version.is_empty() && api_version != expected.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            expected.api_version
        )));
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
