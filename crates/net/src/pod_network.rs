//! Pod interfaces: a routed veth pair with one host route per pod address, no bridge.

use std::net::IpAddr;

use crate::journal::HostJournal;
use crate::netlink::NetlinkError;
use crate::netns::NetnsRef;

/// Settings that are the same for every pod of a node.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// MTU of pod interfaces: the uplink's, less 50 if an overlay is in use.
    pub mtu: u32,
}

/// What one pod is to get.
#[derive(Debug, Clone)]
pub struct PodAttachment {
    /// The pod's UID; the host interface's name and both MACs derive from it.
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
    /// The host could not be prepared.
    #[error("cannot prepare the host for pod networking")]
    Host(#[source] std::io::Error),
}

/// Makes and removes pod interfaces in the network name space that it was opened in.
#[derive(Debug)]
pub struct PodNetwork {}

impl PodNetwork {
    /// Prepares the host: forwarding on, journalled.
    pub fn open(config: PodNetworkConfig, journal: &HostJournal) -> Result<Self, PodNetworkError> {
        let _ = (config, journal);
        Err(PodNetworkError::Host(
            std::io::ErrorKind::Unsupported.into(),
        ))
    }

    /// The name of the host interface of a pod.
    pub fn host_interface(uid: &str) -> String {
        format!("kn{uid}")
    }

    /// Gives a pod its interface. A second call with the same input changes nothing.
    pub fn attach(
        &self,
        netns: NetnsRef<'_>,
        pod: &PodAttachment,
    ) -> Result<Attached, PodNetworkError> {
        let _ = (netns, pod);
        Err(PodNetworkError::Host(
            std::io::ErrorKind::Unsupported.into(),
        ))
    }

    /// Removes a pod's interface and with it its routes; fine if there is none.
    pub fn detach(&self, uid: &str) -> Result<(), PodNetworkError> {
        let _ = uid;
        Err(PodNetworkError::Host(
            std::io::ErrorKind::Unsupported.into(),
        ))
    }

    /// The pod interfaces on this host.
    pub fn existing(&self) -> Result<Vec<Existing>, PodNetworkError> {
        Err(PodNetworkError::Host(
            std::io::ErrorKind::Unsupported.into(),
        ))
    }
}
