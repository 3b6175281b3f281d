//! VXLAN between nodes: one device, and per remote node a route, a neighbour and a forwarding entry.
//!
//! It is layer 3 only: the device learns nothing and floods nothing. A packet for a remote pod is
//! routed to the remote tunnel end, whose MAC is known, and that MAC is known to be at the node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::journal::{Change, HostJournal};
use crate::netlink::{
    NetlinkError, Socket, Subsystem,
    link::{self, VxlanSettings},
    route::{self, NewRoute, OUR_PROTOCOL},
};

/// What VXLAN adds to a packet: outer IPv4, UDP and VXLAN headers, inner Ethernet header.
const OVERHEAD_V4: u32 = 50;
/// The same over IPv6.
const OVERHEAD_V6: u32 = 70;

/// The settings that all nodes of a cluster share.
#[derive(Debug, Clone)]
pub struct OverlayConfig {
    /// The VXLAN network identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
}

impl OverlayConfig {
    /// The identifier and port used unless configured otherwise.
    pub const STANDARD: Self = Self { vni: 0x6b6e, port: 8472 };
}

/// This node's tunnel end, to be published for the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vtep {
    /// The device's MAC; derived from the node address, so it is stable.
    pub mac: [u8; 6],
    /// The device's addresses: the network address of each pod CIDR.
    pub addresses: Vec<IpAddr>,
    /// The device's MTU, which pod interfaces should have too.
    pub mtu: u32,
}

/// Another node. A node with two pod CIDRs is two peers with the same MAC.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Where its tunnel packets go.
    pub node_ip: IpAddr,
    /// Its pods.
    pub pod_cidr: IpNet,
    /// The MAC of its tunnel end.
    pub vtep_mac: [u8; 6],
}

