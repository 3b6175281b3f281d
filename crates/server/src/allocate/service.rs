//! Which addresses and ports a service has, needs and gives back when its type changes.

use std::net::IpAddr;

use api::{Causes, Object, Status};
use ipnet::IpNet;
use rand::Rng;
use serde_json::{Value, json};

use super::ports::{self, Port};
use super::{Allocators, Reserved, text};

/// Cluster addresses of a service.
pub fn addresses(service: &Object) -> Vec<IpAddr> {
    let list = service.at(&["spec", "clusterIPs"]).and_then(Value::as_array);
    let mut all: Vec<IpAddr> = list.into_iter().flatten().filter_map(|one| one.as_str()?.parse().ok()).collect();
    if all.is_empty() {
        all.extend(service.text_at(&["spec", "clusterIP"]).parse::<IpAddr>().ok());
    }
    all
}

/// Node ports of a service.
pub fn ports(service: &Object) -> Vec<Port> {
    let list = service.at(&["spec", "ports"]).and_then(Value::as_array);
    let mut all: Vec<Port> = list
        .into_iter()
        .flatten()
        .filter_map(|port| {
            Some(Port::new(u16::try_from(port["nodePort"].as_u64()?).ok().filter(|number| *number > 0)?, text(port, "protocol")))
        })
        .collect();
    let health = service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok());
    all.extend(health.filter(|port| *port > 0).map(|port| Port::new(port, "TCP")));
    all
}

fn kind(service: &Object) -> &str {
    match service.text_at(&["spec", "type"]) {
        "" => "ClusterIP",
        kind => kind,
    }
}

/// Fills in addresses and ports, and takes away what the type does not have.
pub fn allocate<'a>(allocators: &'a Allocators, service: &mut Object, old: Option<&Object>) -> Result<Reserved<'a>, Status> {
    let mut reserved = Reserved {
        allocators,
        addresses: Vec::new(),
        ports: Vec::new(),
        service: (service.namespace().to_owned(), service.name().to_owned()),
        claimed: None,
    };
    let mut causes = Causes::default();
    if let Some(old) = old {
        inherit(service, old);
    }
    check_families(allocators, service, &mut causes);
    if causes.is_empty() {
        cluster_addresses(allocators, service, old, &mut reserved, &mut causes);
    }
    node_ports(allocators, service, old, &mut reserved, &mut causes);
    if causes.is_empty() { Ok(reserved) } else { Err(Status::invalid("", "Service", service.name(), &causes)) }
}

/// A dry run gives out no address; the one of the network stands in its place.
pub fn show_networks(allocators: &Allocators, service: &mut Object) {
    let network = |address: &Value| {
        let address: IpAddr = address.as_str()?.parse().ok()?;
        let cidr = allocators.cidrs.iter().find(|cidr| cidr.contains(&address))?;
        Some(Value::from(cidr.network().to_string()))
    };
    let spec = service.map_at_mut(&["spec"]);
    if let Some(address) = spec.get_mut("clusterIP") {
        *address = network(address).unwrap_or_else(|| address.clone());
    }
    for address in spec.get_mut("clusterIPs").and_then(Value::as_array_mut).into_iter().flatten() {
        *address = network(address).unwrap_or_else(|| address.clone());
    }
}

