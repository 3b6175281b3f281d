//! Ingresses.

use serde_json::{Map, Value};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Generation, Kind, keep_spec, keep_status, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::Read;

const SPEC: Path<'static> = Path::root("spec");
const CLASS: &str = "kubernetes.io/ingress.class";

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        prepare_create: |object| reset_status_of(object, "networking.v1.Ingress"),
        prepare_update: keep_status,
        prepare_status_update: keep_spec,
        validate,
        validate_update: |new, _old, causes| validate_spec(new, causes),
        columns: Some(columns),
        warnings,
        generation: Generation::Spec,
        ..Kind::plain("networking.k8s.io", "Ingress")
    }
}

fn validate(object: &Object, causes: &mut Causes) {
    validate_spec(object, causes);
    let spec = object.map("spec");
    if let Some(class) = object.annotation(CLASS).filter(|class| spec.has("ingressClassName") && *class != spec.text("ingressClassName")) {
        causes.bad(&Path::root("annotations").field(CLASS), class, "must match `ingressClassName` when both are specified");
    }
}

fn validate_spec(object: &Object, causes: &mut Causes) {
    let spec = object.map("spec");
    if spec.list("rules").is_empty() && !spec.has("defaultBackend") {
        causes.bad(&SPEC, Value::Null, "either `defaultBackend` or `rules` must be specified");
    }
    if let Some(backend) = spec.object("defaultBackend") {
        validate_backend(backend, &SPEC.field("defaultBackend"), causes);
    }
    let list = SPEC.field("rules");
    for (index, rule) in spec.maps("rules").enumerate() {
        let at = list.index(index);
        let host = rule.text("host");
        if !host.is_empty() {
            if host.parse::<std::net::IpAddr>().is_ok() {
                causes.bad(&at.field("host"), host, "must be a DNS name, not an IP address");
            }
            let errors = if host.contains('*') { names::wildcard_subdomain_errors(host) } else { names::subdomain_errors(host) };
            causes.each(&at.field("host"), host, errors);
        }
        if let Some(http) = rule.object("http") {
            let http_path = at.field("http");
            let paths = http_path.field("paths");
            if http.list("paths").is_empty() {
                causes.needed(&paths, "");
            }
            for (index, path) in http.maps("paths").enumerate() {
                validate_path(path, &paths.index(index), causes);
            }
        }
    }
    let tls = SPEC.field("tls");
    for (index, one) in spec.maps("tls").enumerate() {
        let at = tls.index(index);
        let secret = one.text("secretName");
        if !secret.is_empty() {
            causes.each(&at.field("secretName"), secret, names::subdomain_errors(secret));
        }
        let hosts = at.field("hosts");
        for (index, host) in one.texts("hosts").enumerate() {
            let errors = if host.contains('*') { names::wildcard_subdomain_errors(host) } else { names::subdomain_errors(host) };
            causes.each(&hosts.index(index), host, errors);
        }
    }
    let class = spec.text("ingressClassName");
    if spec.has("ingressClassName") {
        causes.each(&SPEC.field("ingressClassName"), class, names::subdomain_errors(class));
    }
}

fn validate_path(path: &Map<String, Value>, at: &Path, causes: &mut Causes) {
    let (kind, text, place) = (path.text("pathType"), path.text("path"), at.field("path"));
    if !path.has("pathType") {
        causes.needed(&at.field("pathType"), "pathType must be specified");
        return;
    }
    match kind {
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                causes.bad(&place, text, "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|part| text.contains(part)) {
                causes.bad(&place, text, &format!("must not contain '{part}'"));
            }
            for end in ["/..", "/."].into_iter().filter(|end| text.ends_with(end)) {
                causes.bad(&place, text, &format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                causes.bad(&place, text, "must be an absolute path");
            }
        }
        other => causes.unsupported(&at.field("pathType"), other, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    validate_backend(path.map("backend"), &at.field("backend"), causes);
}

fn validate_backend(backend: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    match (backend.object("service"), backend.object("resource")) {
        (Some(_), Some(_)) => causes.bad(path, "", "cannot set both resource and service backends"),
        (None, Some(resource)) => {
            let at = path.field("resource");
            if !resource.text("apiGroup").is_empty() {
                causes.each(&at.field("apiGroup"), resource.text("apiGroup"), names::subdomain_errors(resource.text("apiGroup")));
            }
            for field in ["kind", "name"] {
                causes.need_text(resource, field, &at);
            }
        }
        (Some(service), None) => {
            let at = path.field("service");
            if causes.need_text(service, "name", &at) {
                causes.each(&at.field("name"), service.text("name"), names::label_errors(service.text("name")));
            }
            let (port, place) = (service.map("port"), at.field("port"));
            match (port.text("name"), port.int("number").unwrap_or(0)) {
                ("", 0) => causes.needed(path, "port name or number is required"),
                ("", number) => check::port(number, &place.field("number"), causes),
                (name, 0) => causes.each(&place.field("name"), name, names::port_name_errors(name)),
                _ => causes.bad(path, "", "cannot set both port name & port number"),
            }
        }
        (None, None) => causes.bad(path, "", "resource or service backend is required"),
    }
}

fn warnings(object: &Object) -> Vec<String> {
    let old = object.annotation(CLASS).is_some();
    if old { vec![format!("annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead")] } else { Vec::new() }
}

fn columns(object: &Object, clock: &Clock) -> Vec<Value> {
    let spec = object.map("spec");
    let hosts: Vec<String> = spec.maps("rules").map(|rule| rule.text("host").to_owned()).filter(|host| !host.is_empty()).collect();
    let ingress = object.map("status").map("loadBalancer").maps("ingress");
    let addresses: Vec<&str> = ingress.map(|one| if one.text("ip").is_empty() { one.text("hostname") } else { one.text("ip") }).collect();
    vec![
        object.name().into(),
        print::or_none(spec.text("ingressClassName")),
        if hosts.is_empty() { "*".into() } else { print::at_most(&hosts, 3).into() },
        addresses.join(",").into(),
        if spec.list("tls").is_empty() { "80".into() } else { "80, 443".into() },
        print::age(object, clock),
    ]
}
