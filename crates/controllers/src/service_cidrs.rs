//! Service address ranges: says that a range is ready, and keeps a deleted one while addresses of it are in use.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use client::Selection;
use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use reconcile::{Context, Controller, Next, ObjectKey, Watch};

use crate::{Config, Entry, moment};

const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";

/// The controller.
pub fn controller(_: &Config) -> Entry {
    Entry { account: "service-cidrs-controller", controller: Arc::new(ServiceCidrs) }
}

struct ServiceCidrs;

#[async_trait]
impl Controller for ServiceCidrs {
    fn name(&self) -> &'static str {
        "service-cidr-controller"
    }

    fn watches(&self) -> Vec<Watch> {
        let all = |context: &Context, add: &mut dyn FnMut(ObjectKey)| {
            context.cache::<ServiceCIDR>().list().iter().for_each(|entry| add(ObjectKey::of(entry)))
        };
        vec![
            Watch::mapped(Selection::of::<ServiceCIDR>(), move |context, old, new, add| {
                if let Some(entry) = new {
                    add(ObjectKey::of(entry));
                }
                // A range that comes or goes may cover addresses of others.
                if old.is_none() || new.is_none() {
                    all(context, add);
                }
            }),
            Watch::mapped(Selection::of::<IPAddress>(), |context, old, new, add| {
                if old.is_some() && new.is_none() {
                    let leaving = context.cache::<ServiceCIDR>().list();
                    leaving.iter().filter(|entry| entry.header.deletion_timestamp.is_some()).for_each(|entry| add(ObjectKey::of(entry)));
                }
            }),
        ]
    }

    async fn reconcile(&self, context: &Context, key: &ObjectKey) -> Result<Next> {
        let cache = context.cache::<ServiceCIDR>();
        let Some(mut range) = cache.read::<ServiceCIDR>("", &key.name) else {
            return Ok(Next::Done);
        };
        let finalizers = range.metadata.finalizers.get_or_insert_default();
        let kept = finalizers.iter().any(|one| one == FINALIZER);
        if range.metadata.deletion_timestamp.is_none() {
            if !kept {
                finalizers.push(FINALIZER.into());
                range = context.client.update(&range).await?;
            }
            set_ready(context, range, "True", "", "Kubernetes Service CIDR is ready").await?;
            return Ok(Next::Done);
        }
        if !kept {
            return Ok(Next::Done);
        }
        let others: Vec<ServiceCIDR> = cache
            .list()
            .iter()
            .filter(|entry| Some(&*entry.header.name) != range.metadata.name.as_deref() && entry.header.deletion_timestamp.is_none())
            .filter_map(|entry| cache::decode(entry))
            .collect();
        let others: Vec<IpNet> = others.iter().flat_map(nets).collect();
        let used: Vec<IpAddr> = context.cache::<IPAddress>().list().iter().filter_map(|entry| entry.header.name.parse().ok()).collect();
        if is_needed(&nets(&range), &others, &used) {
            let message = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR";
            set_ready(context, range, "False", "Terminating", message).await?;
            return Ok(Next::Done);
        }
        range.metadata.finalizers.get_or_insert_default().retain(|one| one != FINALIZER);
        match context.client.update(&range).await {
            Err(status) if !status.is_not_found() => Err(status.into()),
            _ => Ok(Next::Done),
        }
    }
}

fn nets(range: &ServiceCIDR) -> Vec<IpNet> {
    range.spec.iter().flat_map(|spec| spec.cidrs.iter().flatten()).filter_map(|text| text.parse().ok()).collect()
}

/// Whether an address in use is in the range and in no other.
fn is_needed(range: &[IpNet], others: &[IpNet], used: &[IpAddr]) -> bool {
    let within = |nets: &[IpNet], address: &IpAddr| nets.iter().any(|net| net.contains(address));
    used.iter().any(|address| within(range, address) && !within(others, address))
}

async fn set_ready(context: &Context, mut range: ServiceCIDR, status: &str, reason: &str, message: &str) -> Result<()> {
    let conditions = range.status.get_or_insert_default().conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == "Ready");
    if known.is_some_and(|place| conditions[place].status == status && conditions[place].reason == reason) {
        return Ok(());
    }
    let fresh = Condition {
        type_: "Ready".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: moment::now(),
        observed_generation: None,
    };
    match known {
        Some(place) => conditions[place] = fresh,
        None => conditions.push(fresh),
    }
    context.client.update_status(&range).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stay_while_they_alone_hold_an_address() {
        let nets = |texts: &[&str]| -> Vec<IpNet> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let used = ["10.0.0.7".parse().unwrap()];
        assert!(is_needed(&nets(&["10.0.0.0/24"]), &[], &used));
        assert!(!is_needed(&nets(&["10.0.0.0/24"]), &nets(&["10.0.0.0/16"]), &used));
        assert!(!is_needed(&nets(&["10.1.0.0/24"]), &[], &used));
    }
}
