//! Pod interfaces: a routed veth pair with one host route per pod address, no bridge.
//!
//! ```text
//!  pod   eth0  10.42.0.7/32   default via 169.254.1.1 onlink, neighbour 169.254.1.1 = host MAC
//!   |
//!  host  knarr<hash>          10.42.0.7/32 dev knarr<hash>, neighbour 10.42.0.7 = pod MAC
//! ```
//!
//! Both neighbours are permanent, so that no ARP or neighbour discovery ever takes place.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use ipnet::IpNet;

use crate::journal::{Change, HostJournal};
use crate::netlink::{
    Message, NetlinkError, Socket, Subsystem,
    link::{self, Link, LinkChange, VethEnd},
    route::{self, NewRoute},
};
use crate::netns::{NetnsRef, within};

/// Every host interface of a pod starts so.
const PREFIX: &str = "knarr";
/// The length of the hash after it; together as long as a name may be.
const HASH: usize = 10;
/// The name of the interface in the pod.
const POD_INTERFACE: &str = "eth0";
/// What stands on a host interface before the pod's UID.
const ALIAS: &str = "knarr pod ";
/// The MAC of all host ends; they never meet on one link.
const HOST_MAC: [u8; 6] = [0xee; 6];
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// Settings that are the same for every pod of a node.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// MTU of pod interfaces: the uplink's, less 50 if an overlay is in use.
    pub mtu: u32,
}

/// What one pod is to get.
#[derive(Debug, Clone)]
pub struct PodAttachment {
    /// The pod's UID; the host interface's name and the pod's MAC derive from it.
    pub uid: String,
    /// One address per family, v4 first by habit.
    pub addresses: Vec<IpAddr>,
}

/// What a pod got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The interface on the host.
    pub host_interface: String,
    /// Its index.
    pub host_index: u32,
    /// The MAC of `eth0` in the pod.
    pub mac: [u8; 6],
}

/// A pod interface found on the host, for taking over after a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Existing {
    /// The interface on the host.
    pub host_interface: String,
    /// Its index.
    pub host_index: u32,
    /// The UID that it was made for; none if somebody changed the interface's alias.
    pub uid: Option<String>,
    /// The addresses routed to it.
    pub addresses: Vec<IpAddr>,
}

