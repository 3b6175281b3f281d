//! Paths with their operations: what can be done with each resource and its subresources, and with which parameters.

use api::resources::SubresourceDef;
use api::schema::builtin_kind;
use api::{ResourceDef, Scope};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::schemas::{Gvk, Schemas};
use super::{Dialect, custom, names};

/// Forms in which objects travel.
const MEDIA: [&str; 4] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf", "application/cbor"];
/// Forms in which lists and watches travel.
const LIST_MEDIA: [&str; 7] = [
    "application/json",
    "application/yaml",
    "application/vnd.kubernetes.protobuf",
    "application/cbor",
    "application/json;stream=watch",
    "application/vnd.kubernetes.protobuf;stream=watch",
    "application/cbor-seq",
];
const PATCH_MEDIA: [&str; 5] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
    "application/apply-patch+cbor",
];
/// Query parameters: name and type.
const DRY_RUN: (&str, &str) = ("dryRun", "string");
const WRITE: [(&str, &str); 3] = [DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string")];
const PATCH: [(&str, &str); 4] = [DRY_RUN, ("fieldManager", "string"), ("fieldValidation", "string"), ("force", "boolean")];
const DELETE: [(&str, &str); 5] = [
    DRY_RUN,
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LIST: [(&str, &str); 11] = [
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("shardSelector", "string"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

/// One operation before it is written.
struct Operation<'a> {
    /// `patchAppsV1NamespacedDeployment`.
    id: String,
    description: String,
    /// `patch`, `list`...
    action: &'a str,
    query: Vec<(&'a str, &'a str)>,
    /// Forms and type of the body, and whether it must be there.
    body: Option<(&'a [&'a str], Value, bool)>,
    answers: Vec<(&'a str, &'a str)>,
    media: &'a [&'a str],
    answer: Value,
    tag: String,
    kind: Gvk<'a>,
}

/// All paths of some resources.
pub(super) fn paths(resources: &[Arc<ResourceDef>], dialect: Dialect, schemas: &mut Schemas) -> Map<String, Value> {
    let mut paths = Map::new();
    for resource in resources {
        Writer::new(resource, dialect, schemas).write(&mut paths);
    }
    paths
}

struct Writer<'a> {
    resource: &'a ResourceDef,
    dialect: Dialect,
    schemas: &'a mut Schemas,
    /// References to the published kind, its list, patches, delete options and Status.
    object: Value,
    list: Value,
    patch: Value,
    delete: Value,
    status: Value,
}

