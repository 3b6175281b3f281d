//! From a service and its slices to the ports that the dataplane serves.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{Service, ServicePort as Port, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint as SliceEndpoint, EndpointSlice};
use net::{Endpoint, Protocol, ServicePort};

/// What `sessionAffinity: ClientIP` means without a time.
const AFFINITY: Duration = Duration::from_secs(10_800);
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// The ports of a service; none if it is not served by a proxy.
pub(crate) fn ports(service: &Service, slices: &[EndpointSlice], node: &str) -> Vec<ServicePort> {
    let Some(spec) = service.spec.as_ref().filter(|spec| is_served(service, spec)) else {
        return Vec::new();
    };
    let metadata = &service.metadata;
    let of_service = format!("{}/{}", metadata.namespace.as_deref().unwrap_or_default(), metadata.name.as_deref().unwrap_or_default());
    let cluster_ips = cluster_ips(spec);
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let ports = spec.ports.iter().flatten().filter_map(|port| {
        let number = u16::try_from(port.port).ok().filter(|number| *number > 0)?;
        let protocol = protocol(port.protocol.as_deref())?;
        let node_port = port.node_port.filter(|_| matches!(kind, "NodePort" | "LoadBalancer"));
        Some(ServicePort {
            key: format!("{of_service}:{}", port.name.as_deref().unwrap_or_default()),
            protocol,
            port: number,
            cluster_ips: cluster_ips.clone(),
            external_ips: addresses(spec.external_ips.iter().flatten()),
            load_balancer_ips: if kind == "LoadBalancer" { load_balancer_ips(service) } else { Vec::new() },
            node_port: node_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0),
            affinity: affinity(spec),
            internal_local,
            external_local,
            source_ranges: if kind == "LoadBalancer" { source_ranges(service, spec) } else { Vec::new() },
            endpoints: endpoints(port, protocol, slices, node, internal_local || external_local),
        })
    });
    ports.collect()
}

/// The port on which a load balancer may ask whether this node has endpoints.
pub(crate) fn health_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref().filter(|spec| is_served(service, spec))?;
    let wanted = spec.type_.as_deref() == Some("LoadBalancer") && spec.external_traffic_policy.as_deref() == Some("Local");
    u16::try_from(spec.health_check_node_port.filter(|_| wanted)?).ok().filter(|port| *port > 0)
}

/// How many endpoints of a service are ready on this node.
pub(crate) fn local_endpoints(slices: &[EndpointSlice], node: &str) -> usize {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let local = all.filter(|end| is_ready(end) && end.node_name.as_deref() == Some(node));
    local.filter_map(|end| end.addresses.first()).collect::<BTreeSet<_>>().len()
}

fn is_served(service: &Service, spec: &ServiceSpec) -> bool {
    let labels = service.metadata.labels.as_ref();
    let other = labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY));
    let headless = matches!(spec.cluster_ip.as_deref(), None | Some("" | "None"));
    !other && !headless && spec.type_.as_deref() != Some("ExternalName")
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let all = addresses(spec.cluster_ips.iter().flatten());
    if all.is_empty() { addresses(spec.cluster_ip.iter()) } else { all }
}

fn load_balancer_ips(service: &Service) -> Vec<IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.iter().flat_map(|status| status.ingress.iter().flatten());
    // With `Proxy` the load balancer wants its own packets to pass through it.
    let virtual_ips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    addresses(virtual_ips.filter_map(|ingress| ingress.ip.as_ref()))
}

fn source_ranges(service: &Service, spec: &ServiceSpec) -> Vec<IpNet> {
    let parse = |range: &str| range.trim().parse().ok();
    let from_spec: Vec<IpNet> = spec.load_balancer_source_ranges.iter().flatten().filter_map(|range| parse(range)).collect();
    if !from_spec.is_empty() {
        return from_spec;
    }
    let annotation = service.metadata.annotations.as_ref().and_then(|all| all.get(SOURCE_RANGES));
    annotation.iter().flat_map(|ranges| ranges.split(',')).filter_map(parse).collect()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).and_then(|seconds| u64::try_from(seconds).ok());
    Some(seconds.map_or(AFFINITY, Duration::from_secs))
}

