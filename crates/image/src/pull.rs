//! One pull, from reference to committed image.
//!
//! ```text
//! endpoints x credentials --first that answers--> manifest (index: choose) --> config --> diff ids
//! per missing layer, several at a time:  download -> check -> unpack -> check      (joined with other pulls)
//! all layers present: settle, sync, commit to the index
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};

use crate::assemble::{self, LayerError, Staged};
use crate::auth::RegistryAuth;
use crate::download::{DownloadError, download};
use crate::image::Image;
use crate::index::ImageRecord;
use crate::manifest::{Config, Descriptor, Document, DocumentError, Manifest, NESTING_LIMIT, chain_ids, parse_config, parse_manifest};
use crate::reference::{Reference, ReferenceError};
use crate::registries::Endpoint;
use crate::registry::{FetchError, FetchedManifest, Repository, Transport};
use crate::store::{Hold, Inner, LayerClaims, NewImage, blocking};
use crate::unpack::UnpackError;

/// Why a pull failed. The text is complete, causes included, since it ends in a container status and in an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PullError {
    /// The reference cannot be parsed: the kubelet says `InvalidImageName`.
    #[error("couldn't parse image name {reference:?}: {error}")]
    InvalidName {
        /// What was asked for.
        reference: String,
        /// What is wrong with it.
        error: ReferenceError,
    },
    /// No registry has it.
    #[error("failed to pull and unpack image {reference:?}: failed to resolve reference {reference:?}: {reference}: not found")]
    NotFound {
        /// What was asked for, normalised.
        reference: String,
    },
    /// No credential opens it; registries do not tell this from a missing repository.
    #[error(
        "failed to pull and unpack image {reference:?}: failed to resolve reference {reference:?}: pull access denied, repository does not exist or may require authorization: {reason}"
    )]
    Denied {
        /// What was asked for, normalised.
        reference: String,
        /// What the registry or token server said.
        reason: String,
    },
    /// The registry cannot be reached or fails. Another try may help.
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Unavailable {
        /// What was asked for, normalised.
        reference: String,
        /// What was tried, and what came of it.
        reason: String,
    },
    /// The image is not for this node's platform.
    #[error("failed to pull and unpack image {reference:?}: no match for platform {platform} in manifest: not found")]
    Platform {
        /// What was asked for, normalised.
        reference: String,
        /// What this node is.
        platform: String,
    },
    /// What came is damaged, forbidden or too large.
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Refused {
        /// What was asked for, normalised.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// This node's disk cannot take it.
    #[error("failed to pull and unpack image {reference:?}: {reason}")]
    Store {
        /// What was asked for, normalised.
        reference: String,
        /// What the system said.
        reason: String,
    },
}

/// How far a pull is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullProgress {
    /// Compressed bytes of the layers that were missing at the start.
    pub bytes_total: u64,
    /// How many of them are here.
    pub bytes_done: u64,
    /// Layers that were missing at the start.
    pub layers_total: usize,
    /// Layers downloaded and unpacked.
    pub layers_done: usize,
}

type Report<'a> = &'a (dyn Fn(PullProgress) + Send + Sync);

/// One pull's view of the registries.
struct Sources {
    reference: String,
    /// All that may be asked, in order.
    candidates: Vec<Repository>,
}

/// A layer that is wanted.
struct Wanted {
    diff_id: String,
    chain_id: String,
    blob: Descriptor,
}

enum Resolved<'a> {
    Unchanged(Box<Image>),
    Fetched(&'a Repository, FetchedManifest),
}

struct Meter<'a> {
    report: Report<'a>,
    bytes_total: u64,
    layers_total: usize,
    bytes_done: AtomicI64,
    layers_done: AtomicUsize,
}

