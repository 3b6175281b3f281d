//! From archives of layers to layers in the store, the part that pulls and imports share.
//!
//! A layer is stored under its diff id, so images with different bases share it. Some archives use directories that they
//! have no entry for; these must look as they do in the layers below, or they would cover them with a default mode. Such a layer
//! depends on its place and is stored under an id that is made of the whole chain below it.

use std::io::{self, Read};
use std::sync::Arc;

use crate::index::LayerRecord;
use crate::store::{Inner, LayerClaims, TemporaryDirectory, blocking};
use crate::unpack::{Hasher, UnpackError, Unpacked, adopt_attributes, unpack};

/// Why a layer did not come into the store.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayerError {
    #[error("failed to extract layer {diff_id}: {error}")]
    Unpack { diff_id: String, error: UnpackError },
    #[error("cannot store layer {diff_id}: {error}")]
    Store { diff_id: String, error: io::Error },
}

/// A layer on its way.
pub(crate) enum Staged {
    /// In the store and claimed, under this key.
    Present(String),
    /// Unpacked, but its place among the layers below is not known yet.
    Unplaced(TemporaryDirectory, Unpacked),
}

/// Claims a layer that is present, alone or at this place of a chain.
pub(crate) fn find(inner: &Inner, diff_id: &str, chain_id: &str, claims: &mut LayerClaims) -> Option<String> {
    inner.claim_layer(diff_id, claims).or_else(|| inner.claim_layer(&placed_id(chain_id), claims))
}

/// Unpacks one layer. The caller has looked with [`find`] and holds the lock of the diff id.
pub(crate) async fn stage<R: Read + Send + 'static>(
    inner: &Arc<Inner>,
    diff_id: &str,
    archive: R,
    claims: &mut LayerClaims,
) -> Result<Staged, LayerError> {
    let store_error = |error| LayerError::Store { diff_id: diff_id.to_string(), error };
    let directory = inner.temporary_directory().map_err(store_error)?;
    let permit = inner.unpacking.clone().acquire_owned().await.expect("the semaphore is never closed");
    let (limits, expected) = (inner.config.limits, diff_id.to_string());
    let (directory, result) = blocking(move || {
        let _permit = permit;
        let result = unpack(archive, directory.path(), &limits, Some(&expected));
        (directory, result)
    })
    .await;
    let unpacked = result.map_err(|error| LayerError::Unpack { diff_id: diff_id.to_string(), error })?;
    if !unpacked.implicit.is_empty() {
        return Ok(Staged::Unplaced(directory, unpacked));
    }
    let record = record(diff_id.to_string(), &unpacked);
    inner.add_layer(directory, record, claims).map(Staged::Present).map_err(store_error)
}

/// Places what is unplaced, lowest first, and returns the keys of all layers of the image, lowest first.
pub(crate) async fn settle(
    inner: &Arc<Inner>,
    staged: Vec<Staged>,
    chain_ids: &[String],
    mut claims: LayerClaims,
) -> Result<(Vec<String>, LayerClaims), LayerError> {
    let (inner, chain_ids) = (inner.clone(), chain_ids.to_vec());
    blocking(move || {
        let mut keys: Vec<String> = Vec::new();
        for (staged, chain_id) in staged.into_iter().zip(&chain_ids) {
            keys.push(match staged {
                Staged::Present(key) => key,
                Staged::Unplaced(directory, unpacked) => {
                    let failed = |error| LayerError::Store { diff_id: unpacked.diff_id.clone(), error };
                    let lower: Vec<_> = keys.iter().rev().map(|key| inner.layer_path(key)).collect();
                    for path in &unpacked.implicit {
                        adopt_attributes(directory.path(), path, &lower).map_err(failed)?;
                    }
                    let record = record(placed_id(chain_id), &unpacked);
                    inner.add_layer(directory, record, &mut claims).map_err(failed)?
                }
            });
        }
        Ok((keys, claims))
    })
    .await
}

fn record(id: String, unpacked: &Unpacked) -> LayerRecord {
    LayerRecord { id, bytes: unpacked.bytes, inodes: unpacked.inodes, opaque_root: unpacked.opaque_root }
}

/// Differs from every diff id, also for the lowest layer.
fn placed_id(chain_id: &str) -> String {
    Hasher::digest(format!("placed {chain_id}").as_bytes())
}
