//! The addresses of the interface that the default route uses, and news when they change.

use ipnet::IpNet;

use crate::netlink::NetlinkError;

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
    Ok(None)
}

/// A subscription to changes of [`addresses`].
#[derive(Debug)]
pub struct AddressWatch {}

impl AddressWatch {
    /// Subscribes, then reads, so that no change is lost in between.
    pub fn open() -> Result<(Self, Option<NodeAddresses>), NetlinkError> {
        Ok((Self {}, None))
    }
    /// Waits until the answer of [`addresses`] differs from the last one given.
    pub async fn changed(&mut self) -> Result<Option<NodeAddresses>, NetlinkError> {
        std::future::pending().await
    }
}
