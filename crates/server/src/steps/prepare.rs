//! Names, identity and the parts that a client may not set, before an object is validated.

use api::kinds::Generation;
use api::kinds::certificates::certificate_signing_request;
use api::{Object, Status};
use rand::Rng;
use serde_json::Value;

use super::default::Defaulted;
use super::mutate::Mutated;
use crate::catalog::Served;
use crate::write::Write;

/// An object ready to be validated: strategy, identity and generation done.
pub struct Prepared(pub(super) Object);

impl Prepared {
    /// The object, for the parts that the server allocates.
    pub fn object_mut(&mut self) -> &mut Object {
        &mut self.0
    }
}

/// Metadata that only the server sets.
const SYSTEM_FIELDS: [&str; 6] = ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"];

/// Characters of generated names: no vowels, so that no words come out.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// Longest generated name.
const MAX_GENERATED: usize = 63;

/// Puts a new object into its namespace and gives it a name, before admission sees it.
///
/// # Errors
/// 400 for a namespace that is not the path's, 500 for a preset resource version.
pub fn place(write: &Write<'_>, defaulted: &mut Defaulted) -> Result<(), Status> {
    let object = &mut defaulted.0;
    if !object.resource_version().is_empty() && object.resource_version() != "0" {
        return Err(crate::failure::unexplained("resourceVersion should not be set on objects to be created"));
    }
    let metadata = object.metadata_mut();
    // A generation that the kind does not count is the client's.
    for field in SYSTEM_FIELDS.into_iter().filter(|field| *field != "generation") {
        metadata.remove(field);
    }
    metadata.remove("resourceVersion");
    namespace(write, object)?;
    if object.name().is_empty() && !object.generate_name().is_empty() {
        let name = generate(object.generate_name());
        object.set_meta("name", name);
    }
    Ok(())
}

/// Of owners that a request names twice one stays, and the client is told.
pub fn once_each_owner(write: &Write<'_>, object: &mut Object) {
    let Some(owners) = object.metadata_mut().get_mut("ownerReferences").and_then(Value::as_array_mut) else { return };
    let (mut kept, mut twice): (Vec<Value>, Vec<String>) = (Vec::new(), Vec::new());
    for owner in owners.drain(..) {
        if kept.contains(&owner) {
            twice.push(owner["uid"].as_str().unwrap_or("").to_owned());
        } else {
            kept.push(owner);
        }
    }
    *owners = kept;
    if !twice.is_empty() {
        write.warn(format!(
            ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
            twice.join(", ")
        ));
    }
}

