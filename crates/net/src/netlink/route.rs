//! rtnetlink: addresses, routes and neighbours as messages, and dumps of them as values.

use std::net::IpAddr;

use ipnet::IpNet;
use rustix::io::Errno;

use super::{CREATE, Message, NetlinkError, REPLACE, Socket, attribute, read_address, read_u32};

const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_METRICS: u16 = 8;
const RTA_TABLE: u16 = 15;
const RTAX_MTU: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
const TABLE_MAIN: u8 = 254;
const SCOPE_UNIVERSE: u8 = 0;
const SCOPE_LINK: u8 = 253;
const SCOPE_HOST: u8 = 254;
const TYPE_UNICAST: u8 = 1;
const ONLINK: u32 = 4;
const PERMANENT: u16 = 0x80;
const NEIGHBOUR_SELF: u8 = 2;
/// The routing protocol number by which our routes can be told from others.
pub const OUR_PROTOCOL: u8 = 107;

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkAddress {
    /// The link's index.
    pub link: u32,
    /// The address with its prefix length.
    pub address: IpNet,
    /// Whether it is valid everywhere, not only on the link or the host.
    pub global: bool,
}

/// A unicast route in the main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through which link; none for multipath and special routes.
    pub link: Option<u32>,
    /// Over which gateway.
    pub gateway: Option<IpAddr>,
    /// Lower wins.
    pub metric: u32,
    /// Who made it.
    pub protocol: u8,
}

/// A route to be made.
#[derive(Debug, Clone)]
pub struct NewRoute {
    /// Where to.
    pub destination: IpNet,
    /// Through which link.
    pub link: u32,
    /// Over which gateway, taken to be on the link whatever its addresses say.
    pub gateway: Option<IpAddr>,
    /// The source address for the host's own packets.
    pub source: Option<IpAddr>,
    /// The largest packet to send.
    pub mtu: Option<u32>,
}

fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn address_message(what: String, kind: u16, flags: u16, link: u32, address: IpNet, scope: u8) -> Message {
    let mut fixed = [family(&address.addr()), address.prefix_len(), 0, scope, 0, 0, 0, 0];
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    let mut message = Message::new(what, kind, flags, &fixed);
    message.address(IFA_LOCAL, address.addr());
    message.address(IFA_ADDRESS, address.addr());
    message
}

/// Gives a link an address without asking around whether somebody has it.
pub fn add_address(link: u32, address: IpNet) -> Message {
    add_address_in(SCOPE_UNIVERSE, link, address)
}

/// Gives a link an address that only this machine uses: it is never chosen as a source address.
pub fn add_host_address(link: u32, address: IpNet) -> Message {
    add_address_in(SCOPE_HOST, link, address)
}

fn add_address_in(scope: u8, link: u32, address: IpNet) -> Message {
    let what = format!("add the address {address}");
    let mut message = address_message(what, NEWADDR, CREATE | REPLACE, link, address, scope);
    if address.addr().is_ipv6() {
        message.u32(IFA_FLAGS, IFA_F_NODAD);
    }
    message
}

/// Takes an address away; fine if it is not there.
pub fn delete_address(link: u32, address: IpNet) -> Message {
    address_message(format!("delete the address {address}"), DELADDR, 0, link, address, SCOPE_UNIVERSE)
        .tolerate(&[Errno::ADDRNOTAVAIL, Errno::NODEV])
}

/// All addresses.
pub fn link_addresses(socket: &mut Socket) -> Result<Vec<LinkAddress>, NetlinkError> {
    let mut addresses = Vec::new();
    socket.dump(Message::new("list addresses", GETADDR, 0, &[0; 8]), |_, payload| {
        addresses.extend(parse_address(payload));
    })?;
    Ok(addresses)
}

fn parse_address(payload: &[u8]) -> Option<LinkAddress> {
    let fixed = payload.get(0..8)?;
    let rest = payload.get(8..)?;
    let address = attribute(rest, IFA_LOCAL).or_else(|| attribute(rest, IFA_ADDRESS)).and_then(read_address)?;
    Some(LinkAddress { link: read_u32(&fixed[4..8])?, address: IpNet::new(address, fixed[1]).ok()?, global: fixed[3] == SCOPE_UNIVERSE })
}

fn route_message(what: String, kind: u16, flags: u16, route: &NewRoute) -> Message {
    let scope = if route.gateway.is_none() && route.destination.addr().is_ipv4() { SCOPE_LINK } else { SCOPE_UNIVERSE };
    let mut fixed = [family(&route.destination.addr()), route.destination.prefix_len(), 0, 0, TABLE_MAIN, OUR_PROTOCOL, scope].to_vec();
    fixed.push(TYPE_UNICAST);
    fixed.extend_from_slice(&if route.gateway.is_some() { ONLINK } else { 0 }.to_ne_bytes());
    let mut message = Message::new(what, kind, flags, &fixed);
    if route.destination.prefix_len() > 0 {
        message.address(RTA_DST, route.destination.network());
    }
    message.u32(RTA_OIF, route.link);
    if let Some(gateway) = route.gateway {
        message.address(RTA_GATEWAY, gateway);
    }
    if let Some(source) = route.source {
        message.address(RTA_PREFSRC, source);
    }
    if let Some(mtu) = route.mtu {
        message.nested(RTA_METRICS, |message| message.u32(RTAX_MTU, mtu));
    }
    message
}