/// An update that leaves addresses and ports out does not mean to change them.
fn inherit(service: &mut Object, old: &Object) {
    let (was, is) = (kind(old).to_owned(), kind(service).to_owned());
    if is == "ExternalName" {
        if was != "ExternalName" && service.text_at(&["spec", "clusterIP"]) == old.text_at(&["spec", "clusterIP"]) {
            let spec = service.map_at_mut(&["spec"]);
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                spec.remove(field);
            }
        }
        return;
    }
    if was != "ExternalName" {
        let given = service.text_at(&["spec", "clusterIP"]).to_owned();
        if given.is_empty() {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if let Some(value) = old.at(&["spec", field]).cloned() {
                    service.map_at_mut(&["spec"]).entry(field).or_insert(value);
                }
            }
            let kept = old.at(&["spec", "clusterIP"]).cloned();
            if let Some(kept) = kept {
                service.map_at_mut(&["spec"]).insert("clusterIP".into(), kept);
            }
        }
    }
    let before = old.at(&["spec", "ports"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let needs = has_node_ports(service);
    let had = has_node_ports(old);
    for port in service.map_at_mut(&["spec"]).get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let number = port["nodePort"].as_u64().unwrap_or(0);
        let same = |one: &&Value| one["port"] == port["port"] && text(one, "protocol") == text(port, "protocol");
        let known = before.iter().find(same).map(|one| one["nodePort"].clone()).filter(|value| value.as_u64().is_some_and(|port| port > 0));
        if needs && number == 0 {
            if let (Some(known), Some(map)) = (known, port.as_object_mut()) {
                map.insert("nodePort".into(), known);
            }
        } else if !needs && had && known.is_some_and(|known| known == port["nodePort"]) {
            if let Some(map) = port.as_object_mut() {
                map.remove("nodePort");
            }
        }
    }
}

/// A service with addresses asks for no families that the cluster does not have.
fn check_families(allocators: &Allocators, service: &Object, causes: &mut Causes) {
    if kind(service) == "ExternalName" || service.text_at(&["spec", "clusterIP"]) == "None" {
        return;
    }
    let has = |v4: bool| allocators.cidrs.iter().any(|cidr| cidr.addr().is_ipv4() == v4);
    let policy = service.text_at(&["spec", "ipFamilyPolicy"]);
    if policy == "RequireDualStack" && !(has(true) && has(false)) {
        causes.invalid("spec.ipFamilyPolicy", &Value::from(policy), "this cluster is not configured for dual-stack services");
    }
    for (index, family) in service.at(&["spec", "ipFamilies"]).and_then(Value::as_array).into_iter().flatten().enumerate() {
        if !has(family == "IPv4") {
            causes.invalid(&format!("spec.ipFamilies[{index}]"), family, "not configured on this cluster");
        }
    }
}

fn has_node_ports(service: &Object) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service.at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false)),
        _ => false,
    }
}

fn cluster_addresses(
    allocators: &Allocators,
    service: &mut Object,
    old: Option<&Object>,
    reserved: &mut Reserved<'_>,
    causes: &mut Causes,
) {
    if kind(service) == "ExternalName" {
        return;
    }
    let given = service.text_at(&["spec", "clusterIP"]).to_owned();
    if given == "None" {
        let spec = service.map_at_mut(&["spec"]);
        spec.insert("clusterIPs".into(), json!(["None"]));
        headless_policy(service);
        families(allocators, service, &[]);
        return;
    }
    let owned: Vec<IpAddr> = old.map(addresses).unwrap_or_default();
    let mut chosen: Vec<IpAddr> = Vec::new();
    let listed = service.at(&["spec", "clusterIPs"]).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut wanted: Vec<String> = listed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
    if wanted.is_empty() && !given.is_empty() {
        wanted.push(given);
    }
    for (index, one) in wanted.iter().enumerate() {
        let Ok(address) = one.parse::<IpAddr>() else { return };
        if !owned.contains(&address) {
            if let Err(why) = take(allocators, address, reserved) {
                let path = "spec.clusterIPs";
                causes.invalid(path, &json!(wanted), &format!("failed to allocate IP {address}: {why}"));
                let _ = index;
                return;
            }
        }
        chosen.push(address);
    }
    let count = if service.text_at(&["spec", "ipFamilyPolicy"]) == "RequireDualStack" { 2 } else { 1 };
    for cidr in allocators.cidrs.iter().take(count) {
        let covered = chosen.iter().any(|address| address.is_ipv4() == cidr.addr().is_ipv4());
        if covered || chosen.len() >= count {
            continue;
        }
        match free_address(allocators, cidr) {
            Some(address) => {
                reserved.addresses.push(address);
                chosen.push(address);
            }
            None => causes.internal("spec.clusterIP", "failed to allocate a serviceIP: range is full"),
        }
    }
    let Some(first) = chosen.first() else { return };
    let texts: Vec<String> = chosen.iter().map(IpAddr::to_string).collect();
    let spec = service.map_at_mut(&["spec"]);
    spec.insert("clusterIP".into(), first.to_string().into());
    spec.insert("clusterIPs".into(), texts.into());
    families(allocators, service, &chosen);
}

