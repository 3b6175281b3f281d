//! The Container Runtime Interface v1: our runtime behind its socket, for whoever speaks it, and other runtimes behind
//! theirs, for our kubelet.
//!
//! ```text
//!  Go kubelet, crictl --gRPC--> service --> runtime, image, net        kubelet --> client --gRPC--> containerd
//!                     --HTTP--> streaming --> session                  (messages are shared)
//! ```
//!
//! Protocol facts stand as tables in [`messages`]; no generated code and no compiler for it is needed.

pub mod cdi;
pub mod client;
pub mod engine;
pub mod messages;
pub mod service;
pub mod session;
