//! Encryption at rest: values of chosen resources are sealed on their way to the disk or etcd and opened on their way
//! back, in upstream's formats. In memory everything is plain.
//!
//! The configuration may change while the server runs: new writes use the new first provider. A value that is still
//! sealed otherwise counts as changed, so that writing all objects again, unchanged, finishes a rotation.

mod ciphers;
mod config;
mod kms;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use store::{Cipher, CipherError, Entry, Key, Kind, Revision};

use config::{Keyed, Rule};

/// What `EncryptionConfiguration` says, in force.
pub struct Encryption {
    path: PathBuf,
    content: Vec<u8>,
    state: RwLock<Arc<State>>,
    /// Values that were read and are sealed otherwise than new ones.
    stale: Mutex<HashSet<Key>>,
    /// Everything up to this revision was written before the last change of keys.
    switched: Mutex<Revision>,
}

struct State {
    rules: Vec<Rule>,
    /// Which rule is for a kind, found once.
    by_kind: Mutex<HashMap<Kind, Option<usize>>>,
}

impl State {
    fn new(rules: Vec<Rule>) -> State {
        State { rules, by_kind: Mutex::default() }
    }

    fn rule(&self, kind: &Kind) -> Option<&Rule> {
        let mut by_kind = self.by_kind.lock();
        let index = match by_kind.get(kind) {
            Some(index) => *index,
            None => {
                let (group, plural) = resource(kind);
                let index = self.rules.iter().position(|rule| rule.covers(&group, &plural));
                by_kind.insert(kind.clone(), index);
                index
            }
        };
        index.map(|index| &self.rules[index])
    }

    /// What writes each rule's resources: a change of this makes what is stored old.
    fn writers(&self) -> Vec<(&str, [u8; 32])> {
        self.rules.iter().map(|rule| (rule.providers[0].prefix.as_str(), rule.providers[0].fingerprint)).collect()
    }
}

/// Group and plural of a kind of keys.
fn resource(kind: &Kind) -> (String, String) {
    for def in api::resources::builtin() {
        if api::resources::storage_prefix(&def.group, &def.plural, false) == **kind {
            // Events have two groups over one store; the first listed is the core one.
            return (def.group.to_string(), def.plural.to_string());
        }
    }
    let rest = kind.trim_start_matches("/registry/").trim_end_matches('/');
    match rest.split_once('/') {
        Some((group, plural)) => (group.to_owned(), plural.to_owned()),
        None => (String::new(), rest.to_owned()),
    }
}

impl Encryption {
    /// Reads a configuration.
    ///
    /// # Errors
    /// When the file cannot be read or used.
    pub fn load(path: &Path) -> anyhow::Result<Arc<Encryption>> {
        let fail = |why: String| anyhow::anyhow!("encryption configuration {}: {why}", path.display());
        let content = std::fs::read(path).map_err(|error| fail(error.to_string()))?;
        let rules = config::parse(&content).map_err(fail)?;
        Ok(Arc::new(Encryption {
            path: path.to_owned(),
            content,
            state: RwLock::new(Arc::new(State::new(rules))),
            stale: Mutex::default(),
            switched: Mutex::new(Revision::ZERO),
        }))
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its content at the start.
    pub(crate) fn content(&self) -> &[u8] {
        &self.content
    }

    /// Takes over a changed configuration; everything up to `now` was written before.
    ///
    /// # Errors
    /// What is wrong with it; the old one stays.
    pub(crate) fn reload(&self, content: &[u8], now: Revision) -> Result<(), String> {
        let state = Arc::new(State::new(config::parse(content)?));
        let is_switched = state.writers() != self.state.read().writers();
        *self.state.write() = state;
        if is_switched {
            *self.switched.lock() = now;
        }
        Ok(())
    }

    /// Whether a stored object is sealed otherwise than it would be now; `now` is the newest revision.
    pub(crate) fn is_stale(&self, entry: &Entry, now: Revision) -> bool {
        let state = self.state.read().clone();
        let Some(rule) = state.rule(&entry.key.kind) else { return false };
        let generation = rule.providers[0].provider.generation();
        if rule.generation.swap(generation, Ordering::Relaxed) != generation {
            *self.switched.lock() = now;
        }
        entry.revision <= *self.switched.lock() || self.stale.lock().contains(&entry.key)
    }

    fn mark(&self, key: &Key, is_stale: bool) {
        let mut stale = self.stale.lock();
        if is_stale {
            stale.insert(key.clone());
        } else if !stale.is_empty() {
            stale.remove(key);
        }
    }
}

impl Cipher for Encryption {
    fn seal(&self, key: &Key, plain: &Bytes) -> Result<Bytes, CipherError> {
        let state = self.state.read().clone();
        let Some(rule) = state.rule(&key.kind) else { return Ok(plain.clone()) };
        let Keyed { prefix, provider, .. } = &rule.providers[0];
        self.mark(key, false);
        if prefix.is_empty() {
            return Ok(plain.clone());
        }
        let sealed = provider.seal(&key.to_string(), plain).map_err(CipherError)?;
        Ok(Bytes::from([prefix.as_bytes(), &sealed].concat()))
    }

