//! Addresses and ports where several servers give them out: what one takes is in the store before its service is, so that
//! no other gives it out, too.
//!
//! An address is an object of its own, made before the service. Ports are bits of one object that is replaced only by who
//! saw its last version. Both are the real server's. What a server took and lost by crashing in between is given back by
//! [`repair`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::json;
use store::{At, Change, Entry, Kind, Outcome};

use super::address_object;
use super::ports::Port;
use crate::failure;
use crate::server::Server;

/// How often a lost race for the ports is run again.
const ATTEMPTS: u32 = 200;

fn addresses_kind() -> Kind {
    Kind::new(api::resources::storage_prefix("networking.k8s.io", "ipaddresses", false))
}

/// Takes addresses and ports for a service: whether nobody else had one of them. Nothing is taken if somebody had.
///
/// # Errors
/// What the store reports.
pub async fn claim(server: &Arc<Server>, addresses: &[IpAddr], ports: &[Port], service: &(String, String)) -> Result<bool, Status> {
    for (count, address) in addresses.iter().enumerate() {
        if !claim_address(server, *address, service).await? {
            give_back(server, &addresses[..count], &[]).await;
            return Ok(false);
        }
    }
    let numbers: BTreeSet<u16> = ports.iter().map(|port| port.number).collect();
    if !numbers.is_empty() && !change_ports(server, |bits| numbers.iter().all(|number| bits.insert(*number))).await? {
        give_back(server, addresses, &[]).await;
        return Ok(false);
    }
    Ok(true)
}

async fn claim_address(server: &Arc<Server>, address: IpAddr, service: &(String, String)) -> Result<bool, Status> {
    let mut object = address_object(address, &service.0, &service.1);
    let served = server.catalog().find("networking.k8s.io", "v1", "ipaddresses").cloned().ok_or_else(failure::no_such_resource)?;
    let raw = crate::steps::commit::raw(&served, &mut object)?;
    let outcome = server.store.commit(Change::create(addresses_kind().key(address.to_string()), raw)).await;
    Ok(matches!(outcome.map_err(failure::commit)?, Outcome::Committed(_)))
}

/// Gives back what a service does not have any more.
pub async fn give_back(server: &Arc<Server>, addresses: &[IpAddr], ports: &[Port]) {
    for address in addresses {
        let key = addresses_kind().key(address.to_string());
        let Some(entry) = server.store.mvcc().get(&key).value else { continue };
        if let Err(error) = server.store.commit(Change::delete(key, entry.revision)).await {
            tracing::warn!(%address, %error, "the address object of a service could not be removed");
        }
    }
    if !ports.is_empty() && server.store.is_shared() {
        let freed = change_ports(server, |bits| {
            for port in ports {
                bits.remove(&port.number);
            }
            true
        });
        if let Err(status) = freed.await {
            tracing::warn!(%status, "node ports could not be given back");
        }
    }
}

/// Changes which ports are taken, as often as it takes. `change` says no to leave everything as it is.
async fn change_ports(server: &Arc<Server>, change: impl Fn(&mut BTreeSet<u16>) -> bool) -> Result<bool, Status> {
    let key = Kind::new("/registry/ranges/".to_owned()).key("servicenodeports");
    let (first, last) = server.config.node_ports;
    for _ in 0..ATTEMPTS {
        let found = server.store.get(&key, At::Latest).await.map_err(failure::read)?.value;
        let before = found.as_deref().map(|entry| read_ports(entry, first)).unwrap_or_default();
        let mut after = before.clone();
        if !change(&mut after) {
            return Ok(false);
        }
        if after == before {
            return Ok(true);
        }
        let object = json!({
            "kind": "RangeAllocation", "apiVersion": "v1", "metadata": {}, "range": format!("{first}-{last}"),
            "data": STANDARD.encode(write_ports(&after, first)),
        });
        let raw = Bytes::from(object.to_string());
        let put = match &found {
            Some(entry) => Change::replace(key.clone(), entry.revision, raw),
            None => Change::create(key.clone(), raw),
        };
        if let Outcome::Committed(_) = server.store.commit(put).await.map_err(failure::commit)? {
            return Ok(true);
        }
    }
    Err(Status::internal("node ports are given out too fast by others"))
}

/// The numbers whose bits are set. The data is one large number, its most significant byte first.
fn read_ports(entry: &Entry, first: u16) -> BTreeSet<u16> {
    let value = codec::json::parse(&entry.bytes).unwrap_or_default();
    let data = STANDARD.decode(value["data"].as_str().unwrap_or("")).unwrap_or_default();
    let bit = |(index, byte): (usize, &u8)| -> Vec<u16> {
        let set = (0..8).filter(|bit| byte >> bit & 1 == 1);
        set.filter_map(|bit| u16::try_from(index * 8 + bit).ok()?.checked_add(first)).collect()
    };
    data.iter().rev().enumerate().flat_map(bit).collect()
}

