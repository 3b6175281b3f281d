//! Single addresses on the loopback interface, for services that the node answers itself (DNS).

use std::net::IpAddr;

use crate::journal::HostJournal;
use crate::netlink::NetlinkError;

/// An address of ours on `lo`.
#[derive(Debug)]
pub struct LoopbackAddress {}

impl LoopbackAddress {
    /// Adds the address to `lo`, journalled; fine if it is there already.
    pub fn ensure(address: IpAddr, journal: &HostJournal) -> Result<Self, NetlinkError> {
        let _ = journal;
        Err(NetlinkError {
            what: format!("add {address} to lo"),
            errno: Some(rustix::io::Errno::NOSYS),
        })
    }
    /// Removes it again.
    pub fn remove(self) -> Result<(), NetlinkError> {
        Ok(())
    }
}
