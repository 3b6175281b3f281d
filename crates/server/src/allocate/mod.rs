//! What the server gives out: service addresses and node ports. One writer, with the state read from the services
//! themselves, so it can never disagree with them.

mod claim;
mod ports;
mod service;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Status};
use ipnet::IpNet;
use serde_json::{Value, json};
use store::{Change, Entry, Kind, Store};

use crate::catalog::Served;
use crate::config::Config;
use crate::follow::{Follow, Projection};
use crate::server::Server;
use crate::steps::options::now;
use crate::write::Write;

pub use claim::repair;
pub use ports::Port;

/// Everything that is taken.
pub struct Allocators {
    taken: Follow<Taken>,
    /// Given to writes that are on their way: kept until they are committed or dropped.
    reserved: parking_lot::Mutex<Reservations>,
    cidrs: Vec<IpNet>,
    node_ports: (u16, u16),
}

#[derive(Default)]
struct Reservations {
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
}

/// Addresses and ports of the stored services.
#[derive(Default)]
struct Taken {
    addresses: HashMap<IpAddr, Box<str>>,
    ports: HashMap<Port, Box<str>>,
    by_service: HashMap<Box<str>, (Vec<IpAddr>, Vec<Port>)>,
}

impl Taken {
    fn forget(&mut self, service: &str) {
        if let Some((addresses, ports)) = self.by_service.remove(service) {
            for address in addresses {
                self.addresses.remove(&address);
            }
            for port in ports {
                self.ports.remove(&port);
            }
        }
    }
}

impl Projection for Taken {
    fn clear(&mut self) {
        *self = Taken::default();
    }

    fn put(&mut self, entry: &Arc<Entry>, _previous: Option<&Arc<Entry>>) {
        let key: Box<str> = (*entry.key.rest).into();
        self.forget(&key);
        let Some(object) = codec::json::parse(&entry.bytes).ok().and_then(Object::from_value) else { return };
        let (addresses, ports) = (service::addresses(&object), service::ports(&object));
        for address in &addresses {
            self.addresses.insert(*address, key.clone());
        }
        for port in &ports {
            self.ports.insert(*port, key.clone());
        }
        self.by_service.insert(key, (addresses, ports));
    }

    fn remove(&mut self, entry: &Arc<Entry>) {
        self.forget(&entry.key.rest);
    }
}

impl Allocators {
    /// Allocators over the services in a store.
    pub fn new(store: Arc<dyn Store>, config: &Config) -> Allocators {
        let kind = Kind::new(api::resources::storage_prefix("", "services", false));
        Allocators {
            taken: Follow::new(store, vec![kind], Taken::default()),
            reserved: parking_lot::Mutex::default(),
            cidrs: config.service_cidrs.clone(),
            node_ports: config.node_ports,
        }
    }
}

/// How often other addresses and ports are chosen where other servers take the chosen ones meanwhile.
const CHOICES: usize = 16;

/// What a write was given. Dropping it frees what the write did not store.
pub struct Reserved<'a> {
    allocators: &'a Allocators,
    addresses: Vec<IpAddr>,
    ports: Vec<Port>,
    service: (String, String),
    /// Where several servers give out addresses and ports, these are taken in the store already, and given back there.
    claimed: Option<Arc<Server>>,
}

impl Reserved<'_> {
    /// The write is stored: the addresses get objects of their own.
    pub async fn keep(mut self, server: &Arc<Server>) {
        if self.claimed.take().is_some() {
            return;
        }
        for address in &self.addresses {
            let mut object = address_object(*address, &self.service.0, &self.service.1);
            let Some(served) = server.catalog().find("networking.k8s.io", "v1", "ipaddresses").cloned() else { return };
            let Ok(raw) = crate::steps::commit::raw(&served, &mut object) else { return };
            if let Err(error) = server.store.commit(Change::create(served.store.key(object.name()), raw)).await {
                tracing::warn!(%address, %error, "the address object of a service could not be made");
            }
        }
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if let Some(server) = self.claimed.take() {
            let (addresses, ports) = (self.addresses.clone(), self.ports.clone());
            tokio::spawn(async move { claim::give_back(&server, &addresses, &ports).await });
        }
        let mut reserved = self.allocators.reserved.lock();
        for address in &self.addresses {
            if let Some(index) = reserved.addresses.iter().position(|one| one == address) {
                reserved.addresses.swap_remove(index);
            }
        }
        for port in &self.ports {
            if let Some(index) = reserved.ports.iter().position(|one| one == port) {
                reserved.ports.swap_remove(index);
            }
        }
    }
}

