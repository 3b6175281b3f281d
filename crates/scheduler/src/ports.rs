//! Ports of the host that pods ask for.

use std::net::IpAddr;

use crate::read::PodSpec;

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port on a host address; no address means all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address, unless all.
    pub ip: Option<IpAddr>,
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
}

impl HostPort {
    /// Whether both cannot be had on one host.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port && self.protocol == other.protocol && (self.ip.is_none() || other.ip.is_none() || self.ip == other.ip)
    }
}

/// The host ports of a pod: those of its containers and sidecars.
pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().filter(|container| &*container.restart_policy == "Always");
    let ports = spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    ports
        .filter_map(|port| {
            let number = u16::try_from(port.host_port).ok().filter(|number| *number > 0)?;
            let ip = port.host_ip.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified());
            let protocol = match &*port.protocol {
                "UDP" => Protocol::Udp,
                "SCTP" => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            Some(HostPort { ip, protocol, port: number })
        })
        .collect()
}
