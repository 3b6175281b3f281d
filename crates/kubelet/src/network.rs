//! The host ports that a pod asks for.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::PodSpec;
use net::HostPort;
use net::dataplane::Protocol;

/// The host ports of a pod with this address.
pub fn host_ports(spec: &PodSpec, address: IpAddr) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    ports
        .filter_map(|port| {
            Some(HostPort {
                host_ip: port.host_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok()),
                protocol: match port.protocol.as_deref() {
                    Some("UDP") => Protocol::Udp,
                    Some("SCTP") => Protocol::Sctp,
                    _ => Protocol::Tcp,
                },
                host_port: u16::try_from(port.host_port?).ok().filter(|port| *port > 0)?,
                pod_ip: address,
                pod_port: u16::try_from(port.container_port).ok()?,
            })
        })
        .collect()
}
