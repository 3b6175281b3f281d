//! The streams of `kubectl exec`, `attach` and `port-forward`: SPDY/3.1 and WebSocket behind one abstraction.
//!
//! A kubelet sees `RemoteCommand` and `PortForward` and never a frame. The API server copies bytes (`proxy_upgrade`).
//! SPDY is our own because clients need it (port-forward tunnels it even inside WebSocket) and no library may be used.
#![allow(clippy::result_large_err, reason = "a refusal is a whole answer, made once for a request that goes no further")]

pub mod client;
mod negotiate;
mod options;
mod outbox;
mod port_forward;
mod proxy;
mod remote_command;
pub mod spdy;
pub mod status;
pub mod ws;

pub use negotiate::{Body, Rejection, full_body};
pub use options::{RemoteCommandOptions, TerminalSize};
pub use port_forward::{PortForward, PortForwardOptions, PortForwardSession, accept_port_forward};
pub use proxy::{ProxyError, proxy_upgrade, wants_upgrade};
pub use remote_command::{ByteReader, ByteWriter, Pending, RemoteCommand, StatusSink, StreamError, accept_remote_command};
pub use status::ExitStatus;
