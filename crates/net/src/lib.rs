//! Links, addresses, routes, nftables and address management over netlink.
