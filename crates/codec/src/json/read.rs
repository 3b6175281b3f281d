//! Reads a JSON text once, building the value and checking every field against the schema on the way.

use api::schema::{Form, Scalar, Shape, Type};
use api::{Quantity, time};
use serde_json::{Map, Value};

use super::scan::{Scanner, number_value};
use super::{DecodeError, Strictness};
use crate::{MAX_DEPTH, octets};

/// Most problems that are reported.
const MAX_PROBLEMS: usize = 100;

/// What a value should be.
#[derive(Clone, Copy)]
pub(super) enum Want<'t> {
    /// Anything.
    Any,
    /// A value of a shape; `custom` says that a wrong type is no error here (validation of custom resources finds it).
    Shape(&'t Shape, bool),
    /// A value of a type.
    Type(&'t Type),
}

/// A step from the root to the value being read.
enum Step<'t> {
    Field(&'t str),
    Key(String),
    Index(usize),
}

pub(super) struct Reader<'b, 't> {
    scanner: Scanner<'b>,
    report: bool,
    path: Vec<Step<'t>>,
    /// Name of the innermost struct, for messages.
    holder: &'t str,
    depth: usize,
    pub(super) problems: Vec<String>,
}

impl<'b, 't> Reader<'b, 't> {
    pub(super) fn new(bytes: &'b [u8], strictness: Strictness) -> Reader<'b, 't> {
        let report = strictness != Strictness::Ignore;
        Reader { scanner: Scanner::new(bytes), report, path: Vec::new(), holder: "", depth: 0, problems: Vec::new() }
    }

    /// The whole document.
    pub(super) fn document(&mut self, want: Want<'t>) -> Result<Value, DecodeError> {
        let value = self.value(want)?;
        self.scanner.finish()?;
        Ok(value)
    }

    fn value(&mut self, want: Want<'t>) -> Result<Value, DecodeError> {
        match self.scanner.peek()? {
            b'{' => self.nested(|reader| reader.object(want)),
            b'[' => self.nested(|reader| reader.array(want)),
            b'"' => {
                let text = self.scanner.string()?;
                self.text(text, want)
            }
            b't' => self.scanner.literal("true").and_then(|()| self.bool(true, want)),
            b'f' => self.scanner.literal("false").and_then(|()| self.bool(false, want)),
            b'n' => self.scanner.literal("null").map(|()| Value::Null),
            b'-' | b'0'..=b'9' => {
                let text = self.scanner.number()?;
                self.number(text, want)
            }
            _ => Err(self.scanner.unexpected("looking for beginning of value")),
        }
    }

    fn nested(&mut self, read: impl FnOnce(&mut Self) -> Result<Value, DecodeError>) -> Result<Value, DecodeError> {
        if self.depth == MAX_DEPTH {
            return Err(DecodeError::TooDeep);
        }
        self.depth += 1;
        self.scanner.take();
        let value = read(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn object(&mut self, want: Want<'t>) -> Result<Value, DecodeError> {
        match want {
            Want::Any => self.map(Want::Any),
            Want::Shape(Shape::Map(inner), custom) => self.map(Want::Shape(inner, custom)),
            Want::Shape(Shape::Ref(type_ref), _) => self.object(Want::Type(type_ref)),
            Want::Shape(_, true) => self.members_of_nothing(),
            Want::Shape(shape, false) => Err(self.mismatch("object", &go_shape(shape))),
            Want::Type(schema) => match schema.form {
                Form::Struct => self.fields(schema),
                Form::RawExtension | Form::FieldsV1 | Form::Json => self.map(Want::Any),
                Form::SchemaOrBool | Form::SchemaOrArray | Form::SchemaOrStrings => self.object(union_schema(schema)),
                Form::Alias => self.object(alias(schema)),
                _ if schema.structural.is_some() => self.map(Want::Any),
                Form::Quantity => Err(quantity_error()),
                Form::IntOrString => Err(bare_mismatch("object", "int32")),
                Form::Time | Form::MicroTime | Form::Duration => Err(bare_mismatch("object", "string")),
            },
        }
    }

    fn array(&mut self, want: Want<'t>) -> Result<Value, DecodeError> {
        let inner = match want {
            Want::Any => Want::Any,
            Want::Shape(Shape::List(inner), custom) => Want::Shape(inner, custom),
            Want::Shape(Shape::Ref(type_ref), _) => return self.array(Want::Type(type_ref)),
            Want::Shape(_, true) => Want::Any,
            Want::Shape(shape, false) => return Err(self.mismatch("array", &go_shape(shape))),
            Want::Type(schema) => match schema.form {
                Form::RawExtension | Form::FieldsV1 | Form::Json => Want::Any,
                Form::SchemaOrArray => Want::Shape(list_item(schema, "JSONSchemas"), false),
                Form::SchemaOrStrings => Want::Shape(list_item(schema, "Property"), false),
                Form::Alias => return self.array(alias(schema)),
                _ if schema.structural.is_some() => Want::Any,
                Form::Quantity => return Err(quantity_error()),
                Form::IntOrString => return Err(bare_mismatch("array", "int32")),
                Form::Time | Form::MicroTime | Form::Duration => return Err(bare_mismatch("array", "string")),
                Form::Struct => return Err(self.mismatch("array", &go_type(schema))),
                Form::SchemaOrBool => return Err(bool_or_schema()),
            },
        };
        let mut items = Vec::new();
        if self.scanner.peek()? == b']' {
            self.scanner.take();
            return Ok(Value::Array(items));
        }
        loop {
            self.path.push(Step::Index(items.len()));
            items.push(self.value(inner)?);
            self.path.pop();
            match self.scanner.peek()? {
                b',' => self.scanner.take(),
                b']' => {
                    self.scanner.take();
                    return Ok(Value::Array(items));
                }
                _ => return Err(self.scanner.unexpected("after array element")),
            }
        }
    }

    /// Reads the members of an object; `each` takes the key and reads the value.
    fn members(&mut self, mut each: impl FnMut(&mut Self, String) -> Result<(), DecodeError>) -> Result<(), DecodeError> {
        if self.scanner.peek()? == b'}' {
            self.scanner.take();
            return Ok(());
        }
        loop {
            if self.scanner.peek()? != b'"' {
                return Err(self.scanner.unexpected("looking for beginning of object key string"));
            }
            let key = self.scanner.string()?;
            if self.scanner.peek()? != b':' {
                return Err(self.scanner.unexpected("after object key"));
            }
            self.scanner.take();
            each(self, key)?;
            match self.scanner.peek()? {
                b',' => self.scanner.take(),
                b'}' => {
                    self.scanner.take();
                    return Ok(());
                }
                _ => return Err(self.scanner.unexpected("after object key:value pair")),
            }
        }
    }

    /// An object where a schema has none: it is kept to be refused, and all its members are unknown.
    fn members_of_nothing(&mut self) -> Result<Value, DecodeError> {
        let value = self.map(Want::Any)?;
        for key in value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.problem("unknown", &key);
        }
        Ok(value)
    }

    fn map(&mut self, inner: Want<'t>) -> Result<Value, DecodeError> {
        let mut map = Map::new();
        self.members(|reader, key| {
            if map.contains_key(&key) {
                reader.problem("duplicate", &key);
            }
            reader.path.push(Step::Key(key));
            let value = reader.value(inner)?;
            if let Some(Step::Key(key)) = reader.path.pop() {
                map.insert(key, value);
            }
            Ok(())
        })?;
        Ok(Value::Object(map))
    }

    fn fields(&mut self, schema: &'t Type) -> Result<Value, DecodeError> {
        let mut map = Map::new();
        let outer = std::mem::replace(&mut self.holder, short_name(schema));
        self.members(|reader, key| {
            if let Some(field) = schema.field(&key) {
                if map.contains_key(&key) {
                    reader.problem("duplicate", &key);
                }
                reader.path.push(Step::Field(&field.name));
                let value = reader.value(Want::Shape(&field.shape, schema.structural.is_some()))?;
                reader.path.pop();
                map.insert(key, value);
            } else if keeps(schema, &key) {
                reader.path.push(Step::Key(key));
                let value = reader.value(Want::Any)?;
                if let Some(Step::Key(key)) = reader.path.pop() {
                    map.insert(key, value);
                }
            } else {
                reader.problem("unknown", &key);
                let report = std::mem::replace(&mut reader.report, false);
                reader.value(Want::Any)?;
                reader.report = report;
            }
            Ok(())
        })?;
        self.holder = outer;
        Ok(Value::Object(map))
    }

    fn text(&self, text: String, want: Want<'t>) -> Result<Value, DecodeError> {
        match want {
            Want::Any | Want::Shape(Shape::Scalar(Scalar::String), _) => Ok(text.into()),
            Want::Shape(Shape::Ref(type_ref), _) => self.text(text, Want::Type(type_ref)),
            Want::Shape(_, true) => Ok(text.into()),
            Want::Shape(Shape::Scalar(Scalar::Bytes), false) => bytes_text(&text),
            Want::Shape(shape, false) => Err(self.mismatch("string", &go_shape(shape))),
            Want::Type(schema) => match schema.form {
                _ if schema.structural.is_some() => Ok(text.into()),
                Form::Quantity => Quantity::canonical(text.trim()).map(Value::String).ok_or_else(quantity_error),
                Form::Time => time::canonical(&text).map(Value::String).ok_or_else(|| time_error(&text)),
                Form::MicroTime => time::canonical_micro(&text).map(Value::String).ok_or_else(|| time_error(&text)),
                Form::Duration | Form::IntOrString | Form::RawExtension | Form::FieldsV1 | Form::Json | Form::Alias => Ok(text.into()),
                Form::SchemaOrBool => Err(bool_or_schema()),
                Form::SchemaOrArray | Form::SchemaOrStrings => Ok(Value::Null),
                Form::Struct => Err(self.mismatch("string", &go_type(schema))),
            },
        }
    }

    fn bool(&self, value: bool, want: Want<'t>) -> Result<Value, DecodeError> {
        match want {
            Want::Any | Want::Shape(Shape::Scalar(Scalar::Bool), _) => Ok(value.into()),
            Want::Shape(Shape::Ref(type_ref), _) => self.bool(value, Want::Type(type_ref)),
            Want::Shape(_, true) => Ok(value.into()),
            Want::Shape(shape, false) => Err(self.mismatch("bool", &go_shape(shape))),
            Want::Type(schema) => match schema.form {
                _ if schema.structural.is_some() => Ok(value.into()),
                Form::RawExtension | Form::FieldsV1 | Form::Json | Form::SchemaOrBool | Form::Alias => Ok(value.into()),
                Form::SchemaOrArray | Form::SchemaOrStrings => Ok(Value::Null),
                Form::Quantity => Err(quantity_error()),
                Form::IntOrString => Err(bare_mismatch("bool", "int32")),
                Form::Time | Form::MicroTime | Form::Duration => Err(bare_mismatch("bool", "string")),
                Form::Struct => Err(self.mismatch("bool", &go_type(schema))),
            },
        }
    }

    fn number(&self, text: &str, want: Want<'t>) -> Result<Value, DecodeError> {
        let any = || number_value(text).ok_or_else(|| bare_mismatch(&format!("number {text}"), "float64"));
        match want {
            Want::Any => any(),
            Want::Shape(Shape::Ref(type_ref), _) => self.number(text, Want::Type(type_ref)),
            Want::Shape(_, true) => any(),
            Want::Shape(Shape::Scalar(Scalar::Int32), false) => match text.parse::<i32>() {
                Ok(integer) => Ok(integer.into()),
                Err(_) => Err(self.mismatch(&format!("number {text}"), "int32")),
            },
            Want::Shape(Shape::Scalar(Scalar::Int64), false) => match text.parse::<i64>() {
                Ok(integer) => Ok(integer.into()),
                Err(_) => Err(self.mismatch(&format!("number {text}"), "int64")),
            },
            Want::Shape(Shape::Scalar(Scalar::Float64), false) => {
                number_value(text).ok_or_else(|| self.mismatch(&format!("number {text}"), "float64"))
            }
            Want::Shape(shape, false) => Err(self.mismatch("number", &go_shape(shape))),
            Want::Type(schema) => match schema.form {
                _ if schema.structural.is_some() => any(),
                Form::Quantity => Quantity::canonical(text).map(Value::String).ok_or_else(quantity_error),
                Form::IntOrString => match text.parse::<i32>() {
                    Ok(integer) => Ok(integer.into()),
                    Err(_) => Err(bare_mismatch(&format!("number {text}"), "int32")),
                },
                Form::RawExtension | Form::FieldsV1 | Form::Json | Form::Alias => any(),
                Form::SchemaOrBool => Err(bool_or_schema()),
                Form::SchemaOrArray | Form::SchemaOrStrings => Ok(Value::Null),
                Form::Time | Form::MicroTime | Form::Duration => Err(bare_mismatch("number", "string")),
                Form::Struct => Err(self.mismatch("number", &go_type(schema))),
            },
        }
    }

    fn problem(&mut self, what: &str, field: &str) {
        if !self.report || self.problems.len() >= MAX_PROBLEMS {
            return;
        }
        let mut path = String::new();
        for step in &self.path {
            match step {
                Step::Index(index) => path.push_str(&format!("[{index}]")),
                Step::Field(name) => push_name(&mut path, name),
                Step::Key(name) => push_name(&mut path, name),
            }
        }
        push_name(&mut path, field);
        let problem = format!("{what} field {path:?}");
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    fn mismatch(&self, what: &str, go: &str) -> DecodeError {
        let fields: Vec<&str> = self.path.iter().filter_map(|step| if let Step::Field(name) = step { Some(*name) } else { None }).collect();
        if fields.is_empty() && self.holder.is_empty() {
            return bare_mismatch(what, go);
        }
        let path = fields.join(".");
        DecodeError::Type(format!("json: cannot unmarshal {what} into Go struct field {}.{path} of type {go}", self.holder))
    }
}

fn push_name(path: &mut String, name: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    path.push_str(name);
}

/// Whether a field that the schema does not list is kept.
fn keeps(schema: &Type, key: &str) -> bool {
    schema.structural.as_deref().is_some_and(|structural| {
        structural.preserve_unknown || structural.embedded_resource && matches!(key, "apiVersion" | "kind" | "metadata")
    })
}

/// The type behind a union such as `JSONSchemaPropsOrBool`.
fn union_schema(schema: &Type) -> Want<'_> {
    match schema.field("Schema") {
        Some(field) => Want::Shape(&field.shape, false),
        None => Want::Any,
    }
}

fn list_item<'t>(schema: &'t Type, name: &str) -> &'t Shape {
    match schema.field(name).map(|field| &field.shape) {
        Some(Shape::List(inner)) => inner,
        _ => unreachable!("the union has a list field of that name"),
    }
}