/// The endpoints to use for a port.
///
/// Ready ones, or if there is none those that still serve while they stop. For fronts that use only
/// local endpoints the same is decided among the local ones.
fn endpoints(port: &Port, protocol: Protocol, slices: &[EndpointSlice], node: &str, local_only: bool) -> Vec<Endpoint> {
    let mut ready = BTreeSet::new();
    let mut stopping = BTreeSet::new();
    for slice in slices.iter().filter(|slice| slice.address_type != "FQDN") {
        let mut numbers = slice.ports.iter().flatten().filter_map(|slice_port| {
            let same_name = slice_port.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default();
            let same = same_name && self::protocol(slice_port.protocol.as_deref()) == Some(protocol);
            slice_port.port.filter(|_| same).and_then(|number| u16::try_from(number).ok())
        });
        let Some(number) = numbers.next() else {
            continue;
        };
        for end in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint lead to the same place, so that the first will do.
            let Some(ip) = end.addresses.first().and_then(|address| address.parse().ok()) else {
                continue;
            };
            let local = end.node_name.as_deref() == Some(node);
            let endpoint = Endpoint { ip, port: number, local, only_local: false };
            if is_ready(end) {
                ready.insert(endpoint);
            } else if is_stopping(end) {
                stopping.insert(endpoint);
            }
        }
    }
    stopping.retain(|endpoint| !ready.contains(endpoint));
    if ready.is_empty() {
        return stopping.into_iter().collect();
    }
    let mut chosen: Vec<Endpoint> = ready.into_iter().collect();
    if local_only && !chosen.iter().any(|endpoint| endpoint.local) {
        let last = stopping.into_iter().filter(|endpoint| endpoint.local);
        chosen.extend(last.map(|endpoint| Endpoint { only_local: true, ..endpoint }));
    }
    chosen
}

fn is_ready(end: &SliceEndpoint) -> bool {
    end.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
}

