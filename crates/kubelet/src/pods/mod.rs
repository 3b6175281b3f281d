//! Pods on this node: one worker each, fed by the API, the runtime and probes.

pub mod admit;
pub mod backoff;
pub mod container;
pub mod downward;
pub mod env;
pub mod files;
pub mod fit;
pub mod foreign;
pub mod hooks;
pub mod limits;
pub mod message;
pub mod model;
pub mod plan;
pub mod prepare;
pub mod publish;
pub mod registry;
pub mod release;
pub mod resize;
pub mod restart;
pub use runtime::signals;
pub mod start;
pub mod statics;
pub mod status;
pub mod stop;
pub mod termination;
pub mod worker;
