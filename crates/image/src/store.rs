//! The image store of a node.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncRead;

use crate::gc::{GcPolicy, GcReport};
use crate::image::{Image, Platform};
use crate::{ImportError, PullError, PullProgress, Registries, RegistryAuth};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct ImageConfig {
    /// Data directory of the node; the store lives in `images/` below it.
    pub dir: PathBuf,
    /// Mirrors and credentials; see [`ImageStore::set_registries`] for later changes.
    pub registries: Registries,
    /// Which member of an index is taken.
    pub platform: Platform,
    /// Bounds on what an image may bring.
    pub limits: Limits,
    /// Layers downloaded at the same time per pull.
    pub parallel_downloads: usize,
    /// A connection that delivers nothing for so long is given up (and resumed).
    pub stall_timeout: Duration,
}

/// Bounds per layer and image, checked while unpacking.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Unpacked bytes of one layer, holes of sparse files counted.
    pub layer_bytes: u64,
    /// Entries of one layer.
    pub layer_entries: u64,
    /// Components of one path.
    pub path_depth: usize,
    /// Layers of one image.
    pub layers: usize,
}

/// All images of a node. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct ImageStore {
    _inner: Arc<()>,
}

/// Keeps the image it was made for on disk until it is dropped.
pub struct Hold {
    _id: String,
}

/// Disk use of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUsage {
    /// Bytes of all layers, each counted once.
    pub bytes: u64,
    /// Inodes of all layers.
    pub inodes: u64,
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error("image store {0} is in use by another process")]
    Locked(PathBuf),
    /// Written by a later version of this program.
    #[error(
        "image store {path} has format {found}, this version knows formats up to {known}; use the newer version"
    )]
    Newer {
        path: PathBuf,
        found: u32,
        known: u32,
    },
    /// The index is not readable as what it should be.
    #[error("image index {path} is damaged: {reason}")]
    Damaged { path: PathBuf, reason: String },
    /// The file system said no.
    #[error("cannot open image store {path}: {error}")]
    Io {
        path: PathBuf,
        error: std::io::Error,
    },
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// No such image here.
    #[error("no such image: {0}")]
    NotFound(String),
    /// Somebody holds it.
    #[error("image {0} is in use")]
    InUse(String),
    /// Several images start with this id.
    #[error("image id {0} is ambiguous")]
    Ambiguous(String),
    /// The index could not be written.
    #[error("cannot write image index: {0}")]
    Io(#[from] std::io::Error),
}

/// Why an image got no further name.
#[derive(Debug, thiserror::Error)]
pub enum TagError {
    /// No such image here.
    #[error("no such image: {0}")]
    NotFound(String),
    /// The new name is none.
    #[error("couldn't parse image name {name:?}: {error}")]
    InvalidName {
        name: String,
        error: crate::ReferenceError,
    },
    /// The index could not be written.
    #[error("cannot write image index: {0}")]
    Io(#[from] std::io::Error),
}

impl ImageConfig {
    /// Settings for a store below `dir` with everything else at its default.
    pub fn new(dir: impl Into<PathBuf>) -> ImageConfig {
        ImageConfig {
            dir: dir.into(),
            registries: Registries::default(),
            platform: Platform::host(),
            limits: Limits::default(),
            parallel_downloads: 4,
            stall_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            layer_bytes: 64 << 30,
            layer_entries: 2_000_000,
            path_depth: 255,
            layers: 500,
        }
    }
}

impl ImageStore {
    /// Opens or creates the store and removes what an interrupted pull left. Blocks for a short time.
    pub fn open(_config: ImageConfig) -> Result<ImageStore, OpenError> {
        unimplemented!("written in the next commit")
    }

    /// Replaces mirrors and credentials for later pulls.
    pub fn set_registries(&self, _registries: Registries) {
        unimplemented!("written in the next commit")
    }

    /// Makes the image present and current: asks the registry, downloads what is missing, unpacks, commits. Concurrent
    /// pulls of the same reference with the same credentials are one pull. Fitting credentials of `auths` are tried in
    /// the kubelet's order, then those of `registries.yaml`, then none.
    pub async fn pull(
        &self,
        _reference: &str,
        _auths: &[RegistryAuth],
    ) -> Result<Image, PullError> {
        unimplemented!("written in the next commit")
    }

    /// As [`ImageStore::pull`]; `progress` is called on every change. Who joins a running pull hears nothing.
    pub async fn pull_with_progress(
        &self,
        _reference: &str,
        _auths: &[RegistryAuth],
        _progress: Arc<dyn Fn(PullProgress) + Send + Sync>,
    ) -> Result<Image, PullError> {
        unimplemented!("written in the next commit")
    }

    /// The image behind a name (normalised), `repo@sha256:...` or a full image id, if present. Never waits.
    pub fn resolve(&self, _reference_or_id: &str) -> Option<Image> {
        unimplemented!("written in the next commit")
    }

    /// Imports a docker-archive or OCI-layout tar, plain or compressed with gzip or zstd. The images are pinned.
    pub async fn import(
        &self,
        _tar: impl AsyncRead + Send + Unpin,
    ) -> Result<Vec<Image>, ImportError> {
        unimplemented!("written in the next commit")
    }

    /// As [`ImageStore::import`] from a file, without the copy that a stream needs.
    pub async fn import_file(&self, _path: &Path) -> Result<Vec<Image>, ImportError> {
        unimplemented!("written in the next commit")
    }

    /// All images, by first name.
    pub fn list(&self) -> Vec<Image> {
        unimplemented!("written in the next commit")
    }

    /// Removes a name; with the last name (or by id, which may be shortened) the image itself.
    pub async fn remove(&self, _reference: &str) -> Result<(), RemoveError> {
        unimplemented!("written in the next commit")
    }

    /// Gives an image a further name.
    pub async fn tag(&self, _reference: &str, _name: &str) -> Result<Image, TagError> {
        unimplemented!("written in the next commit")
    }

    /// Directories for overlayfs `lowerdir`, topmost first; empty for an image without layers. Hold the image first.
    pub fn layers(&self, _image: &Image) -> Vec<PathBuf> {
        unimplemented!("written in the next commit")
    }

    /// Keeps an image on disk until the value is dropped; `None` if it is not here (any more).
    pub fn hold(&self, _image_id: &str) -> Option<Hold> {
        unimplemented!("written in the next commit")
    }

    /// Notes a use for garbage collection.
    pub fn mark_used(&self, _image_id: &str) {
        unimplemented!("written in the next commit")
    }

    /// Protects or unprotects an image against garbage collection; false if it is not here.
    pub async fn set_pinned(&self, _image_id: &str, _pinned: bool) -> bool {
        unimplemented!("written in the next commit")
    }

    /// Removes unused images by `policy`. Pinned, imported and held ones stay.
    pub async fn collect_garbage(&self, _policy: GcPolicy) -> GcReport {
        unimplemented!("written in the next commit")
    }

    /// Disk use of all layers.
    pub fn usage(&self) -> StoreUsage {
        unimplemented!("written in the next commit")
    }

    /// The directory on whose file system images lie, for disk statistics.
    pub fn dir(&self) -> &Path {
        unimplemented!("written in the next commit")
    }
}
