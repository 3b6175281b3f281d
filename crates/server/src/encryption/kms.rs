//! KMS v2: keys that a plugin behind a unix socket holds. The plugin seals one seed, from which a key for every value is
//! derived, so that a write needs no call.
//!
//! Values are opened and sealed in code that cannot wait, so the calls are made by a thread of their own.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::{aead, hkdf};
use bytes::Bytes;
use grpc::client::{Channel, Manner};
use grpc::messages;
use grpc::wire::Message;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::ciphers::{AesGcm, Provider, random};

/// How often the plugin is asked for its current key, while values are written.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// How long the last key is used when the plugin does not answer.
const TRUST_FOR: Duration = Duration::from_secs(180);
/// Seeds that were opened and are remembered.
const REMEMBERED: usize = 64;
/// Bytes in front of a value, from which its key is derived.
const INFO: usize = 32;

/// Answers of plugins are small.
const MANNER: Manner = Manner { max_message: 1 << 20, ..Manner::LOCAL };

messages! {
    // What stands in the store: sealed text, then what its seed was sealed with. Kind 1 is a seed, 0 the key itself.
    Sealed {
        data: Bytes = 1, key_id: String = 2, source: Bytes = 3, annotations: BTreeMap<String, Bytes> = 4, kind: u64 = 5,
    }
    StatusRequest {}
    StatusResponse { version: String = 1, health: String = 2, key_id: String = 3 }
    EncryptRequest { plain: Bytes = 1, uid: String = 2 }
    EncryptResponse { sealed: Bytes = 1, key_id: String = 2, annotations: BTreeMap<String, Bytes> = 3 }
    DecryptRequest { sealed: Bytes = 1, uid: String = 2, key_id: String = 3, annotations: BTreeMap<String, Bytes> = 4 }
    DecryptResponse { plain: Bytes = 1 }
}

/// Values whose seed the plugin sealed.
pub(super) struct Kms {
    jobs: mpsc::UnboundedSender<Job>,
    timeout: Duration,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    writing: Mutex<Option<Arc<Seed>>>,
    opened: Mutex<HashMap<Vec<u8>, [u8; 32]>>,
    /// How often the plugin has replaced its key.
    replaced: AtomicU64,
}

/// A seed with the form of it that is written beside every value.
struct Seed {
    seed: [u8; 32],
    /// What the stored message says beside its data, which is empty here.
    source: Sealed,
    asked: Instant,
}

enum Job {
    Refresh(Option<std::sync::mpsc::Sender<Result<(), String>>>),
    Open(Sealed, std::sync::mpsc::Sender<Result<Bytes, String>>),
}

impl Kms {
    /// Uses the plugin behind a socket; it is called when first needed.
    pub(super) fn connect(path: &str, timeout: Duration) -> Result<Kms, String> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let worker = Worker { channel: Channel::socket_with(path, MANNER), shared: shared.clone(), timeout };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime of one thread can be made").block_on(worker.run(queue));
        };
        std::thread::Builder::new().name("kms".into()).spawn(run).map_err(|error| error.to_string())?;
        Ok(Kms { jobs, timeout, shared })
    }

    fn ask<T>(&self, job: impl FnOnce(std::sync::mpsc::Sender<Result<T, String>>) -> Job) -> Result<T, String> {
        let (reply, answer) = std::sync::mpsc::channel();
        let ended = |_| "the KMS thread has ended".to_owned();
        self.jobs.send(job(reply)).map_err(|error| ended(error.to_string()))?;
        // A refresh makes two calls.
        answer
            .recv_timeout(self.timeout * 2 + Duration::from_secs(1))
            .map_err(|error| format!("the KMS plugin does not answer: {error}"))?
    }

    fn writing(&self) -> Result<Arc<Seed>, String> {
        let current = self.shared.writing.lock().clone();
        match current {
            Some(seed) if seed.asked.elapsed() < ASK_EVERY => Ok(seed),
            Some(seed) if seed.asked.elapsed() < TRUST_FOR => {
                self.jobs.send(Job::Refresh(None)).ok();
                Ok(seed)
            }
            _ => {
                self.ask(|reply| Job::Refresh(Some(reply)))?;
                self.shared.writing.lock().clone().ok_or_else(|| "the KMS plugin gave no key".into())
            }
        }
    }

    fn seed_of(&self, source: &Sealed) -> Result<[u8; 32], String> {
        let name = source.to_bytes();
        if let Some(seed) = self.shared.opened.lock().get(&name) {
            return Ok(*seed);
        }
        let bytes = self.ask(|reply| Job::Open(source.clone(), reply))?;
        let seed: [u8; 32] = bytes[..].try_into().map_err(|_| "the seed has the wrong length")?;
        self.shared.remember(name, seed);
        Ok(seed)
    }
}

impl Shared {
    fn remember(&self, name: Vec<u8>, seed: [u8; 32]) {
        let mut opened = self.opened.lock();
        if opened.len() >= REMEMBERED {
            opened.clear();
        }
        opened.insert(name, seed);
    }
}

impl Provider for Kms {
    fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, String> {
        let seed = self.writing()?;
        let info: [u8; INFO] = random()?;
        let text = AesGcm::new(&derived(&seed.seed, &info)?)?.seal(name, plain)?;
        let data = Bytes::from([&info[..], &text].concat());
        Ok(Sealed { data, ..seed.source.clone() }.to_bytes())
    }