/// Whose endpoints are written by hand may have any family: such a service asks for both, whatever the cluster has.
fn headless_policy(service: &mut Object) {
    let any = service.at(&["spec", "selector"]).and_then(Value::as_object).is_none_or(serde_json::Map::is_empty);
    let spec = service.map_at_mut(&["spec"]);
    if !any || spec.get("ipFamilyPolicy").is_some_and(|policy| !policy.is_null()) {
        return;
    }
    let given = spec.get("ipFamilies").and_then(Value::as_array).cloned().unwrap_or_default();
    match given.as_slice() {
        [] => {
            spec.insert("ipFamilies".into(), json!(["IPv4", "IPv6"]));
        }
        [one] => {
            spec.insert("ipFamilies".into(), json!([one, if one == "IPv4" { "IPv6" } else { "IPv4" }]));
        }
        _ => {}
    }
    spec.insert("ipFamilyPolicy".into(), "RequireDualStack".into());
}

/// Families follow the addresses; a headless service without selector may have any.
fn families(allocators: &Allocators, service: &mut Object, chosen: &[IpAddr]) {
    let name = |v4: bool| if v4 { "IPv4" } else { "IPv6" };
    let list: Vec<&str> = if chosen.is_empty() {
        allocators.cidrs.first().map(|cidr| name(cidr.addr().is_ipv4())).into_iter().collect()
    } else {
        chosen.iter().map(|address| name(address.is_ipv4())).collect()
    };
    let spec = service.map_at_mut(&["spec"]);
    if spec.get("ipFamilies").and_then(Value::as_array).is_none_or(|families| families.len() < chosen.len() || families.is_empty()) {
        spec.insert("ipFamilies".into(), json!(list));
    }
    if spec.get("ipFamilyPolicy").is_none_or(Value::is_null) {
        spec.insert("ipFamilyPolicy".into(), "SingleStack".into());
    }
}

fn take(allocators: &Allocators, address: IpAddr, reserved: &mut Reserved<'_>) -> Result<(), String> {
    if !allocators.cidrs.iter().any(|cidr| cidr.contains(&address)) {
        return Err("the provided network does not match the current range".into());
    }
    let taken = allocators.taken.read().addresses.contains_key(&address);
    let mut pending = allocators.reserved.lock();
    if taken || pending.addresses.contains(&address) {
        return Err("provided IP is already allocated".into());
    }
    pending.addresses.push(address);
    reserved.addresses.push(address);
    Ok(())
}

/// A free address, by chance; the lower part of the range is left to those who choose theirs themselves.
fn free_address(allocators: &Allocators, cidr: &IpNet) -> Option<IpAddr> {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(16);
    let size = 1u64 << bits;
    let usable = size.saturating_sub(if cidr.addr().is_ipv4() { 2 } else { 1 });
    if usable == 0 {
        return None;
    }
    let reserved = if usable < 16 { 0 } else { (usable / 16).clamp(16, 256) };
    let upper = usable - reserved;
    let start = rand::rng().random_range(0..upper);
    let offsets = (0..upper).map(|step| reserved + (start + step) % upper).chain(0..reserved);
    let taken = allocators.taken.read();
    let mut pending = allocators.reserved.lock();
    let mut candidates = offsets.map(|offset| nth(cidr, offset + 1));
    let found = candidates.find(|address| !taken.addresses.contains_key(address) && !pending.addresses.contains(address))?;
    pending.addresses.push(found);
    Some(found)
}

