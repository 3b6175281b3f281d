//! The state behind the store: the published index, what is claimed, and the one way to change either.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use parking_lot::{Mutex, RwLock};

use super::disk::{remove_directories, remove_stale_downloads};
use super::names::{add_new, find_id, take_name};
use super::{Hold, ImageConfig, RemoveError};
use crate::flight::{Flights, KeyedLocks};
use crate::gc::{GcPolicy, GcReport};
use crate::image::Image;
use crate::index::{self, ImageRecord, Index, LayerRecord};
use crate::reference::Reference;
use crate::{PullError, Registries, RegistryAuth};

/// Hexadecimal digits of a layer id that name its directory: short, since overlayfs takes all names in one page.
const KEY_LENGTH: usize = 16;

pub(crate) struct Inner {
    pub(crate) config: ImageConfig,
    pub(crate) registries: RwLock<Registries>,
    directory: PathBuf,
    published: RwLock<Arc<Index>>,
    /// One change of the index at a time, disk included.
    changing: Mutex<()>,
    claims: Mutex<Claims>,
    pub(crate) layer_locks: KeyedLocks,
    pub(crate) blob_locks: KeyedLocks,
    pub(crate) pulls: Flights<(String, Vec<RegistryAuth>), Result<Image, PullError>>,
    /// Decompression and hashing at the same time; the processors are not ours alone.
    pub(crate) unpacking: Arc<tokio::sync::Semaphore>,
    temporary: AtomicU64,
    _lock: File,
}

/// What must stay, by count, and what was used when.
#[derive(Default)]
struct Claims {
    images: HashMap<String, usize>,
    layers: HashMap<String, usize>,
    used: HashMap<String, u64>,
}

/// Keeps layers on disk that no image names yet.
pub(crate) struct LayerClaims {
    inner: Arc<Inner>,
    keys: Vec<String>,
}

/// A directory in the making; removed when dropped, unless it became a layer.
pub(crate) struct TemporaryDirectory {
    path: Option<PathBuf>,
}

/// An image about to be added: its layers are present and claimed.
pub(crate) struct NewImage {
    pub id: String,
    pub record: ImageRecord,
}

impl Inner {
    pub(super) fn new(config: ImageConfig, directory: PathBuf, index: Index, lock: File) -> Inner {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Inner {
            registries: RwLock::new(config.registries.clone()),
            config,
            directory,
            published: RwLock::new(Arc::new(index)),
            changing: Mutex::new(()),
            claims: Mutex::new(Claims::default()),
            layer_locks: KeyedLocks::new(),
            blob_locks: KeyedLocks::new(),
            pulls: Flights::new(),
            unpacking: Arc::new(tokio::sync::Semaphore::new(processors)),
            temporary: AtomicU64::new(0),
            _lock: lock,
        }
    }

