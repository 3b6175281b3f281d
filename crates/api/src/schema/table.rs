//! Reads the generated table once, on first use.
//!
//! One line a fact, tab-separated, so that a diff of the table is a diff of the API:
//! `K group/version/Kind type`, `T name atomic`, `F name number embedded shape flags default mergekey listkeys enum`.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::{Field, Form, ListType, Scalar, Shape, Type, TypeRef};

/// The kinds that are resources or parts of them, then those that only travel: reviews for webhooks, discovery.
static TEXT: &str = concat!(include_str!("table.txt"), include_str!("wire.txt"));

/// The parsed table.
pub(super) struct Table {
    types: Vec<Type>,
    by_name: HashMap<&'static str, u32>,
    kinds: HashMap<&'static str, u32>,
}

/// The built-in table.
pub(super) fn builtin() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::parse(TEXT))
}

impl Table {
    pub(super) fn at(&self, index: u32) -> &Type {
        &self.types[index as usize]
    }

    pub(super) fn find(&self, name: &str) -> Option<TypeRef> {
        self.by_name.get(name).map(|index| TypeRef::Builtin(*index))
    }

    pub(super) fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<TypeRef> {
        let key = format!("{group}/{version}/{kind}");
        self.kinds.get(key.as_str()).map(|index| TypeRef::Builtin(*index))
    }

    pub(super) fn all(&'static self) -> impl Iterator<Item = (&'static str, TypeRef)> {
        self.types.iter().enumerate().map(|(index, entry)| (&*entry.name, TypeRef::Builtin(index as u32)))
    }

    fn parse(text: &'static str) -> Table {
        let mut by_name = HashMap::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("T\t") {
                let name = rest.split('\t').next().expect("a type line has a name");
                by_name.insert(name, by_name.len() as u32);
            }
        }
        let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
        let mut kinds = HashMap::new();
        for line in text.lines() {
            let mut columns = line.split('\t');
            match columns.next() {
                Some("T") => {
                    let name = columns.next().expect("a type line has a name");
                    types.push(Type {
                        name: name.into(),
                        form: form(name),
                        fields: Vec::new(),
                        atomic: columns.next() == Some("atomic"),
                        structural: None,
                    });
                }
                Some("F") => {
                    let field = field(&mut columns, &by_name);
                    types.last_mut().expect("fields follow their type").fields.push(field);
                }
                Some("K") => {
                    let kind = columns.next().expect("a kind line has a kind");
                    let name = columns.next().expect("a kind line has a type");
                    kinds.insert(kind, by_name[name]);
                }
                _ => {}
            }
        }
        Table { types, by_name, kinds }
    }
}

fn form(name: &str) -> Form {
    match name {
        "api.resource.Quantity" => Form::Quantity,
        "apis.meta.v1.Time" => Form::Time,
        "apis.meta.v1.MicroTime" => Form::MicroTime,
        "apis.meta.v1.Duration" => Form::Duration,
        "util.intstr.IntOrString" => Form::IntOrString,
        "runtime.RawExtension" => Form::RawExtension,
        "apis.meta.v1.FieldsV1" => Form::FieldsV1,
        name if name.ends_with(".JSON") && name.starts_with("apiextensions") => Form::Json,
        name if name.ends_with(".JSONSchemaPropsOrBool") => Form::SchemaOrBool,
        name if name.ends_with(".JSONSchemaPropsOrArray") => Form::SchemaOrArray,
        name if name.ends_with(".JSONSchemaPropsOrStringArray") => Form::SchemaOrStrings,
        _ => Form::Struct,
    }
}

fn field<'a>(columns: &mut impl Iterator<Item = &'a str>, names: &HashMap<&str, u32>) -> Field {
    let mut next = || columns.next().expect("a field line has nine columns");
    let name = next();
    let number = next().parse().expect("the number is decimal");
    let embedded = next().split(',').filter(|part| !part.is_empty()).map(|part| part.parse().expect("the number is decimal")).collect();
    let shape = shape(next(), names);
    let flags = next();
    let default = next();
    let merge_key = next();
    let list = |text: &str| text.split(',').filter(|part| !part.is_empty()).map(Box::from).collect::<Vec<Box<str>>>();
    let list_map_keys = list(next());
    let enumeration = list(next());
    let has = |flag: char| flags.contains(flag);
    Field {
        name: name.into(),
        number,
        embedded,
        shape,
        omit_empty: has('o'),
        pointer: has('p'),
        required: has('r'),
        list_type: if has('m') {
            ListType::Map
        } else if has('s') {
            ListType::Set
        } else {
            ListType::Atomic
        },
        list_map_keys,
        patch_merge: has('M'),
        patch_retain_keys: has('R'),
        merge_key: merge_key.into(),
        atomic: has('a'),
        default: (!default.is_empty()).then(|| serde_json::from_str(default).expect("a default is JSON")),
        enumeration,
    }
}

fn shape(text: &str, names: &HashMap<&str, u32>) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        return Shape::List(Box::new(shape(inner, names)));
    }
    if let Some(inner) = text.strip_prefix("map:") {
        return Shape::Map(Box::new(shape(inner, names)));
    }
    Shape::Scalar(match text {
        "string" => Scalar::String,
        "bool" => Scalar::Bool,
        "int32" => Scalar::Int32,
        "int64" => Scalar::Int64,
        "float64" => Scalar::Float64,
        "bytes" => Scalar::Bytes,
        name => return Shape::Ref(TypeRef::Builtin(names[name])),
    })
}
