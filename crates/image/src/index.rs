//! The index of the store: which images there are and which layers they are made of, in one small versioned file.
//!
//! ```text
//! knarr-images <format> <writer version> <sha256 of the body>\n
//! <body: JSON>
//! ```
//!
//! It is replaced as a whole: written beside, synced, renamed, directory synced. A file of a later format is refused; one
//! of an earlier format is migrated when it is read (there is only format 1 so far).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::image::ImageConfigView;
use crate::unpack::Hasher;

const MAGIC: &str = "knarr-images";
/// The format that this program writes.
pub(crate) const FORMAT: u32 = 1;
const FILE: &str = "index";
const FRESH: &str = "index.new";

/// Everything that is remembered. Immutable once published; changes are made to a clone.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    /// By image id.
    pub images: BTreeMap<String, Arc<ImageRecord>>,
    /// By directory name below `layers/`.
    pub layers: BTreeMap<String, Arc<LayerRecord>>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ImageRecord {
    pub names: Vec<String>,
    pub digests: Vec<String>,
    /// Keys of layers, lowest first.
    pub layers: Vec<String>,
    pub config: ImageConfigView,
    pub pinned: bool,
    pub imported: bool,
    /// Seconds since 1970.
    pub last_used: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    /// Diff id, or chain id if the directory depends on the layers below it. The key is a prefix of it.
    pub id: String,
    pub bytes: u64,
    pub inodes: u64,
    #[serde(default)]
    pub opaque_root: bool,
}

/// Why there is no index.
#[derive(Debug)]
pub(crate) enum IndexError {
    Newer(u32),
    Damaged(String),
    Io(io::Error),
}

impl Index {
    /// The image that has this name or digest name.
    pub(crate) fn named(&self, name: &str) -> Option<(&String, &Arc<ImageRecord>)> {
        let has = |record: &ImageRecord| record.names.iter().chain(&record.digests).any(|known| known == name);
        self.images.iter().find(|(_, record)| has(record))
    }

    /// Bytes of all layers of an image.
    pub(crate) fn size(&self, record: &ImageRecord) -> u64 {
        record.layers.iter().filter_map(|key| self.layers.get(key)).map(|layer| layer.bytes).sum()
    }

    /// Whether some image is made of the layer.
    pub(crate) fn uses(&self, key: &str) -> bool {
        self.images.values().any(|record| record.layers.iter().any(|used| used == key))
    }
}

/// An empty index if there is no file.
pub(crate) fn read(directory: &Path) -> Result<Index, IndexError> {
    let bytes = match std::fs::read(directory.join(FILE)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Index::default()),
        result => result.map_err(IndexError::Io)?,
    };
    let damaged = |reason: &str| IndexError::Damaged(reason.to_string());
    let newline = bytes.iter().take(256).position(|byte| *byte == b'\n').ok_or_else(|| damaged("no header line"))?;
    let header = std::str::from_utf8(&bytes[..newline]).map_err(|_| damaged("the header is no text"))?;
    let mut fields = header.split(' ');
    if fields.next() != Some(MAGIC) {
        return Err(damaged("it is no image index"));
    }
    let format: u32 = fields.next().and_then(|field| field.parse().ok()).ok_or_else(|| damaged("no format number"))?;
    if format > FORMAT {
        return Err(IndexError::Newer(format));
    }
    let body = &bytes[newline + 1..];
    if fields.nth(1) != Some(Hasher::digest(body).as_str()) {
        return Err(damaged("its checksum is wrong"));
    }
    serde_json::from_slice(body).map_err(|error| IndexError::Damaged(error.to_string()))
}

/// Replaces the file. When this returns, the new index survives a loss of power.
pub(crate) fn write(directory: &Path, index: &Index) -> io::Result<()> {
    let body = serde_json::to_vec(index).map_err(io::Error::other)?;
    let header = format!("{MAGIC} {FORMAT} {} {}\n", env!("CARGO_PKG_VERSION"), Hasher::digest(&body));
    let fresh = directory.join(FRESH);
    let mut file = File::create(&fresh)?;
    file.write_all(header.as_bytes())?;
    file.write_all(&body)?;
    file.sync_all()?;
    std::fs::rename(&fresh, directory.join(FILE))?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first format as the first version wrote it. It must be readable for ever.
    const FORMAT_1: &str = include_str!("../tests/data/index-format-1");

    #[test]
    fn every_released_format_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join(FILE), FORMAT_1).expect("writes");
        let index = read(directory.path()).expect("reads");
        let (id, record) = index.named("docker.io/library/app:1").expect("the image");
        assert_eq!(*id, format!("sha256:{}", "1".repeat(64)));
        assert_eq!((record.imported, record.config.user.as_str(), record.last_used), (true, "1000:1000", 1_767_225_600));
        assert_eq!(index.size(record), 1234);
    }

    #[test]
    fn what_is_written_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(read(directory.path()).expect("none is empty").images.is_empty());
        let mut index = Index::default();
        let record = ImageRecord { names: vec!["a/b:c".into()], layers: vec!["k".into()], ..ImageRecord::default() };
        index.images.insert("sha256:x".into(), Arc::new(record));
        let layer = LayerRecord { id: "sha256:k".into(), bytes: 7, inodes: 1, opaque_root: false };
        index.layers.insert("k".into(), Arc::new(layer));
        write(directory.path(), &index).expect("writes");
        let again = read(directory.path()).expect("reads");
        assert_eq!(again.named("a/b:c").map(|(id, _)| id.as_str()), Some("sha256:x"));
        assert_eq!(again.size(&again.images["sha256:x"]), 7);
    }

    #[test]
    fn strange_files_are_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let refuse = |text: &str| {
            std::fs::write(directory.path().join(FILE), text).expect("writes");
            read(directory.path()).expect_err(text)
        };
        assert!(matches!(refuse("knarr-images 2 9.9.9 sha256:x\n{}"), IndexError::Newer(2)));
        for text in ["", "\n", "other 1 1 x\n{}", "knarr-images x\n", &format!("{FORMAT_1} ")] {
            assert!(matches!(refuse(text), IndexError::Damaged(_)), "{text}");
        }
    }
}
