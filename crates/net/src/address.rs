//! The addresses of the interface that the default route uses, and news when they change.
//!
//! A node is not its address: a laptop changes networks, a lease runs out. What depends on the
//! address asks here and is told.

use ipnet::IpNet;
use tokio::io::unix::AsyncFd;

use crate::netlink::{
    NetlinkError, Socket, Subsystem,
    link::{self, Link},
    route::{self, LinkAddress, Route},
};
use crate::pod_network;

/// `RTMGRP_LINK`, `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE`.
const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;
const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;

/// The uplink of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddresses {
    /// The interface of the default route, or the first one up with a global address.
    pub interface: String,
    /// Its index.
    pub index: u32,
    /// Its MTU.
    pub mtu: u32,
    /// Its global addresses, v4 first, in the kernel's order.
    pub addresses: Vec<IpNet>,
}

/// The addresses of the default route's interface now; none if the host has no usable interface.
pub fn addresses() -> Result<Option<NodeAddresses>, NetlinkError> {
    read(&mut Socket::open(Subsystem::Route)?)
}

/// A subscription to changes of [`addresses`].
#[derive(Debug)]
pub struct AddressWatch {
    news: AsyncFd<Socket>,
    asking: Socket,
    last: Option<NodeAddresses>,
}

impl AddressWatch {
    /// Subscribes, then reads, so that no change is lost in between. Needs a tokio runtime.
    pub fn open() -> Result<(Self, Option<NodeAddresses>), NetlinkError> {
        let news = Socket::subscribe(Subsystem::Route, GROUPS)?;
        let news = crate::sys::watch(news).map_err(|error| broken(&error))?;
        let mut asking = Socket::open(Subsystem::Route)?;
        let last = read(&mut asking)?;
        Ok((Self { news, asking, last: last.clone() }, last))
    }

    /// Waits until the answer of [`addresses`] differs from the last one given.
    pub async fn changed(&mut self) -> Result<Option<NodeAddresses>, NetlinkError> {
        loop {
            let mut ready = self.news.readable_mut().await.map_err(|error| broken(&error))?;
            let mut relevant = false;
            let complete = ready.get_inner_mut().drain(|kind, payload| relevant |= may_matter(kind, payload))?;
            ready.clear_ready();
            drop(ready);
            if relevant || !complete {
                let now = read(&mut self.asking)?;
                if now != self.last {
                    self.last.clone_from(&now);
                    return Ok(now);
                }
            }
        }
    }
}

/// Pods come and go with an interface and a route each, and to look at all links for each would take the longer the more
/// pods there are: of routes only default routes matter, of links those that are not a pod's.
fn may_matter(kind: u16, payload: &[u8]) -> bool {
    match kind {
        NEWLINK | DELLINK => link::parse_link(payload).is_none_or(|link| !pod_network::is_ours(&link)),
        NEWROUTE | DELROUTE => route::parse_route(payload).is_some_and(|route| route.destination.prefix_len() == 0),
        _ => true,
    }
}

fn broken(error: &std::io::Error) -> NetlinkError {
    let errno = rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO);
    NetlinkError::new("wait for address changes", errno)
}

fn read(socket: &mut Socket) -> Result<Option<NodeAddresses>, NetlinkError> {
    Ok(choose(&link::links(socket)?, &route::link_addresses(socket)?, &route::routes(socket)?))
}

fn choose(links: &[Link], addresses: &[LinkAddress], routes: &[Route]) -> Option<NodeAddresses> {
    let of_link = |link: &Link| {
        let mut of_link: Vec<IpNet> = addresses.iter().filter(|a| a.link == link.index && a.global).map(|a| a.address).collect();
        of_link.sort_by_key(|address| address.addr().is_ipv6());
        of_link
    };
    let default = routes
        .iter()
        .filter(|route| route.destination.prefix_len() == 0 && route.link.is_some())
        .min_by_key(|route| (route.destination.addr().is_ipv6(), route.metric))
        .and_then(|route| links.iter().find(|link| Some(link.index) == route.link));
    let link = default.or_else(|| {
        let usable = |link: &&Link| link.up && !link.loopback && !of_link(link).is_empty();
        links.iter().filter(|link| link.kind.as_deref() != Some("vxlan")).find(usable)
    })?;
    Some(NodeAddresses { interface: link.name.clone(), index: link.index, mtu: link.mtu, addresses: of_link(link) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::link::VethEnd;

    #[test]
    fn only_links_of_pods_do_not_matter() {
        let matters = |name: &str| {
            let end = VethEnd { name, mac: [2; 6] };
            let message = link::new_veth(end, VethEnd { name: "eth0", mac: [4; 6] }, 1500, 0);
            may_matter(NEWLINK, &message.into_attributes())
        };
        assert!(!matters(&crate::PodNetwork::host_interface("2f1c9a0e")));
        for name in ["up0", "eth0", "knarr.vxlan", "knarr0123456789a", "knarr"] {
            assert!(matters(name), "{name}");
        }
    }
}