pub(crate) async fn pull(
    inner: &Arc<Inner>,
    reference: &Reference,
    auths: &[RegistryAuth],
    report: Report<'_>,
) -> Result<Image, PullError> {
    let transport = Transport::new(inner.config.stall_timeout, inner.config.proxies.clone());
    let endpoints = inner.registries.read().endpoints(reference);
    let candidates = endpoints.into_iter().flat_map(|endpoint| {
        let credentials = credentials(reference, &endpoint, auths);
        let transport = transport.clone();
        credentials.into_iter().map(move |auth| Repository::new(transport.clone(), endpoint.clone(), auth))
    });
    let sources = Sources { reference: reference.to_string(), candidates: candidates.collect() };
    let (source, named) = match sources.resolve(inner, reference).await? {
        Resolved::Unchanged(image) => return Ok(*image),
        Resolved::Fetched(source, named) => (source, named),
    };
    let (manifest, config) = sources.choose(inner, source, &named).await?;
    let digest = named.digest;
    let (layers, claims) = fetch_layers(inner, &sources, source, &manifest, &config, report).await?;
    let record = ImageRecord {
        names: reference.tagged_name().into_iter().collect(),
        digests: vec![format!("{}@{digest}", reference.repository())],
        layers,
        config: config.view,
        ..ImageRecord::default()
    };
    commit(inner, &sources.reference, NewImage { id: config.id, record }, claims).await
}

/// What to try at an endpoint. Secrets go to the registry they are for, never to a mirror of it, unless they name the mirror.
fn credentials(reference: &Reference, endpoint: &Endpoint, auths: &[RegistryAuth]) -> Vec<Option<RegistryAuth>> {
    let mirror = endpoint.namespace.is_some();
    let here = Reference { registry: endpoint.authority.clone(), path: endpoint.repository.clone(), tag: None, digest: None };
    let fitting = RegistryAuth::matching(auths, if mirror { &here } else { reference }, |auth| auth);
    let fitting: Vec<_> = fitting.into_iter().filter(|auth| !(mirror && auth.registry.is_empty())).cloned().map(Some).collect();
    if fitting.is_empty() { vec![endpoint.auth.clone()] } else { fitting }
}

/// The image that the reference means here, held so that it does not go while the registry is asked.
fn local_image(inner: &Arc<Inner>, reference: &Reference) -> Option<(Image, Hold)> {
    let name = match &reference.digest {
        Some(digest) => format!("{}@{digest}", reference.repository()),
        None => reference.tagged_name()?,
    };
    let id = inner.index().named(&name).map(|(id, _)| id.clone())?;
    let hold = inner.hold(&id)?;
    Some((inner.image(&inner.index(), &id)?, hold))
}

