//! The cluster's zone: a question in, records or a precise "no" out. Pure; the names follow the Kubernetes DNS
//! specification 1.1.
//!
//! ```text
//! <service>.<ns>.svc.<zone>                        addresses of the service, or of its endpoints if headless
//! _<port>._<protocol>.<service>.<ns>.svc.<zone>    SRV
//! <endpoint>.<service>.<ns>.svc.<zone>             one endpoint: its hostname, or its address with dashes
//! <a-b-c-d>.<ns>.pod.<zone>                        the address itself
//! ns.dns.<zone>, dns-version.<zone>                the server itself
//! ```

use crate::facts::{Port, Reach};
use crate::index::Index;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::net::IpAddr;

/// The version of the specification that we follow.
const SPECIFICATION: &str = "1.1.0";

/// What is fixed about the zone.
pub(crate) struct Zone {
    /// `cluster.local.`, in lower case.
    name: Name,
    ttl: u32,
    /// Addresses of the DNS service itself.
    own: Vec<IpAddr>,
}

/// The answer to a question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Records.
    Found { answers: Vec<Record>, additionals: Vec<Record> },
    /// The name exists, without records of this type.
    NoData,
    /// The name does not exist.
    NoName,
    /// Another name stands for it; the CNAME record, to be followed by what the target has.
    Alias { record: Box<Record>, target: Name },
    /// Not a name of ours: ask upstream.
    Elsewhere,
}

/// One address behind a name.
struct Target {
    address: IpAddr,
    port: Option<u16>,
    /// The name of the address, below `svc.<zone>`.
    host: String,
}

impl Zone {
    pub(crate) fn new(domain: &str, ttl: u32, own: Vec<IpAddr>) -> Result<Self, hickory_proto::ProtoError> {
        let mut name = Name::from_ascii(domain.to_ascii_lowercase())?;
        name.set_fqdn(true);
        Ok(Self { name, ttl, own })
    }

    /// Whether a name is in the zone.
    pub(crate) fn contains(&self, name: &Name) -> bool {
        self.name.zone_of(name)
    }

    /// The record that goes with every "no".
    pub(crate) fn authority(&self, index: &Index) -> Record {
        let child = |labels: &str| self.below(labels).expect("short labels under a valid zone");
        let (server, mail) = (child("ns.dns"), child("hostmaster"));
        let soa = SOA::new(server, mail, index.serial, 7200, 1800, 86400, self.ttl);
        Record::from_rdata(self.name.clone(), self.ttl, RData::SOA(soa))
    }

