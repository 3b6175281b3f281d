//! One blob to one file, resumed where a former try ended, checked by size and digest.
//!
//! The file in `ingest/` survives failures and restarts; its digest is calculated again from the bytes on disk before
//! more is added, so a damaged beginning costs a second download but never passes the check.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;

use crate::manifest::Descriptor;
use crate::registry::{FetchError, Repository};
use crate::store::blocking;
use crate::unpack::Hasher;

/// Tries in a row that bring nothing, over all endpoints.
const FRUITLESS_TRIES: u32 = 5;
/// Bytes gathered before they are hashed and written.
const BATCH: usize = 1 << 20;

/// Why a blob is not here.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("blob {digest} has the size {got} instead of {expected}")]
    Size { digest: String, expected: u64, got: u64 },
    #[error("blob {digest} has the digest {got}")]
    Digest { digest: String, got: String },
    #[error("cannot write blob {digest}: {error}")]
    Write { digest: String, error: io::Error },
}

/// A file in the making, with the digest of what it holds.
struct Part {
    file: File,
    hasher: Hasher,
    length: u64,
}

/// Fetches `blob` into the file `path`, which the caller has locked, and returns it from its beginning. `progress` gets the
/// bytes added, or taken back when a try starts anew.
pub(crate) async fn download(
    repositories: &[&Repository],
    blob: &Descriptor,
    path: PathBuf,
    progress: &(dyn Fn(i64) + Send + Sync),
) -> Result<File, DownloadError> {
    let write_error = |error| DownloadError::Write { digest: blob.digest.clone(), error };
    let mut part = Part::open(path.clone(), blob.size).await.map_err(write_error)?;
    let mut resumed = part.length > 0;
    progress(part.length as i64);
    let mut fruitless = 0;
    loop {
        let before = part.length;
        let result = if part.length == blob.size {
            Ok(())
        } else {
            let repository = repositories[fruitless as usize % repositories.len()];
            fetch(repository, blob, &mut part, progress).await
        };
        match result {
            Ok(()) if part.length == blob.size => {
                let got = part.finish();
                if got == blob.digest {
                    return rewind(&path).map_err(write_error);
                }
                std::fs::remove_file(&path).map_err(write_error)?;
                if !resumed {
                    return Err(DownloadError::Digest { digest: blob.digest.clone(), got });
                }
                // The bytes of an earlier try were wrong; these are not.
                resumed = false;
                progress(-(blob.size as i64));
                part = Part::open(path.clone(), blob.size).await.map_err(write_error)?;
                continue;
            }
            Ok(()) => {}
            // The registry's blob ends before ours does; going on would ask the same for ever.
            Err(DownloadError::Fetch(FetchError::Status { status, .. })) if status == http::StatusCode::RANGE_NOT_SATISFIABLE => {
                std::fs::remove_file(&path).map_err(write_error)?;
                let (digest, got) = (blob.digest.clone(), part.length);
                return Err(DownloadError::Size { digest, expected: blob.size, got });
            }
            Err(DownloadError::Fetch(error)) if error.is_passing() || fruitless + 1 < repositories.len() as u32 => {
                if fruitless + 1 >= FRUITLESS_TRIES.max(repositories.len() as u32) {
                    return Err(error.into());
                }
                tracing::debug!(digest = blob.digest, have = part.length, %error, "download interrupted");
            }
            Err(error @ DownloadError::Size { .. }) => {
                std::fs::remove_file(&path).map_err(write_error)?;
                return Err(error);
            }
            Err(error) => return Err(error),
        }
        if part.length > before {
            fruitless = 0;
        } else {
            fruitless += 1;
            if fruitless >= FRUITLESS_TRIES {
                return Err(DownloadError::Size { digest: blob.digest.clone(), expected: blob.size, got: part.length });
            }
        }
        tokio::time::sleep(Duration::from_millis(100) * 2u32.pow(fruitless)).await;
    }
}

/// One request. An early end of the body is an error of hyper if the length was promised, else seen by the caller.
async fn fetch(
    repository: &Repository,
    blob: &Descriptor,
    part: &mut Part,
    progress: &(dyn Fn(i64) + Send + Sync),
) -> Result<(), DownloadError> {
    let write_error = |error| DownloadError::Write { digest: blob.digest.clone(), error };
    let (start, mut body) = repository.blob(&blob.digest, part.length).await?;
    let mut skip = if start == part.length {
        0
    } else {
        // The registry sends bytes that are here already; reading over them keeps the digest right.
        part.length - start
    };
    let mut batch: Vec<Bytes> = Vec::new();
    let mut gathered = 0;
    loop {
        let next = body.next().await;
        let end = !matches!(next, Ok(Some(_)));
        if let Ok(Some(mut data)) = next.clone() {
            let skipped = skip.min(data.len() as u64);
            skip -= skipped;
            let data = data.split_off(skipped as usize);
            gathered += data.len();
            if part.length + gathered as u64 > blob.size {
                let got = part.length + gathered as u64;
                return Err(DownloadError::Size { digest: blob.digest.clone(), expected: blob.size, got });
            }
            batch.push(data);
        }
        if gathered >= BATCH || (end && gathered > 0) {
            part.add(std::mem::take(&mut batch)).await.map_err(write_error)?;
            progress(gathered as i64);
            gathered = 0;
        }
        if end {
            next?;
            return Ok(());
        }
    }
}

impl Part {
    /// Takes up what an earlier try left, unless it is longer than the blob.
    async fn open(path: PathBuf, size: u64) -> io::Result<Part> {
        blocking(move || {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
            if file.metadata()?.len() > size {
                file.set_len(0)?;
            }
            let mut part = Part { file: file.try_clone()?, hasher: Hasher::new(), length: 0 };
            let mut buffer = vec![0; 256 << 10];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(part),
                    got => {
                        part.hasher.update(&buffer[..got]);
                        part.length += got as u64;
                    }
                }
            }
        })
        .await
    }

    async fn add(&mut self, batch: Vec<Bytes>) -> io::Result<()> {
        let (file, hasher) = (self.file.try_clone()?, std::mem::replace(&mut self.hasher, Hasher::new()));
        let (hasher, result) = blocking(move || {
            let (mut file, mut hasher, mut written) = (file, hasher, 0);
            for data in batch {
                if let Err(error) = file.write_all(&data) {
                    return (hasher, Err(error));
                }
                hasher.update(&data);
                written += data.len() as u64;
            }
            (hasher, Ok(written))
        })
        .await;
        self.hasher = hasher;
        self.length += result?;
        Ok(())
    }

    fn finish(&mut self) -> String {
        std::mem::replace(&mut self.hasher, Hasher::new()).finish()
    }
}

fn rewind(path: &Path) -> io::Result<File> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}
