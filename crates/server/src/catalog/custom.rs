//! From a custom resource definition to the resources that it serves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use api::kinds::Kind as Behaviour;
use api::resources::{Column, SubresourceDef};
use api::{Object, ResourceDef, Scope, TypeRef};
use bytes::Bytes;
use serde_json::Value;
use store::Kind;

use super::{Served, structural};
use crate::conversion::{Converter, Late};

/// What only custom resources have.
pub struct CustomVersion {
    /// Name of the definition.
    pub definition: String,
    /// UID of the definition.
    pub definition_uid: String,
    /// Whether the definition gives a schema for this version.
    pub has_schema: bool,
    /// Whether reading may change an object because the schema has defaults.
    pub has_defaults: bool,
    /// Whether any node of the schema has validation rules.
    pub has_rules: bool,
    /// Unknown fields are kept everywhere (`spec.preserveUnknownFields`).
    pub preserve_unknown: bool,
    /// JSON paths of the scale subresource.
    pub scale: Option<ScalePaths>,
    /// JSON paths of selectable fields, such as `.spec.color`.
    pub selectable: Vec<String>,
    /// How versions become each other.
    pub converter: Arc<Converter>,
    /// Whether a warning goes with every call, and its text.
    pub deprecation: Option<String>,
    /// The definition is being deleted: nothing new is accepted.
    pub terminating: bool,
}

/// Where the scale of a custom resource is.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// `specReplicasPath` as fields.
    pub spec: Vec<String>,
    /// `statusReplicasPath`.
    pub status: Vec<String>,
    /// `labelSelectorPath`.
    pub selector: Option<Vec<String>>,
}

/// Form numbers of custom resources start behind those of the built-in ones and are never used again.
static NEXT_FORM: AtomicU32 = AtomicU32::new(10_000);

/// All versions that a stored definition serves; none unless it is established.
pub fn compile(bytes: &Bytes, server: &Late) -> Vec<Arc<Served>> {
    let Some(object) = codec::json::parse(bytes).ok().and_then(Object::from_value) else { return Vec::new() };
    if !condition(&object, "Established") {
        return Vec::new();
    }
    let converter = Converter::new(object.at(&["spec", "conversion"]).unwrap_or(&Value::Null), server);
    let versions = object.at(&["spec", "versions"]).and_then(Value::as_array);
    let storage = versions.into_iter().flatten().find(|version| version["storage"] == true);
    let storage_version = storage.and_then(|version| version["name"].as_str()).unwrap_or("").to_owned();
    let mut served: Vec<&Value> = versions.into_iter().flatten().filter(|version| version["served"] == true).collect();
    served.sort_by(|left, right| version_order(right["name"].as_str().unwrap_or(""), left["name"].as_str().unwrap_or("")));
    served.into_iter().map(|version| Arc::new(one(bytes, &object, version, &storage_version, &converter))).collect()
}

/// Whether a condition of an object is true.
pub fn condition(object: &Object, kind: &str) -> bool {
    let conditions = object.at(&["status", "conditions"]).and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn one(bytes: &Bytes, object: &Object, version: &Value, storage_version: &str, converter: &Arc<Converter>) -> Served {
    let group = object.text_at(&["spec", "group"]);
    let names = object.at(&["status", "acceptedNames"]).filter(|names| names["plural"].is_string());
    let names = names.or_else(|| object.at(&["spec", "names"])).cloned().unwrap_or_default();
    let text = |field: &str| names[field].as_str().unwrap_or("");
    let texts = |field: &str| {
        let list = names[field].as_array().into_iter().flatten();
        list.filter_map(Value::as_str).map(Box::from).collect::<Vec<Box<str>>>()
    };
    let kind = text("kind");
    let name = version["name"].as_str().unwrap_or("");
    let namespaced = object.text_at(&["spec", "scope"]) == "Namespaced";
    let preserve_unknown = object.at(&["spec", "preserveUnknownFields"]).is_some_and(|flag| *flag == true);
    let schema = &version["schema"]["openAPIV3Schema"];
    let list_kind = if text("listKind").is_empty() { format!("{kind}List") } else { text("listKind").to_owned() };
    let def = ResourceDef {
        group: group.into(),
        version: name.into(),
        kind: kind.into(),
        list_kind: list_kind.into(),
        plural: text("plural").into(),
        singular: if text("singular").is_empty() { kind.to_lowercase().into() } else { text("singular").into() },
        short_names: texts("shortNames"),
        categories: texts("categories"),
        scope: if namespaced { Scope::Namespaced } else { Scope::Cluster },
        verbs: ["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"].map(Box::from).to_vec(),
        subresources: subresources(version, group, name, kind),
        schema: late(bytes, name, preserve_unknown, kind),
        columns: columns(version),
        custom: true,
    };
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let deprecation = (version["deprecated"] == true).then(|| match version["deprecationWarning"].as_str() {
        Some(text) => text.to_owned(),
        None => format!("{group}/{name} {kind} is deprecated"),
    });
    let custom = CustomVersion {
        definition: object.name().to_owned(),
        definition_uid: object.uid().to_owned(),
        has_defaults: structural::has_defaults(schema),
        has_rules: has_rules(schema),
        has_schema: !schema.is_null(),
        preserve_unknown,
        scale: scale(version),
        selectable: selectable.filter_map(|field| field["jsonPath"].as_str()).map(str::to_owned).collect(),
        converter: converter.clone(),
        deprecation,
        terminating: object.deletion_timestamp().is_some(),
    };
    let store = Kind::new(api::resources::storage_prefix(group, &def.plural, true));
    Served {
        api_version: format!("{group}/{name}"),
        kind: behaviour(),
        store,
        storage_version: format!("{group}/{storage_version}"),
        custom: Some(custom),
        form: NEXT_FORM.fetch_add(1, Ordering::Relaxed),
        def: Arc::new(def),
    }
}

/// The type of a version. Until somebody has to do with its objects, the stored definition is all that there is of it.
fn late(bytes: &Bytes, version: &str, preserve_unknown: bool, kind: &str) -> TypeRef {
    let (bytes, version, kind) = (bytes.clone(), version.to_owned(), kind.to_owned());
    TypeRef::late(Arc::new(move || {
        let definition = codec::json::parse(&bytes).unwrap_or_default();
        let versions = definition["spec"]["versions"].as_array().into_iter().flatten();
        let schema = versions.filter(|one| one["name"] == version.as_str()).map(|one| one["schema"]["openAPIV3Schema"].clone()).next();
        structural::root(schema.unwrap_or_default(), preserve_unknown, &kind)
    }))
}

fn has_rules(schema: &Value) -> bool {
    match schema {
        Value::Object(map) => map.contains_key("x-kubernetes-validations") || map.values().any(has_rules),
        Value::Array(items) => items.iter().any(has_rules),
        _ => false,
    }
}

fn behaviour() -> &'static Behaviour {
    api::kinds::find("", "")
}