fn is_stopping(end: &SliceEndpoint) -> bool {
    let Some(conditions) = &end.conditions else {
        return false;
    };
    let serving = conditions.serving.or(conditions.ready).unwrap_or(true);
    serving && conditions.terminating == Some(true)
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name.unwrap_or("TCP") {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    }
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<IpAddr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(service: Value, slices: Value) -> Vec<ServicePort> {
        let mut object = json!({"metadata": {"namespace": "ns", "name": "web"}});
        object["spec"] = service;
        let service: Service = serde_json::from_value(object).unwrap();
        let slices: Vec<EndpointSlice> = serde_json::from_value(slices).unwrap();
        ports(&service, &slices, "here")
    }

    fn slice(ends: Value) -> Value {
        json!([{"addressType": "IPv4", "metadata": {}, "endpoints": ends,
                "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}])
    }

    fn basic() -> Value {
        json!({"clusterIP": "10.43.0.1", "clusterIPs": ["10.43.0.1"], "ports": [{"name": "http", "port": 80, "targetPort": "web"}]})
    }

    fn with(mut service: Value, more: Value) -> Value {
        for (key, value) in more.as_object().unwrap() {
            service[key] = value.clone();
        }
        service
    }

    /// `address`, with `@` if local and `!` if only for local fronts.
    fn shown(port: &ServicePort) -> Vec<String> {
        let show = |end: &Endpoint| {
            format!("{}:{}{}{}", end.ip, end.port, if end.local { "@" } else { "" }, if end.only_local { "!" } else { "" })
        };
        port.endpoints.iter().map(show).collect()
    }

    #[test]
    fn services_that_nobody_proxies() {
        for spec in [
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
            json!({"type": "ExternalName", "externalName": "example.org", "ports": [{"port": 80}]}),
            json!({"ports": [{"port": 80}]}),
        ] {
            assert_eq!(check(spec.clone(), json!([])), [], "{spec}");
        }
    }

    #[test]
    fn endpoints_by_condition() {
        let ready = json!({"ready": true, "serving": true, "terminating": false});
        let starting = json!({"ready": false, "serving": false, "terminating": false});
        let stopping = json!({"ready": false, "serving": true, "terminating": true});
        let stopped = json!({"ready": false, "serving": false, "terminating": true});
        let end = |address: &str, node: &str, conditions: &Value| json!({"addresses": [address, "9.9.9.9"], "nodeName": node, "conditions": conditions});
        for (what, ends, all, local) in [
            (
                "ready ones only",
                json!([end("10.0.0.1", "here", &ready), end("10.0.0.2", "there", &starting), end("10.0.0.3", "there", &stopping)]),
                vec!["10.0.0.1:8080@"],
                vec!["10.0.0.1:8080@"],
            ),
            ("unknown is ready", json!([{"addresses": ["10.0.0.1"]}]), vec!["10.0.0.1:8080"], vec!["10.0.0.1:8080"]),
            (
                "none ready: those that still serve",
                json!([end("10.0.0.1", "here", &stopping), end("10.0.0.2", "there", &stopped)]),
                vec!["10.0.0.1:8080@"],
                vec!["10.0.0.1:8080@"],
            ),
            (
                "none ready here",
                json!([end("10.0.0.1", "here", &stopping), end("10.0.0.2", "there", &ready)]),
                vec!["10.0.0.2:8080"],
                vec!["10.0.0.2:8080", "10.0.0.1:8080@!"],
            ),
            ("nothing", json!([end("10.0.0.1", "here", &starting)]), vec![], vec![]),
        ] {
            assert_eq!(shown(&check(basic(), slice(ends.clone()))[0]), all, "{what}");
            let internal = with(basic(), json!({"internalTrafficPolicy": "Local"}));
            assert_eq!(shown(&check(internal, slice(ends))[0]), local, "{what}, local");
        }
    }

    #[test]
    fn ports_match_by_name_and_protocol() {
        let ends = slice(json!([{"addresses": ["10.0.0.1"]}]));
        let spec = with(
            basic(),
            json!({"ports": [
            {"name": "http", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "other", "port": 81},
            {"name": "dns", "port": 54, "protocol": "TCP"}]}),
        );
        let found: Vec<_> = check(spec, ends).iter().map(|port| (port.key.clone(), port.protocol, shown(port))).collect();
        assert_eq!(
            found,
            [
                ("ns/web:http".into(), Protocol::Tcp, vec!["10.0.0.1:8080".to_owned()]),
                ("ns/web:dns".into(), Protocol::Udp, vec!["10.0.0.1:53".to_owned()]),
                ("ns/web:other".into(), Protocol::Tcp, vec![]),
                ("ns/web:dns".into(), Protocol::Tcp, vec![]),
            ]
        );
    }

    #[test]
    fn addresses_and_policies() {
        let spec = with(
            basic(),
            json!({
            "type": "LoadBalancer", "clusterIPs": ["10.43.0.1", "fd00::1"], "externalIPs": ["1.2.3.4"],
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000, "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "loadBalancerSourceRanges": [" 10.0.0.0/8", "bad"],
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
        );
        let object = json!({"metadata": {"namespace": "ns", "name": "web"}, "spec": spec, "status": {"loadBalancer": {"ingress": [
            {"ip": "5.6.7.8", "ipMode": "VIP"}, {"ip": "5.6.7.9", "ipMode": "Proxy"}, {"hostname": "x"}]}}});
        let service: Service = serde_json::from_value(object).unwrap();
        let port = ports(&service, &[], "here").remove(0);
        let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        assert_eq!(port.cluster_ips, parse(&["10.43.0.1", "fd00::1"]));
        assert_eq!(port.external_ips, parse(&["1.2.3.4"]));
        assert_eq!(port.load_balancer_ips, parse(&["5.6.7.8"]));
        assert_eq!(port.node_port, Some(30080));
        assert_eq!(port.affinity, Some(Duration::from_secs(60)));
        assert_eq!(port.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
        assert!(port.external_local && !port.internal_local);
        assert_eq!(health_port(&service), Some(31000));
    }
}
