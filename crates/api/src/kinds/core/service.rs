//! Services: defaults by type, what an update keeps of what was allocated, and the columns of `kubectl get services`.

use serde_json::{Map, Value, json};

use crate::causes::Causes;
use crate::check::{self, Check};
use crate::kind::{Clock, Kind, NameRule, Selectable, keep, keep_spec, reset_status_of};
use crate::names;
use crate::object::Object;
use crate::path::Path;
use crate::print;
use crate::read::{Read, Write};
use crate::types::{Rules, object_meta};

const SPEC: Path<'static> = Path::root("spec");

/// The kind.
pub const fn kind() -> Kind {
    Kind {
        name: NameRule::Label,
        prepare_create,
        prepare_update,
        prepare_status_update: keep_spec,
        validate,
        validate_update,
        validate_status_update,
        selectable: &[
            Selectable { field: "spec.clusterIP", value: |service| service.text_at(&["spec", "clusterIP"]).into() },
            Selectable { field: "spec.type", value: |service| service.text_at(&["spec", "type"]).into() },
        ],
        columns: Some(columns),
        warnings,
        ..Kind::plain("", "Service")
    }
}

/// Defaults.
pub const fn rules() -> Rules {
    Rules { default, ..Rules::of("core.v1.Service") }
}

fn default(service: &mut Map<String, Value>) {
    let Some(spec) = service.object_mut("spec") else { return };
    spec.default_text("sessionAffinity", "None");
    match spec.text("sessionAffinity") {
        "None" => drop(spec.remove("sessionAffinityConfig")),
        "ClientIP" => spec.object_made("sessionAffinityConfig").object_made("clientIP").default("timeoutSeconds", 10_800),
        _ => {}
    }
    spec.default_text("type", "ClusterIP");
    for port in spec.maps_mut("ports") {
        port.default_text("protocol", "TCP");
        let gap = matches!(port.get("targetPort"), None | Some(Value::Null))
            || port.int("targetPort") == Some(0)
            || port.get("targetPort") == Some(&"".into());
        if gap {
            let number = port.int("port").unwrap_or(0);
            port.insert("targetPort".into(), number.into());
        }
    }
    let kind = spec.text("type").to_owned();
    let external = matches!(kind.as_str(), "NodePort" | "LoadBalancer") || (kind == "ClusterIP" && !spec.list("externalIPs").is_empty());
    if external {
        spec.default_text("externalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer" | "ClusterIP") {
        spec.default("internalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        spec.default("allocateLoadBalancerNodePorts", true);
        if let Some(status) = service.object_mut("status").and_then(|status| status.object_mut("loadBalancer")) {
            for ingress in status.maps_mut("ingress").filter(|ingress| !ingress.text("ip").is_empty()) {
                ingress.default("ipMode", "VIP");
            }
        }
    }
}

fn prepare_create(service: &mut Object) {
    reset_status_of(service, "core.v1.Service");
    let spec = service.map_at_mut(&["spec"]);
    drop_internal_policy(spec);
    let ip = spec.text("clusterIP").to_owned();
    if !ip.is_empty() && spec.list("clusterIPs").is_empty() {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

/// Whether services of the type have an address in the cluster.
pub fn needs_cluster_ip(spec: &Map<String, Value>) -> bool {
    spec.text("type") != "ExternalName"
}

/// Whether services of the type have ports on nodes.
pub fn needs_node_port(spec: &Map<String, Value>) -> bool {
    match spec.text("type") {
        "NodePort" => true,
        "LoadBalancer" => spec.some("allocateLoadBalancerNodePorts").and_then(Value::as_bool).unwrap_or(true),
        _ => false,
    }
}

/// Whether the load balancer asks a port of the node for health.
pub fn needs_health_port(spec: &Map<String, Value>) -> bool {
    spec.text("type") == "LoadBalancer" && spec.text("externalTrafficPolicy") == "Local"
}

/// Whether traffic from outside can reach the service.
fn needs_traffic_policy(spec: &Map<String, Value>) -> bool {
    matches!(spec.text("type"), "NodePort" | "LoadBalancer") || (spec.text("type") == "ClusterIP" && !spec.list("externalIPs").is_empty())
}

fn prepare_update(new: &mut Object, old: &Object) {
    keep(new, old, "status");
    let before = old.map("spec");
    let spec = new.map_at_mut(&["spec"]);
    normalize_ips(spec, before);
    keep_allocated(spec, before);
    drop_unused(spec, before);
    drop_internal_policy(spec);
}

/// Names elsewhere have no endpoints to choose from.
fn drop_internal_policy(spec: &mut Map<String, Value>) {
    if spec.text("type") == "ExternalName" {
        spec.remove("internalTrafficPolicy");
    }
}

/// Old clients know only `clusterIP`: where they changed it alone, the list follows.
fn normalize_ips(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    let (ip, old_ip) = (spec.text("clusterIP").to_owned(), before.text("clusterIP"));
    let same_list = spec.list("clusterIPs") == before.list("clusterIPs");
    if !old_ip.is_empty() && ip.is_empty() && same_list {
        spec.remove("clusterIPs");
    } else if !ip.is_empty() && ip != old_ip && (same_list || spec.list("clusterIPs").is_empty()) {
        spec.insert("clusterIPs".into(), json!([ip]));
    }
}

/// What the server once chose stays if the client just left it out.
fn keep_allocated(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    if needs_cluster_ip(before) && needs_cluster_ip(spec) {
        spec.default_text("clusterIP", before.text("clusterIP"));
        if spec.list("clusterIPs").is_empty() && spec.text("clusterIP") == before.text("clusterIP") && before.has("clusterIPs") {
            spec.insert("clusterIPs".into(), before["clusterIPs"].clone());
        }
    }
    if needs_node_port(before) && needs_node_port(spec) {
        let mut used: Vec<i64> = spec.maps("ports").filter_map(|port| port.int("nodePort")).collect();
        for port in spec.maps_mut("ports").filter(|port| port.int("nodePort").unwrap_or(0) == 0) {
            let known = before.maps("ports").find(|old| old.text("name") == port.text("name")).and_then(|old| old.int("nodePort"));
            if let Some(number) = known.filter(|number| *number != 0 && !used.contains(number)) {
                port.insert("nodePort".into(), number.into());
                used.push(number);
            }
        }
    }
    if needs_health_port(before) && needs_health_port(spec) {
        spec.default_number("healthCheckNodePort", before.int("healthCheckNodePort").unwrap_or(0));
    }
}

/// A change of type drops what only the old type had, as long as the client did not touch it.
fn drop_unused(spec: &mut Map<String, Value>, before: &Map<String, Value>) {
    let same = |spec: &Map<String, Value>, field: &str| spec.get(field) == before.get(field);
    if needs_cluster_ip(before) && !needs_cluster_ip(spec) && same(spec, "clusterIP") && same(spec, "clusterIPs") {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            spec.remove(field);
        }
    }
    let node_ports = |spec: &Map<String, Value>| spec.maps("ports").filter_map(|port| port.int("nodePort")).collect::<Vec<_>>();
    if needs_node_port(before) && !needs_node_port(spec) && node_ports(spec).iter().all(|port| node_ports(before).contains(port)) {
        spec.maps_mut("ports").for_each(|port| drop(port.remove("nodePort")));
    }
    if needs_health_port(before) && !needs_health_port(spec) && same(spec, "healthCheckNodePort") {
        spec.remove("healthCheckNodePort");
    }
    if before.text("type") == "LoadBalancer" && spec.text("type") != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(spec, field) {
                spec.remove(field);
            }
        }
    }
    if needs_traffic_policy(before) && !needs_traffic_policy(spec) && same(spec, "externalTrafficPolicy") {
        spec.remove("externalTrafficPolicy");
    }
}

fn validate(service: &Object, causes: &mut Causes) {
    let spec = service.map("spec");
    let kind = spec.text("type");
    let headless = spec.text("clusterIP") == "None" || spec.texts("clusterIPs").next() == Some("None");
    let ports = SPEC.field("ports");
    if spec.list("ports").is_empty() && !headless && kind != "ExternalName" {
        causes.needed(&ports, "");
    }
    let not_none = |causes: &mut Causes| {
        if headless {
            causes.bad(&SPEC.field("clusterIPs").index(0), "None", &format!("may not be set to 'None' for {kind} services"));
        }
    };
    match kind {
        "LoadBalancer" | "NodePort" => not_none(causes),
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if spec.has(field) && !spec.list(field).is_empty() | !spec.text(field).is_empty() {
                    causes.refused(&SPEC.field(field), "may not be set for ExternalName services");
                }
            }
            let name = spec.text("externalName");
            let bare = name.strip_suffix('.').unwrap_or(name);
            if bare.is_empty() {
                causes.needed(&SPEC.field("externalName"), "");
            } else {
                causes.each(&SPEC.field("externalName"), bare, names::subdomain_errors(bare));
            }
        }
        _ => {}
    }
    validate_ports(spec, &ports, causes);
    object_meta::validate_labels(spec.map("selector"), &SPEC.field("selector"), causes);
    validate_affinity(spec, causes);
    validate_ips(spec, causes);
    let externals = SPEC.field("externalIPs");
    for (index, ip) in spec.texts("externalIPs").enumerate() {
        check::ip(ip, &externals.index(index), causes);
        super::endpoints::special(ip, &externals.index(index), causes);
    }
    causes.need_one_of(spec, "type", &SPEC, &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    validate_port_uses(spec, &ports, causes);
    let ranges = SPEC.field("LoadBalancerSourceRanges");
    if !spec.list("loadBalancerSourceRanges").is_empty() && kind != "LoadBalancer" {
        causes.refused(&ranges, "may only be used when `type` is 'LoadBalancer'");
    }
    for (index, range) in spec.texts("loadBalancerSourceRanges").enumerate() {
        check::cidr_relaxed(range.trim(), &ranges.index(index), causes);
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if spec.has(field) && kind != "LoadBalancer" {
            causes.refused(&SPEC.field(field), "may only be used when `type` is 'LoadBalancer'");
        }
    }
    if kind == "LoadBalancer" && spec.has("loadBalancerClass") {
        let class = spec.text("loadBalancerClass");
        causes.each(&SPEC.field("loadBalancerClass"), class, names::qualified_name_errors(class));
    }
    if kind == "LoadBalancer" && !spec.has("allocateLoadBalancerNodePorts") {
        causes.needed(&SPEC.field("allocateLoadBalancerNodePorts"), "");
    }
    validate_policies(spec, causes);
}

