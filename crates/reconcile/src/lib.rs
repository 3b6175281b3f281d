//! The loop that all controllers share: read caches, plan, apply.
//!
//! A controller gets a key and nothing else and is level-triggered. The framework owns the queue, back-off,
//! concurrency and metrics, and remembers per key what its writes returned: a key does not run again before
//! the caches that the controller reads have reached its own writes, so that it never acts on its past.

mod context;
mod controller;
mod key;
mod lease;
pub mod metrics;
mod queue;
mod run;
mod tracked;

pub use context::Context;
pub use controller::{Controller, Next, Watch};
pub use key::ObjectKey;
pub use lease::{LeaseConfig, Led, lead};
pub use metrics::Metrics;
pub use queue::Queue;
pub use run::run;