    /// The `images/` directory.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Waits until no other change goes on and keeps others out.
    pub(super) fn start_change(&self) -> parking_lot::MutexGuard<'_, ()> {
        self.changing.lock()
    }

    pub(crate) fn hold(self: &Arc<Self>, id: &str) -> Option<Hold> {
        let mut claims = self.claims.lock();
        if !self.index().images.contains_key(id) {
            return None;
        }
        *claims.images.entry(id.to_string()).or_default() += 1;
        claims.used.insert(id.to_string(), seconds(SystemTime::now()));
        Some(Hold { inner: self.clone(), id: id.to_string() })
    }

    pub(super) fn mark_used(&self, id: &str) {
        let mut claims = self.claims.lock();
        if self.index().images.contains_key(id) {
            claims.used.insert(id.to_string(), seconds(SystemTime::now()));
        }
    }

    pub(crate) fn index(&self) -> Arc<Index> {
        self.published.read().clone()
    }

    pub(crate) fn image(&self, index: &Index, id: &str) -> Option<Image> {
        let record = index.images.get(id)?;
        let used = self.claims.lock().used.get(id).copied().unwrap_or(0).max(record.last_used);
        Some(Image {
            id: id.to_string(),
            names: record.names.clone(),
            digests: record.digests.clone(),
            size: index.size(record),
            config: record.config.clone(),
            pinned: record.pinned || record.imported,
            imported: record.imported,
            last_used: UNIX_EPOCH + Duration::from_secs(used),
        })
    }

    pub(crate) fn layer_path(&self, key: &str) -> PathBuf {
        self.directory.join("layers").join(key)
    }

    pub(crate) fn ingest_path(&self, name: &str) -> PathBuf {
        self.directory.join("ingest").join(name)
    }

    /// A fresh name in `ingest/`, unique in this process.
    pub(crate) fn fresh_ingest_path(&self) -> PathBuf {
        self.ingest_path(&format!("spool-{}", self.temporary.fetch_add(1, Ordering::Relaxed)))
    }

    pub(crate) fn temporary_directory(&self) -> io::Result<TemporaryDirectory> {
        let path = self.layer_path(&format!(".tmp-{}", self.temporary.fetch_add(1, Ordering::Relaxed)));
        std::fs::DirBuilder::new().mode(0o755).create(&path)?;
        // The mode of a layer's root shows in containers; the umask must not.
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        Ok(TemporaryDirectory { path: Some(path) })
    }

    /// Claims the layer with this diff id or chain id if it is present.
    pub(crate) fn claim_layer(&self, id: &str, claims: &mut LayerClaims) -> Option<String> {
        let key = layer_key(id);
        let mut held = self.claims.lock();
        if self.index().layers.get(&key).is_none_or(|layer| layer.id != id) {
            return None;
        }
        *held.layers.entry(key.clone()).or_default() += 1;
        claims.keys.push(key.clone());
        Some(key)
    }

    /// Makes a finished directory the layer `record.id` and claims it. If that layer is present by now, the directory is
    /// dropped.
    pub(crate) fn add_layer(&self, mut directory: TemporaryDirectory, record: LayerRecord, claims: &mut LayerClaims) -> io::Result<String> {
        let _changing = self.changing.lock();
        if let Some(key) = self.claim_layer(&record.id, claims) {
            return Ok(key);
        }
        let key = layer_key(&record.id);
        let mut index = (*self.index()).clone();
        if index.layers.contains_key(&key) {
            return Err(io::Error::other(format!("layer id {} clashes with that of another layer", record.id)));
        }
        let path = directory.path.take().expect("only this function takes the path");
        std::fs::rename(&path, self.layer_path(&key)).inspect_err(|_| directory.path = Some(path))?;
        let mut held = self.claims.lock();
        *held.layers.entry(key.clone()).or_default() += 1;
        claims.keys.push(key.clone());
        // Not written: a layer without image is removed when the store is opened.
        index.layers.insert(key.clone(), Arc::new(record));
        *self.published.write() = Arc::new(index);
        Ok(key)
    }

    /// Adds images or, if present, their names. Returns when they survive a loss of power.
    pub(crate) fn commit(&self, images: Vec<NewImage>) -> io::Result<Vec<Image>> {
        let _changing = self.changing.lock();
        rustix::fs::syncfs(File::open(self.directory.join("layers"))?)?;
        let mut index = (*self.index()).clone();
        let ids: Vec<String> = images.iter().map(|image| image.id.clone()).collect();
        for image in images {
            for name in image.record.names.iter().chain(&image.record.digests) {
                take_name(&mut index, name, &image.id);
            }
            let record = index.images.entry(image.id).or_default();
            let record = Arc::make_mut(record);
            let (mut names, mut digests) = (std::mem::take(&mut record.names), std::mem::take(&mut record.digests));
            add_new(&mut names, image.record.names);
            add_new(&mut digests, image.record.digests);
            let (pinned, imported) = (record.pinned, record.imported);
            *record = ImageRecord { names, digests, ..image.record };
            record.pinned |= pinned;
            record.imported |= imported;
            record.last_used = seconds(SystemTime::now());
        }
        self.write_and_publish(index)?;
        let index = self.index();
        Ok(ids.iter().filter_map(|id| self.image(&index, id)).collect())
    }

    /// The caller holds `changing`.
    pub(super) fn write_and_publish(&self, mut index: Index) -> io::Result<()> {
        for (id, used) in &self.claims.lock().used {
            if let Some(record) = index.images.get_mut(id).filter(|record| record.last_used < *used) {
                Arc::make_mut(record).last_used = *used;
            }
        }
        index::write(&self.directory, &index)?;
        *self.published.write() = Arc::new(index);
        Ok(())
    }

    pub(super) fn remove(&self, reference: &str) -> Result<(), RemoveError> {
        let _changing = self.changing.lock();
        let mut index = (*self.index()).clone();
        let id = find_id(&index, reference).map_err(|()| RemoveError::Ambiguous(reference.to_string()))?;
        let id = id.ok_or_else(|| RemoveError::NotFound(reference.to_string()))?;
        let record = index.images.get_mut(&id).expect("the id was just found");
        let name = Reference::parse(reference).ok().and_then(|parsed| parsed.tagged_name());
        if let Some(name) = name.filter(|name| record.names.len() > 1 && record.names.contains(name)) {
            Arc::make_mut(record).names.retain(|known| *known != name);
            return Ok(self.write_and_publish(index)?);
        }
        self.remove_images(std::slice::from_ref(&id)).map_err(|error| error.unwrap_or(RemoveError::InUse(id)))?;
        Ok(())
    }

    /// Removes images and the layers that only they use. The caller holds `changing`. An error of `None` means that one is
    /// held and nothing was done.
    pub(crate) fn remove_images(&self, ids: &[String]) -> Result<u64, Option<RemoveError>> {
        let (gone, freed) = {
            let mut claims = self.claims.lock();
            if ids.iter().any(|id| claims.images.contains_key(id)) {
                return Err(None);
            }
            for id in ids {
                claims.used.remove(id);
            }
            let mut index = (*self.index()).clone();
            index.images.retain(|id, _| !ids.contains(id));
            let gone = self.take_unused_layers(&mut index, &claims);
            *self.published.write() = Arc::new(index);
            gone
        };
        remove_directories(&gone);
        index::write(&self.directory, &self.index()).map_err(|error| Some(RemoveError::Io(error)))?;
        Ok(freed)
    }

    /// Takes layers without image and claim out of the index and out of the way. Their directories are then to be removed.
    fn take_unused_layers(&self, index: &mut Index, claims: &Claims) -> (Vec<PathBuf>, u64) {
        let used: HashSet<String> = index.images.values().flat_map(|record| record.layers.iter().cloned()).collect();
        let (mut gone, mut freed) = (Vec::new(), 0);
        index.layers.retain(|key, layer| {
            if used.contains(key) || claims.layers.contains_key(key) {
                return true;
            }
            let path = self.layer_path(&format!(".gone-{}", self.temporary.fetch_add(1, Ordering::Relaxed)));
            // If it cannot be renamed (it is already missing), there is nothing to remove.
            if std::fs::rename(self.layer_path(key), &path).is_ok() {
                gone.push(path);
            }
            freed += layer.bytes;
            false
        });
        (gone, freed)
    }

    /// Removes layers of pulls that failed. The caller holds `changing`.
    fn sweep(&self) -> u64 {
        let (gone, freed) = {
            let claims = self.claims.lock();
            let mut index = (*self.index()).clone();
            let gone = self.take_unused_layers(&mut index, &claims);
            *self.published.write() = Arc::new(index);
            gone
        };
        remove_directories(&gone);
        freed
    }

    pub(super) fn collect_garbage(&self, policy: &GcPolicy) -> GcReport {
        let _changing = self.changing.lock();
        let index = self.index();
        let images: Vec<Image> = index.images.keys().filter_map(|id| self.image(&index, id)).collect();
        let held: HashSet<String> = self.claims.lock().images.keys().cloned().collect();
        let mut report = GcReport { freed: self.sweep(), ..GcReport::default() };
        for image in crate::gc::candidates(images, policy, &held) {
            if report.freed >= policy.bytes_to_free && !policy.is_overdue(&image) {
                continue;
            }
            match self.remove_images(std::slice::from_ref(&image.id)) {
                Ok(freed) => {
                    report.freed += freed;
                    report.removed.push(image);
                }
                // The image is gone; the index on disk is corrected by the next change or by the next open.
                Err(Some(error)) => {
                    tracing::warn!(image = image.id, %error, "image index not written after removal");
                    report.removed.push(image);
                }
                Err(None) => {}
            }
        }
        remove_stale_downloads(&self.directory, Duration::from_secs(3600));
        report
    }
}

