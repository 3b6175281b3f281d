//! What stands in JSON for values that nobody set, as Go's structs would write them.
//!
//! An object that does not exist yet is compared with new ones in this form, and decoded objects are completed to it.

use serde_json::{Map, Value};

use super::{Field, Form, Scalar, Shape, Type};

impl Type {
    /// The value of a type with nothing set: required structs and plain fields without `omitempty`.
    pub fn zero(&self) -> Map<String, Value> {
        self.fields.iter().filter_map(|field| Some((field.name.to_string(), field.zero_with(self)?))).collect()
    }

    /// The zero value of one element of this type.
    pub fn zero_value(&self) -> Value {
        match self.form {
            Form::Struct if self.structural.is_none() => Value::Object(self.zero()),
            Form::Struct | Form::FieldsV1 => Value::Object(Map::new()),
            Form::Quantity => "0".into(),
            Form::IntOrString => 0.into(),
            Form::Duration => "0s".into(),
            Form::SchemaOrBool => false.into(),
            Form::Time | Form::MicroTime | Form::RawExtension | Form::Json | Form::SchemaOrArray | Form::SchemaOrStrings | Form::Alias => {
                Value::Null
            }
        }
    }
}

impl Field {
    /// What the field is when it is not set in a value of its type; `None` when JSON leaves it out.
    pub fn zero(&self) -> Option<Value> {
        if self.pointer {
            return (!self.omit_empty).then_some(Value::Null);
        }
        match &self.shape {
            Shape::Ref(type_ref) => Some(type_ref.zero_value()),
            _ if self.omit_empty => None,
            Shape::Scalar(scalar) => Some(scalar.zero()),
            Shape::List(_) | Shape::Map(_) => Some(Value::Null),
        }
    }

    fn zero_with(&self, holder: &Type) -> Option<Value> {
        if self.omits_zero(holder) { None } else { self.zero() }
    }

    /// Go's `omitzero`; `creationTimestamp` is the only field of the API that has it.
    pub fn omits_zero(&self, holder: &Type) -> bool {
        &*self.name == "creationTimestamp" && &*holder.name == "apis.meta.v1.ObjectMeta"
    }
}

impl Scalar {
    /// The zero value of a plain field.
    pub fn zero(self) -> Value {
        match self {
            Scalar::String => "".into(),
            Scalar::Bool => false.into(),
            Scalar::Int32 | Scalar::Int64 | Scalar::Float64 => 0.into(),
            Scalar::Bytes => Value::Null,
        }
    }
}