fn subresources(version: &Value, group: &str, name: &str, kind: &str) -> Vec<SubresourceDef> {
    let verbs = ["get", "patch", "update"].map(Box::from).to_vec();
    let mut all = Vec::new();
    if version["subresources"]["status"].is_object() {
        all.push(SubresourceDef {
            name: "status".into(),
            group: group.into(),
            version: name.into(),
            kind: kind.into(),
            verbs: verbs.clone(),
        });
    }
    if version["subresources"]["scale"].is_object() {
        all.push(SubresourceDef { name: "scale".into(), group: "autoscaling".into(), version: "v1".into(), kind: "Scale".into(), verbs });
    }
    all
}

fn scale(version: &Value) -> Option<ScalePaths> {
    let scale = version["subresources"]["scale"].as_object()?;
    let path = |field: &str| scale.get(field).and_then(Value::as_str).map(path_fields);
    Some(ScalePaths {
        spec: path("specReplicasPath")?,
        status: path("statusReplicasPath")?,
        selector: path("labelSelectorPath").filter(|fields| !fields.is_empty()),
    })
}

/// `.spec.replicas` as fields.
pub fn path_fields(path: &str) -> Vec<String> {
    path.trim_start_matches('.').split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn columns(version: &Value) -> Vec<Column> {
    let column = |name: &str, kind: &str, format: &str, priority: i64, path: &str, description: &str| Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        priority: priority as i32,
        json_path: path.into(),
        description: description.into(),
    };
    let mut all = vec![column("Name", "string", "name", 0, ".metadata.name", "")];
    let own = version["additionalPrinterColumns"].as_array();
    for one in own.into_iter().flatten() {
        let text = |field: &str| one[field].as_str().unwrap_or("");
        let priority = one["priority"].as_i64().unwrap_or(0);
        all.push(column(text("name"), text("type"), text("format"), priority, text("jsonPath"), text("description")));
    }
    if own.is_none_or(Vec::is_empty) {
        all.push(column("Age", "date", "", 0, ".metadata.creationTimestamp", ""));
    }
    all
}

/// Order of API versions: GA above beta above alpha, then by number; anything else comes last, by name.
pub fn version_order(left: &str, right: &str) -> std::cmp::Ordering {
    match (rank(left), rank(right)) {
        (Some(left), Some(right)) => left.cmp(&right),
        (Some(_), None) => std::cmp::Ordering::Greater,
        (None, Some(_)) => std::cmp::Ordering::Less,
        (None, None) => right.cmp(left),
    }
}

fn rank(version: &str) -> Option<(u8, u32, u32)> {
    let rest = version.strip_prefix('v')?;
    let digits = rest.len() - rest.trim_start_matches(|char: char| char.is_ascii_digit()).len();
    let major: u32 = rest[..digits].parse().ok()?;
    let stage = &rest[digits..];
    if stage.is_empty() {
        return Some((2, major, 0));
    }
    let (level, number) = match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
        (Some(number), _) => (1, number),
        (_, Some(number)) => (0, number),
        _ => return None,
    };
    Some((level, major, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_stability() {
        let mut versions = ["v1", "v10", "v2", "v11beta2", "v11alpha2", "v3beta1", "foo1", "v12alpha1", "foo10"];
        versions.sort_by(|left, right| version_order(right, left));
        assert_eq!(versions, ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v11alpha2", "foo1", "foo10"]);
    }
}
