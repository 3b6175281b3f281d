//! EndpointSlices of services with a selector: which pods serve, under which addresses and ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use api::label_selector::LabelSelector;
use async_trait::async_trait;
use cache::{BY_SELECTOR, selector_key};
use client::{Selection, ServiceLite};
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointHints, EndpointSlice, ForNode, ForZone};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::slices::{self, Groups, PortKey, Publisher, SERVICE_NAME, Wanted};
use crate::{Config, Entry, pods};

const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
/// Endpoints in a slice at most, as upstream's default.
const MAX_ENDPOINTS: usize = 100;

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "endpointslice-controller", controller: Arc::new(EndpointSlices) }
}

struct EndpointSlices;

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpointslice-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        vec![
            Watch::own(Selection::of::<Service>()),
            Watch::mapped(Selection::of::<Pod>(), |context, old, new, add| services_of(context, [old, new], add)),
            Watch::mapped(slices(), |_, old, new, add| {
                for entry in [old, new].into_iter().flatten() {
                    if let Some(service) = entry.header.label(SERVICE_NAME) {
                        add(ObjectKey::new(&entry.header.namespace, service));
                    }
                }
            }),
            Watch::read(Selection::of::<Node>()),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let mine = slices::of_service(&context.cache_of(slices()), key);
        let service = context.cache::<Service>().read::<Service>(&key.namespace, &key.name);
        let Some(service) = service.filter(wants_slices) else {
            for slice in &mine {
                slices::remove(context, slice).await?;
            }
            return Ok(Next::Done);
        };
        let wanted = wanted(context, &service);
        let publisher = Publisher {
            prefix: key.name.to_string(),
            namespace: key.namespace.to_string(),
            labels: labels(&service),
            annotations: None,
            owner: pods::controller_ref("v1", "Service", &service.metadata),
            limit: MAX_ENDPOINTS,
        };
        slices::apply(context, &publisher, mine, wanted).await?;
        Ok(Next::Done)
    }
}

fn slices() -> Selection {
    Selection::of::<EndpointSlice>().with_labels(format!("{MANAGED_BY}={MANAGER}"))
}

fn wants_slices(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    let selects = spec.and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| !selector.is_empty());
    selects && service.metadata.deletion_timestamp.is_none() && spec.and_then(|spec| spec.type_.as_deref()) != Some("ExternalName")
}

/// Services that the pod is an endpoint of, before or after the change.
pub(crate) fn services_of(context: &Context, changed: [Option<&Arc<store::Entry>>; 2], add: &mut dyn FnMut(ObjectKey)) {
    let services = context.cache::<Service>();
    if services.is_empty() {
        return;
    }
    // A version without an address is no endpoint of anything.
    let [old, new] = changed.map(|version| version.filter(|pod| !pod.header.field("status.podIP").is_empty()));
    let old = old.filter(|old| new.is_none_or(|new| new.header.labels != old.header.labels));
    for pod in [old, new].into_iter().flatten() {
        for (label, value) in pod.header.labels.iter() {
            for service in services.by(&BY_SELECTOR, &selector_key(&pod.header.namespace, label, value)) {
                if service.header.project::<ServiceLite>().is_some_and(|lite| lite.selects(&pod.header)) {
                    add(ObjectKey::of(&service));
                }
            }
        }
    }
}

fn wanted(context: &Context, service: &Service) -> Vec<Wanted> {
    let spec = service.spec.clone().unwrap_or_default();
    let selector = spec.selector.clone().unwrap_or_default();
    let selector = LabelSelector::from_map(selector.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let namespace = service.metadata.namespace.as_deref().unwrap_or("");
    let publish = spec.publish_not_ready_addresses == Some(true);
    let families = spec.ip_families.clone().unwrap_or_else(|| vec!["IPv4".into()]);
    let nodes = context.cache::<Node>();
    let pods: Vec<Pod> = context
        .cache::<Pod>()
        .list_namespace(namespace)
        .into_iter()
        .filter(|entry| selector.matches_sorted(&entry.header.labels))
        .filter_map(pods::lite)
        .filter(|pod| !pod.lite.is_finished())
        .filter_map(|pod| cache::decode(&pod.entry))
        .collect();
    let mut all = Vec::new();
    for family in ["IPv4", "IPv6"].into_iter().filter(|family| families.iter().any(|one| one == family)) {
        let mut groups = Groups::new();
        for pod in &pods {
            let Some(address) = address(pod, family) else {
                continue;
            };
            let ports = ports(pod, spec.ports.as_deref().unwrap_or_default());
            groups.entry(ports).or_default().push(endpoint(pod, address, service, publish, &nodes));
        }
        if groups.is_empty() {
            // A service without endpoints still has one slice, with no ports.
            groups.insert(Vec::new(), Vec::new());
        }
        all.push(Wanted { family, groups });
    }
    all
}

pub(crate) fn address(pod: &Pod, family: &str) -> Option<String> {
    let ips = pod.status.as_ref()?.pod_ips.as_deref().unwrap_or_default();
    ips.iter().map(|ip| ip.ip.clone()).find(|ip| ip.contains(':') == (family == "IPv6"))
}

pub(crate) fn ports(pod: &Pod, ports: &[ServicePort]) -> Vec<PortKey> {
    let resolved = ports.iter().filter_map(|port| {
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
        let number = match &port.target_port {
            None => port.port,
            Some(IntOrString::Int(0)) => port.port,
            Some(IntOrString::Int(number)) => *number,
            Some(IntOrString::String(name)) => named_port(pod, name, &protocol)?,
        };
        Some((port.name.clone().unwrap_or_default(), number, protocol, port.app_protocol.clone()))
    });
    resolved.collect()
}

fn named_port(pod: &Pod, name: &str, protocol: &str) -> Option<i32> {
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports
        .find(|port| port.name.as_deref() == Some(name) && port.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|port| port.container_port)
}

fn endpoint(pod: &Pod, address: String, service: &Service, publish: bool, nodes: &cache::Cache) -> Endpoint {
    let ready = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let leaving = pod.metadata.deletion_timestamp.is_some();
    let spec = pod.spec.clone().unwrap_or_default();
    let service_name = service.metadata.name.as_deref();
    let hostname = spec.hostname.filter(|name| !name.is_empty() && spec.subdomain.as_deref() == service_name);
    let zone = spec
        .node_name
        .as_deref()
        .and_then(|node| nodes.get("", node))
        .and_then(|node| node.header.label("topology.kubernetes.io/zone").map(str::to_owned));
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some((ready && !leaving) || publish),
            serving: Some(ready),
            terminating: Some(leaving),
        }),
        hostname,
        hints: hints(service, spec.node_name.as_deref(), zone.as_deref()),
        node_name: spec.node_name,
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

/// Where an endpoint should be used first, if the service wants traffic to stay near.
fn hints(service: &Service, node: Option<&str>, zone: Option<&str>) -> Option<EndpointHints> {
    let wish = service.spec.as_ref()?.traffic_distribution.as_deref()?;
    let for_zones = zone.map(|zone| vec![ForZone { name: zone.to_owned() }]);
    match wish {
        "PreferClose" | "PreferSameZone" => for_zones.map(|zones| EndpointHints { for_zones: Some(zones), for_nodes: None }),
        "PreferSameNode" => {
            let node = node?;
            Some(EndpointHints { for_zones, for_nodes: Some(vec![ForNode { name: node.to_owned() }]) })
        }
        _ => None,
    }
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.remove(HEADLESS);
    if service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone().unwrap_or_default());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels
}
