//! Archives become images: what `docker save` writes, and tars of OCI layouts.
//!
//! The archive is read twice: once for the positions of its members (the manifest may come last), then member by member.
//! A stream is therefore spooled to disk first. Imported images are pinned until another image takes their last name.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::assemble::{self, LayerError};
use crate::image::Image;
use crate::index::ImageRecord;
use crate::manifest::{
    Config, DOCUMENT_LIMIT, Descriptor, Document, DocumentError, NESTING_LIMIT, chain_ids, null_is_default, parse_config, parse_manifest,
};
use crate::reference::{Reference, ReferenceError};
use crate::store::{Inner, LayerClaims, NewImage, blocking};
use crate::unpack::{Hasher, Kind, Skip, TarError, TarReader, decompress};

/// Most members of one archive.
const MEMBER_LIMIT: usize = 20_000;
/// Bytes of one archive after decompression.
const ARCHIVE_LIMIT: u64 = 256 << 30;
/// Docker writes layers that occur twice as links to the first; they do not chain deeper.
const LINK_LIMIT: usize = 8;

/// Why an archive was not imported. Nothing of it stays.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive cannot be read.
    #[error("cannot read image archive: {0}")]
    Read(#[source] io::Error),
    /// It is no tar archive.
    #[error("image archive is damaged: {0}")]
    Damaged(String),
    /// A tar archive of something else.
    #[error("archive is neither a docker-archive (no manifest.json) nor an OCI layout (no index.json)")]
    Unknown,
    /// A document or layer is missing or not what it should be.
    #[error("image archive is not usable: {0}")]
    Content(String),
    /// None of its images is for this node.
    #[error("image archive has no image for {0}")]
    Platform(String),
    /// An image has a name that is none.
    #[error("image archive has an image with the invalid name {name:?}: {error}")]
    Name {
        /// The refused name.
        name: String,
        /// What is wrong with it.
        error: ReferenceError,
    },
    /// A layer cannot be unpacked.
    #[error("{0}")]
    Layer(String),
    /// The store cannot be written.
    #[error("cannot write image store: {0}")]
    Write(#[source] io::Error),
}

/// Members of an archive by clean path.
struct Archive {
    file: File,
    members: HashMap<PathBuf, Member>,
}

enum Member {
    Data { position: u64, size: u64 },
    Link(PathBuf),
}

/// One image of an archive, not unpacked yet.
struct Found {
    config: Config,
    layers: Vec<PathBuf>,
    names: Vec<String>,
    digests: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct LayoutIndex {
    #[serde(default, deserialize_with = "null_is_default")]
    manifests: Vec<Descriptor>,
}

/// A file that is removed when dropped.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "spooled archive not removed");
        }
    }
}

pub(crate) async fn import_stream(inner: &Arc<Inner>, mut tar: impl AsyncRead + Send + Unpin) -> Result<Vec<Image>, ImportError> {
    let path = inner.fresh_ingest_path();
    let mut file = File::create_new(&path).map_err(ImportError::Write)?;
    let _spool = Spool(path.clone());
    let mut sum = 0;
    loop {
        let mut chunk = Vec::with_capacity(1 << 20);
        while chunk.len() < 1 << 20 && tar.read_buf(&mut chunk).await.map_err(ImportError::Read)? > 0 {}
        if chunk.is_empty() {
            break;
        }
        sum += chunk.len() as u64;
        if sum > ARCHIVE_LIMIT {
            return Err(ImportError::Content("it is too large".into()));
        }
        let written = blocking(move || file.write_all(&chunk).map(|()| file)).await;
        file = written.map_err(ImportError::Write)?;
    }
    import_file(inner, &path).await
}

