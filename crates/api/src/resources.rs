//! The resources of the API: what a path names, which kind lives there and what can be done with it.
//!
//! Built-in resources come from `resources.json` (generated); custom resource definitions make more at run time.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use crate::schema::TypeRef;

/// Where objects of a resource live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// One resource in one version, with its subresources.
#[derive(Debug, Clone)]
pub struct ResourceDef {
    /// Group, empty for core.
    pub group: Box<str>,
    /// Version, for example `v1`.
    pub version: Box<str>,
    /// Kind, for example `Pod`.
    pub kind: Box<str>,
    /// Kind of the list.
    pub list_kind: Box<str>,
    /// Plural name as in paths.
    pub plural: Box<str>,
    /// Singular name.
    pub singular: Box<str>,
    /// Short names.
    pub short_names: Vec<Box<str>>,
    /// Categories such as `all`.
    pub categories: Vec<Box<str>>,
    /// Scope.
    pub scope: Scope,
    /// Verbs of discovery.
    pub verbs: Vec<Box<str>>,
    /// Subresources in the order of discovery.
    pub subresources: Vec<SubresourceDef>,
    /// Type of the kind.
    pub schema: TypeRef,
    /// Columns of tables, the first is the name.
    pub columns: Vec<Column>,
    /// Whether the resource comes from a custom resource definition.
    pub custom: bool,
}

/// A subresource in discovery.
#[derive(Debug, Clone)]
pub struct SubresourceDef {
    /// Name after the slash, for example `status`.
    pub name: Box<str>,
    /// Group of the kind where it differs.
    pub group: Box<str>,
    /// Version of the kind where it differs.
    pub version: Box<str>,
    /// Kind that is exchanged.
    pub kind: Box<str>,
    /// Verbs.
    pub verbs: Vec<Box<str>>,
}

/// A column of a server-side table.
#[derive(Debug, Clone, Deserialize)]
pub struct Column {
    /// Head of the column.
    pub name: Box<str>,
    /// `string`, `integer`, `date`...
    #[serde(rename = "type")]
    pub kind: Box<str>,
    /// `name` or empty.
    pub format: Box<str>,
    /// 0 shows always, 1 only with `-o wide`.
    pub priority: i32,
    /// JSON path of a custom column; empty for built-in ones.
    #[serde(default)]
    pub json_path: Box<str>,
    /// Description shown by clients.
    #[serde(default)]
    pub description: Box<str>,
}

impl ResourceDef {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// Whether objects live in a namespace.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// A subresource by name.
    pub fn subresource(&self, name: &str) -> Option<&SubresourceDef> {
        self.subresources.iter().find(|one| &*one.name == name)
    }

    /// Whether the verb is served on the resource itself.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|one| &**one == verb)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    #[serde(default)]
    group: Box<str>,
    group_version: Box<str>,
    #[serde(default)]
    version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    namespaced: bool,
    #[serde(default)]
    singular: Box<str>,
    #[serde(default)]
    short_names: Vec<Box<str>>,
    #[serde(default)]
    categories: Vec<Box<str>>,
    verbs: Vec<Box<str>>,
    #[serde(default)]
    columns: Vec<Column>,
}

/// All built-in resources, in the order of discovery.
pub fn builtin() -> &'static [Arc<ResourceDef>] {
    static ALL: OnceLock<Vec<Arc<ResourceDef>>> = OnceLock::new();
    ALL.get_or_init(|| read(include_str!("resources.json")))
}

/// A built-in resource by group, version and plural name.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static Arc<ResourceDef>> {
    builtin().iter().find(|one| &*one.group == group && &*one.version == version && &*one.plural == plural)
}

fn read(text: &str) -> Vec<Arc<ResourceDef>> {
    let rows: Vec<Row> = serde_json::from_str(text).expect("the generated resources are JSON");
    let mut all: Vec<ResourceDef> = Vec::new();
    for row in rows {
        let (group, version) = row.group_version.split_once('/').unwrap_or(("", &row.group_version));
        if let Some((parent, name)) = row.name.split_once('/') {
            let owner = all
                .iter_mut()
                .find(|one| &*one.plural == parent && &*one.group == group && &*one.version == version)
                .expect("subresources follow their resource");
            owner.subresources.push(SubresourceDef {
                name: name.into(),
                group: row.group,
                version: row.version,
                kind: row.kind,
                verbs: row.verbs,
            });
            continue;
        }
        let schema = crate::schema::builtin_kind(group, version, &row.kind).expect("every kind has a type");
        all.push(ResourceDef {
            group: group.into(),
            version: version.into(),
            list_kind: format!("{}List", row.kind).into(),
            kind: row.kind,
            plural: row.name,
            singular: row.singular,
            short_names: row.short_names,
            categories: row.categories,
            scope: if row.namespaced { Scope::Namespaced } else { Scope::Cluster },
            verbs: row.verbs,
            subresources: Vec::new(),
            schema,
            columns: row.columns,
            custom: false,
        });
    }
    all.into_iter().map(Arc::new).collect()
}

/// Where objects of a resource live in the store: upstream's layout under `/registry/`, so that either
/// server can take over the other's data. Custom resources live under their group.
pub fn storage_prefix(group: &str, plural: &str, custom: bool) -> String {
    let place = match (group, plural) {
        ("", "services") => "services/specs",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "replicationcontrollers") => "controllers",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("apiextensions.k8s.io" | "apiregistration.k8s.io", _) => return format!("/registry/{group}/{plural}/"),
        _ if custom => return format!("/registry/{group}/{plural}/"),
        _ => plural,
    };
    format!("/registry/{place}/")
}