fn validate_ports(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let named = spec.list("ports").len() > 1;
    let mut seen: Vec<&str> = Vec::new();
    for (index, port) in spec.maps("ports").enumerate() {
        let at = path.index(index);
        let name = port.text("name");
        if named && name.is_empty() {
            causes.needed(&at.field("name"), "");
        } else if !name.is_empty() {
            causes.each(&at.field("name"), name, names::label_errors(name));
            if seen.contains(&name) {
                causes.twice(&at.field("name"), name);
            }
            seen.push(name);
        }
        check::port(port.int("port").unwrap_or(0), &at.field("port"), causes);
        causes.need_one_of(port, "protocol", &at, &["SCTP", "TCP", "UDP"]);
        check::port_or_name(port.some("targetPort").unwrap_or(&Value::Null), &at.field("targetPort"), causes);
        let protocol = port.text("appProtocol");
        if port.has("appProtocol") {
            causes.each(&at.field("appProtocol"), protocol, names::qualified_name_errors(protocol));
        }
    }
}

fn validate_affinity(spec: &Map<String, Value>, causes: &mut Causes) {
    causes.need_one_of(spec, "sessionAffinity", &SPEC, &["ClientIP", "None"]);
    let at = SPEC.field("sessionAffinityConfig");
    match (spec.text("sessionAffinity"), spec.object("sessionAffinityConfig")) {
        ("ClientIP", Some(config)) => {
            let seconds = config.map("clientIP").int("timeoutSeconds").unwrap_or(0);
            if !(1..=86_400).contains(&seconds) {
                let client = at.field("clientIP");
                causes.bad(&client.field("timeoutSeconds"), seconds, "must be greater than 0 and less than 86400");
            }
        }
        ("ClientIP", None) => causes.needed(&at, "when session affinity type is ClientIP"),
        ("None", Some(_)) => causes.refused(&at, "must not be set when session affinity is None"),
        _ => {}
    }
}