impl<'a> Writer<'a> {
    fn new(resource: &'a ResourceDef, dialect: Dialect, schemas: &'a mut Schemas) -> Writer<'a> {
        let (group, version) = (&*resource.group, &*resource.version);
        let (object, list) = if resource.custom {
            custom::publish(resource, dialect, schemas)
        } else {
            let object = schemas.publish(&resource.schema);
            schemas.is_kind(&object, (group, version, &resource.kind));
            let list = builtin_kind(group, version, &resource.list_kind).map(|list| {
                let list = schemas.publish(&list);
                schemas.is_kind(&list, (group, version, &resource.list_kind));
                list
            });
            (object.clone(), list.unwrap_or(object))
        };
        let delete = schemas.publish_builtin("apis.meta.v1.DeleteOptions").expect("the table has DeleteOptions");
        schemas.is_kind(&delete, ("", "v1", "DeleteOptions"));
        schemas.is_kind(&delete, (group, version, "DeleteOptions"));
        let status = schemas.publish_builtin("apis.meta.v1.Status").expect("the table has Status");
        schemas.is_kind(&status, ("", "v1", "Status"));
        let event = schemas.publish_builtin("apis.meta.v1.WatchEvent").expect("the table has WatchEvent");
        schemas.is_kind(&event, ("", "v1", "WatchEvent"));
        schemas.is_kind(&event, (group, version, "WatchEvent"));
        let patch = schemas.publish_patch();
        let [object, list, patch, delete, status] = [&object, &list, &patch, &delete, &status].map(|name| schemas.reference(name));
        Writer { resource, dialect, schemas, object, list, patch, delete, status }
    }

    fn write(mut self, paths: &mut Map<String, Value>) {
        let resource = self.resource;
        let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
        let root = format!("{root}/{}", resource.version);
        let namespaced = resource.scope == Scope::Namespaced;
        let scope = if namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("{root}{scope}/{}", resource.plural);
        let item = format!("{collection}/{{name}}");
        if namespaced && resource.has_verb("list") {
            let mut all = Map::new();
            self.put(&mut all, "get", self.list_operation("ForAllNamespaces"));
            all.insert("parameters".into(), self.path_parameters(false, false));
            paths.insert(format!("{root}/{}", resource.plural), Value::Object(all));
        }
        let mut many = Map::new();
        if resource.has_verb("list") {
            self.put(&mut many, "get", self.list_operation(""));
        }
        if resource.has_verb("create") {
            self.put(&mut many, "post", self.create());
        }
        if resource.has_verb("deletecollection") {
            self.put(&mut many, "delete", self.delete_collection());
        }
        if !many.is_empty() {
            many.insert("parameters".into(), self.path_parameters(namespaced, false));
            paths.insert(collection, Value::Object(many));
        }
        let kind = (&*resource.group, &*resource.version, &*resource.kind);
        let object = self.object.clone();
        let mut one = self.item_operations(&resource.verbs, "", &object, kind);
        if resource.has_verb("delete") {
            self.put(&mut one, "delete", self.delete());
        }
        if !one.is_empty() {
            one.insert("parameters".into(), self.path_parameters(namespaced, true));
            paths.insert(item.clone(), Value::Object(one));
        }
        for subresource in &resource.subresources {
            let operations = self.subresource(subresource);
            if !operations.is_empty() {
                paths.insert(format!("{item}/{}", subresource.name), Value::Object(operations));
            }
        }
    }

    fn subresource(&mut self, subresource: &'a SubresourceDef) -> Map<String, Value> {
        let resource = self.resource;
        let group = if subresource.version.is_empty() { &resource.group } else { &subresource.group };
        let version = if subresource.version.is_empty() { &resource.version } else { &subresource.version };
        let kind: Gvk = (group, version, &subresource.kind);
        let suffix = names::capital(&subresource.name);
        let object = match builtin_kind(group, version, &subresource.kind) {
            _ if resource.custom && *subresource.kind == *resource.kind => self.object.clone(),
            Some(schema) => {
                let name = self.schemas.publish(&schema);
                self.schemas.is_kind(&name, kind);
                self.schemas.reference(&name)
            }
            None => json!({"type": "string"}),
        };
        let mut operations = if matches!(&*subresource.name, "exec" | "attach" | "portforward" | "proxy") {
            self.connections(subresource, &suffix, kind)
        } else {
            self.item_operations(&subresource.verbs, &suffix, &object, kind)
        };
        if subresource.verbs.iter().any(|verb| &**verb == "create") && !operations.contains_key("post") {
            let operation = Operation {
                id: self.id("create", &suffix),
                description: format!("create {} of a {}", subresource.name, resource.kind),
                query: WRITE.to_vec(),
                body: Some((&["*/*"], object.clone(), true)),
                answers: vec![("200", "OK"), ("201", "Created"), ("202", "Accepted")],
                answer: object,
                kind,
                ..self.operation("post")
            };
            self.put(&mut operations, "post", operation);
        }
        if !operations.is_empty() {
            operations.insert("parameters".into(), self.path_parameters(resource.scope == Scope::Namespaced, true));
        }
        operations
    }

    fn connections(&self, subresource: &'a SubresourceDef, suffix: &str, kind: Gvk<'a>) -> Map<String, Value> {
        let mut operations = Map::new();
        for (verb, method) in [("get", "get"), ("create", "post"), ("update", "put"), ("patch", "patch"), ("delete", "delete")] {
            if subresource.verbs.iter().any(|one| &**one == verb) {
                let operation = Operation {
                    id: self.connect_id(method, suffix),
                    description: format!("connect {} requests to {} of {}", method.to_uppercase(), subresource.name, self.resource.kind),
                    media: &["*/*"],
                    answer: json!({"type": "string"}),
                    kind,
                    ..self.operation("connect")
                };
                self.put(&mut operations, method, operation);
            }
        }
        operations
    }

    /// Read, replace and patch.
    fn item_operations(&self, verbs: &[Box<str>], suffix: &str, object: &Value, kind: Gvk<'a>) -> Map<String, Value> {
        let has = |verb: &str| verbs.iter().any(|one| &**one == verb);
        let what = if suffix.is_empty() { "the specified".to_owned() } else { format!("{} of the specified", suffix.to_lowercase()) };
        let mut operations = Map::new();
        let named = |verb: &str, text: &str, action| Operation {
            id: self.id(verb, suffix),
            description: format!("{text} {what} {}", self.resource.kind),
            answer: object.clone(),
            kind,
            ..self.operation(action)
        };
        if has("get") {
            self.put(&mut operations, "get", named("read", "read", "get"));
        }
        if has("update") {
            let operation = Operation {
                query: WRITE.to_vec(),
                body: Some((&["*/*"], object.clone(), true)),
                answers: vec![("200", "OK"), ("201", "Created")],
                ..named("replace", "replace", "put")
            };
            self.put(&mut operations, "put", operation);
        }
        if has("patch") {
            let media = if self.resource.custom { &CUSTOM_PATCH_MEDIA[..] } else { &PATCH_MEDIA[..] };
            let operation = Operation {
                query: PATCH.to_vec(),
                body: Some((media, self.patch.clone(), true)),
                answers: vec![("200", "OK"), ("201", "Created")],
                ..named("patch", "partially update", "patch")
            };
            self.put(&mut operations, "patch", operation);
        }
        operations
    }

    fn list_operation(&self, suffix: &str) -> Operation<'a> {
        let id = if suffix.is_empty() {
            self.id("list", "")
        } else {
            format!("list{}{}{suffix}", names::operation_group(self.resource), self.resource.kind)
        };
        Operation {
            id,
            description: format!("list or watch objects of kind {}", self.resource.kind),
            query: LIST.to_vec(),
            media: &LIST_MEDIA,
            answer: self.list.clone(),
            ..self.operation("list")
        }
    }

    fn create(&self) -> Operation<'a> {
        Operation {
            id: self.id("create", ""),
            description: format!("create a {}", self.resource.kind),
            query: WRITE.to_vec(),
            body: Some((&["*/*"], self.object.clone(), true)),
            answers: vec![("200", "OK"), ("201", "Created"), ("202", "Accepted")],
            answer: self.object.clone(),
            ..self.operation("post")
        }
    }

    fn delete(&self) -> Operation<'a> {
        Operation {
            id: self.id("delete", ""),
            description: format!("delete a {}", self.resource.kind),
            query: DELETE.to_vec(),
            body: Some((&["*/*"], self.delete.clone(), false)),
            answers: vec![("200", "OK"), ("202", "Accepted")],
            answer: self.status.clone(),
            ..self.operation("delete")
        }
    }

    fn delete_collection(&self) -> Operation<'a> {
        let mut query: Vec<(&str, &str)> =
            DELETE.iter().chain(LIST.iter().filter(|(name, _)| !matches!(*name, "watch" | "allowWatchBookmarks"))).copied().collect();
        query.sort_unstable();
        let scope = if self.resource.scope == Scope::Namespaced { "CollectionNamespaced" } else { "Collection" };
        Operation {
            id: format!("delete{}{scope}{}", names::operation_group(self.resource), self.resource.kind),
            description: format!("delete collection of {}", self.resource.kind),
            query,
            body: Some((&["*/*"], self.delete.clone(), false)),
            answer: self.status.clone(),
            ..self.operation("deletecollection")
        }
    }

    /// An operation on the resource's own kind that takes nothing and answers 200.
    fn operation(&self, action: &'a str) -> Operation<'a> {
        Operation {
            id: String::new(),
            description: String::new(),
            action,
            query: Vec::new(),
            body: None,
            answers: vec![("200", "OK")],
            media: &MEDIA,
            answer: Value::Null,
            tag: names::tag(self.resource),
            kind: (&self.resource.group, &self.resource.version, &self.resource.kind),
        }
    }

    fn id(&self, verb: &str, suffix: &str) -> String {
        let scope = if self.resource.scope == Scope::Namespaced { "Namespaced" } else { "" };
        format!("{verb}{}{scope}{}{suffix}", names::operation_group(self.resource), self.resource.kind)
    }

    fn connect_id(&self, method: &str, suffix: &str) -> String {
        let scope = if self.resource.scope == Scope::Namespaced { "Namespaced" } else { "" };
        format!("connect{}{}{scope}{}{suffix}", names::operation_group(self.resource), names::capital(method), self.resource.kind)
    }

    fn put(&self, operations: &mut Map<String, Value>, method: &str, operation: Operation) {
        operations.insert(method.into(), operation.write(self.dialect));
    }

    /// Parameters that all operations of a path have.
    fn path_parameters(&self, namespace: bool, name: bool) -> Value {
        let mut parameters = Vec::new();
        if name {
            parameters.push(self.dialect.parameter("name", "path", "string", &format!("name of the {}", self.resource.kind)));
        }
        if namespace {
            parameters.push(self.dialect.parameter(
                "namespace",
                "path",
                "string",
                "object name and auth scope, such as for teams and projects",
            ));
        }
        parameters.push(self.dialect.parameter("pretty", "query", "string", "If 'true', then the output is pretty printed."));
        Value::Array(parameters)
    }
}

