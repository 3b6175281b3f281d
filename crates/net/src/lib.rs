//! Links, addresses, routes, nftables and address management over netlink.
//!
//! This is the node's network machinery. It knows no Kubernetes type: callers hand it plain
//! data (addresses, ports, names) and it makes the kernel agree, in process, without any
//! helper executable. Every lasting change to the host is written to a [`HostJournal`] first,
//! so that an uninstall can walk it backwards.

pub mod address;
pub mod check;
pub mod dataplane;
pub mod host_route;
pub mod ipam;
pub mod journal;
pub mod netlink;
pub mod netns;
mod nft;
pub mod node_network;
pub mod overlay;
pub mod pod_network;
pub mod pod_rules;
mod sys;
mod sysctl;

pub use address::{AddressWatch, NodeAddresses, addresses};
pub use dataplane::{Applied, ApplyError, Dataplane, DataplaneConfig, Endpoint, Protocol, ServicePort, TableWatch};
pub use host_route::LoopbackAddress;
pub use ipam::{AllocateError, Ipam};
pub use journal::{Change, HostJournal, JournalError};
pub use netlink::NetlinkError;
pub use netns::NetnsRef;
pub use node_network::{NodeNetwork, NodeNetworkError};
pub use overlay::{Overlay, OverlayConfig, OverlayError, Peer, Vtep};
pub use pod_network::{Attached, Existing, PodAttachment, PodNetwork, PodNetworkConfig, PodNetworkError};
pub use pod_rules::{HostPort, PodRules, PodRulesConfig};
