//! The image store of a node: what is present, who holds it, and how it changes.
//!
//! ```text
//! <dir>/images/          mode 0700, so that set-user-id programs of images are out of reach of users
//!   lock                 held while the store is open
//!   index                names and layers, see index.rs
//!   layers/<id>/         unpacked layers, complete and never changed; .tmp-* are being made, .gone-* being removed
//!   ingest/              downloads and spooled imports, resumable for a day
//! ```
//!
//! Readers take the published index and never wait for the disk. Changes are made one at a time under `changing`: additions reach
//! the disk before they are published, removals are published first (so that a full disk can be emptied).

mod disk;
mod names;
mod state;

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::io::AsyncRead;

use crate::gc::{GcPolicy, GcReport};
use crate::image::{Image, Platform};
use crate::index::{self, IndexError, LayerRecord};
use crate::reference::Reference;
use crate::registry::ProxySettings;
use crate::{ImportError, PullError, PullProgress, Registries, RegistryAuth};
use names::{find_id, resolve_id, take_name};

pub(crate) use state::{Inner, LayerClaims, NewImage, TemporaryDirectory, blocking};

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
    /// Outgoing proxies; by default those of the environment.
    pub proxies: ProxySettings,
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
    pub(crate) inner: Arc<Inner>,
}

/// Keeps the image it was made for on disk until it is dropped.
pub struct Hold {
    inner: Arc<Inner>,
    id: String,
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
    #[error("image store {path} has format {found}, this version knows formats up to {known}; use the newer version")]
    Newer {
        /// The store.
        path: PathBuf,
        /// Format of its index.
        found: u32,
        /// Latest format of this program.
        known: u32,
    },
    /// The index is not readable as what it should be.
    #[error("image index of {path} is damaged: {reason}; remove the directory to start with an empty store")]
    Damaged {
        /// The store.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file system said no.
    #[error("cannot open image store {path}: {error}")]
    Io {
        /// The store.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
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
    /// The image is gone, but the index could not be written.
    #[error("cannot write image index: {0}")]
    Io(#[from] io::Error),
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
        /// The refused text.
        name: String,
        /// What is wrong with it.
        error: crate::ReferenceError,
    },
    /// The index could not be written.
    #[error("cannot write image index: {0}")]
    Io(#[from] io::Error),
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
            proxies: ProxySettings::from_environment(),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { layer_bytes: 64 << 30, layer_entries: 2_000_000, path_depth: 255, layers: 500 }
    }
}

impl ImageStore {
    /// Opens or creates the store and removes what an interrupted pull left. Blocks for a short time.
    pub fn open(config: ImageConfig) -> Result<ImageStore, OpenError> {
        let directory = config.dir.join("images");
        let failed = |error: io::Error| OpenError::Io { path: directory.clone(), error };
        for name in ["", "layers", "ingest"] {
            let path = directory.join(name);
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
        }
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).map_err(failed)?;
        let lock = File::create(directory.join("lock")).map_err(failed)?;
        match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(OpenError::Locked(directory)),
            result => result.map_err(|error| failed(error.into()))?,
        }
        let mut index = index::read(&directory).map_err(|error| match error {
            IndexError::Newer(found) => OpenError::Newer { path: directory.clone(), found, known: index::FORMAT },
            IndexError::Damaged(reason) => OpenError::Damaged { path: directory.clone(), reason },
            IndexError::Io(error) => failed(error),
        })?;
        disk::clean(&directory, &mut index).map_err(failed)?;
        Ok(ImageStore { inner: Arc::new(Inner::new(config, directory, index, lock)) })
    }

    /// Replaces mirrors and credentials for later pulls.
    pub fn set_registries(&self, registries: Registries) {
        *self.inner.registries.write() = registries;
    }

    /// Makes the image present and current: asks the registry, downloads what is missing, unpacks, commits. Concurrent
    /// pulls of the same reference with the same credentials are one pull. Fitting credentials of `auths` are tried in
    /// the kubelet's order; if none fits, those of `registries.yaml` are used, else none.
    pub async fn pull(&self, reference: &str, auths: &[RegistryAuth]) -> Result<Image, PullError> {
        self.pull_with_progress(reference, auths, Arc::new(|_| {})).await
    }

    /// As [`ImageStore::pull`]; `progress` is called on every change. Who joins a running pull hears nothing.
    pub async fn pull_with_progress(
        &self,
        reference: &str,
        auths: &[RegistryAuth],
        progress: Arc<dyn Fn(PullProgress) + Send + Sync>,
    ) -> Result<Image, PullError> {
        let parsed = Reference::parse(reference).map_err(|error| PullError::InvalidName { reference: reference.to_string(), error })?;
        let key = (parsed.to_string(), auths.to_vec());
        let (inner, auths) = (self.inner.clone(), auths.to_vec());
        let start = || async move { crate::pull::pull(&inner, &parsed, &auths, &*progress).await }.boxed();
        self.inner.pulls.join(key, start).await
    }

