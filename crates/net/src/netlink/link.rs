//! rtnetlink: links as messages and values.

use std::net::IpAddr;

use rustix::io::Errno;

use super::{CREATE, EXCL, Message, NetlinkError, Socket, attribute, attributes, read_address, read_text, read_u32};

const NEWLINK: u16 = 16;
const DELLINK: u16 = 17;
const GETLINK: u16 = 18;
const SETLINK: u16 = 19;
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
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const UP: u32 = 1;
const LOOPBACK: u32 = 8;

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

fn link_header(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    fixed[4..8].copy_from_slice(&index.to_ne_bytes());
    fixed[8..12].copy_from_slice(&flags.to_ne_bytes());
    fixed[12..16].copy_from_slice(&change.to_ne_bytes());
    fixed
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
pub fn new_veth(host: VethEnd<'_>, peer: VethEnd<'_>, mtu: u32, peer_netns: std::os::fd::RawFd) -> Message {
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
    let mut message = Message::new(format!("change the link {name}"), SETLINK, 0, &link_header(0, flags, flags));
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
                    message.nested(IFLA_INET_CONF, |message| message.u32(DEVCONF_ROUTE_LOCALNET, 1));
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
    let mut message = Message::new(format!("delete the link {name}"), DELLINK, 0, &link_header(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    message.tolerate(&[Errno::NODEV])
}

/// Asks for a link; no such link is fine and gives no answer.
pub fn get_link(name: &str) -> Message {
    let mut message = Message::new(format!("look for the link {name}"), GETLINK, 0, &link_header(0, 0, 0));
    message.text(IFLA_IFNAME, name);
    message.tolerate(&[Errno::NODEV])
}

/// The link of a name.
pub fn link(socket: &mut Socket, name: &str) -> Result<Option<Link>, NetlinkError> {
    let reply = socket.request(get_link(name))?;
    Ok(reply.answers.first().and_then(|(_, payload)| parse_link(payload)))
}

/// All links.
pub fn links(socket: &mut Socket) -> Result<Vec<Link>, NetlinkError> {
    let mut links = Vec::new();
    socket.dump(Message::new("list links", GETLINK, 0, &link_header(0, 0, 0)), |_, payload| {
        links.extend(parse_link(payload));
    })?;
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
        vni: attribute(data, VXLAN_ID).and_then(read_u32).unwrap_or_default(),
        port: attribute(data, VXLAN_PORT).and_then(super::read_be16).unwrap_or_default(),
        local: attribute(data, VXLAN_LOCAL).or_else(|| attribute(data, VXLAN_LOCAL6)).and_then(read_address),
        uplink: attribute(data, VXLAN_LINK).and_then(read_u32).unwrap_or_default(),
    }
}