fn validate_ips(spec: &Map<String, Value>, causes: &mut Causes) {
    let at = SPEC.field("clusterIPs");
    let ips: Vec<&str> = spec.texts("clusterIPs").collect();
    let first = spec.text("clusterIP");
    if !ips.is_empty() && first.is_empty() && needs_cluster_ip(spec) {
        causes.bad(&at, spec["clusterIPs"].clone(), "must be empty when `clusterIP` is not specified");
        return;
    }
    if ips.first().is_some_and(|ip| !first.is_empty() && *ip != first) {
        causes.bad(&at, spec["clusterIPs"].clone(), "first value must match `clusterIP`");
    }
    for (index, ip) in ips.iter().enumerate() {
        if *ip == "None" && ips.len() > 1 {
            causes.bad(&at, spec["clusterIPs"].clone(), "'None' must be the first and only value");
        } else if !ip.is_empty() && *ip != "None" {
            check::ip(ip, &at.index(index), causes);
        }
    }
    if ips.len() > 2 {
        causes.bad(&at, spec["clusterIPs"].clone(), "may only hold up to 2 values");
    }
    let families = SPEC.field("ipFamilies");
    let mut seen: Vec<&str> = Vec::new();
    for (index, family) in spec.texts("ipFamilies").enumerate() {
        if !matches!(family, "IPv4" | "IPv6") {
            causes.unsupported(&families.index(index), family, &["IPv4", "IPv6"]);
        }
        if seen.contains(&family) {
            causes.twice(&families.index(index), family);
        }
        seen.push(family);
    }
    causes.one_of(spec, "ipFamilyPolicy", &SPEC, &["PreferDualStack", "RequireDualStack", "SingleStack"]);
}

