//! Types as far as they are known before evaluation. `Dyn` fits everything.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use api::schema::{Form, Scalar, Shape};

/// A static type.
#[derive(Debug, Clone, PartialEq)]
pub enum Type {
    /// Anything; found out when evaluating.
    Dyn,
    /// `null`
    Null,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `uint`
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `google.protobuf.Duration`
    Duration,
    /// A type itself.
    Type,
    /// A list of something.
    List(Box<Type>),
    /// A map from something to something.
    Map(Box<Type>, Box<Type>),
    /// An optional of something.
    Optional(Box<Type>),
    /// A type of a library, such as `kubernetes.Quantity`.
    Library(&'static str),
    /// An object with known fields.
    Object(Arc<ObjectType>),
}

/// An object with known fields.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectType {
    /// Its name.
    pub name: String,
    /// Its fields.
    pub fields: Vec<(String, Type)>,
    /// Whether it may have others.
    pub open: bool,
}

impl Type {
    /// A list.
    pub fn list(item: Type) -> Type {
        Type::List(Box::new(item))
    }

    /// A map with text as keys.
    pub fn map(value: Type) -> Type {
        Type::Map(Box::new(Type::String), Box::new(value))
    }

    /// An object.
    pub fn object(name: &str, fields: Vec<(&str, Type)>) -> Type {
        let fields = fields.into_iter().map(|(name, field)| (name.to_owned(), field)).collect();
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }))
    }

    /// Whether a value of this type can be used where `wanted` is.
    pub fn fits(&self, wanted: &Type) -> bool {
        match (self, wanted) {
            (Type::Dyn, _) | (_, Type::Dyn) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => a.fits(b),
            (Type::Map(k, v), Type::Map(l, w)) => k.fits(l) && v.fits(w),
            (Type::Object(a), Type::Object(b)) => a.name == b.name,
            // Objects and what may be absent can be null.
            (Type::Null, Type::Object(_) | Type::Timestamp | Type::Duration | Type::Library(_)) => true,
            (a, b) => a == b,
        }
    }

    /// Whether it is a number.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self, Type::Int | Type::Uint | Type::Double)
    }
}

/// The static type of values of a type of the schema table, or of a custom resource. A type inside itself is `Dyn`.
pub fn of_schema(schema: &api::Type) -> Type {
    let mut known = HashMap::new();
    schema_type(schema, &mut known)
}

/// Types that were made already; `None` while they are being made.
type Known = HashMap<*const api::Type, Option<Type>>;

fn schema_type(schema: &api::Type, known: &mut Known) -> Type {
    match schema.form {
        Form::Struct => {}
        Form::Quantity => return Type::String,
        Form::Time | Form::MicroTime => return Type::Timestamp,
        Form::Duration => return Type::Duration,
        _ => return Type::Dyn,
    }
    if let Some(structural) = &schema.structural {
        return crate::rules::type_of(&structural.schema);
    }
    match known.get(&std::ptr::from_ref(schema)) {
        Some(Some(made)) => return made.clone(),
        Some(None) => return Type::Dyn,
        None => {}
    }
    known.insert(schema, None);
    let fields = schema.fields.iter().map(|field| (field.name.to_string(), shape_type(&field.shape, known))).collect();
    let name = schema.name.to_string();
    let made = Type::Object(Arc::new(ObjectType { name, fields, open: false }));
    known.insert(schema, Some(made.clone()));
    made
}

fn shape_type(shape: &Shape, known: &mut Known) -> Type {
    match shape {
        Shape::Scalar(Scalar::String) => Type::String,
        Shape::Scalar(Scalar::Bool) => Type::Bool,
        Shape::Scalar(Scalar::Int32 | Scalar::Int64) => Type::Int,
        Shape::Scalar(Scalar::Float64) => Type::Double,
        Shape::Scalar(Scalar::Bytes) => Type::Bytes,
        Shape::Ref(type_ref) => schema_type(type_ref, known),
        Shape::List(inner) => Type::list(shape_type(inner, known)),
        Shape::Map(inner) => Type::map(shape_type(inner, known)),
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::Dyn => "dyn",
            Type::Null => "null",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Duration => "google.protobuf.Duration",
            Type::Type => "type",
            Type::List(item) => return write!(f, "list({item})"),
            Type::Map(key, value) => return write!(f, "map({key}, {value})"),
            Type::Optional(inner) => return write!(f, "optional_type({inner})"),
            Type::Library(name) => name,
            Type::Object(object) => &object.name,
        })
    }
}
