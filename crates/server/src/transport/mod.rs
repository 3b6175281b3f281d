//! The two ways into the pipeline: TLS connections and calls from the same process.

pub mod in_process;
pub mod listen;