fn validate_port_uses(spec: &Map<String, Value>, path: &Path, causes: &mut Causes) {
    let (mut node_ports, mut ports): (Vec<(&str, i64)>, Vec<(&str, i64)>) = (Vec::new(), Vec::new());
    for (index, port) in spec.maps("ports").enumerate() {
        let at = path.index(index);
        let node_port = port.int("nodePort").unwrap_or(0);
        if node_port != 0 && spec.text("type") == "ClusterIP" {
            causes.refused(&at.field("nodePort"), "may not be used when `type` is 'ClusterIP'");
        } else if node_port != 0 {
            let key = (port.text("protocol"), node_port);
            if node_ports.contains(&key) {
                causes.twice(&at.field("nodePort"), node_port);
            }
            node_ports.push(key);
        }
        let key = (port.text("protocol"), port.int("port").unwrap_or(0));
        if ports.contains(&key) {
            let shown = crate::shown::internal("core.ServicePort", &json!({"port": key.1, "protocol": key.0}));
            let message = format!("Duplicate value: {shown}");
            causes.0.push(crate::Cause { reason: "FieldValueDuplicate", field: at.text(), message });
        }
        ports.push(key);
    }
}

fn validate_policies(spec: &Map<String, Value>, causes: &mut Causes) {
    let policy = spec.text("externalTrafficPolicy");
    let at = SPEC.field("externalTrafficPolicy");
    if needs_traffic_policy(spec) {
        causes.need_one_of(spec, "externalTrafficPolicy", &SPEC, &["Cluster", "Local"]);
    } else if !policy.is_empty() {
        causes.bad(&at, policy, "may only be set for externally-accessible services");
    }
    let health = spec.int("healthCheckNodePort").unwrap_or(0);
    if health != 0 && needs_health_port(spec) {
        check::port(health, &SPEC.field("healthCheckNodePort"), causes);
    }
    if !needs_health_port(spec) && health != 0 {
        causes.bad(
            &SPEC.field("healthCheckNodePort"),
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    causes.one_of(spec, "internalTrafficPolicy", &SPEC, &["Cluster", "Local"]);
    causes.one_of(spec, "trafficDistribution", &SPEC, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

fn validate_update(new: &Object, old: &Object, causes: &mut Causes) {
    let (spec, before) = (new.map("spec"), old.map("spec"));
    if needs_cluster_ip(spec) && needs_cluster_ip(before) {
        let first = |spec: &Map<String, Value>| spec.texts("clusterIPs").next().unwrap_or(spec.text("clusterIP")).to_owned();
        let (ip, old_ip) = (first(spec), first(before));
        let consistent = ip == spec.text("clusterIP");
        if !old_ip.is_empty() && ip != old_ip && consistent {
            let at = SPEC.field("clusterIPs");
            let shown = spec.get("clusterIPs").cloned().unwrap_or(Value::Null);
            let text = if ip.is_empty() { "primary clusterIP can not be unset" } else { "may not change once set" };
            causes.bad(&at.index(0), shown, text);
        }
    }
    if spec.text("type") == "LoadBalancer"
        && before.text("type") == "LoadBalancer"
        && spec.get("loadBalancerClass") != before.get("loadBalancerClass")
    {
        causes.bad(&SPEC.field("loadBalancerClass"), spec.text("loadBalancerClass"), "may not change once set");
    }
    validate(new, causes);
}

fn validate_status_update(new: &Object, _old: &Object, causes: &mut Causes) {
    let (status, balancer) = (Path::root("status"), new.map("status").map("loadBalancer"));
    let balancer_path = status.field("loadBalancer");
    let list = balancer_path.field("ingress");
    if !balancer.list("ingress").is_empty() && new.map("spec").text("type") != "LoadBalancer" {
        causes.refused(&list, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    for (index, ingress) in balancer.maps("ingress").enumerate() {
        let at = list.index(index);
        if !ingress.text("ip").is_empty() {
            check::ip(ingress.text("ip"), &at.field("ip"), causes);
        }
        if !ingress.text("hostname").is_empty() {
            causes.each(&at.field("hostname"), ingress.text("hostname"), names::subdomain_errors(ingress.text("hostname")));
        }
    }
}

fn warnings(service: &Object) -> Vec<String> {
    let (spec, mut warnings) = (service.map("spec"), Vec::new());
    if spec.text("clusterIP") == "None" {
        let ignored = [
            ("loadBalancerIP", !spec.text("loadBalancerIP").is_empty()),
            ("externalIPs", !spec.list("externalIPs").is_empty()),
            ("SessionAffinity", spec.text("sessionAffinity") != "None"),
        ];
        for (field, _) in ignored.into_iter().filter(|(_, set)| *set) {
            warnings.push(format!("spec.{field} is ignored for headless services"));
        }
    }
    if !service.map("spec").list("externalIPs").is_empty() {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if !service.map("spec").text("externalName").is_empty() && service.map("spec").text("type") != "ExternalName" {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    warnings
}

fn columns(service: &Object, clock: &Clock) -> Vec<Value> {
    let spec = service.map("spec");
    let ip = spec.texts("clusterIPs").next().unwrap_or(spec.text("clusterIP"));
    let ports: Vec<String> = spec.maps("ports").map(port_text).collect();
    vec![
        service.name().into(),
        spec.text("type").into(),
        print::or_none(ip),
        external(service).into(),
        print::or_none(&ports.join(",")),
        print::age(service, clock),
        print::labels(spec.map("selector")),
    ]
}

fn port_text(port: &Map<String, Value>) -> String {
    let (number, protocol) = (port.int("port").unwrap_or(0), port.text("protocol"));
    match port.int("nodePort").unwrap_or(0) {
        0 => format!("{number}/{protocol}"),
        node_port => format!("{number}:{node_port}/{protocol}"),
    }
}

fn external(service: &Object) -> String {
    let spec = service.map("spec");
    let ips: Vec<&str> = spec.texts("externalIPs").collect();
    match spec.text("type") {
        "ClusterIP" | "NodePort" if ips.is_empty() => "<none>".into(),
        "ClusterIP" | "NodePort" => ips.join(","),
        "LoadBalancer" => {
            let ingress = service.map("status").map("loadBalancer").maps("ingress");
            let mut all: Vec<&str> =
                ingress.map(|one| if one.text("ip").is_empty() { one.text("hostname") } else { one.text("ip") }).collect();
            all.extend(ips);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        "ExternalName" => spec.text("externalName").to_owned(),
        _ => "<unknown>".into(),
    }
}
