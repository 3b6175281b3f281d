//! Which crate may depend on which. Edges go down only: whatever a crate needs stands above its own line here.
//!
//! A new edge is a decision: it changes this table, and a reviewer sees it as a line of a diff.

/// A crate and the crates of this workspace that it may use outside its tests.
pub const LAYERS: &[(&str, &[&str])] = &[
    // Know, do nothing: no IO, no async, no clock.
    ("api", &[]),
    ("codec", &["api"]),
    ("patch", &["api"]),
    ("cel", &["api"]),
    // Keys and byte streams: know no Kubernetes type.
    ("grpc", &[]),
    ("pki", &[]),
    ("stream", &[]),
    // Node machinery: knows none either.
    ("cgroup", &[]),
    ("runtime", &["cgroup"]),
    ("image", &["pki"]),
    ("net", &[]),
    ("cri", &["cgroup", "grpc", "runtime", "image", "net", "stream"]),
    // Hold and carry. The store sees bytes, never an object.
    ("store", &["grpc"]),
    ("client", &["api", "codec", "pki", "store"]),
    ("cache", &["api", "client", "store"]),
    ("reconcile", &["api", "cache", "client", "store"]),
    // Act. None of these sees another one: they meet in objects.
    ("server", &["api", "codec", "patch", "cel", "grpc", "store", "client", "pki", "stream"]),
    ("scheduler", &["api", "cache", "client", "reconcile", "store"]),
    ("controllers", &["api", "cache", "cel", "client", "pki", "reconcile", "store"]),
    ("kubelet", &["api", "cache", "client", "grpc", "reconcile", "store", "pki", "stream", "runtime", "cgroup", "image", "net", "cri"]),
    ("proxy", &["api", "cache", "client", "net", "store"]),
    ("dns", &["api", "cache", "client", "store"]),
    ("cli", &["api", "client", "codec", "pki", "stream", "runtime", "cgroup", "net"]),
    // Top: wiring.
    (
        "knarr",
        &[
            "api",
            "codec",
            "store",
            "client",
            "cache",
            "reconcile",
            "pki",
            "stream",
            "server",
            "scheduler",
            "controllers",
            "kubelet",
            "proxy",
            "dns",
            "cli",
            "runtime",
            "cgroup",
            "image",
            "net",
            "cri",
        ],
    ),
    // Measures from outside, as any client would.
    ("load", &["client", "pki", "store", "stream"]),
];
