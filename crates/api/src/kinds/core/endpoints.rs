//! Endpoints, the older form of endpoint slices.

use serde_json::Value;

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SUBSETS: Path<'static> = Path::root("subsets");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        warnings: |_| vec!["v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".to_owned()],
        ..Kind::plain("", "Endpoints")
    }
}

fn validate(endpoints: &Object, causes: &mut Causes) {
    for (index, subset) in endpoints.maps("subsets").enumerate() {
        let at = SUBSETS.index(index);
        if subset.list("addresses").is_empty() && subset.list("notReadyAddresses").is_empty() {
            causes.needed(&at, "must specify `addresses` or `notReadyAddresses`");
        }
        for field in ["addresses", "notReadyAddresses"] {
            let list = at.field(field);
            for (index, address) in subset.maps(field).enumerate() {
                let at = list.index(index);
                if address.text("ip").parse::<std::net::IpAddr>().is_err() {
                    check::ip(address.text("ip"), &at.field("ip"), causes);
                    causes.bad(&at.field("ip"), address.text("ip"), "must be a valid IP address");
                }
                if !address.text("hostname").is_empty() {
                    causes.each(&at.field("hostname"), address.text("hostname"), names::label_errors(address.text("hostname")));
                }
                if address.has("nodeName") {
                    causes.each(&at.field("nodeName"), address.text("nodeName"), names::subdomain_errors(address.text("nodeName")));
                }
                special(address.text("ip"), &at.field("ip"), causes);
            }
        }
        let (list, named) = (at.field("ports"), subset.list("ports").len() > 1);
        for (index, port) in subset.maps("ports").enumerate() {
            let at = list.index(index);
            let name = port.text("name");
            if named && name.is_empty() {
                causes.needed(&at.field("name"), "");
            } else if !name.is_empty() {
                causes.each(&at.field("name"), name, names::label_errors(name));
            }
            check::port(port.int("port").unwrap_or(0), &at.field("port"), causes);
            causes.need_one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
            if port.has("appProtocol") {
                causes.each(&at.field("appProtocol"), port.text("appProtocol"), names::qualified_name_errors(port.text("appProtocol")));
            }
        }
    }
}

/// Addresses that mean the node itself or nobody cannot be endpoints.
pub fn special(text: &str, path: &Path, causes: &mut Causes) {
    use std::net::IpAddr;
    let Ok(ip) = text.parse::<IpAddr>() else { return };
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
        IpAddr::V6(ip) => ip.segments()[0] == 0xff02,
    };
    if ip.is_unspecified() {
        causes.bad(path, text, &format!("may not be unspecified ({ip})"));
    }
    if ip.is_loopback() {
        causes.bad(path, text, "may not be in the loopback range (127.0.0.0/8, ::1/128)");
    }
    if link_local {
        causes.bad(path, text, "may not be in the link-local range (169.254.0.0/16, fe80::/10)");
    }
    if link_local_multicast {
        causes.bad(path, text, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)");
    }
}

fn columns(endpoints: &Object, clock: &Clock) -> Vec<Value> {
    vec![endpoints.name().into(), addresses(endpoints).into(), print::age(endpoints, clock)]
}

fn addresses(endpoints: &Object) -> String {
    let mut all = Vec::new();
    for subset in endpoints.maps("subsets") {
        let ips: Vec<&str> = subset.maps("addresses").map(|one| one.text("ip")).collect();
        if subset.list("ports").is_empty() {
            all.extend(ips.iter().map(|ip| (*ip).to_owned()));
        }
        for port in subset.maps("ports") {
            let number = port.int("port").unwrap_or(0);
            all.extend(ips.iter().map(|ip| if ip.contains(':') { format!("[{ip}]:{number}") } else { format!("{ip}:{number}") }));
        }
    }
    if all.is_empty() { "<none>".into() } else { print::at_most(&all, 3) }
}
