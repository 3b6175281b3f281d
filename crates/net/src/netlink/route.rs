//! rtnetlink: links, addresses, routes and neighbours as messages, and dumps of them as values.

use std::net::IpAddr;

use ipnet::IpNet;
use rustix::io::Errno;

use super::{
    CREATE, EXCL, Message, NetlinkError, REPLACE, Socket, attribute, attributes, read_address,
    read_text, read_u32,
};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
const NEWADDR: u16 = 20;
const DELADDR: u16 = 21;
const GETADDR: u16 = 22;
const NEWROUTE: u16 = 24;
const DELROUTE: u16 = 25;
const GETROUTE: u16 = 26;
const NEWNEIGH: u16 = 28;
const DELNEIGH: u16 = 29;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INET_CONF: u16 = 1;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const ADDR_GEN_MODE_NONE: u8 = 1;
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const VETH_INFO_PEER: u16 = 1;
const VXLAN_ID: u16 = 1;
const VXLAN_LINK: u16 = 3;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
const VXLAN_LOCAL6: u16 = 17;
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
const UP: u32 = 1;
const LOOPBACK: u32 = 8;
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

/// A link as the kernel describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether it is `lo`.
    pub loopback: bool,
    /// Its MTU.
    pub mtu: u32,
    /// Its MAC, if it has one.
    pub mac: Option<[u8; 6]>,
    /// What somebody wrote on it.
    pub alias: Option<String>,
    /// Its kind (`veth`, `vxlan`), if it is a virtual one.
    pub kind: Option<String>,
    /// For a VXLAN device: its settings.
    pub vxlan: Option<VxlanSettings>,
}

/// What defines a VXLAN device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VxlanSettings {
    /// The network identifier.
    pub vni: u32,
    /// The UDP port.
    pub port: u16,
    /// The node's own address.
    pub local: Option<IpAddr>,
    /// The index of the uplink.
    pub uplink: u32,
}

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

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
}

fn family(address: &IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// One end of a veth pair to be made.
#[derive(Debug)]
pub struct VethEnd<'a> {
    /// The link's name.
    pub name: &'a str,
    /// The link's MAC.
    pub mac: [u8; 6],
}

/// Makes a veth pair, the host's end up, the peer in another name space and not up: the kernel
/// cannot switch it on before the pair is whole.
pub fn new_veth(
    host: VethEnd<'_>,
    peer: VethEnd<'_>,
    mtu: u32,
    peer_netns: std::os::fd::RawFd,
) -> Message {
    let what = format!("create the veth pair {} and {}", host.name, peer.name);
    let mut message = Message::new(what, NEWLINK, CREATE | EXCL, &link_header(0, UP, UP));
    let describe = |message: &mut Message, end: &VethEnd<'_>| {
        message.text(IFLA_IFNAME, end.name);
        message.bytes(IFLA_ADDRESS, &end.mac);
        message.u32(IFLA_MTU, mtu);
        message.u32(IFLA_NUM_TX_QUEUES, 1);
        message.u32(IFLA_NUM_RX_QUEUES, 1);
    };
    describe(&mut message, &host);
    message.nested(IFLA_LINKINFO, |message| {
        message.text(IFLA_INFO_KIND, "veth");
        message.nested(IFLA_INFO_DATA, |message| {
            message.nested(VETH_INFO_PEER, |message| {
                message.raw(&link_header(0, 0, 0));
                describe(message, &peer);
                message.u32(IFLA_NET_NS_FD, peer_netns as u32);
            });
        });
    });
    message
}