/// Why a pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    /// The kernel refused.
    #[error("cannot set up the network of pod {uid}")]
    Kernel {
        /// The pod.
        uid: String,
        /// What it said.
        #[source]
        source: NetlinkError,
    },
    /// The pod's name space could not be entered.
    #[error("cannot enter the network name space of pod {uid}")]
    Netns {
        /// The pod.
        uid: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The host could not be prepared or asked.
    #[error("cannot prepare the host for pod networking")]
    Host(#[source] std::io::Error),
}

/// Makes and removes pod interfaces in the network name space that it was opened in.
#[derive(Debug)]
pub struct PodNetwork {
    config: PodNetworkConfig,
    /// Idle sockets; one is taken per call, so that calls do not wait for each other.
    sockets: Mutex<Vec<Socket>>,
    /// The host's name space: sockets must be opened in it whatever thread calls.
    host: std::os::fd::OwnedFd,
}

impl PodNetwork {
    /// Prepares the host: forwarding on, journalled. The v6 switch is only touched for v6 pods.
    pub fn open(config: PodNetworkConfig, journal: &HostJournal) -> Result<Self, PodNetworkError> {
        let open = || -> std::io::Result<Self> {
            journal.record(Change::LinkPrefix { prefix: PREFIX.into() })?;
            crate::sysctl::ensure("net/ipv4/ip_forward", "1", journal)?;
            let socket = Socket::open(Subsystem::Route).map_err(std::io::Error::other)?;
            let host = std::fs::File::open("/proc/thread-self/ns/net")?.into();
            Ok(Self { config, sockets: Mutex::new(vec![socket]), host })
        };
        open().map_err(PodNetworkError::Host)
    }

    /// Switches v6 forwarding on, journalled; needed once before pods get v6 addresses.
    pub fn enable_v6(&self, journal: &HostJournal) -> Result<(), PodNetworkError> {
        let enable = || {
            keep_router_advertisements(journal)?;
            crate::sysctl::ensure("net/ipv6/conf/all/forwarding", "1", journal)
        };
        enable().map_err(PodNetworkError::Host)
    }

    /// The name of the host interface of a pod.
    pub fn host_interface(uid: &str) -> String {
        format!("{PREFIX}{:0HASH$x}", hash(uid.as_bytes()) >> (64 - 4 * HASH))
    }

    /// Gives a pod its interface. A second call with the same input changes nothing; what an
    /// interrupted first call left behind is replaced.
    pub fn attach(&self, netns: NetnsRef<'_>, pod: &PodAttachment) -> Result<Attached, PodNetworkError> {
        let kernel = |source| PodNetworkError::Kernel { uid: pod.uid.clone(), source };
        let enter = |source| PodNetworkError::Netns { uid: pod.uid.clone(), source };
        let netns = netns.open().map_err(enter)?;
        let name = Self::host_interface(&pod.uid);
        let mac = pod_mac(&pod.uid);
        let made = self.make_pair(&pod.uid, &name, mac, netns.as_raw_fd()).map_err(kernel)?;
        let index = match made {
            Made::New(index) => index,
            Made::Found(index) => {
                let inside = within(NetnsRef::Fd(netns.as_fd()), || has_interface(mac)).map_err(enter)?;
                match inside.map_err(kernel)? {
                    true => index,
                    // The pair belongs to a name space that is being torn down.
                    false => {
                        self.detach(&pod.uid)?;
                        match self.make_pair(&pod.uid, &name, mac, netns.as_raw_fd()).map_err(kernel)? {
                            Made::New(index) | Made::Found(index) => index,
                        }
                    }
                }
            }
        };
        let mut inside = socket_in(netns.as_fd()).map_err(enter)?;
        set_up_inside(&mut inside, &pod.addresses).map_err(kernel)?;
        self.route_to_pod(index, mac, &pod.addresses).map_err(kernel)?;
        Ok(Attached { host_interface: name, host_index: index, mac })
    }

    /// Removes a pod's interface and with it its routes; fine if there is none.
    pub fn detach(&self, uid: &str) -> Result<(), PodNetworkError> {
        self.with_socket(|socket| socket.request(link::delete_link(&Self::host_interface(uid))).map(|_| ()))
            .map_err(|source| PodNetworkError::Kernel { uid: uid.into(), source })
    }

    /// The pod interfaces on this host.
    pub fn existing(&self) -> Result<Vec<Existing>, PodNetworkError> {
        let (links, routes) = self
            .with_socket(|socket| Ok((link::links(socket)?, route::routes(socket)?)))
            .map_err(|source| PodNetworkError::Host(std::io::Error::other(source)))?;
        let ours = links.into_iter().filter(is_ours);
        let existing = ours.map(|link| Existing {
            addresses: routes
                .iter()
                .filter(|route| route.link == Some(link.index) && route.protocol == route::OUR_PROTOCOL)
                .map(|route| route.destination.addr())
                .collect(),
            uid: link.alias.as_deref().and_then(|alias| alias.strip_prefix(ALIAS)).map(str::to_owned),
            host_interface: link.name,
            host_index: link.index,
        });
        Ok(existing.collect())
    }

    fn make_pair(&self, uid: &str, name: &str, mac: [u8; 6], netns: i32) -> Result<Made, NetlinkError> {
        let host = VethEnd { name, mac: HOST_MAC };
        let peer = VethEnd { name: POD_INTERFACE, mac };
        let alias = format!("{ALIAS}{uid}");
        let change = LinkChange { alias: Some(&alias), route_localnet: true, no_link_local: true, ..Default::default() };
        let messages = vec![
            link::new_veth(host, peer, self.config.mtu, netns).tolerate(&[rustix::io::Errno::EXIST]),
            link::set_link(name, &change),
            link::get_link(name),
        ];
        let replies = self.with_socket(|socket| socket.exchange(messages))?;
        let link = replies[2].answers.first().and_then(|(_, payload)| link::parse_link(payload));
        let index = link.ok_or_else(|| NetlinkError::new(format!("find the link {name}"), rustix::io::Errno::NODEV))?;
        Ok(match replies[0].tolerated {
            Some(_) => Made::Found(index.index),
            None => Made::New(index.index),
        })
    }

    fn route_to_pod(&self, link: u32, mac: [u8; 6], addresses: &[IpAddr]) -> Result<(), NetlinkError> {
        let mut messages = Vec::with_capacity(addresses.len() * 2);
        for address in addresses {
            let destination = IpNet::from(*address);
            messages.push(route::put_neighbour(link, *address, mac));
            messages.push(route::put_route(&NewRoute { destination, link, gateway: None, source: None, mtu: None }));
        }
        self.with_socket(|socket| socket.exchange(messages)).map(|_| ())
    }

    fn with_socket<T>(&self, f: impl FnOnce(&mut Socket) -> Result<T, NetlinkError>) -> Result<T, NetlinkError> {
        let idle = self.sockets.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut socket = match idle {
            Some(socket) => socket,
            None => within(NetnsRef::Fd(self.host.as_fd()), || Socket::open(Subsystem::Route)).map_err(|error| {
                let errno = rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO);
                NetlinkError::new("enter the host's network name space", errno)
            })??,
        };
        let result = f(&mut socket);
        // A conversation that broke off may have left answers behind.
        if result.as_ref().err().is_none_or(|error| error.errno.is_some()) {
            self.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket);
        }
        result
    }
}