pub(crate) async fn import_file(inner: &Arc<Inner>, path: &Path) -> Result<Vec<Image>, ImportError> {
    let (found, archive, _spool) = {
        let (inner, path) = (inner.clone(), path.to_path_buf());
        blocking(move || -> Result<_, ImportError> {
            let (file, spool) = plain_file(&inner, &path)?;
            let archive = Archive::scan(file)?;
            let found = archive.images(&inner)?;
            Ok((found, archive, spool))
        })
        .await?
    };
    let mut images = Vec::new();
    let mut kept = Vec::new();
    for image in found {
        let (image, claims) = unpack_image(inner, &archive, image).await?;
        images.push(image);
        kept.push(claims);
    }
    let inner = inner.clone();
    let committed = blocking(move || inner.commit(images)).await;
    drop(kept);
    committed.map_err(ImportError::Write)
}

async fn unpack_image(inner: &Arc<Inner>, archive: &Archive, image: Found) -> Result<(NewImage, LayerClaims), ImportError> {
    let chain = chain_ids(&image.config.diff_ids);
    let mut claims = LayerClaims::new(inner);
    let mut staged = Vec::new();
    for ((diff_id, chain_id), path) in image.config.diff_ids.iter().zip(&chain).zip(&image.layers) {
        let _lock = inner.layer_locks.lock(diff_id).await;
        staged.push(match assemble::find(inner, diff_id, chain_id, &mut claims) {
            Some(key) => assemble::Staged::Present(key),
            None => assemble::stage(inner, diff_id, archive.open(path)?, &mut claims).await.map_err(layer_error)?,
        });
    }
    let (layers, claims) = assemble::settle(inner, staged, &chain, claims).await.map_err(layer_error)?;
    let record = ImageRecord {
        names: image.names,
        digests: image.digests,
        layers,
        config: image.config.view,
        pinned: false,
        imported: true,
        last_used: 0,
    };
    Ok((NewImage { id: image.config.id, record }, claims))
}

/// The archive itself, or its decompressed copy in the store.
fn plain_file(inner: &Inner, path: &Path) -> Result<(File, Option<Spool>), ImportError> {
    let file = File::open(path).map_err(ImportError::Read)?;
    let mut magic = [0; 4];
    let got = file.read_at(&mut magic, 0).map_err(ImportError::Read)?;
    if !(magic[..got].starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]) {
        return Ok((file, None));
    }
    let path = inner.fresh_ingest_path();
    let mut plain = File::options().read(true).write(true).create_new(true).open(&path).map_err(ImportError::Write)?;
    let spool = Spool(path);
    let input = decompress(file).map_err(ImportError::Read)?;
    let copied = io::copy(&mut input.take(ARCHIVE_LIMIT), &mut plain).map_err(ImportError::Read)?;
    if copied == ARCHIVE_LIMIT {
        return Err(ImportError::Content("it is too large".into()));
    }
    Ok((plain, Some(spool)))
}

impl Archive {
    fn scan(file: File) -> Result<Archive, ImportError> {
        let damaged = |error: TarError| ImportError::Damaged(error.to_string());
        let mut members = HashMap::new();
        let mut tar = TarReader::new(Seeking { file: &file, position: 0 });
        while let Some(entry) = tar.next_entry().map_err(damaged)? {
            let Some(path) = clean(Path::new(""), &entry.path) else {
                continue;
            };
            let member = match entry.kind {
                Kind::File if entry.sparse.is_none() => Member::Data { position: tar.data_position(), size: tar.remaining() },
                Kind::HardLink => match clean(Path::new(""), &entry.link) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                Kind::Symlink => match clean(path.parent().unwrap_or(Path::new("")), &entry.link) {
                    Some(target) => Member::Link(target),
                    None => continue,
                },
                _ => continue,
            };
            members.insert(path, member);
            if members.len() > MEMBER_LIMIT {
                return Err(ImportError::Content("it has too many members".into()));
            }
        }
        drop(tar);
        Ok(Archive { file, members })
    }

    fn find(&self, path: &Path) -> Option<(u64, u64)> {
        let mut path = path;
        for _ in 0..LINK_LIMIT {
            match self.members.get(path)? {
                Member::Data { position, size } => return Some((*position, *size)),
                Member::Link(target) => path = target,
            }
        }
        None
    }

