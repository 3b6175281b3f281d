//! Private and public keys, so that nothing else touches key bytes or picks algorithms.
//!
//! New keys are P-256. RSA keys are taken when they come from outside (a cluster made by kubeadm), never made.

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as sig, EcdsaKeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use x509_cert::der::asn1::BitString;
use x509_cert::der::{Decode, Encode};
use x509_cert::spki::{
    self, AlgorithmIdentifierOwned, DynSignatureAlgorithmIdentifier, EncodePublicKey, ObjectIdentifier, SignatureBitStringEncoding,
    SubjectPublicKeyInfoRef,
};

pub(crate) const OID_EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(crate) const OID_RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
pub(crate) const OID_ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const OID_ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const OID_RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");

/// A private key. Cheap to clone.
#[derive(Clone)]
pub struct PrivateKey {
    inner: Arc<Inner>,
}

struct Inner {
    signer: Signer,
    der: PrivateKeyDer<'static>,
    public: PublicKey,
}

enum Signer {
    /// One pair per signature form: ASN.1 for certificates, fixed width for tokens.
    P256 {
        asn1: EcdsaKeyPair,
        fixed: EcdsaKeyPair,
    },
    Rsa(RsaKeyPair),
}

impl PrivateKey {
    /// Makes a new random P-256 key.
    pub fn generate() -> Result<Self, KeyError> {
        let document = EcdsaKeyPair::generate(&sig::ECDSA_P256_SHA256_ASN1_SIGNING)
            .and_then(|pair| pair.to_pkcs8v1())
            .map_err(|_| KeyError::Generate)?;
        Self::from_der(PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(document.as_ref().to_vec())))
    }

    /// Reads a PEM private key (`PRIVATE KEY`, `EC PRIVATE KEY` or `RSA PRIVATE KEY`): P-256 or RSA.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| KeyError::Parse(error.to_string()))?;
        Self::from_der(der)
    }

    fn from_der(der: PrivateKeyDer<'static>) -> Result<Self, KeyError> {
        let bytes = der.secret_der();
        let (signer, public) = match EcdsaKeyPair::from_private_key_der(&sig::ECDSA_P256_SHA256_ASN1_SIGNING, bytes) {
            Ok(asn1) => {
                let fixed = EcdsaKeyPair::from_private_key_der(&sig::ECDSA_P256_SHA256_FIXED_SIGNING, bytes)
                    .map_err(|error| KeyError::Parse(error.to_string()))?;
                let public = x509(asn1.public_key())?;
                (Signer::P256 { asn1, fixed }, public)
            }
            Err(_) => {
                let pair = match &der {
                    PrivateKeyDer::Pkcs1(_) => RsaKeyPair::from_der(bytes),
                    _ => RsaKeyPair::from_pkcs8(bytes),
                }
                .map_err(|_| KeyError::Parse("neither a P-256 nor an RSA private key".into()))?;
                let public = x509(pair.public_key())?;
                (Signer::Rsa(pair), public)
            }
        };
        Ok(Self { inner: Arc::new(Inner { signer, der, public }) })
    }

    /// The key as PEM, in the form in which it was made or read.
    pub fn to_pem(&self) -> String {
        let label = match self.inner.der {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem_block(label, self.inner.der.secret_der())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        self.inner.public.clone()
    }

    /// The JOSE name of the algorithm that `sign_token` uses.
    pub(crate) fn token_algorithm(&self) -> &'static str {
        match self.inner.signer {
            Signer::P256 { .. } => "ES256",
            Signer::Rsa(_) => "RS256",
        }
    }

    /// A signature in the form that JOSE wants.
    pub(crate) fn sign_token(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.inner.signer {
            Signer::P256 { fixed, .. } => {
                let signature = fixed.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Signer::Rsa(pair) => sign_rsa(pair, message),
        }
    }

    fn sign_asn1(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        match &self.inner.signer {
            Signer::P256 { asn1, .. } => {
                let signature = asn1.sign(&SystemRandom::new(), message).map_err(|_| KeyError::Sign)?;
                Ok(signature.as_ref().to_vec())
            }
            Signer::Rsa(pair) => sign_rsa(pair, message),
        }
    }
}

