//! Images on a node: pull them from registries, import them from archives, keep their layers, remove them.
//!
//! The crate knows no Kubernetes type. It turns a reference into an [`Image`] whose layers are directories that overlayfs
//! can stack, and it treats every byte that comes from outside (manifests, configs, archives) as hostile: typed, bounded
//! before allocation, checked by digest, and unpacked by descriptors inside a root that cannot be left.
//!
//! ```text
//! reference --registries.yaml--> endpoints --session--> manifest --platform--> config, layers
//!                                                                                 |
//!            index (names, digests, flags)  <--commit--  layers/<id>/  <--unpack--+
//! ```
//!
//! [`demo`] holds two small images that the binary carries, for machines with no registry at hand.
//!
//! Invariants: the index names only layers that are completely on disk; a layer directory is never changed after its
//! commit; what is held by a caller, pinned or imported is never taken by garbage collection.

mod assemble;
mod auth;
pub mod demo;
mod download;
mod flight;
mod gc;
mod image;
mod import;
mod index;
mod manifest;
mod pull;
mod reference;
mod registries;
mod registry;
mod store;
mod unpack;

pub use auth::{DockerConfigError, RegistryAuth};
pub use gc::{GcPolicy, GcReport};
pub use image::{Image, ImageConfigView, Platform};
pub use import::ImportError;
pub use pull::{PullError, PullProgress};
pub use reference::{Reference, ReferenceError};
pub use registries::{Registries, RegistriesError};
pub use registry::ProxySettings;
pub use store::{Hold, ImageConfig, ImageStore, Limits, OpenError, RemoveError, StoreUsage, TagError};