/// The shape of a custom resource's bare scalar, list or map.
fn alias(schema: &Type) -> Want<'_> {
    match schema.fields.first() {
        Some(field) => Want::Shape(&field.shape, true),
        None => Want::Any,
    }
}

fn short_name(schema: &Type) -> &str {
    schema.name.rsplit('.').next().unwrap_or("")
}

/// A type as Go prints it: `v1.PodSpec`.
fn go_type(schema: &Type) -> String {
    let mut parts = schema.name.rsplit('.');
    let name = parts.next().unwrap_or("");
    match parts.next() {
        Some(package) => format!("{package}.{name}"),
        None => "map[string]interface {}".into(),
    }
}

fn go_shape(shape: &Shape) -> String {
    match shape {
        Shape::Scalar(Scalar::String) => "string".into(),
        Shape::Scalar(Scalar::Bool) => "bool".into(),
        Shape::Scalar(Scalar::Int32) => "int32".into(),
        Shape::Scalar(Scalar::Int64) => "int64".into(),
        Shape::Scalar(Scalar::Float64) => "float64".into(),
        Shape::Scalar(Scalar::Bytes) => "[]uint8".into(),
        Shape::Ref(type_ref) => go_type(type_ref),
        Shape::List(inner) => format!("[]{}", go_shape(inner)),
        Shape::Map(inner) => format!("map[string]{}", go_shape(inner)),
    }
}

fn bare_mismatch(what: &str, go: &str) -> DecodeError {
    DecodeError::Type(format!("json: cannot unmarshal {what} into Go value of type {go}"))
}

fn quantity_error() -> DecodeError {
    DecodeError::Type("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'".into())
}

fn time_error(text: &str) -> DecodeError {
    DecodeError::Type(format!("parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \"2006\""))
}

fn bool_or_schema() -> DecodeError {
    DecodeError::Type("boolean or JSON schema expected".into())
}

/// Base64 in its canonical spelling.
fn bytes_text(text: &str) -> Result<Value, DecodeError> {
    match octets::decode(text) {
        Ok(bytes) => Ok(octets::encode(&bytes).into()),
        Err(at) => Err(DecodeError::Type(format!("illegal base64 data at input byte {at}"))),
    }
}