impl LayerClaims {
    pub(crate) fn new(inner: &Arc<Inner>) -> LayerClaims {
        LayerClaims { inner: inner.clone(), keys: Vec::new() }
    }

    /// Takes over what `more` claims.
    pub(crate) fn extend(&mut self, mut more: LayerClaims) {
        self.keys.append(&mut more.keys);
    }
}

/// Layers of a pull that failed stay for the next try, until garbage is collected.
impl Drop for LayerClaims {
    fn drop(&mut self) {
        let mut claims = self.inner.claims.lock();
        self.keys.drain(..).for_each(|key| release(&mut claims.layers, &key));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut claims = self.inner.claims.lock();
        release(&mut claims.images, &self.id);
        claims.used.insert(self.id.clone(), seconds(SystemTime::now()));
    }
}

impl TemporaryDirectory {
    pub(crate) fn path(&self) -> &Path {
        self.path.as_deref().expect("the path is taken only when the value is consumed")
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        if let Some(path) = self.path.take() {
            remove_directories(&[path]);
        }
    }
}

/// Runs work that waits for the disk. A panic in it goes on in the caller.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work, and then nobody polls this any more.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Directory name of a layer. The full id stands in the index.
pub(crate) fn layer_key(id: &str) -> String {
    id.trim_start_matches("sha256:").chars().take(KEY_LENGTH).collect()
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn release(counts: &mut HashMap<String, usize>, key: &str) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