/// Makes a VXLAN device that is up and learns nothing by itself.
pub fn new_vxlan(name: &str, mac: [u8; 6], mtu: u32, settings: &VxlanSettings) -> Message {
    let what = format!("create the vxlan device {name}");
    let mut message = Message::new(what, NEWLINK, CREATE | EXCL, &link_header(0, UP, UP));
    message.text(IFLA_IFNAME, name);
    message.bytes(IFLA_ADDRESS, &mac);
    message.u32(IFLA_MTU, mtu);
    message.nested(IFLA_LINKINFO, |message| {
        message.text(IFLA_INFO_KIND, "vxlan");
        message.nested(IFLA_INFO_DATA, |message| {
            message.u32(VXLAN_ID, settings.vni);
            message.u32(VXLAN_LINK, settings.uplink);
            message.u8(VXLAN_LEARNING, 0);
            message.be16(VXLAN_PORT, settings.port);
            match settings.local {
                Some(local @ IpAddr::V4(_)) => message.address(VXLAN_LOCAL, local),
                Some(local @ IpAddr::V6(_)) => message.address(VXLAN_LOCAL6, local),
                None => {}
            }
        });
    });
    message
}

/// What [`set_link`] changes on a link.
#[derive(Debug, Default)]
pub struct LinkChange<'a> {
    /// Switch it on.
    pub up: bool,
    /// Its MTU.
    pub mtu: Option<u32>,
    /// What to write on it.
    pub alias: Option<&'a str>,
    /// Let loopback addresses be routed through it (node ports on 127.0.0.1).
    pub route_localnet: bool,
    /// Keep the kernel from giving it a link-local v6 address.
    pub no_link_local: bool,
}

/// Changes a link, named by its name.
pub fn set_link(name: &str, change: &LinkChange<'_>) -> Message {
    let flags = if change.up { UP } else { 0 };
    let mut message = Message::new(
        format!("change the link {name}"),
        SETLINK,
        0,
        &link_header(0, flags, flags),
    );
    message.text(IFLA_IFNAME, name);
    if let Some(mtu) = change.mtu {
        message.u32(IFLA_MTU, mtu);
    }
    if let Some(alias) = change.alias {
        message.bytes(IFLA_IFALIAS, alias.as_bytes());
    }
    if change.route_localnet || change.no_link_local {
        message.nested(IFLA_AF_SPEC, |message| {
            if change.route_localnet {
                message.nested(u16::from(AF_INET), |message| {
                    message.nested(IFLA_INET_CONF, |message| {
                        message.u32(DEVCONF_ROUTE_LOCALNET, 1)
                    });
                });
            }
            if change.no_link_local {
                message.nested(u16::from(AF_INET6), |message| {
                    message.u8(IFLA_INET6_ADDR_GEN_MODE, ADDR_GEN_MODE_NONE);
                });
            }
        });
    }
    message
}

/// Removes a link; one that is gone already is fine.
pub fn delete_link(name: &str) -> Message {
    let mut message = Message::new(
        format!("delete the link {name}"),
        DELLINK,
        0,
        &link_header(0, 0, 0),
    );
    message.text(IFLA_IFNAME, name);
    message.tolerate(&[Errno::NODEV])
}

/// Asks for a link; no such link is fine and gives no answer.
pub fn get_link(name: &str) -> Message {
    let mut message = Message::new(
        format!("look for the link {name}"),
        GETLINK,
        0,
        &link_header(0, 0, 0),
    );
    message.text(IFLA_IFNAME, name);
    message.tolerate(&[Errno::NODEV])
}

/// The link of a name.
pub fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let reply = socket.request(get_link(name))?;
    Ok(reply
        .answers
        .first()
        .and_then(|(_, payload)| parse_link(payload)))
}

/// All links.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut links = Vec::new();
    socket.dump(
        Message::new("list links", GETLINK, 0, &link_header(0, 0, 0)),
        |_, payload| {
            links.extend(parse_link(payload));
        },
    )?;
    Ok(links)
}