/// Why the overlay could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// No interface has the node's address.
    #[error("no interface has the node address {0}")]
    NoUplink(IpAddr),
    /// The kernel refused.
    #[error("cannot set up the overlay network")]
    Kernel(#[from] NetlinkError),
    /// The change could not be journalled.
    #[error("cannot journal the overlay network")]
    Journal(#[source] std::io::Error),
}

/// The VXLAN device of this node.
#[derive(Debug)]
pub struct Overlay {
    socket: Socket,
    index: u32,
    vtep: Vtep,
    /// What the kernel holds of ours, by kind of entry.
    routes: BTreeSet<IpNet>,
    neighbours: BTreeSet<(IpAddr, [u8; 6])>,
    forwarding: BTreeSet<([u8; 6], IpAddr)>,
}

impl Overlay {
    /// The device's name.
    pub const DEVICE: &'static str = "knarr.vxlan";

    /// Makes the device, or takes over one with the same settings.
    pub fn ensure(config: OverlayConfig, node_ip: IpAddr, pod_cidrs: &[IpNet], journal: &HostJournal) -> Result<Self, OverlayError> {
        let mut socket = Socket::open(Subsystem::Route)?;
        let all = route::link_addresses(&mut socket)?;
        let uplink = all.iter().find(|address| address.address.addr() == node_ip).map(|address| address.link);
        let uplink = uplink.ok_or(OverlayError::NoUplink(node_ip))?;
        let links = link::links(&mut socket)?;
        let uplink_mtu = links.iter().find(|link| link.index == uplink).map_or(1500, |link| link.mtu);
        let overhead = if node_ip.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        let vtep = Vtep {
            mac: vtep_mac(node_ip),
            addresses: pod_cidrs.iter().map(IpNet::network).collect(),
            mtu: uplink_mtu.min(65_535).saturating_sub(overhead),
        };
        let settings = VxlanSettings { vni: config.vni, port: config.port, local: Some(node_ip), uplink };
        journal.record(Change::Link { name: Self::DEVICE.into() }).map_err(OverlayError::Journal)?;
        let mut messages = Vec::new();
        let found = links.iter().find(|link| link.name == Self::DEVICE);
        let fits = found.is_some_and(|link| link.vxlan.as_ref() == Some(&settings) && link.mac == Some(vtep.mac));
        if found.is_some() && !fits {
            messages.push(link::delete_link(Self::DEVICE));
        }
        if !fits {
            messages.push(link::new_vxlan(Self::DEVICE, vtep.mac, vtep.mtu, &settings));
        }
        let change = link::LinkChange { up: true, mtu: Some(vtep.mtu), route_localnet: true, no_link_local: true, ..Default::default() };
        messages.push(link::set_link(Self::DEVICE, &change));
        socket.exchange(messages)?;
        let device = link::link(&mut socket, Self::DEVICE)?;
        let index = device.ok_or_else(|| NetlinkError::new("find the overlay device again", rustix::io::Errno::NODEV))?.index;
        let mut overlay = Self { socket, index, vtep, routes: BTreeSet::new(), neighbours: BTreeSet::new(), forwarding: BTreeSet::new() };
        overlay.set_addresses(all.iter().filter(|address| address.link == index).map(|address| address.address))?;
        if fits {
            overlay.read_back()?;
        }
        Ok(overlay)
    }

    /// This node's end.
    pub fn vtep(&self) -> &Vtep {
        &self.vtep
    }

    /// Makes routes, neighbours and forwarding entries those of exactly these peers.
    ///
    /// New ones are made before old ones go, and forwarding stands before the route that needs it.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<(), OverlayError> {
        let routes: BTreeSet<_> = peers.iter().map(|peer| peer.pod_cidr.trunc()).collect();
        let neighbours: BTreeSet<_> = peers.iter().map(|peer| (peer.pod_cidr.network(), peer.vtep_mac)).collect();
        let forwarding: BTreeSet<_> = peers.iter().map(|peer| (peer.vtep_mac, peer.node_ip)).collect();
        let link = self.index;
        let mut messages = Vec::new();
        for (mac, node) in forwarding.difference(&self.forwarding) {
            messages.push(route::put_forwarding(link, *mac, *node));
        }
        for (address, mac) in neighbours.difference(&self.neighbours) {
            messages.push(route::put_neighbour(link, *address, *mac));
        }
        for destination in routes.difference(&self.routes) {
            let gateway = Some(destination.network());
            messages.push(route::put_route(&NewRoute { destination: *destination, link, gateway, source: None, mtu: None }));
        }
        for destination in self.routes.difference(&routes) {
            messages.push(route::delete_route(*destination, link));
        }
        for (address, _) in self.neighbours.difference(&neighbours) {
            if !neighbours.iter().any(|(kept, _)| kept == address) {
                messages.push(route::delete_neighbour(link, *address));
            }
        }
        for (mac, node) in self.forwarding.difference(&forwarding) {
            messages.push(route::delete_forwarding(link, *mac, *node));
        }
        if let Err(error) = self.socket.exchange(messages) {
            // Some may have been made: the next call starts from what the kernel has.
            self.read_back()?;
            return Err(error.into());
        }
        (self.routes, self.neighbours, self.forwarding) = (routes, neighbours, forwarding);
        Ok(())
    }

    /// Removes the device and everything that hangs on it.
    pub fn remove(mut self) -> Result<(), OverlayError> {
        self.socket.request(link::delete_link(Self::DEVICE))?;
        Ok(())
    }

    fn set_addresses(&mut self, found: impl Iterator<Item = IpNet>) -> Result<(), OverlayError> {
        let wanted: BTreeSet<IpNet> = self.vtep.addresses.iter().map(|address| IpNet::from(*address)).collect();
        let found: BTreeSet<IpNet> = found.collect();
        let added = wanted.difference(&found).map(|address| route::add_address(self.index, *address));
        let removed = found.difference(&wanted).map(|address| route::delete_address(self.index, *address));
        let messages = added.chain(removed).collect();
        self.socket.exchange(messages)?;
        Ok(())
    }

    /// Takes over what an earlier run left. Neighbours are not read: they are made anew, and those
    /// without a route do no harm.
    fn read_back(&mut self) -> Result<(), NetlinkError> {
        let ours = |route: &route::Route| route.link == Some(self.index) && route.protocol == OUR_PROTOCOL;
        let routes = route::routes(&mut self.socket)?;
        self.routes = routes.iter().filter(|route| ours(route)).map(|route| route.destination).collect();
        self.forwarding = route::forwarding(&mut self.socket, self.index)?.into_iter().collect();
        self.neighbours.clear();
        Ok(())
    }
}

/// The MAC of the tunnel end of the node with this address.
pub fn vtep_mac(node_ip: IpAddr) -> [u8; 6] {
    let hash = crate::pod_network::hash(format!("vtep {node_ip}").as_bytes()).to_be_bytes();
    [(hash[2] & 0xfc) | 0x02, hash[3], hash[4], hash[5], hash[6], hash[7]]
}

/// Writes a MAC as `aa:bb:cc:dd:ee:ff`, as node annotations carry it.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads a MAC written by [`format_mac`].
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0u8; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        *byte = u8::from_str_radix(parts.next()?, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}
