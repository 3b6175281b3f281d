//! Versions of a definition as the real server's own structs print them: messages show them so when a set of versions is
//! refused as a whole.

use serde_json::{Map, Value};

use crate::read::{Read, as_map};

/// How a field of a schema is printed.
#[derive(Clone, Copy)]
enum Print {
    /// Text, empty where absent.
    Text,
    /// False where absent.
    Flag,
    /// As it is, null where absent.
    Plain,
    /// A schema.
    Schema,
    /// A list of schemas.
    Schemas,
    /// Schemas by name.
    Named,
    /// A schema or a list of them.
    SchemaOrList,
    /// A schema or whether anything is allowed.
    SchemaOrFlag,
    /// Rules.
    Rules,
}

const SCHEMA: [(&str, &str, Print); 43] = [
    ("ID", "id", Print::Text),
    ("Schema", "$schema", Print::Text),
    ("Ref", "$ref", Print::Plain),
    ("Description", "description", Print::Text),
    ("Type", "type", Print::Text),
    ("Nullable", "nullable", Print::Flag),
    ("Format", "format", Print::Text),
    ("Title", "title", Print::Text),
    ("Default", "default", Print::Plain),
    ("Maximum", "maximum", Print::Plain),
    ("ExclusiveMaximum", "exclusiveMaximum", Print::Flag),
    ("Minimum", "minimum", Print::Plain),
    ("ExclusiveMinimum", "exclusiveMinimum", Print::Flag),
    ("MaxLength", "maxLength", Print::Plain),
    ("MinLength", "minLength", Print::Plain),
    ("Pattern", "pattern", Print::Text),
    ("MaxItems", "maxItems", Print::Plain),
    ("MinItems", "minItems", Print::Plain),
    ("UniqueItems", "uniqueItems", Print::Flag),
    ("MultipleOf", "multipleOf", Print::Plain),
    ("Enum", "enum", Print::Plain),
    ("MaxProperties", "maxProperties", Print::Plain),
    ("MinProperties", "minProperties", Print::Plain),
    ("Required", "required", Print::Plain),
    ("Items", "items", Print::SchemaOrList),
    ("AllOf", "allOf", Print::Schemas),
    ("OneOf", "oneOf", Print::Schemas),
    ("AnyOf", "anyOf", Print::Schemas),
    ("Not", "not", Print::Schema),
    ("Properties", "properties", Print::Named),
    ("AdditionalProperties", "additionalProperties", Print::SchemaOrFlag),
    ("PatternProperties", "patternProperties", Print::Named),
    ("Dependencies", "dependencies", Print::Plain),
    ("AdditionalItems", "additionalItems", Print::SchemaOrFlag),
    ("Definitions", "definitions", Print::Named),
    ("ExternalDocs", "externalDocs", Print::Plain),
    ("Example", "example", Print::Plain),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields", Print::Plain),
    ("XEmbeddedResource", "x-kubernetes-embedded-resource", Print::Flag),
    ("XIntOrString", "x-kubernetes-int-or-string", Print::Flag),
    ("XListMapKeys", "x-kubernetes-list-map-keys", Print::Plain),
    ("XListType", "x-kubernetes-list-type", Print::Plain),
    ("XMapType", "x-kubernetes-map-type", Print::Plain),
];

/// All versions. What they `share` stands elsewhere and is not printed with them.
pub fn versions(spec: &Map<String, Value>, share: bool) -> String {
    list(&spec.maps("versions").map(|one| version(one, share)).collect::<Vec<_>>())
}

fn version(version: &Map<String, Value>, share: bool) -> String {
    let own = |field: &str, print: fn(&Value) -> String| match version.some(field).filter(|_| !share) {
        Some(value) => print(value),
        None => "null".to_owned(),
    };
    object(&[
        ("Name", Value::from(version.text("name")).to_string()),
        ("Served", version.flag("served").to_string()),
        ("Storage", version.flag("storage").to_string()),
        ("Deprecated", version.flag("deprecated").to_string()),
        ("DeprecationWarning", plain(version, "deprecationWarning")),
        ("Schema", own("schema", |value| object(&[("OpenAPIV3Schema", schema_or_null(value.get("openAPIV3Schema")))]))),
        ("Subresources", own("subresources", |value| subresources(as_map(value)))),
        ("AdditionalPrinterColumns", own("additionalPrinterColumns", |value| each(value, column))),
        ("SelectableFields", own("selectableFields", |value| each(value, |one| object(&[("JSONPath", text(one, "jsonPath"))])))),
    ])
}