    fn open(&self, path: &Path) -> Result<MemberReader, ImportError> {
        let (position, left) = self.find(path).ok_or_else(|| ImportError::Content(format!("{} is missing", path.display())))?;
        let file = self.file.try_clone().map_err(ImportError::Read)?;
        Ok(MemberReader { file, position, left })
    }

    fn document(&self, path: &Path) -> Result<Vec<u8>, ImportError> {
        let mut reader = self.open(path)?;
        if reader.left > DOCUMENT_LIMIT {
            return Err(ImportError::Content(format!("{} is too large", path.display())));
        }
        let mut bytes = Vec::with_capacity(reader.left as usize);
        reader.read_to_end(&mut bytes).map_err(ImportError::Read)?;
        Ok(bytes)
    }

    fn blob(&self, digest: &str) -> Result<Vec<u8>, ImportError> {
        let bytes = self.document(&blob_path(digest))?;
        match Hasher::digest(&bytes) {
            got if got == digest => Ok(bytes),
            got => Err(ImportError::Content(format!("blob {digest} has the digest {got}"))),
        }
    }

    /// All images that run here. Docker's recent archives are both forms at once: the layout gives the digests, the
    /// manifest file the names.
    fn images(&self, inner: &Inner) -> Result<Vec<Found>, ImportError> {
        let has = |name: &str| self.find(Path::new(name)).is_some();
        let (docker, layout) = (has("manifest.json"), has("index.json") && has("oci-layout"));
        if !docker && !layout {
            return Err(ImportError::Unknown);
        }
        let mut images: BTreeMap<String, Found> = BTreeMap::new();
        let mut others = false;
        if layout {
            let index: LayoutIndex = json(&self.document(Path::new("index.json"))?, "index.json")?;
            for descriptor in index.manifests {
                match self.layout_image(inner, &descriptor)? {
                    Some(image) => merge(&mut images, image),
                    None => others = true,
                }
            }
        }
        if docker {
            let entries: Vec<DockerEntry> = json(&self.document(Path::new("manifest.json"))?, "manifest.json")?;
            for entry in entries {
                let image = self.docker_image(entry)?;
                if inner.config.platform.accepts(&image.config) {
                    merge(&mut images, image);
                } else {
                    others = true;
                }
            }
        }
        if images.is_empty() && others {
            return Err(ImportError::Platform(inner.config.platform.to_string()));
        }
        for image in images.values() {
            check_layers(inner, image)?;
        }
        Ok(images.into_values().collect())
    }