fn address_object(address: IpAddr, namespace: &str, name: &str) -> Object {
    let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(), "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now(),
            "labels": {"ipaddress.kubernetes.io/ip-family": family, "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"},
        },
        "spec": {"parentRef": {"group": "", "resource": "services", "namespace": namespace, "name": name}},
    });
    Object::from_value(value).expect("a literal object")
}

fn is_service(served: &Served) -> bool {
    served.def.group.is_empty() && &*served.def.plural == "services"
}

/// Gives a new service what it needs.
///
/// # Errors
/// 422 for addresses and ports that are taken or out of range.
pub async fn for_create<'a>(write: &Write<'a>, object: &mut Object) -> Result<Option<Reserved<'a>>, Status> {
    if !is_service(write.served) {
        return Ok(None);
    }
    choose(write, object, None).await.map(Some)
}

/// Chooses until nobody else has what was chosen.
async fn choose<'a>(write: &Write<'a>, object: &mut Object, old: Option<&Object>) -> Result<Reserved<'a>, Status> {
    let server = write.server;
    if write.options.dry_run {
        let asked = !object.text_at(&["spec", "clusterIP"]).is_empty();
        let reserved = service::allocate(&server.allocators, object, old)?;
        if old.is_none() && !asked {
            service::show_networks(&server.allocators, object);
        }
        return Ok(reserved);
    }
    if !server.store.is_shared() {
        return service::allocate(&server.allocators, object, old);
    }
    // What others have stays reserved meanwhile, so that it is not chosen again.
    let mut refused = Vec::new();
    while refused.len() < CHOICES {
        let mut tried = object.clone();
        let mut reserved = service::allocate(&server.allocators, &mut tried, old)?;
        if claim::claim(server, &reserved.addresses, &reserved.ports, &reserved.service).await? {
            reserved.claimed = Some(server.clone());
            *object = tried;
            return Ok(reserved);
        }
        refused.push(reserved);
    }
    Err(Status::internal("addresses and node ports are given out too fast by other servers"))
}

/// Gives a changed service what it needs beside what it has.
///
/// # Errors
/// As `for_create`.
pub async fn for_update<'a>(write: &Write<'a>, object: &mut Object, old: &Object) -> Result<Option<Reserved<'a>>, Status> {
    if !is_service(write.served) || write.subresource() == "status" {
        return Ok(None);
    }
    choose(write, object, Some(old)).await.map(Some)
}

/// Frees what an object had: the address objects of a service.
pub async fn after_delete(server: &Arc<Server>, served: &Arc<Served>, object: &Object) {
    if !is_service(served) {
        return;
    }
    claim::give_back(server, &service::addresses(object), &service::ports(object)).await;
}

/// Frees the addresses that a changed service does not have any more.
pub async fn after_update(server: &Arc<Server>, served: &Arc<Served>, new: &Object, old: &Object) {
    if !is_service(served) {
        return;
    }
    let kept = service::addresses(new);
    let gone: Vec<IpAddr> = service::addresses(old).into_iter().filter(|address| !kept.contains(address)).collect();
    let kept = service::ports(new);
    let ports: Vec<Port> = service::ports(old).into_iter().filter(|port| kept.iter().all(|one| one.number != port.number)).collect();
    claim::give_back(server, &gone, &ports).await;
}

/// The value of a field as text.
fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or("")
}