/// Reads a link message.
pub fn parse_link(payload: &[u8]) -> Option<Link> {
    let index = read_u32(payload.get(4..8)?)?;
    let flags = read_u32(payload.get(8..12)?)?;
    let mut link = Link {
        index,
        name: String::new(),
        up: flags & UP != 0,
        loopback: flags & LOOPBACK != 0,
        mtu: 0,
        mac: None,
        alias: None,
        kind: None,
        vxlan: None,
    };
    for (kind, value) in attributes(payload.get(16..)?) {
        match kind {
            IFLA_IFNAME => link.name = read_text(value),
            IFLA_MTU => link.mtu = read_u32(value)?,
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFALIAS => link.alias = Some(read_text(value)),
            IFLA_LINKINFO => {
                link.kind = attribute(value, IFLA_INFO_KIND).map(read_text);
                if link.kind.as_deref() == Some("vxlan") {
                    link.vxlan = attribute(value, IFLA_INFO_DATA).map(parse_vxlan);
                }
            }
            _ => {}
        }
    }
    Some(link)
}

fn parse_vxlan(data: &[u8]) -> VxlanSettings {
    VxlanSettings {
        vni: attribute(data, VXLAN_ID)
            .and_then(read_u32)
            .unwrap_or_default(),
        port: attribute(data, VXLAN_PORT)
            .and_then(super::read_be16)
            .unwrap_or_default(),
        local: attribute(data, VXLAN_LOCAL)
            .or_else(|| attribute(data, VXLAN_LOCAL6))
            .and_then(read_address),
        uplink: attribute(data, VXLAN_LINK)
            .and_then(read_u32)
            .unwrap_or_default(),
    }
}

fn address_message(
    what: String,
    kind: u16,
    flags: u16,
    link: u32,
    address: IpNet,
    scope: u8,
) -> Message {
    let mut fixed = [
        family(&address.addr()),
        address.prefix_len(),
        0,
        scope,
        0,
        0,
        0,
        0,
    ];
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
    address_message(
        format!("delete the address {address}"),
        DELADDR,
        0,
        link,
        address,
        SCOPE_UNIVERSE,
    )
    .tolerate(&[Errno::ADDRNOTAVAIL, Errno::NODEV])
}

/// All addresses.
pub fn link_addresses(socket: &mut Socket) -> Result<Vec<LinkAddress>, NetlinkError> {
    let mut addresses = Vec::new();
    socket.dump(
        Message::new("list addresses", GETADDR, 0, &[0; 8]),
        |_, payload| {
            addresses.extend(parse_address(payload));
        },
    )?;
    Ok(addresses)
}

fn parse_address(payload: &[u8]) -> Option<LinkAddress> {
    let fixed = payload.get(0..8)?;
    let rest = payload.get(8..)?;
    let address = attribute(rest, IFA_LOCAL)
        .or_else(|| attribute(rest, IFA_ADDRESS))
        .and_then(read_address)?;
    Some(LinkAddress {
        link: read_u32(&fixed[4..8])?,
        address: IpNet::new(address, fixed[1]).ok()?,
        global: fixed[3] == SCOPE_UNIVERSE,
    })
}

fn route_message(what: String, kind: u16, flags: u16, route: &NewRoute) -> Message {
    let scope = if route.gateway.is_none() && route.destination.addr().is_ipv4() {
        SCOPE_LINK
    } else {
        SCOPE_UNIVERSE
    };
    let mut fixed = [
        family(&route.destination.addr()),
        route.destination.prefix_len(),
        0,
        0,
        TABLE_MAIN,
        OUR_PROTOCOL,
        scope,
    ]
    .to_vec();
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
    route_message(
        format!("add a route to {}", route.destination),
        NEWROUTE,
        CREATE | REPLACE,
        route,
    )
}

/// Removes a route of ours through a link; fine if there is none.
pub fn delete_route(destination: IpNet, link: u32) -> Message {
    let route = NewRoute {
        destination,
        link,
        gateway: None,
        source: None,
        mtu: None,
    };
    let mut message = route_message(
        format!("delete the route to {destination}"),
        DELROUTE,
        0,
        &route,
    );
    // The scope must not narrow the search: routes over a gateway have another one.
    message.set_fixed_byte(6, 255);
    message.tolerate(&[Errno::SRCH, Errno::NODEV])
}