fn sign_rsa(pair: &RsaKeyPair, message: &[u8]) -> Result<Vec<u8>, KeyError> {
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&sig::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(|_| KeyError::Sign)?;
    Ok(signature)
}

fn x509<'a>(key: &impl AsDer<PublicKeyX509Der<'a>>) -> Result<PublicKey, KeyError> {
    let der = key.as_der().map_err(|_| KeyError::Generate)?;
    Ok(PublicKey { der: der.as_ref().to_vec() })
}

/// A signature as x509-cert carries it.
pub(crate) struct SignatureBytes(Vec<u8>);

impl SignatureBitStringEncoding for SignatureBytes {
    fn to_bitstring(&self) -> x509_cert::der::Result<BitString> {
        BitString::from_bytes(&self.0)
    }
}

impl signature::Signer<SignatureBytes> for PrivateKey {
    fn try_sign(&self, message: &[u8]) -> Result<SignatureBytes, signature::Error> {
        self.sign_asn1(message).map(SignatureBytes).map_err(|_| signature::Error::new())
    }
}

impl signature::Keypair for PrivateKey {
    type VerifyingKey = PublicKey;
    fn verifying_key(&self) -> PublicKey {
        self.public()
    }
}

impl DynSignatureAlgorithmIdentifier for PrivateKey {
    fn signature_algorithm_identifier(&self) -> spki::Result<AlgorithmIdentifierOwned> {
        Ok(match self.inner.signer {
            Signer::P256 { .. } => AlgorithmIdentifierOwned { oid: OID_ECDSA_SHA256, parameters: None },
            Signer::Rsa(_) => AlgorithmIdentifierOwned { oid: OID_RSA_SHA256, parameters: Some(x509_cert::der::asn1::Null.into()) },
        })
    }
}

/// A public key in its SubjectPublicKeyInfo DER form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    der: Vec<u8>,
}

impl EncodePublicKey for PublicKey {
    fn to_public_key_der(&self) -> spki::Result<x509_cert::der::Document> {
        Ok(x509_cert::der::Document::try_from(self.der.as_slice())?)
    }
}

