//! Encryption at rest: on disk nothing can be read, in memory everything, and it can be turned on and
//! its key changed while data is there.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use store::embedded::Embedded;
use store::{Cipher, CipherError, Key, OpenError, Store};
use support::{MemoryDisk, content, delete, options, put};

/// Not a cipher that anyone should use, but one that shows whether it was used.
struct Mask {
    /// Newest first; older ones are for reading.
    keys: Vec<u8>,
}

const PREFIX: &[u8] = b"masked:";

impl Cipher for Mask {
    fn seal(&self, _: &Key, plain: &Bytes) -> Result<Bytes, CipherError> {
        let key = self.keys[0];
        let masked = plain.iter().map(|byte| byte ^ key);
        Ok(PREFIX.iter().copied().chain([key]).chain(masked).collect())
    }

    fn open(&self, key: &Key, stored: &Bytes) -> Result<Bytes, CipherError> {
        let Some(masked) = stored.strip_prefix(PREFIX) else {
            return Ok(stored.clone());
        };
        match masked {
            [mask, masked @ ..] if self.keys.contains(mask) => Ok(masked.iter().map(|byte| byte ^ mask).collect()),
            _ => Err(CipherError(format!("no key for {key}"))),
        }
    }
}

fn open(disk: &MemoryDisk, keys: &[u8]) -> Result<Embedded, OpenError> {
    let mut options = options(disk);
    options.snapshot_after = Some(2000);
    if !keys.is_empty() {
        options.cipher = Arc::new(Mask { keys: keys.to_vec() });
    }
    Embedded::open(options)
}

fn readable(disk: &MemoryDisk) -> bool {
    disk.paths().iter().any(|path| disk.read(path).windows(6).any(|bytes| bytes == b"secret"))
}

#[tokio::test]
async fn nothing_can_be_read_on_disk() {
    let disk = MemoryDisk::default();
    let store = open(&disk, &[0x55]).unwrap();
    let mut round = 0;
    while store.metrics().snapshots.get() < 2 {
        store.commit(put(&format!("{}", round % 10), &format!("secret {round}"))).await.unwrap();
        round += 1;
    }
    store.commit(delete("3")).await.unwrap();
    let expected = content(&store);
    assert!(expected[0].contains("secret"));
    drop(store);
    assert!(!readable(&disk));
    assert_eq!(content(&open(&disk, &[0x55]).unwrap()), expected);
    assert!(matches!(open(&disk, &[0x66]), Err(OpenError::Cipher { .. })));
}

#[tokio::test]
async fn it_can_be_turned_on_and_its_key_be_changed() {
    let disk = MemoryDisk::default();
    let mut expected = Vec::new();
    for (life, keys) in [&[][..], &[1], &[2, 1], &[2]].into_iter().enumerate() {
        let store = open(&disk, keys).unwrap();
        assert_eq!(content(&store), expected);
        // Every snapshot writes everything with the newest key; the one before it goes with the next.
        while store.metrics().snapshots.get() < 3 {
            store.commit(put(&format!("{life}"), "secret")).await.unwrap();
        }
        expected = content(&store);
        drop(store);
        assert_eq!(readable(&disk), keys.is_empty());
    }
}
