//! Endpoints: the old form of EndpointSlices, kept for clients that still read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use client::{DeleteOptions, ResourceId, Selection};
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::slices::PortKey;
use crate::{Config, Entry, endpoint_slice, pods};

const ENDPOINTS: ResourceId = ResourceId::new("", "v1", "endpoints");
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses in one object at most.
const CAPACITY: usize = 1000;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "endpoint-controller", controller: Arc::new(EndpointsOfServices) }
}

struct EndpointsOfServices;

#[async_trait]
impl Controller for EndpointsOfServices {
    fn name(&self) -> &'static str {
        "endpoints-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<Service>()),
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| endpoint_slice::services_of(context, [old, new], add)),
            // Those of services are made again; those left over by services that are gone are removed.
            Watch::mapped(Selection::of::<Endpoints>(), |_, old, new, add| {
                let leftover = new.is_some_and(|entry| entry.header.label(MANAGED_BY) == Some(MANAGER));
                if let Some(entry) = new.or(old).filter(|_| new.is_none() || leftover) {
                    add(ObjectKey::of(entry));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let current = context.cache::<Endpoints>().read::<Endpoints>(&key.namespace, &key.name);
        let Some(service) = context.cache::<Service>().read::<Service>(&key.namespace, &key.name) else {
            if current.is_some() {
                match context.client.delete(&ENDPOINTS, &key.namespace, &key.name, &DeleteOptions::default()).await {
                    Err(status) if !status.is_not_found() => return Err(status.into()),
                    _ => {}
                }
            }
            return Ok(Next::Done);
        };
        let spec = service.spec.clone().unwrap_or_default();
        if spec.selector.as_ref().is_none_or(BTreeMap::is_empty)
            || spec.type_.as_deref() == Some("ExternalName")
            || service.metadata.deletion_timestamp.is_some()
        {
            return Ok(Next::Done);
        }
        let mut subsets = subsets(context, &service);
        let truncated = truncate(&mut subsets, CAPACITY);
        let labels = labels(&service);
        let before = current.clone().unwrap_or_default();
        let marked = before.metadata.annotations.as_ref().is_some_and(|annotations| annotations.contains_key(OVER_CAPACITY));
        if current.is_some()
            && before.subsets.as_deref().unwrap_or_default() == subsets.as_slice()
            && before.metadata.labels.as_ref() == Some(&labels)
            && marked == truncated
        {
            return Ok(Next::Done);
        }
        let mut metadata = before.metadata.clone();
        metadata.labels = Some(labels);
        if truncated {
            metadata.annotations.get_or_insert_default().insert(OVER_CAPACITY.into(), "truncated".into());
        } else if let Some(annotations) = &mut metadata.annotations {
            annotations.remove(OVER_CAPACITY);
        }
        if current.is_some() {
            context.client.update(&Endpoints { metadata, subsets: Some(subsets) }).await?;
            return Ok(Next::Done);
        }
        let metadata = ObjectMeta { name: Some(key.name.to_string()), namespace: Some(key.namespace.to_string()), ..metadata };
        match context.client.create(&Endpoints { metadata, subsets: Some(subsets) }).await {
            Err(status) if status.message.contains("is being terminated") || status.is_not_found() => Ok(Next::Done),
            result => result.map(|_| Next::Done).map_err(Into::into),
        }
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()).is_none_or(|ip| ip == "None" || ip.is_empty()) {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}

fn subsets(context: &Context, service: &Service) -> Vec<EndpointSubset> {
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.clone().unwrap_or_default();
    let selector = LabelSelector::from_map(selector.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let publish = spec.publish_not_ready_addresses == Some(true);
    let family = spec.ip_families.iter().flatten().next().cloned().unwrap_or_else(|| "IPv4".into());
    let mut backends = Vec::new();
    for entry in context.cache::<Pod>().list_namespace(namespace) {
        if !selector.matches_sorted(&entry.header.labels) || (entry.header.deletion_timestamp.is_some() && !publish) {
            continue;
        }
        let Some(pod) = pods::lite(entry).filter(|pod| !pod.lite.is_finished()) else {
            continue;
        };
        let Some(decoded) = cache::decode::<Pod>(&pod.entry) else {
            continue;
        };
        let Some(ip) = endpoint_slice::address(&decoded, &family) else {
            continue;
        };
        let ports = endpoint_slice::ports(&decoded, spec.ports.as_deref().unwrap_or_default());
        backends.push(Backend { address: address(&decoded, ip, service), ports, ready: pod.lite.ready || publish });
    }
    pack(backends)
}

struct Backend {
    address: EndpointAddress,
    ports: Vec<PortKey>,
    ready: bool,
}

fn address(pod: &Pod, ip: String, service: &Service) -> EndpointAddress {
    let spec = pod.spec.clone().unwrap_or_default();
    EndpointAddress {
        ip,
        hostname: spec.hostname.filter(|name| !name.is_empty() && spec.subdomain == service.metadata.name),
        node_name: spec.node_name,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
    }
}

/// The addresses of a port: (address, ready), as places in the list of backends.
type Members = BTreeSet<(usize, bool)>;

/// Groups addresses so that every subset's ports serve at all of its addresses.
fn pack(backends: Vec<Backend>) -> Vec<EndpointSubset> {
    let mut by_port: BTreeMap<Option<PortKey>, Members> = BTreeMap::new();
    for (index, backend) in backends.iter().enumerate() {
        if backend.ports.is_empty() {
            by_port.entry(None).or_default().insert((index, backend.ready));
        }
        for port in &backend.ports {
            by_port.entry(Some(port.clone())).or_default().insert((index, backend.ready));
        }
    }
    let mut by_members: BTreeMap<Members, Vec<PortKey>> = BTreeMap::new();
    for (port, members) in by_port {
        by_members.entry(members).or_default().extend(port);
    }
    let mut subsets: Vec<EndpointSubset> = by_members
        .into_iter()
        .map(|(members, ports)| {
            let pick = |wanted: bool| {
                let mut picked: Vec<EndpointAddress> =
                    members.iter().filter(|(_, ready)| *ready == wanted).map(|(index, _)| backends[*index].address.clone()).collect();
                picked.sort_by_key(|address| {
                    (address.ip.parse::<IpAddr>().ok(), address.target_ref.as_ref().and_then(|target| target.uid.clone()))
                });
                (!picked.is_empty()).then_some(picked)
            };
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort {
                    name: (!name.is_empty()).then_some(name),
                    port,
                    protocol: Some(protocol),
                    app_protocol,
                })
                .collect();
            EndpointSubset { addresses: pick(true), not_ready_addresses: pick(false), ports: (!ports.is_empty()).then_some(ports) }
        })
        .collect();
    subsets.sort_by_key(|subset| subset.ports.iter().flatten().map(|port| (port.port, port.name.clone())).collect::<Vec<_>>());
    subsets
}

/// Cuts to a number of addresses, those that are not ready first; whether anything was cut.
fn truncate(subsets: &mut [EndpointSubset], capacity: usize) -> bool {
    let count = |list: &Option<Vec<EndpointAddress>>| list.as_ref().map_or(0, Vec::len);
    let total: usize = subsets.iter().map(|subset| count(&subset.addresses) + count(&subset.not_ready_addresses)).sum();
    if total <= capacity {
        return false;
    }
    let mut left = capacity;
    let mut cut = |list: &mut Option<Vec<EndpointAddress>>| {
        if let Some(addresses) = list {
            addresses.truncate(left);
            left -= addresses.len();
            if addresses.is_empty() {
                *list = None;
            }
        }
    };
    subsets.iter_mut().for_each(|subset| cut(&mut subset.addresses));
    subsets.iter_mut().for_each(|subset| cut(&mut subset.not_ready_addresses));
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(ip: &str, ports: &[i32], ready: bool) -> Backend {
        let address = EndpointAddress { ip: ip.into(), ..EndpointAddress::default() };
        Backend { address, ports: ports.iter().map(|port| (String::new(), *port, "TCP".into(), None)).collect(), ready }
    }

    fn text(subsets: &[EndpointSubset]) -> Vec<String> {
        let ips =
            |list: &Option<Vec<EndpointAddress>>| list.iter().flatten().map(|address| address.ip.clone()).collect::<Vec<_>>().join(" ");
        let ports = |subset: &EndpointSubset| subset.ports.iter().flatten().map(|port| port.port.to_string()).collect::<Vec<_>>().join(" ");
        subsets
            .iter()
            .map(|subset| format!("{} | {} | {}", ips(&subset.addresses), ips(&subset.not_ready_addresses), ports(subset)))
            .collect()
    }

    #[test]
    fn subsets_are_packed() {
        let packed =
            pack(vec![backend("10.0.0.10", &[80, 90], true), backend("10.0.0.9", &[80, 90], true), backend("10.0.0.3", &[80, 90], false)]);
        assert_eq!(text(&packed), ["10.0.0.9 10.0.0.10 | 10.0.0.3 | 80 90"]);
        let packed = pack(vec![backend("10.0.0.1", &[80], true), backend("10.0.0.2", &[81], true)]);
        assert_eq!(text(&packed), ["10.0.0.1 |  | 80", "10.0.0.2 |  | 81"]);
        assert!(pack(Vec::new()).is_empty());
    }

    #[test]
    fn too_many_are_cut() {
        let mut packed = pack(vec![backend("10.0.0.1", &[80], true), backend("10.0.0.2", &[80], true), backend("10.0.0.3", &[80], false)]);
        assert!(!truncate(&mut packed, 3));
        assert!(truncate(&mut packed, 1));
        assert_eq!(text(&packed), ["10.0.0.1 |  | 80"]);
    }
}