    fn open(&self, key: &Key, stored: &Bytes) -> Result<Bytes, CipherError> {
        let state = self.state.read().clone();
        let Some(rule) = state.rule(&key.kind) else {
            if stored.starts_with(b"k8s:enc:") {
                return Err(CipherError(format!("{key} is encrypted, but no resource of the encryption configuration covers it")));
            }
            return Ok(stored.clone());
        };
        let name = key.to_string();
        let is_plain = !stored.starts_with(b"k8s:enc:");
        let mut why = format!("{key}: no matching prefix found: no provider of the encryption configuration can read it");
        for (index, keyed) in rule.providers.iter().enumerate() {
            if keyed.prefix.is_empty() != is_plain || !stored.starts_with(keyed.prefix.as_bytes()) {
                continue;
            }
            let sealed = &stored[keyed.prefix.len()..];
            match keyed.provider.open(&name, sealed) {
                Ok(plain) => {
                    self.mark(key, index > 0 || !keyed.provider.is_current(sealed));
                    return Ok(if is_plain { stored.clone() } else { Bytes::from(plain) });
                }
                Err(error) => why = format!("{key}: {error}"),
            }
        }
        Err(CipherError(why))
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Encryption({})", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use serde_json::{Value, json};

    use super::*;

    /// Values that kube-apiserver 1.36 wrote into etcd with these keys: what it wrote, we read.
    #[test]
    fn values_of_upstream_can_be_read() {
        let key = |name: &str, byte: u8| json!({"keys": [{"name": name, "secret": STANDARD.encode([byte; 32])}]});
        let rule = |resource: &str, provider: Value| json!({"resources": [resource], "providers": [provider]});
        let file = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration",
            "resources": [
                rule("secrets", json!({"secretbox": key("box", 1)})),
                rule("configmaps", json!({"aesgcm": key("gcm", 2)})),
                rule("serviceaccounts", json!({"aescbc": key("cbc", 3)})),
            ],
        });
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("encryption.json");
        std::fs::write(&path, file.to_string()).expect("it is written");
        let encryption = Encryption::load(&path).expect("it is good");
        for (kind, name, text, word) in [
            ("/registry/secrets/", "default/s", include_str!("fixtures/secretbox.b64"), &b"hello"[..]),
            ("/registry/configmaps/", "default/m", include_str!("fixtures/aesgcm.b64"), b"hello"),
            ("/registry/serviceaccounts/", "default/sa", include_str!("fixtures/aescbc.b64"), b"ServiceAccount"),
        ] {
            let stored = Bytes::from(STANDARD.decode(text.trim()).expect("base64"));
            let key = Kind::new(kind).key(name);
            let plain = encryption.open(&key, &stored).expect("it can be read");
            assert!(plain.starts_with(b"k8s\0") && plain.windows(word.len()).any(|window| window == word), "{kind}");
            let again = encryption.seal(&key, &plain).expect("it can be sealed");
            assert_ne!(again, stored);
            assert_eq!(encryption.open(&key, &again).expect("it can be read"), plain);
        }
    }
}