    fn open(&self, name: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let (data, source) = read(sealed)?;
        // The current key tells which values are sealed with an old one; whoever only reads can do without.
        if self.shared.writing.lock().is_none() {
            self.writing().ok();
        }
        let seed = self.seed_of(&source)?;
        if source.kind == 0 {
            return AesGcm::new(&seed)?.open(name, &data);
        }
        let (info, text) = data.split_at_checked(INFO).ok_or("the stored data was shorter than the required size")?;
        AesGcm::new(&derived(&seed, info)?)?.open(name, text)
    }

    fn is_current(&self, sealed: &[u8]) -> bool {
        let current = self.shared.writing.lock().clone();
        match (read(sealed), current) {
            (Ok((_, source)), Some(seed)) => source.kind == 1 && source.key_id == seed.source.key_id,
            _ => true,
        }
    }

    fn generation(&self) -> u64 {
        // Whoever asks will ask again: a plugin that was not asked for long is, without anybody waiting.
        if self.shared.writing.lock().as_ref().is_some_and(|seed| seed.asked.elapsed() >= ASK_EVERY) {
            self.jobs.send(Job::Refresh(None)).ok();
        }
        self.shared.replaced.load(Ordering::Relaxed)
    }
}

/// Sealed text, and what its seed was sealed with.
fn read(sealed: &[u8]) -> Result<(Bytes, Sealed), String> {
    let mut source = Sealed::read(Bytes::copy_from_slice(sealed)).map_err(|error| error.to_string())?;
    Ok((std::mem::take(&mut source.data), source))
}

/// The key of one value.
fn derived(seed: &[u8], info: &[u8]) -> Result<[u8; 32], String> {
    let failed = |_| "the key cannot be derived".to_owned();
    let info = [info];
    let key = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, seed);
    let key = key.expand(&info, &aead::AES_256_GCM).map_err(failed)?;
    let mut bytes = [0; 32];
    key.fill(&mut bytes).map_err(failed)?;
    Ok(bytes)
}

struct Worker {
    channel: Channel,
    shared: Arc<Shared>,
    timeout: Duration,
}

impl Worker {
    async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = jobs.recv().await {
            match job {
                Job::Refresh(reply) => {
                    let result = self.refresh().await;
                    if let Err(why) = &result {
                        tracing::warn!(%why, "the KMS plugin could not be asked for its key");
                    }
                    if let Some(reply) = reply {
                        reply.send(result).ok();
                    }
                }
                Job::Open(source, reply) => {
                    reply.send(self.open(source).await).ok();
                }
            }
        }
    }

    async fn call<M: Message>(&self, method: &str, request: &impl Message) -> Result<M, String> {
        let answer = self.channel.call(&format!("/v2.KeyManagementService/{method}"), request, Some(self.timeout)).await;
        answer.map_err(|failure| format!("KMS {method}: code {}: {failure}", failure.code.number()))
    }

    /// Asks for the current key; a new one gets a new seed.
    async fn refresh(&self) -> Result<(), String> {
        let current = self.shared.writing.lock().clone();
        if current.as_ref().is_some_and(|seed| seed.asked.elapsed() < ASK_EVERY) {
            return Ok(());
        }
        let StatusResponse { version, health, key_id } = self.call("Status", &StatusRequest {}).await?;
        if health != "ok" || !matches!(version.as_str(), "v2" | "v2beta1") || key_id.is_empty() {
            return Err(format!("status is {health:?}, version {version:?}, key {key_id:?}"));
        }
        let asked = Instant::now();
        let had_one = current.is_some();
        let kept = current.filter(|seed| seed.source.key_id == key_id);
        let (seed, source) = match kept {
            Some(kept) => (kept.seed, kept.source.clone()),
            None => {
                let new = self.new_seed().await?;
                self.shared.replaced.fetch_add(u64::from(had_one), Ordering::Relaxed);
                new
            }
        };
        self.shared.remember(source.to_bytes(), seed);
        *self.shared.writing.lock() = Some(Arc::new(Seed { seed, source, asked }));
        Ok(())
    }

    async fn new_seed(&self) -> Result<([u8; 32], Sealed), String> {
        let seed: [u8; 32] = random()?;
        let uid = uuid::Uuid::new_v4().to_string();
        let answer = self.call("Encrypt", &EncryptRequest { plain: Bytes::copy_from_slice(&seed), uid }).await?;
        let EncryptResponse { sealed, key_id, annotations } = answer;
        if sealed.is_empty() || sealed.len() > 1024 || key_id.is_empty() || key_id.len() > 1024 {
            return Err("KMS Encrypt: ciphertext and key id must have between 1 and 1024 bytes".into());
        }
        Ok((seed, Sealed { data: Bytes::new(), key_id, source: sealed, annotations, kind: 1 }))
    }

    async fn open(&self, source: Sealed) -> Result<Bytes, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let request = DecryptRequest { sealed: source.source, uid, key_id: source.key_id, annotations: source.annotations };
        let DecryptResponse { plain } = self.call("Decrypt", &request).await?;
        if plain.is_empty() {
            return Err("KMS Decrypt: no plain text".into());
        }
        Ok(plain)
    }
}
