//! etcd as the store of several servers, and what they must share before they can be one cluster: its authorities and keys.
//!
//! # Guarantees
//!
//! * The first server makes authorities and keys and leaves them in etcd; the others take them from there. Two that start at
//!   the same moment agree: who comes second takes what the first one left.
//! * What lies in etcd can be read only with the token of the cluster: AES-256-GCM under a key that PBKDF2 makes of the token.
//! * Keys that a data directory has already are never replaced. Other ones there than in etcd are an error.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pki::{ClusterPki, HotCert, Issued, ServerToken, ServerTrust};
use serde_json::{Value, json};
use store::Cipher;
use store::etcd::{self, Note};

use crate::twins::Upstream;

/// Where authorities and keys lie in etcd, beside the objects.
const KEY: &str = "/knarr/bootstrap";
/// What is shared of the folder of authorities and keys: all that is not made from it.
const SHARED: [(&str, bool); 8] = [
    ("server-ca.crt", false),
    ("server-ca.key", true),
    ("client-ca.crt", false),
    ("client-ca.key", true),
    ("request-header-ca.crt", false),
    ("request-header-ca.key", true),
    ("service-account.pub", false),
    ("service-account.key", true),
];
/// Rounds of PBKDF2.
const ROUNDS: u32 = 600_000;

/// How to open etcd.
///
/// # Errors
/// A file that cannot be used, or an address that is none.
pub fn options(
    members: Vec<String>,
    authority: Option<&Path>,
    pair: (Option<&Path>, Option<&Path>),
    cipher: Arc<dyn Cipher>,
) -> Result<etcd::Options> {
    if let Some(bad) = members.iter().find(|member| !member.starts_with("http://") && !member.starts_with("https://")) {
        bail!("{bad:?} is no address of etcd such as https://10.0.0.1:2379");
    }
    let read = |file: &Path| std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()));
    let secure = members.iter().any(|member| member.starts_with("https://"));
    let mut options = etcd::Options::new(members, client::header::stamp());
    options.cipher = Arc::new(Upstream::new(cipher));
    match authority {
        Some(file) => {
            let cert = match pair {
                (Some(cert), Some(key)) => {
                    let issued = Issued::from_pem(&read(cert)?, &read(key)?).with_context(|| format!("certificate {}", cert.display()))?;
                    let shown = HotCert::new(issued)?;
                    crate::twins::access::follow(cert, key, shown.clone());
                    Some(shown)
                }
                _ => None,
            };
            options.tls = Some(Arc::new(pki::client_config(&ServerTrust::Authorities(vec![read(file)?]), cert.as_ref(), &["h2"])?));
        }
        None if secure => bail!("etcd over https needs the file of its authority"),
        None => {}
    }
    Ok(options)
}

/// Puts the cluster's authorities and keys into the folder, or the folder's into etcd if there are none.
///
/// # Errors
/// Another token, another cluster's keys, and etcd or the folder that cannot be used.
pub async fn share(options: &etcd::Options, token: &str, folder: &Path) -> Result<()> {
    let token =
        ServerToken::parse(token)?.bootstrap().context("--token must be six and sixteen characters of a-z0-9 with a dot between them")?;
    let note = Note::new(options, KEY)?;
    let own = read(folder)?;
    if let Some(sealed) = note.read().await? {
        return take(&sealed, &token.to_text(), own.as_ref(), folder);
    }
    let made = match &own {
        Some(own) => own.clone(),
        None => make(folder)?,
    };
    if note.write(seal(&made, &token.to_text())?).await? {
        return write(folder, &made);
    }
    let sealed = note.read().await?.context("the note about authorities and keys in etcd came and went")?;
    take(&sealed, &token.to_text(), own.as_ref(), folder)
}

type Files = BTreeMap<String, String>;

fn take(sealed: &[u8], token: &str, own: Option<&Files>, folder: &Path) -> Result<()> {
    let files = open(sealed, token)?;
    match own {
        Some(own) if *own == files => Ok(()),
        Some(_) => bail!("{} has authorities and keys of another cluster than etcd", folder.display()),
        None => write(folder, &files),
    }
}

/// Authorities and keys of a new cluster. They are made beside the folder, since those of a server that was faster may be
/// what comes into it.
fn make(folder: &Path) -> Result<Files> {
    let beside = folder.with_extension("new");
    drop(std::fs::remove_dir_all(&beside));
    ClusterPki::load_or_create(&beside)?;
    let files = read(&beside)?.context("authorities and keys were just made")?;
    std::fs::remove_dir_all(&beside).with_context(|| format!("remove {}", beside.display()))?;
    Ok(files)
}