impl Sources {
    /// The first candidate that has the manifest. What is here already costs one small request if nothing changed.
    async fn resolve(&self, inner: &Arc<Inner>, reference: &Reference) -> Result<Resolved<'_>, PullError> {
        let local = local_image(inner, reference);
        let mut errors = Vec::new();
        for candidate in &self.candidates {
            match self.ask(candidate, reference, local.as_ref().map(|(image, _)| image)).await {
                Ok(resolved) => return Ok(resolved),
                Err(error) => errors.push(error),
            }
        }
        // The registry itself comes last and speaks for all; but "not found" must come from everybody.
        let last = errors.pop().unwrap_or(FetchError::NotFound);
        let error = match last {
            FetchError::NotFound => errors.into_iter().rfind(FetchError::is_passing).unwrap_or(FetchError::NotFound),
            other => other,
        };
        Err(self.error(error, |error| format!("failed to resolve reference {:?}: {error}", self.reference)))
    }

    async fn ask<'a>(
        &'a self,
        candidate: &'a Repository,
        reference: &Reference,
        local: Option<&Image>,
    ) -> Result<Resolved<'a>, FetchError> {
        if let Some(image) = local.filter(|image| !image.digests.is_empty()) {
            match candidate.head_manifest(reference.manifest_name()).await {
                Ok(Some(digest)) if image.digests.contains(&format!("{}@{digest}", reference.repository())) => {
                    return Ok(Resolved::Unchanged(Box::new(image.clone())));
                }
                Err(error) if error.is_passing() => return Err(error),
                // Some registries do not answer HEAD well; the manifest itself decides.
                _ => {}
            }
        }
        let manifest = candidate.manifest(reference.manifest_name()).await?;
        Ok(Resolved::Fetched(candidate, manifest))
    }

    /// Follows indexes to the manifest of this platform and reads its config.
    async fn choose(&self, inner: &Inner, source: &Repository, named: &FetchedManifest) -> Result<(Manifest, Config), PullError> {
        let platform = &inner.config.platform;
        let wrong_platform = || PullError::Platform { reference: self.reference.clone(), platform: platform.to_string() };
        let document_error = |error: DocumentError| self.refused(error.to_string());
        let mut document = parse_manifest(&named.bytes, &named.media_type).map_err(document_error)?;
        for _ in 0..NESTING_LIMIT {
            match document {
                Document::Manifest(manifest) => {
                    let bytes = source.document(&manifest.config.digest).await;
                    let bytes = bytes.map_err(|error| self.fetch_error(error))?;
                    let config = parse_config(&bytes).map_err(document_error)?;
                    if !platform.accepts(&config) {
                        return Err(wrong_platform());
                    }
                    let (layers, diff_ids) = (manifest.layers.len(), config.diff_ids.len());
                    if layers != diff_ids {
                        return Err(
                            self.refused(format!("mismatched image rootfs and manifest layers: {layers} layers, {diff_ids} diff ids"))
                        );
                    }
                    if layers > inner.config.limits.layers {
                        return Err(self.refused(format!("more than {} layers", inner.config.limits.layers)));
                    }
                    return Ok((manifest, config));
                }
                Document::Index(members) => {
                    let member = platform.choose(&members).ok_or_else(wrong_platform)?;
                    let fetched = source.manifest(&member.digest).await.map_err(|error| self.fetch_error(error))?;
                    document = parse_manifest(&fetched.bytes, &fetched.media_type).map_err(document_error)?;
                }
            }
        }
        Err(self.refused("indexes are nested too deeply".into()))
    }

    /// The chosen source first, then the others.
    fn from<'a>(&'a self, source: &'a Repository) -> Vec<&'a Repository> {
        let others = self.candidates.iter().filter(|other| !std::ptr::eq(*other, source));
        std::iter::once(source).chain(others).collect()
    }

    fn refused(&self, reason: String) -> PullError {
        PullError::Refused { reference: self.reference.clone(), reason }
    }

    fn fetch_error(&self, error: FetchError) -> PullError {
        self.error(error, FetchError::to_string)
    }

    fn error(&self, error: FetchError, text: impl Fn(&FetchError) -> String) -> PullError {
        let reference = self.reference.clone();
        match error {
            FetchError::NotFound => PullError::NotFound { reference },
            FetchError::Denied(reason) => PullError::Denied { reference, reason },
            FetchError::Refused(_) => PullError::Refused { reference, reason: text(&error) },
            FetchError::Unreachable { .. } | FetchError::Status { .. } => PullError::Unavailable { reference, reason: text(&error) },
        }
    }

    fn download_error(&self, error: DownloadError) -> PullError {
        let reference = self.reference.clone();
        match error {
            DownloadError::Fetch(FetchError::NotFound) => self.refused("a layer of the image is not found".into()),
            DownloadError::Fetch(error) => self.error(error, |error| format!("failed to copy: {error}")),
            DownloadError::Write { .. } => PullError::Store { reference, reason: error.to_string() },
            DownloadError::Size { .. } | DownloadError::Digest { .. } => self.refused(error.to_string()),
        }
    }

    fn layer_error(&self, error: LayerError) -> PullError {
        let reason = error.to_string();
        let reference = self.reference.clone();
        match error {
            LayerError::Store { .. } | LayerError::Unpack { error: UnpackError::Write { .. }, .. } => {
                PullError::Store { reference, reason }
            }
            LayerError::Unpack { .. } => PullError::Refused { reference, reason },
        }
    }
}

