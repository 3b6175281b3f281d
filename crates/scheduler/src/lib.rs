//! The scheduler: columns, plugins with typed refusals, preemption.
//!
//! A picture of the cluster is kept as columns and counters ([`cluster`]), so that a decision about a pod costs
//! microseconds on a thousand nodes. Plugins filter and score nodes over that picture; one task decides about one pod
//! after another, and bindings run in the background.
//!
//! # Guarantees
//! * The requests that are counted on a node never exceed what it offers, as far as the scheduler has seen the node.
//! * Nothing happens without a change: refused pods wait for something that may help them.

pub mod cluster;
pub mod decide;
pub mod drivers;
pub mod follow;
mod metrics;
pub mod node_terms;
pub mod nodes;
pub mod picture;
pub mod plugin;
pub mod plugins;
pub mod ports;
pub mod preempt;
pub mod queue;
pub mod read;
mod refusals;
pub mod resources;
mod run;
pub mod shape;
pub mod symbols;
pub mod topology;
pub mod verdict;
pub mod volumes;
mod write;

use client::Client;

pub use run::run;

/// Configuration of a scheduler.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the scheduler; pods with another `schedulerName` are left alone.
    pub name: String,
}

/// What a scheduler works with.
#[derive(Clone)]
pub struct Deps {
    /// Acts as `system:kube-scheduler`.
    pub client: Client,
    /// Where the scheduler shows its numbers.
    pub metrics: client::metrics::Sources,
}