enum Made {
    New(u32),
    Found(u32),
}

/// Whether this is the host's end of a pod's interface.
pub(crate) fn is_ours(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth") && link.name.len() == PREFIX.len() + HASH && link.name.starts_with(PREFIX)
}

fn has_interface(mac: [u8; 6]) -> Result<bool, NetlinkError> {
    let link = link::link(&mut Socket::open(Subsystem::Route)?, POD_INTERFACE)?;
    Ok(link.is_some_and(|link| link.mac == Some(mac)))
}

/// A socket in the name space of a pod. Whichever name space this thread is in, it stays there.
fn socket_in(netns: BorrowedFd<'_>) -> std::io::Result<Socket> {
    let home = std::fs::File::open("/proc/thread-self/ns/net")?;
    crate::netns::socket_in(netns, home.as_fd())
}

fn set_up_inside(socket: &mut Socket, addresses: &[IpAddr]) -> Result<(), NetlinkError> {
    let v6 = addresses.iter().any(IpAddr::is_ipv6);
    let up = LinkChange { up: true, ..Default::default() };
    let eth0 = LinkChange { up: true, no_link_local: !v6, ..Default::default() };
    let replies = socket.exchange(vec![link::set_link("lo", &up), link::set_link(POD_INTERFACE, &eth0), link::get_link(POD_INTERFACE)])?;
    let link = replies[2].answers.first().and_then(|(_, payload)| link::parse_link(payload));
    let link = link.ok_or_else(|| NetlinkError::new("find eth0 in the pod", rustix::io::Errno::NODEV))?.index;
    let mut messages: Vec<Message> = Vec::with_capacity(addresses.len() * 3);
    for address in addresses {
        let (gateway, everywhere): (IpAddr, IpAddr) = match address {
            IpAddr::V4(_) => (GATEWAY_V4, Ipv4Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => (GATEWAY_V6, Ipv6Addr::UNSPECIFIED.into()),
        };
        let destination = IpNet::new(everywhere, 0).expect("zero is a prefix length of both families");
        messages.push(route::add_address(link, IpNet::from(*address)));
        messages.push(route::put_neighbour(link, gateway, HOST_MAC));
        messages.push(route::put_route(&NewRoute { destination, link, gateway: Some(gateway), source: None, mtu: None }));
    }
    socket.exchange(messages).map(|_| ())
}

/// A host that forwards no longer listens to routers, unless told to: it would lose its v6 default
/// route.
fn keep_router_advertisements(journal: &HostJournal) -> std::io::Result<()> {
    for interface in std::fs::read_dir("/proc/sys/net/ipv6/conf")? {
        let interface = interface?.file_name();
        let path = format!("net/ipv6/conf/{}/accept_ra", interface.to_string_lossy());
        let listens = crate::sysctl::read(&path).is_ok_and(|value| value == "1");
        if listens && interface != "all" && interface != "default" && interface != "lo" {
            crate::sysctl::ensure(&path, "2", journal)?;
        }
    }
    Ok(())
}

fn pod_mac(uid: &str) -> [u8; 6] {
    let bytes = hash(uid.as_bytes()).to_be_bytes();
    // Locally administered, unicast.
    [(bytes[2] & 0xfc) | 0x02, bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]
}

/// FNV-1a: names must stay the same in every later version, so that the hash is spelled out here.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
