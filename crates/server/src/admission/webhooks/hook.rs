//! Webhooks as their configurations describe them, read once per version of the configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cel::policy::Conditions;
use serde_json::Value;
use store::{Entry, Kind, Store};

use crate::admission::matching::Matching;
use crate::follow::{Follow, Projection};

/// One webhook.
pub struct Hook {
    /// Its name.
    pub name: String,
    /// Name of its configuration.
    pub configuration: String,
    /// `clientConfig` as given.
    pub client: Value,
    /// What it is called for.
    pub matching: Matching,
    /// Failures refuse the request.
    pub fails_closed: bool,
    /// What it does beside answering.
    pub side_effects: String,
    /// How long it may take.
    pub timeout: Duration,
    /// It is called again when later ones changed the object.
    pub reinvoke: bool,
    /// Conditions under which it is called, or why they cannot be used.
    pub conditions: Result<Conditions, String>,
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
        let hooks = configuration["webhooks"].as_array().into_iter().flatten().map(|hook| Arc::new(read(&entry.header.name, hook)));
        self.by_configuration.insert(entry.header.name.clone(), hooks.collect());
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        self.by_configuration.remove(&entry.header.name);
    }
}

fn read(configuration: &str, hook: &Value) -> Hook {
    let text = |field: &str| hook[field].as_str().unwrap_or("").to_owned();
    let conditions = Conditions::compile(&hook["matchConditions"], "matchConditions");
    Hook {
        name: text("name"),
        configuration: configuration.to_owned(),
        client: hook["clientConfig"].clone(),
        matching: Matching::read(hook),
        fails_closed: text("failurePolicy") != "Ignore",
        side_effects: text("sideEffects"),
        timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10).clamp(1, 30)),
        reinvoke: text("reinvocationPolicy") == "IfNeeded",
        conditions: conditions.map_err(|faults| faults.into_iter().map(|fault| fault.message).collect::<Vec<_>>().join("; ")),
    }
}
