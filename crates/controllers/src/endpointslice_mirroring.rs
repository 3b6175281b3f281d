//! EndpointSlice mirroring: Endpoints that somebody wrote by hand become slices, which is all that proxies read.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointSlice};
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::slices::{self, Groups, PortKey, Publisher, SERVICE_NAME, Wanted};
use crate::{Config, Entry, pods};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const TRIGGER: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Endpoints in a slice and addresses taken of a subset at most.
const LIMIT: usize = 1000;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "endpointslicemirroring-controller", controller: Arc::new(Mirroring) }
}

struct Mirroring;

#[async_trait]
impl Controller for Mirroring {
    fn name(&self) -> &'static str {
        "endpointslice-mirroring-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<Endpoints>()),
            Watch::own(Selection::of::<Service>()),
            Watch::mapped(mirrored(), |_, old, new, add| {
                for entry in [old, new].into_iter().flatten() {
                    if let Some(service) = entry.header.label(SERVICE_NAME) {
                        add(ObjectKey::new(&entry.header.namespace, service));
                    }
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let mine = slices::of_service(&context.cache_of(mirrored()), key);
        let service = context.cache::<Service>().read::<Service>(&key.namespace, &key.name);
        let manual = service.is_some_and(|service| service.spec.and_then(|spec| spec.selector).is_none_or(|selector| selector.is_empty()));
        let endpoints = context.cache::<Endpoints>().read::<Endpoints>(&key.namespace, &key.name);
        let Some(endpoints) = endpoints.filter(|endpoints| manual && is_mirrored(endpoints)) else {
            for slice in &mine {
                slices::remove(context, slice).await?;
            }
            return Ok(Next::Done);
        };
        let publisher = Publisher {
            prefix: key.name.to_string(),
            namespace: key.namespace.to_string(),
            labels: labels(&endpoints, &key.name),
            annotations: Some(annotations(&endpoints)),
            owner: pods::controller_ref("v1", "Endpoints", &endpoints.metadata),
            limit: LIMIT,
        };
        slices::apply(context, &publisher, mine, wanted(&endpoints)).await?;
        Ok(Next::Done)
    }
}

fn mirrored() -> Selection {
    Selection::of::<EndpointSlice>().with_labels(format!("{MANAGED_BY}={MANAGER}"))
}

fn is_mirrored(endpoints: &Endpoints) -> bool {
    let metadata = &endpoints.metadata;
    let skipped = metadata.labels.as_ref().and_then(|labels| labels.get(SKIP)).is_some_and(|value| value == "true");
    let leader = metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(LEADER));
    !skipped && !leader && metadata.deletion_timestamp.is_none()
}

fn labels(endpoints: &Endpoints, service: &str) -> BTreeMap<String, String> {
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), service.to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn annotations(endpoints: &Endpoints) -> BTreeMap<String, String> {
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| name != TRIGGER && name != LAST_APPLIED);
    annotations
}

fn wanted(endpoints: &Endpoints) -> Vec<Wanted> {
    let mut families: BTreeMap<&'static str, Groups> = BTreeMap::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<PortKey> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| {
                (
                    port.name.clone().unwrap_or_default(),
                    port.port,
                    port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port.app_protocol.clone(),
                )
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(waiting).take(LIMIT) {
            let family = if address.ip.contains(':') { "IPv6" } else { "IPv4" };
            families.entry(family).or_default().entry(ports.clone()).or_default().push(endpoint(address, ready));
        }
    }
    families.into_iter().map(|(family, groups)| Wanted { family, groups }).collect()
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), serving: None, terminating: None }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn families_and_ports_are_kept_apart() {
        let endpoints: Endpoints = serde_json::from_value(json!({"metadata": {"name": "e"}, "subsets": [
            {"addresses": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "notReadyAddresses": [{"ip": "10.0.0.2"}], "ports": [{"port": 80}]},
            {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81, "name": "x"}]},
        ]}))
        .unwrap();
        let found: Vec<String> = wanted(&endpoints)
            .iter()
            .flat_map(|wanted| {
                wanted.groups.iter().map(move |(ports, endpoints)| format!("{} {} {}", wanted.family, ports[0].1, endpoints.len()))
            })
            .collect();
        assert_eq!(found, ["IPv4 80 2", "IPv4 81 1", "IPv6 80 1"]);
    }
}