    fn docker_image(&self, entry: DockerEntry) -> Result<Found, ImportError> {
        let path = |name: &str| {
            clean(Path::new(""), name.as_bytes())
                .ok_or_else(|| ImportError::Content(format!("manifest.json names the impossible member {name:?}")))
        };
        let config = parse_config(&self.document(&path(&entry.config)?)?).map_err(document_error)?;
        let layers = entry.layers.iter().map(|layer| path(layer)).collect::<Result<Vec<_>, _>>()?;
        let names = entry.repo_tags.iter().map(|name| tagged_name(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Found { config, layers, names, digests: Vec::new() })
    }

    /// `None` if the descriptor's image is for other platforms or no image at all.
    fn layout_image(&self, inner: &Inner, named: &Descriptor) -> Result<Option<Found>, ImportError> {
        let mut descriptor = named.clone();
        for _ in 0..NESTING_LIMIT {
            let bytes = self.blob(&descriptor.digest)?;
            let manifest = match parse_manifest(&bytes, &descriptor.media_type).map_err(document_error)? {
                Document::Manifest(manifest) => manifest,
                Document::Index(members) => match inner.config.platform.choose(&members) {
                    // Archives of one platform may carry the index of all; absent members are not for us.
                    Some(member) if self.find(&blob_path(&member.digest)).is_some() => {
                        descriptor = member.clone();
                        continue;
                    }
                    _ => return Ok(None),
                },
            };
            let config = parse_config(&self.blob(&manifest.config.digest)?).map_err(document_error)?;
            if !inner.config.platform.accepts(&config) {
                return Ok(None);
            }
            let name = layout_name(named)?;
            let repository = name.as_deref().and_then(|name| Reference::parse(name).ok()).map(|name| name.repository());
            return Ok(Some(Found {
                layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
                config,
                names: name.into_iter().collect(),
                digests: repository.map(|repository| format!("{repository}@{}", named.digest)).into_iter().collect(),
            }));
        }
        Err(ImportError::Content("indexes are nested too deeply".into()))
    }
}

/// The name that containerd and Docker write, or the reference name if it is more than a tag.
fn layout_name(descriptor: &Descriptor) -> Result<Option<String>, ImportError> {
    let annotation = |key: &str| descriptor.annotations.get(key).filter(|name| !name.is_empty());
    if let Some(name) = annotation("io.containerd.image.name") {
        return tagged_name(name).map(Some);
    }
    match annotation("org.opencontainers.image.ref.name") {
        Some(name) if name.contains(['/', ':']) => tagged_name(name).map(Some),
        _ => Ok(None),
    }
}

fn merge(images: &mut BTreeMap<String, Found>, image: Found) {
    match images.get_mut(&image.config.id) {
        Some(known) => {
            known.names.extend(image.names.into_iter().filter(|name| !known.names.contains(name)).collect::<Vec<_>>());
            known.digests.extend(image.digests);
        }
        None => drop(images.insert(image.config.id.clone(), image)),
    }
}

fn check_layers(inner: &Inner, image: &Found) -> Result<(), ImportError> {
    let (layers, diff_ids) = (image.layers.len(), image.config.diff_ids.len());
    if layers != diff_ids {
        return Err(ImportError::Content(format!("image {} has {layers} layers and {diff_ids} diff ids", image.config.id)));
    }
    if layers > inner.config.limits.layers {
        return Err(ImportError::Content(format!("image {} has too many layers", image.config.id)));
    }
    Ok(())
}

fn tagged_name(name: &str) -> Result<String, ImportError> {
    let failed = |error| ImportError::Name { name: name.to_string(), error };
    let reference = Reference::parse(name).map_err(failed)?;
    reference.tagged_name().ok_or_else(|| failed(ReferenceError::Format))
}

fn blob_path(digest: &str) -> PathBuf {
    Path::new("blobs").join(digest.replacen(':', "/", 1))
}

/// Resolves `name` against `base` by text alone; `None` if it leaves the archive or is nothing.
fn clean(base: &Path, name: &[u8]) -> Option<PathBuf> {
    let mut path = base.to_path_buf();
    for component in std::str::from_utf8(name).ok()?.split('/') {
        match component {
            "" | "." => {}
            ".." if !path.pop() => return None,
            ".." => {}
            _ => path.push(component),
        }
    }
    if path.as_os_str().is_empty() { None } else { Some(path) }
}

fn json<'a, T: Deserialize<'a>>(bytes: &'a [u8], name: &str) -> Result<T, ImportError> {
    serde_json::from_slice(bytes).map_err(|error| ImportError::Content(format!("{name} is invalid: {error}")))
}

fn document_error(error: DocumentError) -> ImportError {
    ImportError::Content(error.to_string())
}

fn layer_error(error: LayerError) -> ImportError {
    ImportError::Layer(error.to_string())
}

/// One member, read by position, so that several can be open at once.
struct MemberReader {
    file: File,
    position: u64,
    left: u64,
}

impl Read for MemberReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = (buffer.len() as u64).min(self.left) as usize;
        let got = self.file.read_at(&mut buffer[..wanted], self.position)?;
        self.position += got as u64;
        self.left -= got as u64;
        if got == 0 && wanted > 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(got) }
    }
}

/// Reads a file by position, so that the shared offset of its clones does not matter.
struct Seeking<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Seeking<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.file.read_at(buffer, self.position)?;
        self.position += got as u64;
        Ok(got)
    }
}

impl Skip for Seeking<'_> {
    fn skip(&mut self, count: u64) -> io::Result<u64> {
        let length = self.file.metadata()?.len();
        let skipped = count.min(length.saturating_sub(self.position));
        self.position += skipped;
        Ok(skipped)
    }
}
