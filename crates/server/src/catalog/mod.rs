//! What is served now: the built-in resources and those of the custom resource definitions, by path.
//!
//! The catalog follows the definitions in the store, so a request that comes after an established
//! definition finds its resource. It is replaced as a whole; a request keeps the one it began with.

pub mod custom;
pub mod custom_rules;
pub mod defaulting;
mod definitions;
mod formats;
pub mod structural;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use api::kinds::Kind as Behaviour;
use api::{ResourceDef, TypeRef};
use parking_lot::Mutex;
use serde_json::Value;
use store::{Kind, Store};

use crate::conversion::Late;
use crate::follow::Follow;
use crate::server::Server;
use custom::CustomVersion;
use definitions::Definitions;

/// A resource in one version, with all that the pipeline needs to know about it.
pub struct Served {
    /// Facts.
    pub def: Arc<ResourceDef>,
    /// `v1` or `apps/v1`.
    pub api_version: String,
    /// Behaviour.
    pub kind: &'static Behaviour,
    /// Where objects live.
    pub store: Kind,
    /// The version that is stored, as `apiVersion`.
    pub storage_version: String,
    /// For custom resources.
    pub custom: Option<CustomVersion>,
    /// Number of this version's derived encodings in the store's cache.
    pub form: u32,
}

/// Built-in resources that are stored in another version than the one they are served in: (group, version, plural)
/// and the stored `apiVersion`.
const STORED_ELSEWHERE: &[(&str, &str, &str, &str)] =
    &[("events.k8s.io", "v1", "events", "v1"), ("autoscaling", "v1", "horizontalpodautoscalers", "autoscaling/v2")];

impl Served {
    fn builtin(def: &Arc<ResourceDef>, form: u32) -> Served {
        let api_version = def.api_version();
        let elsewhere = STORED_ELSEWHERE
            .iter()
            .find(|(group, version, plural, _)| *group == &*def.group && *version == &*def.version && *plural == &*def.plural);
        Served {
            kind: api::kinds::find(&def.group, &def.kind),
            store: Kind::new(api::resources::storage_prefix(&def.group, &def.plural, false)),
            storage_version: elsewhere.map_or_else(|| api_version.clone(), |(.., stored)| (*stored).to_owned()),
            api_version,
            def: def.clone(),
            custom: None,
            form,
        }
    }

    /// Whether stored bytes are what this version sends.
    pub fn is_stored_version(&self) -> bool {
        self.api_version == self.storage_version
    }

    /// The type of the kind.
    pub fn schema(&self) -> &TypeRef {
        &self.def.schema
    }

    /// The schema of a custom resource as its definition gives it; one that allows everything where it gives none.
    pub fn raw_schema(&self) -> &Value {
        self.def.schema.structural.as_deref().map_or(&Value::Null, |structural| &structural.schema)
    }

    /// Whether a client may ask for a subresource.
    pub fn has_status(&self) -> bool {
        self.def.subresource("status").is_some()
    }

    /// Group and plural as they stand in messages.
    pub fn qualified(&self) -> String {
        api::status::qualified(&self.def.plural, &self.def.group)
    }

    /// 404 for an object of this resource.
    pub fn not_found(&self, name: &str) -> api::Status {
        api::Status::not_found(&self.def.group, &self.def.plural, name)
    }
}

type Resources = HashMap<(Box<str>, Box<str>), HashMap<Box<str>, Arc<Served>>>;

/// Everything that is served, at one moment.
pub struct Catalog {
    resources: Resources,
    /// In the order of discovery.
    pub all: Vec<Arc<Served>>,
    /// Grows with every change; the validator of discovery documents.
    pub version: u64,
}

impl Catalog {
    /// A resource by group, version and plural.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Served>> {
        // The key is borrowed through a lookup of the few group versions, to spare an allocation a request.
        self.resources.iter().find(|((one, two), _)| &**one == group && &**two == version).and_then(|(_, plurals)| plurals.get(plural))
    }

    /// A resource by kind.
    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<Served>> {
        self.all.iter().find(|served| &*served.def.group == group && &*served.def.version == version && &*served.def.kind == kind)
    }

    /// A resource in any version, by group and plural.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Served>> {
        self.all.iter().find(|served| &*served.def.group == group && &*served.def.plural == plural)
    }

    /// A resource in any version, by group and kind.
    pub fn any_version_of_kind(&self, group: &str, kind: &str) -> Option<&Arc<Served>> {
        self.all.iter().find(|served| &*served.def.group == group && &*served.def.kind == kind)
    }

    fn build(custom: Vec<Arc<Served>>, version: u64) -> Catalog {
        let mut all: Vec<Arc<Served>> = builtin().to_vec();
        all.extend(custom);
        let mut resources: Resources = HashMap::new();
        for served in &all {
            let key = (served.def.group.clone(), served.def.version.clone());
            resources.entry(key).or_default().insert(served.def.plural.clone(), served.clone());
        }
        Catalog { resources, all, version }
    }
}

/// Whether a group is served without any definition.
pub fn is_builtin_group(group: &str) -> bool {
    builtin().iter().any(|served| &*served.def.group == group)
}

fn builtin() -> &'static [Arc<Served>] {
    static ALL: OnceLock<Vec<Arc<Served>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let numbered = api::resources::builtin().iter().enumerate();
        numbered.map(|(index, def)| Arc::new(Served::builtin(def, index as u32))).collect()
    })
}

/// Keeps the catalog in step with the definitions.
pub struct Catalogs {
    definitions: Follow<Definitions>,
    server: Late,
    current: Mutex<(u64, Arc<Catalog>)>,
}

impl Catalogs {
    /// Follows the definitions in a store.
    pub fn new(store: Arc<dyn Store>) -> Catalogs {
        let kind = Kind::new(api::resources::storage_prefix("apiextensions.k8s.io", "customresourcedefinitions", true));
        let server = Late::default();
        let definitions = Follow::new(store, vec![kind], Definitions::new(server.clone()));
        Catalogs { definitions, server, current: Mutex::new((0, Arc::new(Catalog::build(Vec::new(), 0)))) }
    }

    /// Makes the server known to what needs it: once, before the first request.
    pub fn bind(&self, server: &Arc<Server>) {
        self.server.set(Arc::downgrade(server)).ok();
    }

    /// What is served now.
    pub fn current(&self) -> Arc<Catalog> {
        self.definitions.versioned(|definitions, version| {
            let mut current = self.current.lock();
            if current.0 != version {
                *current = (version, Arc::new(Catalog::build(definitions.served(), version)));
            }
            current.1.clone()
        })
    }
}
