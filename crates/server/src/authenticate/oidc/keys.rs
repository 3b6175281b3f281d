//! The keys of an issuer: found by discovery, fetched when a token names one that is not known, and used to verify.

use std::time::{Duration, Instant};

use aws_lc_rs::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::remote::Remote;

/// How long one fetch may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// An issuer is not asked more often than this, however many tokens name unknown keys.
const AGAIN: Duration = Duration::from_secs(10);
/// Where the document of an issuer is.
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Algorithms that are accepted unless flags say which.
pub(super) const ALGORITHMS: [&str; 9] = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512"];

/// The keys of one issuer.
pub(super) struct Keys {
    issuer: String,
    discovery: String,
    authority: Option<String>,
    known: tokio::sync::Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: Vec<Value>,
    fetched: Option<Instant>,
}

/// A token in its parts.
pub(super) struct Token<'a> {
    signed: &'a str,
    signature: Vec<u8>,
    algorithm: String,
    key_id: String,
    /// What it says.
    pub(super) claims: Value,
}

impl<'a> Token<'a> {
    /// Takes a token apart; none for what is no signed token.
    pub(super) fn parse(text: &'a str) -> Option<Token<'a>> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = json(header)?;
        Some(Token {
            signed,
            signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
            algorithm: header["alg"].as_str()?.to_owned(),
            key_id: header["kid"].as_str().unwrap_or("").to_owned(),
            claims: json(claims).filter(Value::is_object)?,
        })
    }
}

impl Keys {
    pub(super) fn new(issuer: &str, discovery_url: Option<&str>, authority: &str) -> Keys {
        let discovery = discovery_url.map_or_else(|| format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')), str::to_owned);
        let authority = Some(authority).filter(|pem| !pem.trim().is_empty()).map(str::to_owned);
        Keys { issuer: issuer.to_owned(), discovery, authority, known: tokio::sync::Mutex::default() }
    }

    /// Whether a token was signed by the issuer with one of these algorithms.
    ///
    /// # Errors
    /// Why not.
    pub(super) async fn verify(&self, token: &Token<'_>, algorithms: &[String]) -> Result<(), String> {
        let is_accepted =
            if algorithms.is_empty() { ALGORITHMS.contains(&token.algorithm.as_str()) } else { algorithms.contains(&token.algorithm) };
        if !is_accepted {
            return Err(format!("id token signed with unsupported algorithm {:?}", token.algorithm));
        }
        let mut known = self.known.lock().await;
        if known.keys.iter().any(|key| is_signed(token, key)) {
            return Ok(());
        }
        if known.fetched.is_some_and(|at| at.elapsed() < AGAIN) {
            return Err("failed to verify id token signature".into());
        }
        known.fetched = Some(Instant::now());
        known.keys = self.fetch().await?;
        if known.keys.iter().any(|key| is_signed(token, key)) { Ok(()) } else { Err("failed to verify id token signature".into()) }
    }

    async fn fetch(&self) -> Result<Vec<Value>, String> {
        let document = self.get(&self.discovery).await?;
        if document["issuer"] != self.issuer.as_str() {
            return Err(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.issuer, document["issuer"]
            ));
        }
        let url = document["jwks_uri"].as_str().filter(|url| !url.is_empty()).ok_or("provider did not return JWKS URL")?;
        let keys = self.get(url).await?;
        Ok(keys["keys"].as_array().cloned().unwrap_or_default())
    }

    async fn get(&self, url: &str) -> Result<Value, String> {
        let (code, body) = Remote::new(url, self.authority.as_deref())?.get(PATIENCE).await?;
        if code != 200 {
            return Err(format!("Get {url:?}: code {code}"));
        }
        serde_json::from_slice(&body).map_err(|error| format!("Get {url:?}: {error}"))
    }
}

/// Whether a key of a key set signed the token.
fn is_signed(token: &Token<'_>, key: &Value) -> bool {
    let text = |field: &str| key[field].as_str().unwrap_or("");
    let number = |field: &str| URL_SAFE_NO_PAD.decode(text(field).trim_end_matches('=')).unwrap_or_default();
    let fits = (token.key_id.is_empty() || text("kid") == token.key_id)
        && matches!(text("use"), "" | "sig")
        && (text("alg").is_empty() || text("alg") == token.algorithm);
    if !fits {
        return false;
    }
    let message = token.signed.as_bytes();
    let rsa = |parameters: &'static signature::RsaParameters| {
        let strip = |mut bytes: Vec<u8>| {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes.drain(..zeros);
            bytes
        };
        let components = RsaPublicKeyComponents { n: strip(number("n")), e: strip(number("e")) };
        text("kty") == "RSA" && components.verify(parameters, message, &token.signature).is_ok()
    };
    let curve = |algorithm: &'static signature::EcdsaVerificationAlgorithm, name: &str, size: usize| {
        let pad = |bytes: Vec<u8>| [vec![0; size.saturating_sub(bytes.len())], bytes].concat();
        let point = [vec![4], pad(number("x")), pad(number("y"))].concat();
        text("kty") == "EC" && text("crv") == name && UnparsedPublicKey::new(algorithm, point).verify(message, &token.signature).is_ok()
    };
    match token.algorithm.as_str() {
        "RS256" => rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        "RS384" => rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        "RS512" => rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        "PS256" => rsa(&signature::RSA_PSS_2048_8192_SHA256),
        "PS384" => rsa(&signature::RSA_PSS_2048_8192_SHA384),
        "PS512" => rsa(&signature::RSA_PSS_2048_8192_SHA512),
        "ES256" => curve(&signature::ECDSA_P256_SHA256_FIXED, "P-256", 32),
        "ES384" => curve(&signature::ECDSA_P384_SHA384_FIXED, "P-384", 48),
        "ES512" => curve(&signature::ECDSA_P521_SHA512_FIXED, "P-521", 66),
        _ => false,
    }
}
