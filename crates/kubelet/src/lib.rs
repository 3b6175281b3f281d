//! The kubelet: pods on this node.
//!
//! It watches the pods that are bound to its node, gives each a worker, registers the node and keeps its heartbeat.
//! Everything it knows it learns from the API, the runtime and the kernel; what it keeps on disk can be lost, at the price of
//! asking again.

mod clock;
pub mod config;
pub mod credentials;
pub mod csi;
pub mod devices;
pub mod eviction;
pub mod image_access;
mod images;
mod kubelet;
mod metrics;
pub mod network;
pub mod node;
mod objects;
pub mod placement;
pub mod plugins;
pub mod pod_resources;
pub mod pods;
mod probes;
mod pull;
pub mod server;
pub mod shutdown;
pub mod swap;
mod tokens;
pub mod volumes;

pub use config::{Config, Deps, ImageGc};
pub use kubelet::{Kubelet, run};