fn nth(cidr: &IpNet, offset: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(network) => IpAddr::V4((u32::from(network).wrapping_add(offset as u32)).into()),
        IpAddr::V6(network) => IpAddr::V6((u128::from(network).wrapping_add(u128::from(offset))).into()),
    }
}

fn node_ports(allocators: &Allocators, service: &mut Object, old: Option<&Object>, reserved: &mut Reserved<'_>, causes: &mut Causes) {
    if !has_node_ports(service) {
        return;
    }
    let owned = old.map(ports).unwrap_or_default();
    let mut given_here: Vec<Port> = Vec::new();
    let list = service.map_at_mut(&["spec"]).get_mut("ports").and_then(Value::as_array_mut);
    for (index, port) in list.into_iter().flatten().enumerate() {
        let protocol = text(port, "protocol").to_owned();
        let number = port["nodePort"].as_u64().unwrap_or(0) as u16;
        if number == 0 {
            // The same number for TCP and UDP of one port, as DNS has it, would be kind; the real server gives different ones, too.
            match free_port(allocators, &protocol, &owned) {
                Some(free) => {
                    reserved.ports.push(free);
                    if let Some(map) = port.as_object_mut() {
                        map.insert("nodePort".into(), free.number.into());
                    }
                }
                None => causes.internal(&format!("spec.ports[{index}].nodePort"), "failed to allocate a nodePort: range is full"),
            }
            continue;
        }
        let wanted = Port::new(number, &protocol);
        if owned.contains(&wanted) || given_here.contains(&wanted) {
            given_here.push(wanted);
            continue;
        }
        if let Err(why) = take_port(allocators, wanted, reserved) {
            causes.invalid(&format!("spec.ports[{index}].nodePort"), &Value::from(number), &why);
        }
        given_here.push(wanted);
    }
    health_port(allocators, service, &owned, reserved, causes);
}

fn health_port(allocators: &Allocators, service: &mut Object, owned: &[Port], reserved: &mut Reserved<'_>, causes: &mut Causes) {
    let needs = kind(service) == "LoadBalancer" && service.text_at(&["spec", "externalTrafficPolicy"]) == "Local";
    let number = service.at(&["spec", "healthCheckNodePort"]).and_then(Value::as_u64).unwrap_or(0) as u16;
    if !needs {
        return;
    }
    if number == 0 {
        if let Some(free) = free_port(allocators, "TCP", owned) {
            reserved.ports.push(free);
            service.map_at_mut(&["spec"]).insert("healthCheckNodePort".into(), free.number.into());
        }
    } else if !owned.contains(&Port::new(number, "TCP")) {
        if let Err(why) = take_port(allocators, Port::new(number, "TCP"), reserved) {
            causes.invalid("spec.healthCheckNodePort", &Value::from(number), &why);
        }
    }
}

fn free_port(allocators: &Allocators, protocol: &str, owned: &[Port]) -> Option<Port> {
    let taken = allocators.taken.read();
    let mut pending = allocators.reserved.lock();
    let used = |number: u16| {
        ["TCP", "UDP", "SCTP"].iter().any(|one| {
            let port = Port::new(number, one);
            taken.ports.contains_key(&port) || pending.ports.contains(&port) || owned.contains(&port)
        })
    };
    let port = Port::new(ports::free(allocators.node_ports, used)?, protocol);
    pending.ports.push(port);
    Some(port)
}

fn take_port(allocators: &Allocators, port: Port, reserved: &mut Reserved<'_>) -> Result<(), String> {
    let (low, high) = allocators.node_ports;
    if port.number < low || port.number > high {
        return Err(format!("provided port is not in the valid range. The range of valid ports is {low}-{high}"));
    }
    let taken = allocators.taken.read().ports.contains_key(&port);
    let mut pending = allocators.reserved.lock();
    if taken || pending.ports.contains(&port) {
        return Err("provided port is already allocated".into());
    }
    pending.ports.push(port);
    reserved.ports.push(port);
    Ok(())
}