/// The files of a folder; `None` where none of them is there.
fn read(folder: &Path) -> Result<Option<Files>> {
    let mut files = Files::new();
    for (name, _) in SHARED {
        match std::fs::read_to_string(folder.join(name)) {
            Ok(text) => drop(files.insert(name.to_owned(), text)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("read {}", folder.join(name).display())),
        }
    }
    match files.len() {
        0 => Ok(None),
        count if count == SHARED.len() => Ok(Some(files)),
        _ => bail!("{} has some of a cluster's authorities and keys, but not all", folder.display()),
    }
}

fn write(folder: &Path, files: &Files) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o700))?;
    for (name, private) in SHARED {
        let text = files.get(name).with_context(|| format!("etcd has no {name}"))?;
        let path = folder.join(name);
        if private { pki::write_private(&path, text.as_bytes())? } else { pki::write_public(&path, text.as_bytes())? }
    }
    Ok(())
}

fn key(token: &str, salt: &[u8], rounds: u32) -> Result<LessSafeKey> {
    let mut key = [0_u8; 32];
    let rounds = NonZeroU32::new(rounds).context("no rounds")?;
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, rounds, salt, token.as_bytes(), &mut key);
    let key = UnboundKey::new(&AES_256_GCM, &key).map_err(|_| anyhow::anyhow!("the key is unusable"))?;
    Ok(LessSafeKey::new(key))
}

fn seal(files: &Files, token: &str) -> Result<Vec<u8>> {
    let (salt, nonce): ([u8; 16], [u8; 12]) = (rand::random(), rand::random());
    let mut text = serde_json::to_vec(files)?;
    let sealing = key(token, &salt, ROUNDS)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(KEY), &mut text);
    sealing.map_err(|_| anyhow::anyhow!("encryption failed"))?;
    let note = json!({
        "format": 1, "rounds": ROUNDS, "salt": STANDARD.encode(salt), "nonce": STANDARD.encode(nonce), "sealed": STANDARD.encode(text),
    });
    Ok(note.to_string().into_bytes())
}

fn open(sealed: &[u8], token: &str) -> Result<Files> {
    let note: Value = serde_json::from_slice(sealed).context("the note about authorities and keys in etcd cannot be read")?;
    if note["format"] != 1 {
        bail!("authorities and keys in etcd have the format {}, this program knows 1", note["format"]);
    }
    let field = |name: &str| STANDARD.decode(note[name].as_str().unwrap_or("")).with_context(|| format!("the {name} of the note in etcd"));
    let nonce: [u8; 12] = field("nonce")?.try_into().map_err(|_| anyhow::anyhow!("the note in etcd has no nonce"))?;
    let rounds = note["rounds"].as_u64().and_then(|rounds| u32::try_from(rounds).ok()).filter(|rounds| *rounds <= 10 * ROUNDS);
    let key = key(token, &field("salt")?, rounds.context("the note in etcd has no rounds")?)?;
    let mut text = field("sealed")?;
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(KEY), &mut text);
    let Ok(opened) = opened else { bail!("the token is not the one of the cluster in etcd") };
    Ok(serde_json::from_slice(opened)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_back_with_the_token_and_with_no_other() {
        let files: Files = SHARED.iter().map(|(name, _)| ((*name).to_owned(), format!("content of {name}"))).collect();
        let sealed = seal(&files, "abcdef.0123456789abcdef").unwrap();
        assert!(!String::from_utf8_lossy(&sealed).contains("content"));
        assert_eq!(open(&sealed, "abcdef.0123456789abcdef").unwrap(), files);
        assert!(open(&sealed, "abcdef.0123456789abcdee").unwrap_err().to_string().contains("token"));
    }

    #[test]
    fn folders_keep_what_they_have() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("pki");
        assert!(read(&folder).unwrap().is_none());
        let made = make(&folder).unwrap();
        assert!(!folder.exists(), "nothing is there before it is agreed upon");
        let token = "abcdef.0123456789abcdef";
        let sealed = seal(&made, token).unwrap();
        take(&sealed, token, None, &folder).unwrap();
        let first = ClusterPki::load_or_create(&folder).unwrap();
        assert_eq!(read(&folder).unwrap().as_ref(), Some(&made));
        take(&sealed, token, Some(&made), &folder).unwrap();
        let other = make(&folder).unwrap();
        assert!(take(&sealed, token, Some(&other), &folder).is_err());
        assert_eq!(first.server_ca.cert_pem(), made["server-ca.crt"]);
        std::fs::remove_file(folder.join("client-ca.key")).unwrap();
        assert!(read(&folder).is_err());
    }
}
