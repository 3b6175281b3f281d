//! What encrypts values with a key of the configuration, in upstream's layouts.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{self, DecryptionContext, EncryptionContext, PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use crypto_secretbox::XSalsa20Poly1305;
use crypto_secretbox::aead::{AeadInPlace, KeyInit};

/// Encrypts and decrypts. `name` is the key of the object in the store, which some bind the value to.
pub(super) trait Provider: Send + Sync {
    /// The form of a value that is written.
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, String>;
    /// The value of a form that was written.
    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, String>;
    /// Whether a form that can be read was written with the key that writes now.
    fn is_current(&self, _sealed: &[u8]) -> bool {
        true
    }
    /// Grows whenever the key that writes is replaced without a change of the configuration.
    fn generation(&self) -> u64 {
        0
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], String> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| "no random numbers")?;
    Ok(bytes)
}

/// Plain text.
pub(super) struct Identity;

impl Provider for Identity {
    fn seal(&self, _: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        Ok(plain.to_vec())
    }

    fn open(&self, _: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        if sealed.starts_with(b"k8s:enc:") {
            return Err("identity transformer tried to read encrypted data".into());
        }
        Ok(sealed.to_vec())
    }
}

/// AES-GCM: nonce of 12 bytes, text, tag. The value is bound to its name.
pub(super) struct AesGcm(LessSafeKey);

impl AesGcm {
    pub(super) fn new(key: &[u8]) -> Result<AesGcm, String> {
        let algorithm = match key.len() {
            16 => &aead::AES_128_GCM,
            24 => &aead::AES_192_GCM,
            _ => &aead::AES_256_GCM,
        };
        Ok(AesGcm(LessSafeKey::new(UnboundKey::new(algorithm, key).map_err(|_| "the key is unusable")?)))
    }
}

impl Provider for AesGcm {
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: [u8; 12] = random()?;
        let mut text = plain.to_vec();
        let sealing = self.0.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(name), &mut text);
        sealing.map_err(|_| "encryption failed")?;
        Ok([&nonce[..], &text].concat())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, text) = sealed.split_first_chunk::<12>().ok_or("the stored data was shorter than the required size")?;
        let mut text = text.to_vec();
        let opening = self.0.open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(name), &mut text);
        let length = opening.map_err(|_| "message authentication failed")?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// AES-CBC: initial vector of 16 bytes, text padded by PKCS #7. Nothing shows that it was changed.
pub(super) struct AesCbc {
    seal: PaddedBlockEncryptingKey,
    open: PaddedBlockDecryptingKey,
}

impl AesCbc {
    pub(super) fn new(key: &[u8]) -> Result<AesCbc, String> {
        let algorithm = match key.len() {
            16 => &cipher::AES_128,
            24 => &cipher::AES_192,
            _ => &cipher::AES_256,
        };
        let bad = |_| "the key is unusable".to_owned();
        let unbound = || UnboundCipherKey::new(algorithm, key).map_err(bad);
        Ok(AesCbc {
            seal: PaddedBlockEncryptingKey::cbc_pkcs7(unbound()?).map_err(bad)?,
            open: PaddedBlockDecryptingKey::cbc_pkcs7(unbound()?).map_err(bad)?,
        })
    }
}

impl Provider for AesCbc {
    fn seal(&self, _: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let vector: [u8; 16] = random()?;
        let mut text = plain.to_vec();
        let context = EncryptionContext::Iv128(FixedLength::from(vector));
        self.seal.less_safe_encrypt(&mut text, context).map_err(|_| "encryption failed")?;
        Ok([&vector[..], &text].concat())
    }

    fn open(&self, _: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (vector, text) = sealed.split_first_chunk::<16>().ok_or("the stored data was shorter than the required size")?;
        if text.is_empty() || text.len() % 16 != 0 {
            return Err("the stored data is not a multiple of the block size".into());
        }
        let mut text = text.to_vec();
        let context = DecryptionContext::Iv128(FixedLength::from(*vector));
        let length = self.open.decrypt(&mut text, context).map_err(|_| "invalid padding on input")?.len();
        text.truncate(length);
        Ok(text)
    }
}

/// XSalsa20 and Poly1305: nonce of 24 bytes, tag, text.
pub(super) struct SecretBox(XSalsa20Poly1305);

/// Length of the tag.
const TAG: usize = 16;

impl SecretBox {
    pub(super) fn new(key: &[u8]) -> Result<SecretBox, String> {
        Ok(SecretBox(XSalsa20Poly1305::new_from_slice(key).map_err(|_| "the key is unusable")?))
    }
}

impl Provider for SecretBox {
    fn seal(&self, _: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let nonce: [u8; 24] = random()?;
        let mut out = Vec::with_capacity(nonce.len() + TAG + plain.len());
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&[0; TAG]);
        out.extend_from_slice(plain);
        let (head, text) = out.split_at_mut(nonce.len() + TAG);
        let tag = self.0.encrypt_in_place_detached(&nonce.into(), b"", text).map_err(|_| "encryption failed")?;
        head[nonce.len()..].copy_from_slice(&tag);
        Ok(out)
    }

    fn open(&self, _: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let short = "the stored data was shorter than the required size";
        let (nonce, rest) = sealed.split_first_chunk::<24>().ok_or(short)?;
        let (tag, text) = rest.split_first_chunk::<TAG>().ok_or(short)?;
        let mut text = text.to_vec();
        self.0
            .decrypt_in_place_detached(&(*nonce).into(), b"", &mut text, &(*tag).into())
            .map_err(|_| "output array was not large enough for encryption or authentication failed")?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_can_be_opened() {
        let keys: [&[u8]; 3] = [&[1; 16], &[2; 24], &[3; 32]];
        let mut all: Vec<Box<dyn Provider>> = vec![Box::new(SecretBox::new(&[4; 32]).expect("a key"))];
        for key in keys {
            all.push(Box::new(AesGcm::new(key).expect("a key")));
            all.push(Box::new(AesCbc::new(key).expect("a key")));
        }
        for (index, provider) in all.iter().enumerate() {
            for plain in [&b""[..], b"x", b"sixteen bytes ..", &[7; 5000]] {
                let sealed = provider.seal("/registry/secrets/a/b", plain).expect("it seals");
                assert_ne!(sealed, plain);
                assert_eq!(provider.open("/registry/secrets/a/b", &sealed).as_deref(), Ok(plain), "{index}");
                assert!(provider.open("/registry/secrets/a/b", &sealed[..sealed.len() - 1]).is_err(), "{index}");
            }
        }
        let sealed = all[1].seal("/registry/secrets/a/b", b"bound").expect("it seals");
        assert!(all[1].open("/registry/secrets/a/c", &sealed).is_err());
    }
}