/// Makes a route, or changes the one to the same destination.
pub fn put_route(route: &NewRoute) -> Message {
    route_message(format!("add a route to {}", route.destination), NEWROUTE, CREATE | REPLACE, route)
}

/// Removes a route of ours through a link; fine if there is none.
pub fn delete_route(destination: IpNet, link: u32) -> Message {
    let route = NewRoute { destination, link, gateway: None, source: None, mtu: None };
    let mut message = route_message(format!("delete the route to {destination}"), DELROUTE, 0, &route);
    // The scope must not narrow the search: routes over a gateway have another one.
    message.set_fixed_byte(6, 255);
    message.tolerate(&[Errno::SRCH, Errno::NODEV])
}

/// All unicast routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = Vec::new();
    socket.dump(Message::new("list routes", GETROUTE, 0, &[0; 12]), |_, payload| {
        routes.extend(parse_route(payload));
    })?;
    Ok(routes)
}

/// Reads a route message; none if it is not a unicast route of the main table.
pub fn parse_route(payload: &[u8]) -> Option<Route> {
    let fixed = payload.get(0..12)?;
    let rest = payload.get(12..)?;
    let table = attribute(rest, RTA_TABLE).and_then(read_u32).unwrap_or(u32::from(fixed[4]));
    if fixed[7] != TYPE_UNICAST || table != u32::from(TABLE_MAIN) {
        return None;
    }
    let unspecified: IpAddr = match fixed[0] {
        AF_INET => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let destination = attribute(rest, RTA_DST).and_then(read_address).unwrap_or(unspecified);
    Some(Route {
        destination: IpNet::new(destination, fixed[1]).ok()?,
        link: attribute(rest, RTA_OIF).and_then(read_u32),
        gateway: attribute(rest, RTA_GATEWAY).and_then(read_address),
        metric: attribute(rest, RTA_PRIORITY).and_then(read_u32).unwrap_or_default(),
        protocol: fixed[5],
    })
}

fn neighbour_header(family: u8, link: u32, flags: u8) -> [u8; 12] {
    let mut fixed = [0; 12];
    fixed[0] = family;
    fixed[4..8].copy_from_slice(&link.to_ne_bytes());
    fixed[8..10].copy_from_slice(&PERMANENT.to_ne_bytes());
    fixed[10] = flags;
    fixed
}

/// Tells the kernel for good which MAC has an address, so that nobody is asked.
pub fn put_neighbour(link: u32, address: IpAddr, mac: [u8; 6]) -> Message {
    let fixed = neighbour_header(family(&address), link, 0);
    let mut message = Message::new(format!("add the neighbour {address}"), NEWNEIGH, CREATE | REPLACE, &fixed);
    message.address(NDA_DST, address);
    message.with(NDA_LLADDR, &mac)
}

/// Removes a neighbour; fine if it is not there.
pub fn delete_neighbour(link: u32, address: IpAddr) -> Message {
    let fixed = neighbour_header(family(&address), link, 0);
    let mut message = Message::new(format!("delete the neighbour {address}"), DELNEIGH, 0, &fixed);
    message.address(NDA_DST, address);
    message.tolerate(&[Errno::NOENT, Errno::NODEV])
}

/// Tells a VXLAN device for good to which node frames for a MAC go.
pub fn put_forwarding(link: u32, mac: [u8; 6], node: IpAddr) -> Message {
    let fixed = neighbour_header(AF_BRIDGE, link, NEIGHBOUR_SELF);
    let mut message = Message::new(format!("forward to the node {node}"), NEWNEIGH, CREATE | REPLACE, &fixed);
    message.address(NDA_DST, node);
    message.with(NDA_LLADDR, &mac)
}

/// Removes a forwarding entry; fine if it is not there.
pub fn delete_forwarding(link: u32, mac: [u8; 6], node: IpAddr) -> Message {
    let fixed = neighbour_header(AF_BRIDGE, link, NEIGHBOUR_SELF);
    let mut message = Message::new(format!("stop forwarding to the node {node}"), DELNEIGH, 0, &fixed);
    message.address(NDA_DST, node);
    message.with(NDA_LLADDR, &mac).tolerate(&[Errno::NOENT, Errno::NODEV])
}

/// All forwarding entries of a VXLAN device with a destination.
pub fn forwarding(socket: &mut Socket, link: u32) -> Result<Vec<([u8; 6], IpAddr)>, NetlinkError> {
    const GETNEIGH: u16 = 30;
    let mut entries = Vec::new();
    let fixed = neighbour_header(AF_BRIDGE, 0, 0);
    socket.dump(Message::new("list forwarding entries", GETNEIGH, 0, &fixed), |_, payload| {
        let of_link = payload.get(4..8).and_then(read_u32) == Some(link);
        if let (true, Some(rest)) = (of_link, payload.get(12..)) {
            let mac = attribute(rest, NDA_LLADDR).and_then(|value| value.try_into().ok());
            let node = attribute(rest, NDA_DST).and_then(read_address);
            entries.extend(mac.zip(node));
        }
    })?;
    Ok(entries)
}
