//! The custom resource definitions that are established, each compiled once.

use std::collections::BTreeMap;
use std::sync::Arc;

use store::Entry;

use super::{Served, custom};
use crate::conversion::Late;
use crate::follow::Projection;

/// Compiled definitions by name.
#[derive(Default)]
pub struct Definitions {
    server: Late,
    by_name: BTreeMap<Box<str>, Vec<Arc<Served>>>,
}

impl Definitions {
    /// None yet; the server is needed for conversions by webhook.
    pub fn new(server: Late) -> Definitions {
        Definitions { server, by_name: BTreeMap::new() }
    }

    /// All resources that they serve.
    pub fn served(&self) -> Vec<Arc<Served>> {
        self.by_name.values().flatten().cloned().collect()
    }
}

impl Projection for Definitions {
    fn clear(&mut self) {
        self.by_name.clear();
    }

    fn put(&mut self, entry: &Arc<Entry>, _previous: Option<&Arc<Entry>>) {
        let served = custom::compile(&entry.bytes, &self.server);
        self.by_name.insert(entry.header.name.clone(), served);
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        self.by_name.remove(&entry.header.name);
    }
}
