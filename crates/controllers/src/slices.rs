//! Writing EndpointSlices: what the controllers of selected and of manual endpoints have in common.
//!
//! As few slices as possible change: endpoints stay where they are, gaps are filled, empty slices go.

use std::collections::BTreeMap;

use anyhow::Result;
use cache::Cache;
use client::{DeleteOptions, ResourceId};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use reconcile::{Context, ObjectKey};

const SLICES: ResourceId = ResourceId::new("discovery.k8s.io", "v1", "endpointslices");
/// Label with the name of the service.
pub(crate) const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Name, number, protocol and application protocol of a port.
pub(crate) type PortKey = (String, i32, String, Option<String>);

/// Endpoints grouped by the ports that they resolve to; named target ports may differ from pod to pod.
pub(crate) type Groups = BTreeMap<Vec<PortKey>, Vec<Endpoint>>;

/// All endpoints of one address family.
pub(crate) struct Wanted {
    /// `IPv4` or `IPv6`.
    pub(crate) family: &'static str,
    /// Its endpoints.
    pub(crate) groups: Groups,
}

/// What all slices of a service carry.
pub(crate) struct Publisher {
    /// Prefix of generated names.
    pub(crate) prefix: String,
    /// Namespace.
    pub(crate) namespace: String,
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations, where they are copied.
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// Owner.
    pub(crate) owner: OwnerReference,
    /// Endpoints in a slice at most.
    pub(crate) limit: usize,
}

/// The slices of a service that a cache of one manager's slices shows.
pub(crate) fn of_service(cache: &Cache, key: &ObjectKey) -> Vec<EndpointSlice> {
    let entries = cache.list_namespace(&key.namespace);
    let mine =
        entries.iter().filter(|entry| entry.header.label(SERVICE_NAME) == Some(&key.name) && entry.header.deletion_timestamp.is_none());
    mine.filter_map(|entry| cache::decode(entry)).collect()
}

/// Makes the slices show the wanted endpoints.
pub(crate) async fn apply(context: &Context, publisher: &Publisher, mine: Vec<EndpointSlice>, wanted: Vec<Wanted>) -> Result<()> {
    let mut left = mine;
    for Wanted { family, groups } in wanted {
        for (ports, mut endpoints) in groups {
            endpoints.sort_by(|one, two| one.addresses.cmp(&two.addresses));
            let ports: Vec<EndpointPort> = ports
                .into_iter()
                .map(|(name, port, protocol, app_protocol)| EndpointPort {
                    name: Some(name),
                    port: Some(port),
                    protocol: Some(protocol),
                    app_protocol,
                })
                .collect();
            let (fitting, rest): (Vec<EndpointSlice>, Vec<EndpointSlice>) = left
                .into_iter()
                .partition(|slice| slice.address_type == family && slice.ports.as_deref().unwrap_or_default() == ports.as_slice());
            left = rest;
            let plan = plan(fitting, endpoints, publisher.limit);
            carry_out(context, publisher, family, &ports, plan).await?;
        }
    }
    for slice in &left {
        remove(context, slice).await?;
    }
    Ok(())
}

/// What becomes of the slices of one set of ports.
#[derive(Debug, Default, PartialEq)]
struct Plan {
    keep: Vec<(EndpointSlice, Vec<Endpoint>)>,
    remove: Vec<EndpointSlice>,
    create: Vec<Vec<Endpoint>>,
}

fn plan(slices: Vec<EndpointSlice>, endpoints: Vec<Endpoint>, limit: usize) -> Plan {
    let mut by_identity: BTreeMap<String, Endpoint> = BTreeMap::new();
    let mut order = Vec::new();
    for endpoint in endpoints {
        let name = identity(&endpoint);
        order.push(name.clone());
        by_identity.insert(name, endpoint);
    }
    let mut keep: Vec<(EndpointSlice, Vec<Endpoint>)> = slices
        .into_iter()
        .map(|slice| {
            let stay = slice.endpoints.iter().flatten().filter_map(|endpoint| by_identity.remove(&identity(endpoint))).collect();
            (slice, stay)
        })
        .collect();
    let mut fresh: Vec<Endpoint> = order.iter().filter_map(|name| by_identity.remove(name)).collect();
    for (_, stay) in &mut keep {
        let room = limit.saturating_sub(stay.len()).min(fresh.len());
        stay.extend(fresh.drain(..room));
    }
    let mut plan = Plan::default();
    let all_empty = fresh.is_empty() && keep.iter().all(|(_, stay)| stay.is_empty());
    if all_empty && keep.is_empty() {
        plan.create.push(Vec::new());
    }
    for (slice, stay) in keep {
        // One empty slice stands for a service without endpoints.
        if stay.is_empty() && !(all_empty && plan.keep.is_empty()) {
            plan.remove.push(slice);
        } else {
            plan.keep.push((slice, stay));
        }
    }
    while !fresh.is_empty() {
        plan.create.push(fresh.drain(..fresh.len().min(limit)).collect());
    }
    plan
}

