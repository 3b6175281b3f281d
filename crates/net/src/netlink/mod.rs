//! A small netlink socket of our own: requests with acknowledgement, dumps, batches, multicast.
//!
//! One encoder serves rtnetlink, nftables and conntrack, because all three are the same thing
//! (a header, a fixed struct, nested attributes) and the attribute numbers are kernel facts.

/// A refusal by the kernel or a broken netlink conversation.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}: {}", .errno.map(|e| e.to_string()).unwrap_or_else(|| "malformed answer".into()))]
pub struct NetlinkError {
    /// What was tried, for example `create link kn0123456789a`.
    pub what: String,
    /// The error that the kernel gave; none if its answer could not be understood.
    pub errno: Option<rustix::io::Errno>,
}
