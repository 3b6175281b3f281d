//! All names of the cluster, kept up to date change by change.
//!
//! Sets and their invariants: `services` and `slices` hold what was put under a key last. `slices_of` lists exactly the
//! slices of each service. `service_at` maps each cluster address to the service that has it; `named_at` lists the
//! slices in which an address has a hostname.

use crate::facts::{Endpoint, Port, ServiceFacts, SliceFacts};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

/// The index. Keys are `namespace/name`.
#[derive(Default)]
pub(crate) struct Index {
    namespaces: HashSet<Box<str>>,
    services: HashMap<Box<str>, ServiceFacts>,
    slices: HashMap<Box<str>, SliceFacts>,
    slices_of: HashMap<Box<str>, BTreeSet<Box<str>>>,
    service_at: HashMap<IpAddr, Box<str>>,
    named_at: HashMap<IpAddr, BTreeSet<Box<str>>>,
    /// Counts changes; the serial of the zone.
    pub(crate) serial: u32,
    /// Everything that existed at the start is in.
    pub(crate) complete: bool,
}

fn namespace_of(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

impl Index {
    pub(crate) fn put_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.into());
    }

    pub(crate) fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// Puts a service, or removes it when it has no names.
    pub(crate) fn put_service(&mut self, key: &str, facts: Option<ServiceFacts>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = self.services.remove(key) {
            for address in old.addresses() {
                if self.service_at.get(address).is_some_and(|owner| &**owner == key) {
                    self.service_at.remove(address);
                }
            }
        }
        let Some(facts) = facts else { return };
        for address in facts.addresses() {
            self.service_at.insert(*address, key.into());
        }
        self.services.insert(key.into(), facts);
    }

    /// Puts a slice, or removes it when it has no names.
    pub(crate) fn put_slice(&mut self, key: &str, facts: Option<SliceFacts>) {
        self.serial = self.serial.wrapping_add(1);
        if let Some(old) = self.slices.remove(key) {
            let service = format!("{}/{}", namespace_of(key), old.service);
            remove_from(&mut self.slices_of, service.as_str(), key);
            for endpoint in &old.endpoints {
                remove_from(&mut self.named_at, &endpoint.address, key);
            }
        }
        let Some(facts) = facts else { return };
        let service: Box<str> = format!("{}/{}", namespace_of(key), facts.service).into();
        self.slices_of.entry(service).or_default().insert(key.into());
        for endpoint in facts.endpoints.iter().filter(|endpoint| endpoint.named) {
            self.named_at.entry(endpoint.address).or_default().insert(key.into());
        }
        self.slices.insert(key.into(), facts);
    }

    pub(crate) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub(crate) fn service(&self, namespace: &str, name: &str) -> Option<&ServiceFacts> {
        self.services.get(format!("{namespace}/{name}").as_str())
    }

    /// Each endpoint of a service with each of its slice's ports.
    pub(crate) fn endpoints(&self, namespace: &str, service: &str) -> impl Iterator<Item = (&Endpoint, &Port)> {
        let keys = self.slices_of.get(format!("{namespace}/{service}").as_str());
        let slices = keys.into_iter().flatten().filter_map(|key| self.slices.get(key));
        slices.flat_map(|slice| slice.endpoints.iter().flat_map(|endpoint| slice.ports.iter().map(move |port| (endpoint, port))))
    }

    /// The names of an address below `svc.<zone>`: of the service that has it, else of the endpoints with a hostname.
    pub(crate) fn names_of(&self, address: IpAddr) -> Vec<String> {
        let dotted = |key: &str| key.split_once('/').map(|(namespace, name)| format!("{name}.{namespace}"));
        if let Some(name) = self.service_at.get(&address).and_then(|key| dotted(key)) {
            return vec![name];
        }
        let keys = self.named_at.get(&address).into_iter().flatten();
        let mut names: Vec<String> = keys
            .filter_map(|key| Some((namespace_of(key), self.slices.get(key)?)))
            .flat_map(|(namespace, slice)| {
                let named = slice.endpoints.iter().filter(|endpoint| endpoint.named && endpoint.address == address);
                named.map(move |endpoint| format!("{}.{}.{namespace}", endpoint.label, slice.service))
            })
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn remove_from<K, Q>(map: &mut HashMap<K, BTreeSet<Box<str>>>, at: &Q, key: &str)
where
    K: std::borrow::Borrow<Q> + std::hash::Hash + Eq,
    Q: std::hash::Hash + Eq + ?Sized,
{
    let emptied = map.get_mut(at).is_some_and(|keys| {
        keys.remove(key);
        keys.is_empty()
    });
    if emptied {
        map.remove(at);
    }
}