async fn carry_out(context: &Context, publisher: &Publisher, family: &str, ports: &[EndpointPort], plan: Plan) -> Result<()> {
    for (slice, stay) in plan.keep {
        let annotations =
            publisher.annotations.as_ref().is_none_or(|wanted| slice.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new()) == wanted);
        let same = slice.endpoints.as_deref().unwrap_or_default() == stay.as_slice()
            && slice.metadata.labels.as_ref() == Some(&publisher.labels)
            && annotations;
        if !same {
            let mut metadata = slice.metadata.clone();
            metadata.labels = Some(publisher.labels.clone());
            if let Some(annotations) = &publisher.annotations {
                metadata.annotations = Some(annotations.clone());
            }
            context.client.update(&EndpointSlice { endpoints: Some(stay), metadata, ..slice }).await?;
        }
    }
    for endpoints in plan.create {
        create(context, publisher, family, ports, endpoints).await?;
    }
    for slice in &plan.remove {
        remove(context, slice).await?;
    }
    Ok(())
}

fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().and_then(|target| target.uid.clone());
    uid.unwrap_or_else(|| endpoint.addresses.join(","))
}

async fn create(context: &Context, publisher: &Publisher, family: &str, ports: &[EndpointPort], endpoints: Vec<Endpoint>) -> Result<()> {
    let metadata = ObjectMeta {
        generate_name: Some(format!("{}-", publisher.prefix)),
        namespace: Some(publisher.namespace.clone()),
        labels: Some(publisher.labels.clone()),
        annotations: publisher.annotations.clone(),
        owner_references: Some(vec![publisher.owner.clone()]),
        ..ObjectMeta::default()
    };
    let slice = EndpointSlice { metadata, address_type: family.into(), endpoints: Some(endpoints), ports: Some(ports.to_vec()) };
    match context.client.create(&slice).await {
        Err(status) if status.is_not_found() || status.message.contains("is being terminated") => Ok(()),
        result => result.map(drop).map_err(Into::into),
    }
}

/// Deletes a slice; one that is gone is fine.
pub(crate) async fn remove(context: &Context, slice: &EndpointSlice) -> Result<()> {
    let (namespace, name) = (slice.metadata.namespace.as_deref().unwrap_or(""), slice.metadata.name.as_deref().unwrap_or(""));
    match context.client.delete(&SLICES, namespace, name, &DeleteOptions::default()).await {
        Err(status) if !status.is_not_found() => Err(status.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(text: &str) -> Vec<Endpoint> {
        text.split_whitespace().map(|address| Endpoint { addresses: vec![address.to_owned()], ..Endpoint::default() }).collect()
    }

    fn text(endpoints: &[Endpoint]) -> String {
        endpoints.iter().map(|endpoint| endpoint.addresses[0].as_str()).collect::<Vec<_>>().join(" ")
    }

    fn check(slices: &[&str], wanted: &str, keep: &[&str], remove: usize, create: &[&str]) {
        let slices = slices.iter().map(|text| EndpointSlice { endpoints: Some(endpoints(text)), ..EndpointSlice::default() }).collect();
        let plan = plan(slices, endpoints(wanted), 3);
        assert_eq!(plan.keep.iter().map(|(_, stay)| text(stay)).collect::<Vec<_>>(), keep, "{wanted}");
        assert_eq!(plan.remove.len(), remove, "{wanted}");
        assert_eq!(plan.create.iter().map(|one| text(one)).collect::<Vec<_>>(), create, "{wanted}");
    }

    #[test]
    fn few_slices_change() {
        check(&[], "", &[], 0, &[""]);
        check(&[], "a b c d", &[], 0, &["a b c", "d"]);
        check(&["c a"], "a b c", &["c a b"], 0, &[]);
        check(&["a b c", "d"], "a c", &["a c"], 1, &[]);
        check(&["a b c", "d"], "", &[""], 1, &[]);
        check(&["a b c"], "a b c d", &["a b c"], 0, &["d"]);
    }
}
