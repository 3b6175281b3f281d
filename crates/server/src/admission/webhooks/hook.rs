//! Webhooks as their configurations describe them, read once per version of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::label_selector::LabelSelector;
use serde_json::Value;
use store::{Entry, Kind, Store};

use crate::follow::{Follow, Projection};

/// One webhook.
pub struct Hook {
    /// Its name.
    pub name: String,
    /// `clientConfig` as given.
    pub client: Value,
    /// Rules.
    pub rules: Vec<Rule>,
    /// Failures refuse the request.
    pub fails_closed: bool,
    /// Other versions of the resource count, too.
    pub equivalent: bool,
    /// Namespaces.
    pub namespaces: LabelSelector,
    /// Objects.
    pub objects: LabelSelector,
    /// What it does beside answering.
    pub side_effects: String,
    /// How long it may take.
    pub timeout: Duration,
    /// It is called again when later ones changed the object.
    pub reinvoke: bool,
    /// Conditions as expressions.
    pub has_conditions: bool,
    /// The conditions: name and expression.
    pub conditions: Vec<(String, String)>,
}

/// What a hook is called for.
pub struct Rule {
    /// Operations.
    pub operations: Vec<String>,
    /// Groups.
    pub groups: Vec<String>,
    /// Versions.
    pub versions: Vec<String>,
    /// Resources with subresources.
    pub resources: Vec<String>,
    /// `Namespaced`, `Cluster` or `*`.
    pub scope: String,
}

/// All webhooks of one sort of configuration, in the order of the configurations' names.
#[derive(Default)]
pub struct Hooks {
    by_configuration: BTreeMap<Box<str>, Vec<Arc<Hook>>>,
}

impl Hooks {
    /// A view of the configurations in a store.
    pub fn follow(store: Arc<dyn Store>, plural: &str) -> Follow<Hooks> {
        let prefix = api::resources::storage_prefix("admissionregistration.k8s.io", plural, false);
        Follow::new(store, vec![Kind::new(prefix)], Hooks::default())
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Hook>> {
        self.by_configuration.values().flatten().cloned().collect()
    }
}

impl Projection for Hooks {
    fn clear(&mut self) {
        self.by_configuration.clear();
    }

    fn put(&mut self, entry: &Arc<Entry>, _previous: Option<&Arc<Entry>>) {
        let configuration: Value = serde_json::from_slice(&entry.bytes).unwrap_or_default();
        let hooks = configuration["webhooks"].as_array().into_iter().flatten().map(|hook| Arc::new(read(hook)));
        self.by_configuration.insert(entry.header.name.clone(), hooks.collect());
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        self.by_configuration.remove(&entry.header.name);
    }
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn read(hook: &Value) -> Hook {
    let text = |field: &str| hook[field].as_str().unwrap_or("").to_owned();
    let selector = |field: &str| match &hook[field] {
        Value::Null => LabelSelector::everything(),
        value => LabelSelector::from_value(value).unwrap_or_else(|_| LabelSelector::nothing()),
    };
    let rules = hook["rules"].as_array().into_iter().flatten().map(|rule| Rule {
        operations: texts(&rule["operations"]),
        groups: texts(&rule["apiGroups"]),
        versions: texts(&rule["apiVersions"]),
        resources: texts(&rule["resources"]),
        scope: rule["scope"].as_str().unwrap_or("*").to_owned(),
    });
    let conditions: Vec<(String, String)> = hook["matchConditions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|one| (one["name"].as_str().unwrap_or("").to_owned(), one["expression"].as_str().unwrap_or("").to_owned()))
        .collect();
    Hook {
        name: text("name"),
        client: hook["clientConfig"].clone(),
        rules: rules.collect(),
        fails_closed: text("failurePolicy") != "Ignore",
        equivalent: text("matchPolicy") != "Exact",
        namespaces: selector("namespaceSelector"),
        objects: selector("objectSelector"),
        side_effects: text("sideEffects"),
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
        reinvoke: text("reinvocationPolicy") == "IfNeeded",
        has_conditions: !conditions.is_empty(),
        conditions,
    }
}
