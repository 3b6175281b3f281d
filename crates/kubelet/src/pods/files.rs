//! Files that a kubelet gives to every pod: `/etc/hosts`, `/etc/resolv.conf`, `/etc/hostname`.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::config::Config;

/// The host name that a pod sees: `hostnameOverride`, `hostname`, or its name, cut to 63 characters.
pub fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|spec| spec.hostname_override.as_deref()) {
        return name.to_owned();
    }
    let own = spec.and_then(|spec| spec.hostname.as_deref()).filter(|name| !name.is_empty());
    let name = own.unwrap_or_else(|| super::model::name(pod));
    let mut end = name.len().min(63);
    while end > 0 && !name.is_char_boundary(end) {
        end -= 1;
    }
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

/// The full name inside the cluster, for pods with a subdomain.
pub fn full_hostname(pod: &Pod, config: &Config) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_deref().filter(|name| !name.is_empty())?;
    Some(format!("{}.{subdomain}.{}.svc.{}", hostname(pod), super::model::namespace(pod), config.cluster_domain))
}

/// The content of `/etc/hosts`.
pub fn hosts(pod: &Pod, config: &Config, addresses: &[String]) -> String {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let mut text = if spec.host_network == Some(true) {
        let own = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
        format!("# Kubernetes-managed hosts file (host network).\n{own}")
    } else {
        let mut text = String::from(
            "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        for address in addresses {
            match full_hostname(pod, config) {
                Some(full) => text.push_str(&format!("{address}\t{full}\t{}\n", hostname(pod))),
                None => text.push_str(&format!("{address}\t{}\n", hostname(pod))),
            }
        }
        text
    };
    let aliases = spec.host_aliases.as_deref().unwrap_or_default();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t")));
        }
    }
    text
}

/// A resolver configuration in its parts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    pub fn parse(text: &str) -> Resolver {
        let mut resolver = Resolver::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.servers.extend(words.next().map(str::to_owned)),
                Some("search") => resolver.search = words.map(str::to_owned).collect(),
                Some("options") => resolver.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        resolver
    }

    /// The text of a `resolv.conf`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.search.is_empty() {
            text.push_str(&format!("search {}\n", self.search.join(" ")));
        }
        for server in &self.servers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The resolver configuration of a pod by its DNS policy. `host` is the node's own.
pub fn resolver(pod: &Pod, config: &Config, host: &Resolver) -> Resolver {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let on_host = spec.host_network == Some(true);
    let mut resolver = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        Some("Default") => host.clone(),
        Some("ClusterFirstWithHostNet") => cluster(pod, config, host),
        _ if on_host || config.cluster_dns.is_empty() => host.clone(),
        _ => cluster(pod, config, host),
    };
    if let Some(own) = &spec.dns_config {
        append(&mut resolver.servers, own.nameservers.iter().flatten());
        append(&mut resolver.search, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            };
            resolver.options.retain(|one| one.split(':').next() != Some(&name));
            resolver.options.push(text);
        }
    }
    resolver
}

fn cluster(pod: &Pod, config: &Config, host: &Resolver) -> Resolver {
    let domain = &config.cluster_domain;
    let namespace = super::model::namespace(pod);
    let mut search = vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.clone()];
    append(&mut search, host.search.iter());
    search.truncate(32);
    Resolver { servers: config.cluster_dns.iter().map(IpAddr::to_string).collect(), search, options: vec!["ndots:5".into()] }
}

fn append<'a>(list: &mut Vec<String>, more: impl Iterator<Item = &'a String>) {
    for one in more {
        if !list.contains(one) {
            list.push(one.clone());
        }
    }
}