    /// The image behind a name (normalised), `repo@sha256:...` or a full image id, if present. Never waits.
    pub fn resolve(&self, reference_or_id: &str) -> Option<Image> {
        let index = self.inner.index();
        let id = resolve_id(&index, reference_or_id)?;
        self.inner.image(&index, &id)
    }

    /// Imports a docker-archive or OCI-layout tar, plain or compressed with gzip or zstd. The images are pinned.
    pub async fn import(&self, tar: impl AsyncRead + Send + Unpin) -> Result<Vec<Image>, ImportError> {
        crate::import::import_stream(&self.inner, tar).await
    }

    /// As [`ImageStore::import`] from a file, without the copy that a stream needs.
    pub async fn import_file(&self, path: &Path) -> Result<Vec<Image>, ImportError> {
        crate::import::import_file(&self.inner, path).await
    }

    /// All images, by first name.
    pub fn list(&self) -> Vec<Image> {
        let index = self.inner.index();
        let mut images: Vec<Image> = index.images.keys().filter_map(|id| self.inner.image(&index, id)).collect();
        images.sort_by(|a, b| (a.names.first(), &a.id).cmp(&(b.names.first(), &b.id)));
        images
    }

    /// Removes a name; with the last name (or by id, which may be shortened to 12 digits) the image itself.
    pub async fn remove(&self, reference: &str) -> Result<(), RemoveError> {
        let (inner, reference) = (self.inner.clone(), reference.to_string());
        blocking(move || inner.remove(&reference)).await
    }

    /// Gives an image a further name.
    pub async fn tag(&self, reference: &str, name: &str) -> Result<Image, TagError> {
        let invalid = |error| TagError::InvalidName { name: name.to_string(), error };
        let parsed = Reference::parse(name).map_err(invalid)?;
        let tagged = parsed.tagged_name().ok_or_else(|| invalid(crate::ReferenceError::Format))?;
        let (inner, reference) = (self.inner.clone(), reference.to_string());
        blocking(move || {
            let _changing = inner.start_change();
            let mut index = (*inner.index()).clone();
            let id = find_id(&index, &reference).ok().flatten();
            let id = id.ok_or(TagError::NotFound(reference))?;
            take_name(&mut index, &tagged, &id);
            let record = index.images.get_mut(&id).expect("the id was just found");
            Arc::make_mut(record).names.push(tagged);
            inner.write_and_publish(index)?;
            Ok(inner.image(&inner.index(), &id).expect("the image was just published"))
        })
        .await
    }

    /// Directories for overlayfs `lowerdir`, topmost first; empty for an image without layers. Hold the image first. Mode and
    /// owner of an image's root are those of the first directory; overlayfs takes them from the upper directory.
    pub fn layers(&self, image: &Image) -> Vec<PathBuf> {
        let index = self.inner.index();
        let Some(record) = index.images.get(&image.id) else {
            return Vec::new();
        };
        let mut directories = Vec::new();
        for key in record.layers.iter().rev() {
            // Overlayfs refuses a directory that it has already; what is above it says the same.
            let path = self.inner.layer_path(key);
            if !directories.contains(&path) {
                directories.push(path);
            }
            if index.layers.get(key).is_some_and(|layer| layer.opaque_root) {
                break;
            }
        }
        directories
    }

    /// Keeps an image on disk until the value is dropped; `None` if it is not here (any more).
    pub fn hold(&self, image_id: &str) -> Option<Hold> {
        self.inner.hold(image_id)
    }

    /// Notes a use for garbage collection.
    pub fn mark_used(&self, image_id: &str) {
        self.inner.mark_used(image_id);
    }

    /// Protects or unprotects an image against garbage collection; false if it is not here or the index cannot be
    /// written.
    pub async fn set_pinned(&self, image_id: &str, pinned: bool) -> bool {
        let (inner, id) = (self.inner.clone(), image_id.to_string());
        blocking(move || {
            let _changing = inner.start_change();
            let mut index = (*inner.index()).clone();
            let Some(record) = index.images.get_mut(&id) else {
                return false;
            };
            let record = Arc::make_mut(record);
            (record.pinned, record.imported) = (pinned, record.imported && pinned);
            inner.write_and_publish(index).is_ok()
        })
        .await
    }

    /// Removes unused images by `policy`. Pinned, imported and held ones stay.
    pub async fn collect_garbage(&self, policy: GcPolicy) -> GcReport {
        let inner = self.inner.clone();
        blocking(move || inner.collect_garbage(&policy)).await
    }

    /// Disk use of all layers.
    pub fn usage(&self) -> StoreUsage {
        let index = self.inner.index();
        let sum =
            |sum: StoreUsage, layer: &Arc<LayerRecord>| StoreUsage { bytes: sum.bytes + layer.bytes, inodes: sum.inodes + layer.inodes };
        index.layers.values().fold(StoreUsage::default(), sum)
    }

    /// The directory on whose file system images lie, for disk statistics.
    pub fn dir(&self) -> &Path {
        self.inner.directory()
    }
}