fn write_ports(ports: &BTreeSet<u16>, first: u16) -> Vec<u8> {
    let offsets = || ports.iter().filter_map(|port| port.checked_sub(first).map(usize::from));
    let mut data = vec![0_u8; offsets().max().map_or(0, |last| last / 8 + 1)];
    offsets().for_each(|offset| data[offset / 8] |= 1 << (offset % 8));
    data.reverse();
    data
}

/// Gives back ports and addresses that no service had at two looks. Services that never claimed theirs do so here.
pub async fn repair(server: Arc<Server>, every: Duration) {
    let mut suspects: (BTreeSet<u16>, BTreeSet<IpAddr>) = Default::default();
    loop {
        match look(&server, &suspects).await {
            Ok(unused) => suspects = unused,
            Err(status) => tracing::warn!(%status, "node ports and addresses could not be looked through"),
        }
        tokio::time::sleep(every).await;
    }
}

async fn look(server: &Arc<Server>, suspects: &(BTreeSet<u16>, BTreeSet<IpAddr>)) -> Result<(BTreeSet<u16>, BTreeSet<IpAddr>), Status> {
    // What is taken is read before the services, so that a service made in between is no leak.
    let key = Kind::new("/registry/ranges/".to_owned()).key("servicenodeports");
    let found = server.store.get(&key, At::Latest).await.map_err(failure::read)?.value;
    let taken = found.as_deref().map(|entry| read_ports(entry, server.config.node_ports.0)).unwrap_or_default();
    let ours = |(label, by): &(Box<str>, Box<str>)| &**label == "ipaddress.kubernetes.io/managed-by" && &**by == "ipallocator.k8s.io";
    let by_us = |entry: &&Arc<Entry>| entry.header.labels.iter().any(ours);
    let objects = server.store.mvcc().snapshot(&addresses_kind());
    let objects: Vec<Arc<Entry>> = objects.iter().filter(by_us).cloned().collect();
    server.store.catch_up().await.map_err(failure::read)?;
    let kind = Kind::new(api::resources::storage_prefix("", "services", false));
    let services = server.store.mvcc().snapshot(&kind);
    let (mut ports, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for service in services.iter().filter_map(|entry| codec::json::parse(&entry.bytes).ok().and_then(Object::from_value)) {
        ports.extend(super::service::ports(&service).into_iter().map(|port| port.number));
        addresses.extend(super::service::addresses(&service));
    }
    let lost: BTreeSet<u16> = suspects.0.iter().copied().filter(|port| taken.contains(port) && !ports.contains(port)).collect();
    let missing: Vec<u16> = ports.iter().copied().filter(|port| !taken.contains(port)).collect();
    if !lost.is_empty() || !missing.is_empty() {
        change_ports(server, |bits| {
            bits.retain(|port| !lost.contains(port));
            bits.extend(missing.iter().copied());
            true
        })
        .await?;
    }
    let unused: Vec<(IpAddr, &Arc<Entry>)> = objects
        .iter()
        .filter_map(|entry| Some((entry.key.rest.parse::<IpAddr>().ok()?, entry)))
        .filter(|(address, _)| !addresses.contains(address))
        .collect();
    for (address, entry) in unused.iter().filter(|(address, _)| suspects.1.contains(address)) {
        tracing::info!(%address, "an address that no service has is given back");
        server.store.commit(Change::delete(entry.key.clone(), entry.revision)).await.map_err(failure::commit)?;
    }
    let free = taken.difference(&ports).copied().filter(|port| !lost.contains(port)).collect();
    Ok((free, unused.into_iter().map(|(address, _)| address).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_bits_of_the_real_server() {
        let data = |ports: &[u16]| write_ports(&ports.iter().copied().collect(), 30000);
        assert_eq!(data(&[]), Vec::<u8>::new());
        assert_eq!(data(&[30000]), [1]);
        assert_eq!(data(&[30000, 30009]), [2, 1]);
        let value: serde_json::Value = json!({"metadata": {}, "data": STANDARD.encode(data(&[30000, 30009, 32767]))});
        let bytes = Bytes::from(value.to_string());
        let (bytes, header) = client::header::stamp()(&Kind::new("/r/".to_owned()).key("a"), bytes, store::Revision(1)).unwrap();
        let entry = Entry::new(Kind::new("/r/".to_owned()).key("a"), store::Revision(1), store::Revision(1), bytes, header);
        assert_eq!(read_ports(&entry, 30000), [30000, 30009, 32767].into());
    }
}