    /// Answers a question about `name` (in the spelling that the answer shall have).
    pub(crate) fn answer(&self, index: &Index, name: &Name, kind: RecordType) -> Outcome {
        if !self.contains(name) {
            return match name.parse_arpa_name() {
                Ok(net) if net.prefix_len() == net.max_prefix_len() => self.reverse(index, name, net.addr(), kind),
                _ => Outcome::Elsewhere,
            };
        }
        let depth = usize::from(name.num_labels() - self.name.num_labels());
        let mut labels = Vec::with_capacity(depth);
        for label in name.iter().take(depth) {
            match std::str::from_utf8(label) {
                Ok(label) => labels.push(label.to_ascii_lowercase()),
                Err(_) => return Outcome::NoName,
            }
        }
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        match labels[..] {
            [] => self.apex(index, name, kind),
            ["dns"] | ["svc"] | ["pod"] => Outcome::NoData,
            ["dns-version"] => match kind {
                RecordType::TXT => self.found(name, vec![RData::TXT(TXT::new(vec![SPECIFICATION.into()]))]),
                _ => Outcome::NoData,
            },
            ["ns", "dns"] => self.addresses(name, kind, self.own.iter().copied()),
            [namespace, "svc"] | [namespace, "pod"] => match index.has_namespace(namespace) {
                true => Outcome::NoData,
                false => Outcome::NoName,
            },
            [pod, namespace, "pod"] => match pod_address(pod) {
                Some(address) if index.has_namespace(namespace) => self.addresses(name, kind, [address].into_iter()),
                _ => Outcome::NoName,
            },
            [service, namespace, "svc"] => self.service(index, name, kind, namespace, service, &|_| true, None),
            [endpoint, service, namespace, "svc"] => {
                // `_tcp.<service>` exists when something below it does.
                if let Some(protocol) = endpoint.strip_prefix('_') {
                    let wanted = |port: &Port| &*port.protocol == protocol;
                    return match self.service(index, name, RecordType::NULL, namespace, service, &wanted, None) {
                        Outcome::Alias { .. } => Outcome::NoName,
                        other => other,
                    };
                }
                self.service(index, name, kind, namespace, service, &|_| true, Some(endpoint))
            }
            [port, protocol, service, namespace, "svc"] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Outcome::NoName;
                };
                let wanted = |one: &Port| one.name.eq_ignore_ascii_case(port) && &*one.protocol == protocol;
                self.service(index, name, kind, namespace, service, &wanted, None)
            }
            _ => Outcome::NoName,
        }
    }

    fn apex(&self, index: &Index, name: &Name, kind: RecordType) -> Outcome {
        match kind {
            RecordType::SOA => Outcome::Found { answers: vec![self.authority(index)], additionals: Vec::new() },
            RecordType::NS => {
                let server = self.below("ns.dns").expect("short labels under a valid zone");
                let additionals = self.own.iter().map(|address| self.address(&server, *address)).collect();
                let record = Record::from_rdata(name.clone(), self.ttl, RData::NS(NS(server)));
                Outcome::Found { answers: vec![record], additionals }
            }
            _ => Outcome::NoData,
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one name")]
    fn service(
        &self,
        index: &Index,
        name: &Name,
        kind: RecordType,
        namespace: &str,
        service: &str,
        wanted: &dyn Fn(&Port) -> bool,
        endpoint: Option<&str>,
    ) -> Outcome {
        let Some(facts) = index.service(namespace, service) else {
            return Outcome::NoName;
        };
        let mut targets = Vec::new();
        match (&facts.reach, endpoint) {
            (Reach::External(_), Some(_)) => {}
            (Reach::External(target), None) => return self.alias(name, target),
            (Reach::Cluster(addresses), None) => {
                for port in facts.ports.iter().filter(|port| wanted(port)) {
                    let host = format!("{service}.{namespace}");
                    let of_port = addresses.iter().map(|address| Target { address: *address, port: port.number, host: host.clone() });
                    targets.extend(of_port);
                }
            }
            (Reach::Headless, _) | (Reach::Cluster(_), Some(_)) => {
                let all = index.endpoints(namespace, service).filter(|(_, port)| wanted(port));
                let all = all.filter(|(one, _)| endpoint.is_none_or(|label| *one.label == *label));
                targets.extend(all.map(|(one, port)| Target {
                    address: one.address,
                    port: port.number,
                    host: format!("{}.{service}.{namespace}", one.label),
                }));
            }
        }
        if targets.is_empty() {
            return Outcome::NoName;
        }
        match kind {
            RecordType::SRV => self.srv(name, &targets),
            _ => self.addresses(name, kind, targets.iter().map(|target| target.address)),
        }
    }

    fn alias(&self, name: &Name, target: &str) -> Outcome {
        let Ok(mut target) = Name::from_ascii(target) else {
            return Outcome::NoName;
        };
        target.set_fqdn(true);
        let record = Record::from_rdata(name.clone(), self.ttl, RData::CNAME(CNAME(target.clone())));
        Outcome::Alias { record: Box::new(record), target }
    }

    fn srv(&self, name: &Name, targets: &[Target]) -> Outcome {
        let weight = u16::try_from(100 / targets.len()).unwrap_or(1).max(1);
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for target in targets {
            let (Some(port), Ok(host)) = (target.port, self.below(&format!("{}.svc", target.host))) else {
                continue;
            };
            let record = Record::from_rdata(name.clone(), self.ttl, RData::SRV(SRV::new(0, weight, port, host.clone())));
            let address = self.address(&host, target.address);
            // Both families of one target share an SRV record, several ports share an address.
            push_new(&mut answers, record);
            push_new(&mut additionals, address);
        }
        if answers.is_empty() { Outcome::NoData } else { Outcome::Found { answers, additionals } }
    }

    fn reverse(&self, index: &Index, name: &Name, address: IpAddr, kind: RecordType) -> Outcome {
        let names = index.names_of(address);
        if names.is_empty() {
            return Outcome::Elsewhere;
        }
        if kind != RecordType::PTR {
            return Outcome::NoData;
        }
        let hosts = names.iter().filter_map(|host| self.below(&format!("{host}.svc")).ok());
        self.found(name, hosts.map(|host| RData::PTR(PTR(host))).collect())
    }

    fn addresses(&self, name: &Name, kind: RecordType, addresses: impl Iterator<Item = IpAddr>) -> Outcome {
        let mut answers = Vec::new();
        for address in addresses {
            let record = self.address(name, address);
            if record.record_type() == kind {
                push_new(&mut answers, record);
            }
        }
        if answers.is_empty() { Outcome::NoData } else { Outcome::Found { answers, additionals: Vec::new() } }
    }

    fn address(&self, name: &Name, address: IpAddr) -> Record {
        let data = match address {
            IpAddr::V4(address) => RData::A(A(address)),
            IpAddr::V6(address) => RData::AAAA(AAAA(address)),
        };
        Record::from_rdata(name.clone(), self.ttl, data)
    }

    fn found(&self, name: &Name, data: Vec<RData>) -> Outcome {
        let answers = data.into_iter().map(|data| Record::from_rdata(name.clone(), self.ttl, data)).collect();
        Outcome::Found { answers, additionals: Vec::new() }
    }

    fn below(&self, labels: &str) -> Result<Name, hickory_proto::ProtoError> {
        Name::from_ascii(labels)?.append_domain(&self.name)
    }
}

/// Headless services have few addresses in one answer, so a scan is cheaper than a set; large ones are cut by the
/// size of a message long before this matters.
fn push_new(records: &mut Vec<Record>, record: Record) {
    if !records.contains(&record) {
        records.push(record);
    }
}

/// `1-2-3-4` or an IPv6 address with dashes for colons.
fn pod_address(label: &str) -> Option<IpAddr> {
    let four: Result<IpAddr, _> = label.replace('-', ".").parse();
    four.or_else(|_| label.replace('-', ":").parse()).ok()
}
