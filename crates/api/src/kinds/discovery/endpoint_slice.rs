//! Endpoint slices.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind};
use crate::kinds::core::endpoints;
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const TOP: Path<'static> = Path::root("");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, old, causes| {
            validate(new, causes);
            check::immutable(new.get("addressType"), old.get("addressType"), &TOP.field("addressType"), causes);
        },
        columns: Some(columns),
        generation: Generation::SpecAndLabels,
        ..Kind::plain("discovery.k8s.io", "EndpointSlice")
    }
}

fn validate(slice: &Object, causes: &mut Causes) {
    causes.need_one_of(&slice.0, "addressType", &TOP, &["FQDN", "IPv4", "IPv6"]);
    validate_ports(slice, causes);
    let (kind, list) = (slice.text("addressType"), TOP.field("endpoints"));
    if slice.list("endpoints").len() > 1000 {
        causes.too_many(&list.text(), slice.list("endpoints").len(), 1000);
        return;
    }
    for (index, endpoint) in slice.maps("endpoints").enumerate() {
        let at = list.index(index);
        let addresses = at.field("addresses");
        match endpoint.list("addresses").len() {
            0 => causes.needed(&addresses, "must contain at least 1 address"),
            1..=100 => {}
            count => causes.too_many(&addresses.text(), count, 100),
        }
        for (index, address) in endpoint.texts("addresses").enumerate() {
            let at = addresses.index(index);
            let ip = address.parse::<std::net::IpAddr>().ok();
            match kind {
                "IPv4" | "IPv6" => {
                    let fits = |ip: std::net::IpAddr| ip.is_ipv4() == (kind == "IPv4");
                    match ip {
                        None => check::ip(address, &at, causes),
                        Some(ip) if !fits(ip) => causes.bad(&addresses, address, &format!("must be an {kind} address")),
                        Some(_) => {}
                    }
                    endpoints::special(address, &at, causes);
                }
                _ => causes.each(&at, address, names::subdomain_errors(address)),
            }
        }
        let node = endpoint.text("nodeName");
        if endpoint.has("nodeName") {
            causes.each(&at.field("nodeName"), node, names::subdomain_errors(node));
        }
        let hostname = endpoint.text("hostname");
        if endpoint.has("hostname") {
            causes.each(&at.field("hostname"), hostname, names::label_errors(hostname));
        }
    }
}

fn validate_ports(slice: &Object, causes: &mut Causes) {
    let list = TOP.field("ports");
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in slice.maps("ports").enumerate() {
        let (at, name) = (list.index(index), port.text("name"));
        if !name.is_empty() {
            causes.each(&at.field("name"), name, names::label_errors(name));
        }
        if seen.contains(&name) {
            causes.twice(&at.field("name"), name);
        }
        seen.push(name);
        causes.need_one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
    }
}

fn columns(slice: &Object, clock: &Clock) -> Vec<Value> {
    let ports: Vec<String> = slice
        .maps("ports")
        .map(|port| {
            port.int("port")
                .map_or_else(|| print::or(port.text("name"), "*").as_str().unwrap_or("*").to_owned(), |number| number.to_string())
        })
        .collect();
    let addresses: Vec<String> =
        slice.maps("endpoints").flat_map(|one| one.texts("addresses").map(str::to_owned).collect::<Vec<_>>()).collect();
    vec![
        slice.name().into(),
        slice.text("addressType").into(),
        print::or(&print::at_most(&ports, 3), "<unset>"),
        print::or(&print::at_most(&addresses, 3), "<unset>"),
        print::age(slice, clock),
    ]
}