/// Brings all layers into the store; their keys are lowest first.
async fn fetch_layers(
    inner: &Arc<Inner>,
    sources: &Sources,
    source: &Repository,
    manifest: &Manifest,
    config: &Config,
    report: Report<'_>,
) -> Result<(Vec<String>, LayerClaims), PullError> {
    let chain = chain_ids(&config.diff_ids);
    let mut claims = LayerClaims::new(inner);
    let wanted = config.diff_ids.iter().zip(&chain).zip(&manifest.layers);
    let wanted: Vec<Wanted> = wanted
        .map(|((diff_id, chain_id), blob)| Wanted { diff_id: diff_id.clone(), chain_id: chain_id.clone(), blob: blob.clone() })
        .collect();
    let missing = |wanted: &&Wanted| assemble::find(inner, &wanted.diff_id, &wanted.chain_id, &mut claims).is_none();
    let missing: Vec<&Wanted> = wanted.iter().filter(missing).collect();
    let meter = Meter {
        report,
        bytes_total: missing.iter().map(|wanted| wanted.blob.size).fold(0, u64::saturating_add),
        layers_total: missing.len(),
        bytes_done: AtomicI64::new(0),
        layers_done: AtomicUsize::new(0),
    };
    meter.tell();
    let repositories = sources.from(source);
    let mut fetches = Vec::new();
    for wanted in &wanted {
        fetches.push(fetch_layer(inner, sources, &repositories, wanted, &meter).boxed());
    }
    let fetched: Vec<(Staged, LayerClaims)> = stream::iter(fetches).buffered(inner.config.parallel_downloads.max(1)).try_collect().await?;
    let (staged, kept): (Vec<Staged>, Vec<LayerClaims>) = fetched.into_iter().unzip();
    kept.into_iter().for_each(|more| claims.extend(more));
    assemble::settle(inner, staged, &chain, claims).await.map_err(|error| sources.layer_error(error))
}

async fn fetch_layer(
    inner: &Arc<Inner>,
    sources: &Sources,
    repositories: &[&Repository],
    wanted: &Wanted,
    meter: &Meter<'_>,
) -> Result<(Staged, LayerClaims), PullError> {
    let mut claims = LayerClaims::new(inner);
    let _layer = inner.layer_locks.lock(&wanted.diff_id).await;
    if let Some(key) = assemble::find(inner, &wanted.diff_id, &wanted.chain_id, &mut claims) {
        return Ok((Staged::Present(key), claims));
    }
    let _blob = inner.blob_locks.lock(&wanted.blob.digest).await;
    let path = inner.ingest_path(&wanted.blob.digest.replacen(':', "-", 1));
    let file = download(repositories, &wanted.blob, path.clone(), &|bytes| meter.add_bytes(bytes)).await;
    let file = file.map_err(|error| sources.download_error(error))?;
    let staged = assemble::stage(inner, &wanted.diff_id, file, &mut claims).await;
    // Unpacked or unusable: in both cases nobody wants the blob again.
    let removed = std::fs::remove_file(&path);
    let staged = staged.map_err(|error| sources.layer_error(error))?;
    removed.map_err(|error| PullError::Store { reference: sources.reference.clone(), reason: error.to_string() })?;
    meter.add_layer();
    Ok((staged, claims))
}

async fn commit(inner: &Arc<Inner>, reference: &str, image: NewImage, claims: LayerClaims) -> Result<Image, PullError> {
    let store = inner.clone();
    let committed = blocking(move || store.commit(vec![image])).await;
    drop(claims);
    let failed = |reason| PullError::Store { reference: reference.to_string(), reason };
    let images = committed.map_err(|error| failed(format!("cannot write image index: {error}")))?;
    images.into_iter().next().ok_or_else(|| failed("the image was removed at the same moment".into()))
}

impl Meter<'_> {
    fn add_bytes(&self, bytes: i64) {
        self.bytes_done.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn add_layer(&self) {
        self.layers_done.fetch_add(1, Ordering::Relaxed);
        self.tell();
    }

    fn tell(&self) {
        (self.report)(PullProgress {
            bytes_total: self.bytes_total,
            bytes_done: self.bytes_done.load(Ordering::Relaxed).max(0).unsigned_abs(),
            layers_total: self.layers_total,
            layers_done: self.layers_done.load(Ordering::Relaxed),
        });
    }
}