fn subresources(all: &Map<String, Value>) -> String {
    let scale = all.object("scale").map_or_else(
        || "null".to_owned(),
        |scale| {
            object(&[
                ("SpecReplicasPath", text(scale, "specReplicasPath")),
                ("StatusReplicasPath", text(scale, "statusReplicasPath")),
                ("LabelSelectorPath", plain(scale, "labelSelectorPath")),
            ])
        },
    );
    object(&[("Status", plain(all, "status")), ("Scale", scale)])
}

fn column(one: &Map<String, Value>) -> String {
    object(&[
        ("Name", text(one, "name")),
        ("Type", text(one, "type")),
        ("Format", text(one, "format")),
        ("Description", text(one, "description")),
        ("Priority", one.int("priority").unwrap_or(0).to_string()),
        ("JSONPath", text(one, "jsonPath")),
    ])
}

fn schema_or_null(schema: Option<&Value>) -> String {
    schema.and_then(Value::as_object).map_or_else(|| "null".to_owned(), schema_text)
}

fn schema_text(schema: &Map<String, Value>) -> String {
    let rules = ("XValidations", "x-kubernetes-validations", Print::Rules);
    let fields: Vec<(&str, String)> =
        SCHEMA.iter().chain([&rules]).map(|(shown, name, print)| (*shown, field(schema, name, *print))).collect();
    object(&fields)
}

fn field(schema: &Map<String, Value>, name: &str, print: Print) -> String {
    let value = schema.some(name);
    match (print, value) {
        (Print::Text, _) => text(schema, name),
        (Print::Flag, _) => schema.flag(name).to_string(),
        (_, None) => "null".to_owned(),
        (Print::Plain, Some(value)) => value.to_string(),
        (Print::Schema, value) => schema_or_null(value),
        (Print::Schemas, Some(value)) => each(value, schema_text),
        (Print::Named, Some(value)) => {
            let all: Vec<(&str, String)> = as_map(value).iter().map(|(name, one)| (name.as_str(), schema_text(as_map(one)))).collect();
            object(&all)
        }
        (Print::SchemaOrList, Some(value)) => {
            let several = if value.is_array() { each(value, schema_text) } else { "null".to_owned() };
            object(&[("Schema", schema_or_null(Some(value))), ("JSONSchemas", several)])
        }
        (Print::SchemaOrFlag, Some(value)) => {
            object(&[("Allows", (*value != Value::Bool(false)).to_string()), ("Schema", schema_or_null(Some(value)))])
        }
        (Print::Rules, Some(value)) => each(value, |rule| {
            object(&[
                ("Rule", text(rule, "rule")),
                ("Message", text(rule, "message")),
                ("MessageExpression", text(rule, "messageExpression")),
                ("Reason", plain(rule, "reason")),
                ("FieldPath", text(rule, "fieldPath")),
                ("OptionalOldSelf", plain(rule, "optionalOldSelf")),
            ])
        }),
    }
}

fn text(map: &Map<String, Value>, field: &str) -> String {
    Value::from(map.text(field)).to_string()
}

fn plain(map: &Map<String, Value>, field: &str) -> String {
    map.some(field).unwrap_or(&Value::Null).to_string()
}

fn each(value: &Value, print: impl Fn(&Map<String, Value>) -> String) -> String {
    list(&value.as_array().into_iter().flatten().map(|one| print(as_map(one))).collect::<Vec<_>>())
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.join(","))
}

fn object(fields: &[(&str, String)]) -> String {
    let texts: Vec<String> = fields.iter().map(|(name, value)| format!("{name:?}:{value}")).collect();
    format!("{{{}}}", texts.join(","))
}