/// All unicast routes of the main table.
pub fn routes(socket: &mut Socket) -> Result<Vec<Route>, NetlinkError> {
    let mut routes = Vec::new();
    socket.dump(
        Message::new("list routes", GETROUTE, 0, &[0; 12]),
        |_, payload| {
            routes.extend(parse_route(payload));
        },
    )?;
    Ok(routes)
}

/// Reads a route message; none if it is not a unicast route of the main table.
pub fn parse_route(payload: &[u8]) -> Option<Route> {
    let fixed = payload.get(0..12)?;
    let rest = payload.get(12..)?;
    let table = attribute(rest, RTA_TABLE)
        .and_then(read_u32)
        .unwrap_or(u32::from(fixed[4]));
    if fixed[7] != TYPE_UNICAST || table != u32::from(TABLE_MAIN) {
        return None;
    }
    let unspecified: IpAddr = match fixed[0] {
        AF_INET => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AF_INET6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let destination = attribute(rest, RTA_DST)
        .and_then(read_address)
        .unwrap_or(unspecified);
    Some(Route {
        destination: IpNet::new(destination, fixed[1]).ok()?,
        link: attribute(rest, RTA_OIF).and_then(read_u32),
        gateway: attribute(rest, RTA_GATEWAY).and_then(read_address),
        metric: attribute(rest, RTA_PRIORITY)
            .and_then(read_u32)
            .unwrap_or_default(),
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
    let mut message = Message::new(
        format!("add the neighbour {address}"),
        NEWNEIGH,
        CREATE | REPLACE,
        &fixed,
    );
    message.address(NDA_DST, address);
    message.with(NDA_LLADDR, &mac)
}

/// Removes a neighbour; fine if it is not there.
pub fn delete_neighbour(link: u32, address: IpAddr) -> Message {
    let fixed = neighbour_header(family(&address), link, 0);
    let mut message = Message::new(
        format!("delete the neighbour {address}"),
        DELNEIGH,
        0,
        &fixed,
    );
    message.address(NDA_DST, address);
    message.tolerate(&[Errno::NOENT, Errno::NODEV])
}

/// Tells a VXLAN device for good to which node frames for a MAC go.
pub fn put_forwarding(link: u32, mac: [u8; 6], node: IpAddr) -> Message {
    let fixed = neighbour_header(AF_BRIDGE, link, NEIGHBOUR_SELF);
    let mut message = Message::new(
        format!("forward to the node {node}"),
        NEWNEIGH,
        CREATE | REPLACE,
        &fixed,
    );
    message.address(NDA_DST, node);
    message.with(NDA_LLADDR, &mac)
}

/// Removes a forwarding entry; fine if it is not there.
pub fn delete_forwarding(link: u32, mac: [u8; 6], node: IpAddr) -> Message {
    let fixed = neighbour_header(AF_BRIDGE, link, NEIGHBOUR_SELF);
    let mut message = Message::new(
        format!("stop forwarding to the node {node}"),
        DELNEIGH,
        0,
        &fixed,
    );
    message.address(NDA_DST, node);
    message
        .with(NDA_LLADDR, &mac)
        .tolerate(&[Errno::NOENT, Errno::NODEV])
}

/// All forwarding entries of a VXLAN device with a destination.
pub fn forwarding(socket: &mut Socket, link: u32) -> Result<Vec<([u8; 6], IpAddr)>, NetlinkError> {
    const GETNEIGH: u16 = 30;
    let mut entries = Vec::new();
    let fixed = neighbour_header(AF_BRIDGE, 0, 0);
    socket.dump(
        Message::new("list forwarding entries", GETNEIGH, 0, &fixed),
        |_, payload| {
            let of_link = payload.get(4..8).and_then(read_u32) == Some(link);
            if let (true, Some(rest)) = (of_link, payload.get(12..)) {
                let mac = attribute(rest, NDA_LLADDR).and_then(|value| value.try_into().ok());
                let node = attribute(rest, NDA_DST).and_then(read_address);
                entries.extend(mac.zip(node));
            }
        },
    )?;
    Ok(entries)
}
