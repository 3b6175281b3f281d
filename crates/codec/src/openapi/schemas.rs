//! Types of the schema table as published schemas, each with all the types that it uses.

use api::schema::{Field, Form, ListType, Scalar, Shape, Type, builtin};
use serde_json::{Map, Value, json};

use super::descriptions::Descriptions;
use super::{Dialect, names, object};

/// Group, version and kind that stand beside a published type.
pub(super) type Gvk<'a> = (&'a str, &'a str, &'a str);

/// The schemas of one document.
pub(super) struct Schemas {
    dialect: Dialect,
    descriptions: Descriptions,
    all: Map<String, Value>,
}

impl Schemas {
    pub(super) fn new(dialect: Dialect) -> Schemas {
        Schemas { dialect, descriptions: Descriptions::unpack(), all: Map::new() }
    }

    pub(super) fn finish(self) -> Map<String, Value> {
        self.all
    }

    /// Publishes a type of the table with everything below it; returns its name.
    pub(super) fn publish(&mut self, schema: &Type) -> String {
        let name = names::of_type(&schema.name);
        if !self.all.contains_key(&name) {
            self.all.insert(name.clone(), Value::Null);
            let mut published = self.schema(schema, &name);
            if let Some(text) = self.descriptions.of_type(&name) {
                published["description"] = text.into();
            }
            self.all.insert(name.clone(), published);
            // A kind says that it is one also where another only has it as a part.
            if let Some(kind) = api::resources::builtin().iter().find(|one| one.schema.name == schema.name) {
                self.is_kind(&name, (&kind.group, &kind.version, &kind.kind));
            }
        }
        name
    }

    /// Publishes a type of the table by its name.
    pub(super) fn publish_builtin(&mut self, name: &str) -> Option<String> {
        Some(self.publish(builtin(name)?.get()))
    }

    /// Puts a schema of a custom resource under a name.
    pub(super) fn insert(&mut self, name: &str, schema: Value) {
        self.all.insert(name.to_owned(), schema);
    }

    /// The type of patches, which the table does not have.
    pub(super) fn publish_patch(&mut self) -> String {
        let name = names::of_type("apis.meta.v1.Patch");
        let description = "Patch is provided to give a concrete name and type to the Kubernetes PATCH request body.";
        self.all.entry(name.clone()).or_insert_with(|| json!({"type": "object", "description": description}));
        name
    }

    /// Says which kind a published type is.
    pub(super) fn is_kind(&mut self, name: &str, (group, version, kind): Gvk) {
        let entry = json!({"group": group, "kind": kind, "version": version});
        let Some(Value::Object(schema)) = self.all.get_mut(name) else { return };
        let list = schema.entry("x-kubernetes-group-version-kind").or_insert_with(|| json!([]));
        if let Value::Array(list) = list
            && !list.contains(&entry)
        {
            list.push(entry);
        }
    }

    /// A reference to a type; beside other keys v3 has to wrap it.
    pub(super) fn reference(&self, name: &str) -> Value {
        self.dialect.reference(name)
    }

    fn schema(&mut self, schema: &Type, name: &str) -> Value {
        let v3 = self.dialect == Dialect::V3;
        match schema.form {
            Form::Struct => self.fields(schema, name),
            Form::Quantity if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            Form::Quantity | Form::Duration => json!({"type": "string"}),
            Form::Time | Form::MicroTime => json!({"type": "string", "format": "date-time"}),
            Form::IntOrString if v3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            Form::IntOrString => json!({"type": "string", "format": "int-or-string"}),
            Form::RawExtension | Form::FieldsV1 => json!({"type": "object"}),
            Form::Json | Form::SchemaOrBool | Form::SchemaOrArray | Form::SchemaOrStrings | Form::Alias => json!({}),
        }
    }

    fn fields(&mut self, schema: &Type, name: &str) -> Value {
        let properties: Map<String, Value> = schema.fields.iter().map(|field| (field.name.to_string(), self.field(field, name))).collect();
        let required: Vec<Value> = schema.fields.iter().filter(|field| field.required).map(|field| (*field.name).into()).collect();
        let published = object([
            ("type", Some("object".into())),
            ("properties", (!properties.is_empty()).then_some(Value::Object(properties))),
            ("required", (!required.is_empty()).then_some(Value::Array(required))),
            ("x-kubernetes-map-type", schema.atomic.then(|| "atomic".into())),
        ]);
        Value::Object(published)
    }

