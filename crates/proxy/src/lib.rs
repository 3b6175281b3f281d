//! Services to nftables: cluster addresses, node ports, affinity.
