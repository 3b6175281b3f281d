//! VXLAN between nodes: one device, and per remote node a route, a neighbour and a forwarding entry.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::journal::HostJournal;
use crate::netlink::NetlinkError;

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
    pub const STANDARD: Self = Self {
        vni: 0x6b6e,
        port: 8472,
    };
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
    vtep: Vtep,
}

impl Overlay {
    /// The device's name.
    pub const DEVICE: &'static str = "knarr.vxlan";

    /// Makes the device, or takes over one with the same settings.
    pub fn ensure(
        config: OverlayConfig,
        node_ip: IpAddr,
        pod_cidrs: &[IpNet],
        journal: &HostJournal,
    ) -> Result<Self, OverlayError> {
        let _ = (config, pod_cidrs, journal);
        Err(OverlayError::NoUplink(node_ip))
    }
    /// This node's end.
    pub fn vtep(&self) -> &Vtep {
        &self.vtep
    }
    /// Makes routes, neighbours and forwarding entries those of exactly these peers.
    pub fn set_peers(&mut self, peers: &[Peer]) -> Result<(), OverlayError> {
        let _ = peers;
        Ok(())
    }
    /// Removes the device and everything that hangs on it.
    pub fn remove(self) -> Result<(), OverlayError> {
        Ok(())
    }
}

/// Writes a MAC as `aa:bb:cc:dd:ee:ff`, as node annotations carry it.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
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
