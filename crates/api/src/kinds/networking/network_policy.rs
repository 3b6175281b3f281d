//! Network policies.

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind};
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::Rules;

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        validate,
        validate_update: |new, _old, causes| validate(new, causes),
        columns: Some(columns),
        generation: Generation::Spec,
        ..Kind::plain("networking.k8s.io", "NetworkPolicy")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("networking.v1.NetworkPolicy") }
}

fn default(object: &mut Map<String, Value>) {
    let spec = object.object_made("spec");
    if spec.list("policyTypes").is_empty() {
        let types = if spec.list("egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
        spec.insert("policyTypes".into(), types);
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    check::label_selector(spec.map("podSelector"), &SPEC.field("podSelector"), causes);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let list = SPEC.field(direction);
        for (index, rule) in spec.maps(direction).enumerate() {
            let at = list.index(index);
            let ports = at.field("ports");
            for (index, port) in rule.maps("ports").enumerate() {
                validate_port(port, &ports.index(index), causes);
            }
            let peers_path = at.field(peers);
            for (index, peer) in rule.maps(peers).enumerate() {
                validate_peer(peer, &peers_path.index(index), causes);
            }
        }
    }
    let types = SPEC.field("policyTypes");
    if spec.list("policyTypes").len() > 2 {
        causes.bad(&types, spec["policyTypes"].clone(), "may not specify more than two policyTypes");
        return;
    }
    for (index, kind) in spec.texts("policyTypes").enumerate() {
        if !matches!(kind, "Ingress" | "Egress") {
            causes.unsupported(&types.index(index), kind, &["Ingress", "Egress"]);
        }
    }
}

fn validate_port(port: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    causes.one_of(port, "protocol", path, &["TCP", "UDP", "SCTP"]);
    let end = port.int("endPort");
    match port.some("port") {
        Some(Value::String(name)) => {
            if end.is_some() {
                causes.bad(&path.field("endPort"), end, "may not be specified when `port` is non-numeric");
            }
            causes.each(&path.field("port"), name, crate::names::port_name_errors(name));
        }
        Some(number) => {
            check::port_or_name(number, &path.field("port"), causes);
            if let Some(end) = end {
                if end < number.as_i64().unwrap_or(0) {
                    causes.bad(&path.field("endPort"), number.clone(), "must be greater than or equal to `port`");
                }
                check::port(end, &path.field("endPort"), causes);
            }
        }
        None if end.is_some() => causes.bad(&path.field("endPort"), end, "may not be specified when `port` is not specified"),
        None => {}
    }
}

fn validate_peer(peer: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let mut count = 0;
    for field in ["podSelector", "namespaceSelector"] {
        if let Some(selector) = peer.object(field) {
            count += 1;
            check::label_selector(selector, &path.field(field), causes);
        }
    }
    if let Some(block) = peer.object("ipBlock") {
        count += 1;
        validate_block(block, &path.field("ipBlock"), causes);
    }
    if count == 0 {
        causes.needed(path, "must specify a peer");
    } else if count > 1 && peer.has("ipBlock") {
        causes.refused(path, "may not specify both ipBlock and another peer");
    }
}

fn validate_block(block: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let text = block.text("cidr");
    if text.is_empty() {
        causes.needed(&path.field("cidr"), "");
        return;
    }
    check::cidr(text, &path.field("cidr"), causes);
    let outer = text.parse::<IpNet>();
    let list = path.field("except");
    for (index, except) in block.texts("except").enumerate() {
        let at = list.index(index);
        check::cidr(except, &at, causes);
        if let (Ok(outer), Ok(inner)) = (&outer, except.parse::<IpNet>())
            && (!outer.contains(&inner) || outer.prefix_len() == inner.prefix_len())
        {
            causes.bad(&at, except, "must be a strict subset of `cidr`");
        }
    }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    vec![object.name().into(), print::selector(object.map("spec").object("podSelector")), print::age(object, clock)]
}
