//! Addresses and routes of ours on the loopback interface.
//!
//! The cluster DNS address is answered by the node itself, so that it must be one of the node's.
//! The service addresses need a route, or a host without a default route refuses to send to them
//! before any rule sees the packet.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::journal::{Change, HostJournal};
use crate::netlink::{
    NetlinkError, Socket, Subsystem,
    route::{self, NewRoute},
};

const LOOPBACK: &str = "lo";
/// `lo` has this index in every name space.
const LOOPBACK_INDEX: u32 = 1;

/// An address of ours on `lo`.
#[derive(Debug)]
pub struct LoopbackAddress {
    address: IpAddr,
}

impl LoopbackAddress {
    /// Adds the address to `lo`, journalled; fine if it is there already.
    pub fn ensure(address: IpAddr, journal: &HostJournal) -> Result<Self, NetlinkError> {
        let change = Change::Address { link: LOOPBACK.into(), address };
        record(journal, change, || format!("journal the address {address}"))?;
        Socket::open(Subsystem::Route)?.request(route::add_host_address(LOOPBACK_INDEX, IpNet::from(address)))?;
        Ok(Self { address })
    }

    /// Removes it again.
    pub fn remove(self) -> Result<(), NetlinkError> {
        let message = route::delete_address(LOOPBACK_INDEX, IpNet::from(self.address));
        Socket::open(Subsystem::Route)?.request(message).map(|_| ())
    }
}

/// Gives service addresses a route, so that the host's own packets get as far as the rules.
pub(crate) fn ensure_service_route(
    socket: &mut Socket,
    destination: IpNet,
    source: IpAddr,
    mtu: Option<u32>,
    journal: &HostJournal,
) -> Result<(), NetlinkError> {
    let change = Change::Route { link: LOOPBACK.into(), destination: destination.to_string() };
    record(journal, change, || format!("journal the route to {destination}"))?;
    let new = NewRoute { destination, link: LOOPBACK_INDEX, gateway: None, source: Some(source), mtu };
    socket.request(route::put_route(&new)).map(|_| ())
}

/// Takes the route away again.
pub(crate) fn remove_service_route(socket: &mut Socket, destination: IpNet) -> Result<(), NetlinkError> {
    socket.request(route::delete_route(destination, LOOPBACK_INDEX)).map(|_| ())
}

fn record(journal: &HostJournal, change: Change, what: impl FnOnce() -> String) -> Result<(), NetlinkError> {
    journal
        .record(change)
        .map_err(|error| NetlinkError::new(what(), rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)))
}
