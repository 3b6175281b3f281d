//! The node's addresses follow the machine's: a laptop changes networks, a lease runs out.
//!
//! The kernel tells of changes; the status, the kubelet's own API and every pod's `hostIP` follow at once.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use net::{AddressWatch, NetlinkError, NodeAddresses};

use crate::Kubelet;

/// Follows until the future is dropped; ends at once where the addresses were given.
pub async fn follow(kubelet: Arc<Kubelet>) {
    if !kubelet.config.follow_addresses {
        return;
    }
    loop {
        let Err(error) = watch(&kubelet).await;
        tracing::warn!(%error, "addresses are not followed for a moment");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn watch(kubelet: &Arc<Kubelet>) -> Result<std::convert::Infallible, NetlinkError> {
    let (mut watch, mut now) = AddressWatch::open()?;
    loop {
        take(kubelet, now.as_ref());
        now = watch.changed().await?;
    }
}

/// A machine without an address keeps its last one: nobody could reach it at another.
fn take(kubelet: &Arc<Kubelet>, now: Option<&NodeAddresses>) {
    let Some(ip) = now.and_then(|now| primary(&now.addresses)) else {
        return;
    };
    let changed = kubelet.addresses.send_if_modified(|known| {
        let differs = known.as_slice() != [ip];
        if differs {
            *known = vec![ip];
        }
        differs
    });
    if changed {
        tracing::info!(%ip, "the node has another address");
        kubelet.status_changed.notify_one();
        kubelet.pods.poke_all();
    }
}

/// The address that stands for the node: the first of version 4, else the first.
fn primary(addresses: &[IpNet]) -> Option<IpAddr> {
    addresses.iter().map(IpNet::addr).find(IpAddr::is_ipv4).or_else(|| addresses.first().map(IpNet::addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_4_stands_for_the_node() {
        let check = |addresses: &[&str], expected: Option<&str>| {
            let addresses: Vec<IpNet> = addresses.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(primary(&addresses), expected.map(|text| text.parse().unwrap()));
        };
        check(&[], None);
        check(&["fd00::1/64", "192.0.2.7/24", "192.0.2.8/24"], Some("192.0.2.7"));
        check(&["fd00::1/64"], Some("fd00::1"));
    }
}
