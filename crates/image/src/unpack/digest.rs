//! SHA-256 as images write it, over bytes that pass by.

use std::io::{self, Read};

use super::tar::Skip;
use aws_lc_rs::digest::{Context, SHA256};

/// A running digest.
pub(crate) struct Hasher(Context);

impl Hasher {
    pub(crate) fn new() -> Hasher {
        Hasher(Context::new(&SHA256))
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// `sha256:<hex>`.
    pub(crate) fn finish(self) -> String {
        let digest = self.0.finish();
        let mut text = String::with_capacity(71);
        text.push_str("sha256:");
        for byte in digest.as_ref() {
            for digit in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(digit), 16).expect("four bits are a hexadecimal digit"));
            }
        }
        text
    }

    /// `sha256:<hex>` of the bytes.
    pub(crate) fn digest(bytes: &[u8]) -> String {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

/// Hashes what is read through it.
pub(crate) struct HashingReader<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> HashingReader<R> {
    pub(crate) fn new(input: R) -> HashingReader<R> {
        HashingReader { input, hasher: Hasher::new() }
    }

    pub(crate) fn finish(self) -> String {
        self.hasher.finish()
    }
}

/// Every byte counts, so there is no faster way.
impl<R: Read> Skip for HashingReader<R> {}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let got = self.input.read(buffer)?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}