impl PublicKey {
    /// Reads a PEM `PUBLIC KEY`, or takes the key out of a `CERTIFICATE` or a private key.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        if let Ok(der) = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()) {
            return Self::from_der(der.as_ref());
        }
        if let Ok(der) = CertificateDer::from_pem_slice(pem.as_bytes()) {
            let certificate = x509_cert::Certificate::from_der(&der).map_err(|error| KeyError::Parse(error.to_string()))?;
            let der = certificate.tbs_certificate().subject_public_key_info().to_der();
            return Self::from_der(&der.map_err(|error| KeyError::Parse(error.to_string()))?);
        }
        PrivateKey::from_pem(pem).map(|key| key.public())
    }

    /// Takes SubjectPublicKeyInfo DER.
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        SubjectPublicKeyInfoRef::try_from(der).map_err(|error| KeyError::Parse(error.to_string()))?;
        Ok(Self { der: der.to_vec() })
    }

    /// The key as PEM.
    pub fn to_pem(&self) -> String {
        pem_block("PUBLIC KEY", &self.der)
    }

    /// SubjectPublicKeyInfo DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The key id that Kubernetes uses in tokens: unpadded base64url of the SHA-256 of the DER.
    pub fn key_id(&self) -> String {
        URL_SAFE_NO_PAD.encode(Sha256::digest(&self.der))
    }

    /// Algorithm of the key, its parameters' OID (the curve), and the key bits.
    pub(crate) fn parts(&self) -> (ObjectIdentifier, Option<ObjectIdentifier>, Vec<u8>) {
        let info = SubjectPublicKeyInfoRef::try_from(self.der.as_slice()).expect("checked when made");
        let curve = info.algorithm.parameters_oid().ok();
        (info.algorithm.oid, curve, info.subject_public_key.raw_bytes().to_vec())
    }

    /// Verifies a token's signature. The algorithm is bound to the kind of key: a token cannot choose it.
    pub(crate) fn verify_token(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        let (oid, _, bits) = self.parts();
        let verification: &'static dyn sig::VerificationAlgorithm = match (oid, algorithm) {
            (OID_EC_PUBLIC_KEY, "ES256") => &sig::ECDSA_P256_SHA256_FIXED,
            (OID_EC_PUBLIC_KEY, "ES384") => &sig::ECDSA_P384_SHA384_FIXED,
            (OID_RSA, "RS256") => &sig::RSA_PKCS1_2048_8192_SHA256,
            (OID_RSA, "RS384") => &sig::RSA_PKCS1_2048_8192_SHA384,
            (OID_RSA, "RS512") => &sig::RSA_PKCS1_2048_8192_SHA512,
            _ => return false,
        };
        UnparsedPublicKey::new(verification, bits).verify(message, signature).is_ok()
    }

    /// Verifies a signature made under an X.509 signature algorithm.
    pub(crate) fn verify_x509(&self, algorithm: ObjectIdentifier, message: &[u8], signature: &[u8]) -> bool {
        let (oid, curve, bits) = self.parts();
        let curve = curve.map(|oid| oid.to_string()).unwrap_or_default();
        let verification: &'static dyn sig::VerificationAlgorithm = match (oid, curve.as_str(), algorithm.to_string().as_str()) {
            (OID_EC_PUBLIC_KEY, P256, "1.2.840.10045.4.3.2") => &sig::ECDSA_P256_SHA256_ASN1,
            (OID_EC_PUBLIC_KEY, P256, "1.2.840.10045.4.3.3") => &sig::ECDSA_P256_SHA384_ASN1,
            (OID_EC_PUBLIC_KEY, P384, "1.2.840.10045.4.3.2") => &sig::ECDSA_P384_SHA256_ASN1,
            (OID_EC_PUBLIC_KEY, P384, "1.2.840.10045.4.3.3") => &sig::ECDSA_P384_SHA384_ASN1,
            (OID_EC_PUBLIC_KEY, P521, "1.2.840.10045.4.3.2") => &sig::ECDSA_P521_SHA256_ASN1,
            (OID_EC_PUBLIC_KEY, P521, "1.2.840.10045.4.3.3") => &sig::ECDSA_P521_SHA384_ASN1,
            (OID_EC_PUBLIC_KEY, P521, "1.2.840.10045.4.3.4") => &sig::ECDSA_P521_SHA512_ASN1,
            (OID_RSA, _, "1.2.840.113549.1.1.11") => &sig::RSA_PKCS1_2048_8192_SHA256,
            (OID_RSA, _, "1.2.840.113549.1.1.12") => &sig::RSA_PKCS1_2048_8192_SHA384,
            (OID_RSA, _, "1.2.840.113549.1.1.13") => &sig::RSA_PKCS1_2048_8192_SHA512,
            (OID_ED25519, _, "1.3.101.112") => &sig::ED25519,
            _ => return false,
        };
        UnparsedPublicKey::new(verification, bits).verify(message, signature).is_ok()
    }
}

pub(crate) const P256: &str = "1.2.840.10045.3.1.7";
pub(crate) const P384: &str = "1.3.132.0.34";
pub(crate) const P521: &str = "1.3.132.0.35";

/// One PEM block.
pub(crate) fn pem_block(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// Why a key could not be made, read or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The random generator or the library refused.
    #[error("cannot generate a key")]
    Generate,
    /// The library refused to sign.
    #[error("cannot sign")]
    Sign,
    /// The text is no PEM, or holds something else.
    #[error("not a usable PEM key: {0}")]
    Parse(String),
}