    fn field(&mut self, field: &Field, holder: &str) -> Value {
        let strategy = match (field.patch_merge, field.patch_retain_keys) {
            (true, true) => Some("merge,retainKeys"),
            (true, false) => Some("merge"),
            (false, true) => Some("retainKeys"),
            (false, false) => None,
        };
        let list_type = match field.list_type {
            ListType::Atomic => None,
            ListType::Set => Some("set"),
            ListType::Map => Some("map"),
        };
        let texts = |list: &[Box<str>]| (!list.is_empty()).then(|| list.iter().map(|text| Value::from(&**text)).collect::<Value>());
        let extra = object([
            ("description", self.descriptions.of_field(holder, &field.name).map(Value::from)),
            ("enum", texts(&field.enumeration)),
            ("x-kubernetes-patch-strategy", strategy.map(Value::from)),
            ("x-kubernetes-patch-merge-key", (!field.merge_key.is_empty()).then(|| (*field.merge_key).into())),
            ("x-kubernetes-list-type", list_type.map(Value::from)),
            ("x-kubernetes-list-map-keys", texts(&field.list_map_keys)),
            ("x-kubernetes-map-type", map_type(field).map(Value::from)),
        ]);
        self.shape(&field.shape, field.pointer, field.default.as_ref(), extra)
    }

    /// A value of a shape with more keys beside its type. Defaults stand in v3 only.
    fn shape(&mut self, shape: &Shape, pointer: bool, default: Option<&Value>, mut extra: Map<String, Value>) -> Value {
        let v3 = self.dialect == Dialect::V3;
        match shape {
            Shape::Scalar(scalar) => {
                let (kind, format) = match scalar {
                    Scalar::String => ("string", None),
                    Scalar::Bool => ("boolean", None),
                    Scalar::Int32 => ("integer", Some("int32")),
                    Scalar::Int64 => ("integer", Some("int64")),
                    Scalar::Float64 => ("number", Some("double")),
                    Scalar::Bytes => ("string", Some("byte")),
                };
                extra.insert("type".into(), kind.into());
                extra.extend(format.map(|format| ("format".to_owned(), format.into())));
                extra.extend(default.filter(|_| v3).map(|default| ("default".to_owned(), default.clone())));
                Value::Object(extra)
            }
            Shape::Ref(type_ref) => {
                let reference = self.publish(type_ref);
                let reference = self.reference(&reference);
                let empty = (type_ref.form == Form::Struct && !pointer).then(|| json!({}));
                if v3 {
                    extra.extend(default.cloned().or(empty).map(|default| ("default".to_owned(), default)));
                }
                match reference {
                    reference if extra.is_empty() => reference,
                    reference if v3 => {
                        extra.insert("allOf".into(), json!([reference]));
                        Value::Object(extra)
                    }
                    mut reference => {
                        reference.as_object_mut().expect("a reference is an object").extend(extra);
                        reference
                    }
                }
            }
            Shape::List(inner) => {
                extra.insert("type".into(), "array".into());
                extra.insert("items".into(), self.element(inner));
                Value::Object(extra)
            }
            Shape::Map(inner) => {
                extra.insert("type".into(), "object".into());
                extra.insert("additionalProperties".into(), self.element(inner));
                Value::Object(extra)
            }
        }
    }

    fn element(&mut self, shape: &Shape) -> Value {
        let default = match shape {
            Shape::Scalar(Scalar::Bytes) => None,
            Shape::Scalar(scalar) => Some(scalar.zero()),
            _ => None,
        };
        self.shape(shape, false, default.as_ref(), Map::new())
    }
}

/// Whether the field says how its fields are owned, other than its type does.
fn map_type(field: &Field) -> Option<&'static str> {
    match field.granular() {
        true => Some("granular"),
        false => field.atomic.then_some("atomic"),
    }
}
