//! Fills in what a client may leave out.

use api::{Form, Object};

use super::decode::Decoded;
use crate::catalog::{Served, defaulting};

/// An object with all its defaults.
pub struct Defaulted(pub(super) Object);

impl Defaulted {
    /// The object.
    pub fn object(&self) -> &Object {
        &self.0
    }

    /// The object itself.
    pub fn into_object(self) -> Object {
        self.0
    }

    /// The object, to be changed by the strategy of a subresource.
    pub fn object_mut(&mut self) -> &mut Object {
        &mut self.0
    }
}

/// Defaults a decoded object.
pub fn default(served: &Served, decoded: Decoded) -> Defaulted {
    let mut object = decoded.0;
    again(served, &mut object);
    Defaulted(object)
}

/// Defaults an object that was patched, or changed by admission.
pub fn of_object(served: &Served, mut object: Object) -> Defaulted {
    again(served, &mut object);
    Defaulted(object)
}

pub(super) fn again(served: &Served, object: &mut Object) {
    match &served.custom {
        Some(custom) if custom.has_defaults && object.kind() == &*served.def.kind => {
            defaulting::default(&mut object.0, served.raw_schema());
        }
        Some(_) => {}
        None => {
            let schema = served.schema();
            if schema.form == Form::Struct {
                api::types::default(&mut object.0, schema);
                codec::normalize(object, schema);
            }
        }
    }
}
