//! What DNS keeps of Services and EndpointSlices: a few dozen bytes instead of decoded objects.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use std::net::IpAddr;

/// A named port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    /// Empty for the only port of a service that gave it no name.
    pub(crate) name: Box<str>,
    /// `tcp`, `udp` or `sctp`.
    pub(crate) protocol: Box<str>,
    /// `None` stands for "no ports": the addresses have names, but no SRV records.
    pub(crate) number: Option<u16>,
}

impl Port {
    /// Addresses of something without ports still have names.
    fn absent() -> Self {
        Self { name: "".into(), protocol: "tcp".into(), number: None }
    }
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Its own addresses.
    Cluster(Vec<IpAddr>),
    /// The addresses of its endpoints.
    Headless,
    /// Another name.
    External(Box<str>),
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceFacts {
    pub(crate) reach: Reach,
    pub(crate) ports: Vec<Port>,
}

impl ServiceFacts {
    /// `None` for a service that has no name in DNS (no address yet, an ExternalName that is an address).
    pub(crate) fn of(service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let reach = if spec.type_.as_deref() == Some("ExternalName") {
            let name = spec.external_name.as_deref().unwrap_or_default().trim_end_matches('.');
            if name.is_empty() || name.parse::<IpAddr>().is_ok() {
                return None;
            }
            Reach::External(name.to_ascii_lowercase().into())
        } else if spec.cluster_ip.as_deref() == Some("None") {
            Reach::Headless
        } else {
            let listed = spec.cluster_ips.iter().flatten();
            let mut addresses: Vec<IpAddr> = listed.filter_map(|text| text.parse().ok()).collect();
            if addresses.is_empty() {
                addresses.extend(spec.cluster_ip.as_deref().and_then(|text| text.parse::<IpAddr>().ok()));
            }
            if addresses.is_empty() {
                return None;
            }
            Reach::Cluster(addresses)
        };
        let mut ports: Vec<Port> = spec
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase().into(),
                number: u16::try_from(port.port).ok(),
            })
            .collect();
        if ports.is_empty() {
            ports.push(Port::absent());
        }
        Some(Self { reach, ports })
    }

    pub(crate) fn addresses(&self) -> &[IpAddr] {
        match &self.reach {
            Reach::Cluster(addresses) => addresses,
            Reach::Headless | Reach::External(_) => &[],
        }
    }
}

/// One ready address of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    /// Its hostname, or its address with dashes.
    pub(crate) label: Box<str>,
    /// Whether the label is a hostname: only then its address has a PTR record.
    pub(crate) named: bool,
}

/// The ready part of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceFacts {
    /// Name of the service in the slice's name space.
    pub(crate) service: Box<str>,
    pub(crate) ports: Vec<Port>,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl SliceFacts {
    /// `None` for a slice of no service or of names instead of addresses.
    pub(crate) fn of(slice: &EndpointSlice) -> Option<Self> {
        let labels = slice.metadata.labels.as_ref()?;
        let service = labels.get("kubernetes.io/service-name")?.as_str();
        if slice.address_type == "FQDN" {
            return None;
        }
        let mut ports: Vec<Port> = slice
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.as_deref().unwrap_or_default().into(),
                protocol: port.protocol.as_deref().unwrap_or("TCP").to_ascii_lowercase().into(),
                number: port.port.and_then(|number| u16::try_from(number).ok()),
            })
            .collect();
        if ports.is_empty() {
            ports.push(Port::absent());
        }
        let ready = slice
            .endpoints
            .iter()
            .flatten()
            .filter(|endpoint| endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true));
        let endpoints = ready
            .flat_map(|endpoint| endpoint.addresses.iter().map(move |address| (endpoint.hostname.as_deref(), address)))
            .filter_map(|(hostname, address)| {
                let address: IpAddr = address.parse().ok()?;
                let hostname = hostname.filter(|name| !name.is_empty());
                Some(Endpoint {
                    address,
                    label: hostname.map_or_else(|| dashed(address), |name| name.to_ascii_lowercase().into()),
                    named: hostname.is_some(),
                })
            })
            .collect();
        Some(Self { service: service.into(), ports, endpoints })
    }
}

/// `1-2-3-4`, `fd00--1`.
fn dashed(address: IpAddr) -> Box<str> {
    address.to_string().replace(['.', ':'], "-").into()
}