/// Custom resources have no strategic merge.
const CUSTOM_PATCH_MEDIA: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml", "application/apply-patch+cbor"];

impl Dialect {
    fn parameter(self, name: &str, place: &str, kind: &str, description: &str) -> Value {
        let mut parameter = json!({"name": name, "in": place});
        if !description.is_empty() {
            parameter["description"] = description.into();
        }
        if place == "path" {
            parameter["required"] = true.into();
        }
        match self {
            Dialect::V2 => {
                parameter["type"] = kind.into();
                parameter["uniqueItems"] = true.into();
            }
            Dialect::V3 => parameter["schema"] = json!({"type": kind, "uniqueItems": true}),
        }
        parameter
    }
}

impl Operation<'_> {
    fn write(self, dialect: Dialect) -> Value {
        let (group, version, kind) = self.kind;
        let mut parameters: Vec<Value> = self.query.iter().map(|(name, kind)| dialect.parameter(name, "query", kind, "")).collect();
        let mut written = json!({
            "operationId": self.id,
            "description": self.description,
            "tags": [self.tag],
            "x-kubernetes-action": self.action,
            "x-kubernetes-group-version-kind": {"group": group, "kind": kind, "version": version},
        });
        let contents = |media: &[&str], schema: &Value| -> Value {
            Value::Object(media.iter().map(|media| ((*media).to_owned(), json!({"schema": schema}))).collect())
        };
        let mut responses = Map::new();
        for (code, description) in &self.answers {
            let answer = match dialect {
                Dialect::V2 => json!({"description": description, "schema": self.answer}),
                Dialect::V3 => json!({"description": description, "content": contents(self.media, &self.answer)}),
            };
            responses.insert((*code).into(), answer);
        }
        responses.insert("401".into(), json!({"description": "Unauthorized"}));
        written["responses"] = Value::Object(responses);
        match dialect {
            Dialect::V2 => {
                written["schemes"] = json!(["https"]);
                written["consumes"] = json!(["*/*"]);
                written["produces"] = json!(self.media);
                if let Some((media, schema, required)) = self.body {
                    written["consumes"] = json!(media);
                    let mut body = json!({"name": "body", "in": "body", "schema": schema});
                    if required {
                        body["required"] = true.into();
                    }
                    parameters.insert(0, body);
                }
            }
            Dialect::V3 => {
                if let Some((media, schema, required)) = self.body {
                    written["requestBody"] = json!({"content": contents(media, &schema)});
                    if required {
                        written["requestBody"]["required"] = true.into();
                    }
                }
            }
        }
        if !parameters.is_empty() {
            written["parameters"] = Value::Array(parameters);
        }
        written
    }
}