/// The namespace of an object is that of its path.
///
/// # Errors
/// 400 where it says otherwise.
pub fn namespace(write: &Write<'_>, object: &mut Object) -> Result<(), Status> {
    let wanted = write.namespace();
    let own = object.namespace();
    if !own.is_empty() && own != wanted {
        return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    if wanted.is_empty() {
        object.metadata_mut().remove("namespace");
    } else if own.is_empty() {
        object.set_meta("namespace", wanted.to_owned());
    }
    Ok(())
}

/// A name from its beginning.
pub fn generate(base: &str) -> String {
    let mut rng = rand::rng();
    let room = MAX_GENERATED - 5;
    let mut end = base.len().min(room);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    name.extend((0..5).map(|_| ALPHABET[rng.random_range(0..ALPHABET.len())] as char));
    name
}

/// Prepares a new object.
pub fn create(write: &Write<'_>, mutated: Mutated) -> Prepared {
    let served = write.served;
    let mut object = mutated.0;
    object.set_meta("uid", uuid::Uuid::new_v4().to_string());
    object.set_meta("creationTimestamp", write.options.now.clone());
    if has_generation(served) {
        object.set_meta("generation", 1);
    }
    if served.custom.is_some() {
        if served.has_status() {
            object.0.remove("status");
        }
    } else {
        (served.kind.prepare_create)(&mut object);
    }
    if is_certificate_request(served) {
        let user = write.user();
        let extra = serde_json::to_value(&user.extra).ok().and_then(|extra| extra.as_object().cloned()).unwrap_or_default();
        certificate_signing_request::set_requestor(&mut object, &user.name, &user.uid, &user.groups, extra);
    }
    Prepared(object)
}

fn is_certificate_request(served: &Served) -> bool {
    served.kind.group == "certificates.k8s.io" && served.kind.kind == "CertificateSigningRequest"
}

/// Whether the kind counts its generations.
pub fn has_generation(served: &Served) -> bool {
    served.custom.is_some() || served.kind.generation != Generation::None
}

/// Prepares a changed object: identity and what the request may not touch come from the old one.
pub fn update(write: &Write<'_>, mutated: Mutated, old: &Object) -> Prepared {
    let served = write.served;
    let mut object = mutated.0;
    keep_identity(&mut object, old);
    let status = write.subresource() == "status";
    match (&served.custom, status) {
        (Some(_), true) => custom_status(&mut object, old),
        (Some(_), false) if served.has_status() => api::kinds::keep_status(&mut object, old),
        (Some(_), false) => {}
        (None, true) => {
            (served.kind.prepare_status_update)(&mut object, old);
            if is_certificate_request(served) {
                certificate_signing_request::stamp_conditions(&mut object, old, &write.options.now);
            }
        }
        (None, false) => (served.kind.prepare_update)(&mut object, old),
    }
    if has_generation(served) {
        let before = old.generation();
        let counts = !status && (spec_differs(&object, old, served) || counted_metadata_differs(&object, old, served));
        object.set_meta("generation", if counts { before + 1 } else { before });
    }
    Prepared(object)
}

/// Prepares an object of which a subresource changed its part.
pub fn part(write: &Write<'_>, mutated: Mutated, old: &Object) -> Prepared {
    let mut object = mutated.0;
    keep_identity(&mut object, old);
    if has_generation(write.served) {
        // Being bound to a node is no change of what is wanted: the real server does not count it.
        let bound = old.text_at(&["spec", "nodeName"]) != object.text_at(&["spec", "nodeName"]);
        let counts = !bound && spec_differs(&object, old, write.served);
        object.set_meta("generation", old.generation() + i64::from(counts));
    }
    Prepared(object)
}

/// Identity and deletion are the server's.
pub fn keep_identity(object: &mut Object, old: &Object) {
    let kept = old.metadata();
    let metadata = object.metadata_mut();
    for field in SYSTEM_FIELDS.into_iter().chain(["name", "namespace", "generateName"]) {
        match kept.and_then(|kept| kept.get(field)) {
            Some(value) if metadata.get(field) == Some(value) => {}
            Some(value) => {
                metadata.insert(field.into(), value.clone());
            }
            None if field == "generateName" => {}
            None => {
                metadata.remove(field);
            }
        }
    }
}

/// Through `status` a custom resource keeps everything but its status and managed fields.
fn custom_status(object: &mut Object, old: &Object) {
    let status = object.0.remove("status");
    let managed = object.metadata_mut().remove("managedFields");
    let (api_version, kind) = (object.api_version().to_owned(), object.kind().to_owned());
    *object = old.clone();
    object.set_kind(&api_version, &kind);
    if let Some(managed) = managed {
        object.set_meta("managedFields", managed);
    }
    match status {
        Some(status) => object.0.insert("status".into(), status),
        None => object.0.remove("status"),
    };
}

/// Whether the part of the metadata changed that the kind counts as wanted.
fn counted_metadata_differs(new: &Object, old: &Object, served: &Served) -> bool {
    let part = match served.kind.generation {
        _ if served.custom.is_some() => return false,
        Generation::SpecAndAnnotations => "annotations",
        Generation::SpecAndLabels => "labels",
        Generation::Spec | Generation::None => return false,
    };
    let of = |object: &Object| object.metadata().and_then(|meta| meta.get(part)).and_then(Value::as_object).cloned().unwrap_or_default();
    of(new) != of(old)
}

/// Whether anything outside metadata and status changed.
fn spec_differs(new: &Object, old: &Object, served: &Served) -> bool {
    let status_counts = served.custom.is_some() && !served.has_status();
    let counts = |name: &str| name != "metadata" && name != "apiVersion" && name != "kind" && (status_counts || name != "status");
    let differs = |name: &String| new.0.get(name).unwrap_or(&Value::Null) != old.0.get(name).unwrap_or(&Value::Null);
    new.0.keys().chain(old.0.keys().filter(|name| !new.0.contains_key(*name))).any(|name| counts(name) && differs(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let long = "x".repeat(100);
        assert_eq!(generate(&long).len(), 63);
        assert_eq!(generate("web-").len(), 9);
        assert_ne!(generate("web-"), generate("web-"));
    }
}
