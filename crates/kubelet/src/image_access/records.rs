//! What is written down of pulls, in the kubelet's own form: one file for each pull under way, one for each image that was pulled.
//! A file is exchanged as a whole, so that a node that is killed finds the old or the new one.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use image::{Image, Reference};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const VERSION: &str = "kubelet.config.k8s.io/v1beta1";
/// Secrets of a record beyond which none is added for having been shown only.
pub const MOST: usize = 100;

/// What an image was pulled with under one name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Credentials {
    /// Pull secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<SecretUse>,
    /// Service accounts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_service_accounts: Vec<AccountUse>,
    /// Nothing that belongs to anybody: all pods of the node may use the image.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
}

/// A pull secret, with a hash of what it held.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SecretUse {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// What stands for the credential.
    pub credential_hash: String,
}

/// A service account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AccountUse {
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Pulled {
    kind: String,
    api_version: String,
    last_updated_time: Option<Timestamp>,
    image_ref: String,
    credential_mapping: BTreeMap<String, Credentials>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Pulling {
    kind: String,
    api_version: String,
    image: String,
}

/// What is known of an image.
pub struct Known {
    /// This node pulled it, or began to.
    pub pulled_here: bool,
    /// What it was pulled with under the asked name.
    pub credentials: Option<Credentials>,
}

/// All records of a node.
pub struct Records {
    pulled: PathBuf,
    pulling: PathBuf,
    /// Pulls under way by image. Whoever holds the lock may change files.
    running: Mutex<HashMap<String, usize>>,
}

/// A pull under way. Left without a word it stays written down, since nobody knows what came of it.
#[must_use = "a pull ends with `pulled` or `failed`"]
pub struct Intent {
    records: Arc<Records>,
    reference: Reference,
}

impl SecretUse {
    /// Whether both are one object, whatever it holds.
    pub fn same_object(&self, other: &SecretUse) -> bool {
        (&self.uid, &self.namespace, &self.name) == (&other.uid, &other.namespace, &other.name)
    }
}

impl Credentials {
    /// Nobody's.
    pub fn is_empty(&self) -> bool {
        self.kubernetes_secrets.is_empty() && self.kubernetes_service_accounts.is_empty() && !self.node_pods_accessible
    }

    /// Adds others; what everybody may use says no more than that.
    fn add(&mut self, more: &Credentials) {
        if self.node_pods_accessible || more.node_pods_accessible {
            *self = Credentials { node_pods_accessible: true, ..Credentials::default() };
            return;
        }
        for secret in &more.kubernetes_secrets {
            self.kubernetes_secrets.retain(|known| !known.same_object(secret));
            self.kubernetes_secrets.push(secret.clone());
        }
        for account in &more.kubernetes_service_accounts {
            if !self.kubernetes_service_accounts.contains(account) {
                self.kubernetes_service_accounts.push(account.clone());
            }
        }
    }
}

impl Intent {
    /// The image is here, pulled with this.
    pub fn pulled(self, id: &str, source: &super::Source) {
        // Without a record the intent stays, so that the image is verified.
        if self.records.add(&self.reference, id, Some(&source.credentials())) {
            self.failed();
        }
    }

    /// No image came of it.
    pub fn failed(self) {
        let name = self.reference.to_string();
        let mut running = self.records.running.lock();
        let left = running.get_mut(&name).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            running.remove(&name);
            remove(&file(&self.records.pulling, &name));
        }
    }
}

impl Records {
    /// Records below this folder.
    pub fn open(folder: &Path) -> io::Result<Records> {
        let records = Records { pulled: folder.join("pulled"), pulling: folder.join("pulling"), running: Mutex::default() };
        for folder in [&records.pulled, &records.pulling] {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(records)
    }

    /// What is known of an image that is here.
    pub fn of(&self, reference: &Reference, id: &str) -> io::Result<Known> {
        let running = self.running.lock();
        let pulled: Option<Pulled> = read(&file(&self.pulled, id))?;
        let name = reference.to_string();
        let pulled_here = match &pulled {
            Some(_) => true,
            None => running.contains_key(&name) || file(&self.pulling, &name).try_exists()?,
        };
        Ok(Known { pulled_here, credentials: pulled.and_then(|mut record| record.credential_mapping.remove(&reference.repository())) })
    }

    /// Writes down that a pull begins.
    pub fn intend(records: &Arc<Records>, reference: &Reference) -> io::Result<Intent> {
        let name = reference.to_string();
        let mut running = records.running.lock();
        let pulling = Pulling { kind: "ImagePullIntent".into(), api_version: VERSION.into(), image: name.clone() };
        write(&file(&records.pulling, &name), &pulling)?;
        *running.entry(name).or_default() += 1;
        Ok(Intent { records: records.clone(), reference: reference.clone() })
    }

    /// Adds to the record of an image; nothing known says that it was pulled and that nobody knows how. False if it could not be
    /// written.
    pub fn add(&self, reference: &Reference, id: &str, more: Option<&Credentials>) -> bool {
        let _changing = self.running.lock();
        let path = file(&self.pulled, id);
        // One that cannot be read is no record: what it said has to be verified again.
        let old: Option<Pulled> = read(&path).unwrap_or_default();
        let mut record = old.clone().unwrap_or_default();
        (record.kind, record.api_version, record.image_ref) = ("ImagePulledRecord".into(), VERSION.into(), id.to_owned());
        if let Some(more) = more {
            record.credential_mapping.entry(reference.repository()).or_default().add(more);
        }
        if old.as_ref() == Some(&record) {
            return true;
        }
        record.last_updated_time = Timestamp::from_second(Timestamp::now().as_second()).ok();
        let written = write(&path, &record);
        if let Err(error) = &written {
            tracing::error!(image = %reference, %error, "what an image was pulled with was not written down");
        }
        written.is_ok()
    }

    /// Makes records of what an earlier run began and did not see the end of, where the image is here.
    pub fn settle(&self, images: &[Image]) {
        for path in files(&self.pulling) {
            let Ok(Some(pulling)) = read::<Pulling>(&path) else { continue };
            let Ok(reference) = Reference::parse(&pulling.image) else { continue };
            let named = |image: &&Image| image.names.iter().chain(&image.digests).any(|name| *name == pulling.image);
            if images.iter().find(named).is_none_or(|image| self.add(&reference, &image.id, None)) {
                remove(&path);
            }
        }
    }

    /// Removes records of images that were not here at that time. What was written since then may be of one that came since.
    pub fn forget_others(&self, images: &[Image], at: SystemTime) {
        let _changing = self.running.lock();
        let known: HashSet<PathBuf> = images.iter().map(|image| file(&self.pulled, &image.id)).collect();
        // Times of files are a little behind.
        let old = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).is_ok_and(|time| time + Duration::from_secs(1) < at);
        files(&self.pulled).iter().filter(|path| !known.contains(*path) && old(path)).for_each(|path| remove(path));
    }
}

/// Text of bytes.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("sha256-{}", hex(&Sha256::digest(name))))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(path: &Path, record: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(record)?)?;
    std::fs::rename(&new, path)
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a record of a pull stays");
    }
}
