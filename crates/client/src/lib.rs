//! Typed calls to the API, the same over HTTP and in process.
//!
//! Components meet only in objects, through the API pipeline. They hold a [`Client`] and cannot tell
//! whether the server is in the same process: a [`Transport`] carries the calls, bound to one user.
//! In process, list and watch hand out the store's own entries; over HTTP the same entries are made here.

mod attachment_lite;
mod calls;
pub mod checks;
mod events;
pub mod header;
mod http_transport;
pub mod metrics;
pub mod node_fit;
mod pod_lite;
mod resource_id;
mod service_lite;
mod severable;
mod transport;

pub use attachment_lite::{AttachmentLite, attachment_name};
pub use calls::{Client, DeleteOptions, PatchKind, Propagation};
pub use events::{EventKind, Recorder};
pub use http_transport::{Connect, HttpTransport, Token};
pub use pod_lite::{Phase, PodLite};
pub use resource_id::ResourceId;
pub use service_lite::ServiceLite;
pub use transport::{Change, ChangeStream, ListWatch, Selection, Transport};
