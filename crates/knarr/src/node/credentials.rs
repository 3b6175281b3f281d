//! A node's certificates: kept in its data directory, asked for by certificate requests, renewed while they are used.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::{Change, Client, ListWatch, ResourceId, Selection};
use futures_util::StreamExt;
use http::Method;
use jiff::Timestamp;
use pki::{HotCert, Issued, PrivateKey, San, Subject, build_csr};
use serde_json::{Value, json};

const REQUESTS: ResourceId = ResourceId::new("certificates.k8s.io", "v1", "certificatesigningrequests");
/// After this long without a decision the log says what is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits between attempts to renew.
const PAUSES: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(600);

/// One certificate of a node.
#[derive(Clone)]
pub struct Wanted {
    /// Who signs it.
    pub signer: &'static str,
    /// What it is for: `client auth` or `server auth`.
    pub usage: &'static str,
    /// Whose it is.
    pub subject: Subject,
    /// Names and addresses.
    pub sans: Vec<San>,
    /// Certificate and key in one file, so that they are always replaced together.
    pub file: PathBuf,
}

impl Wanted {
    /// The certificate with which a node calls the API.
    pub fn client(node: &str, dir: &Path) -> Wanted {
        Wanted {
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            usage: "client auth",
            subject: subject(node),
            sans: Vec::new(),
            file: dir.join("client.pem"),
        }
    }

    /// The certificate that a node's kubelet serves with.
    pub fn serving(node: &str, addresses: &[std::net::IpAddr], dir: &Path) -> Wanted {
        let mut sans = vec![San::Dns(node.to_owned())];
        sans.extend(addresses.iter().copied().map(San::Ip));
        sans.sort();
        Wanted {
            signer: "kubernetes.io/kubelet-serving",
            usage: "server auth",
            subject: subject(node),
            sans,
            file: dir.join("serving.pem"),
        }
    }

    /// The stored pair, if it is still what is wanted and valid.
    pub fn load(&self) -> Option<Issued> {
        let text = std::fs::read_to_string(&self.file).ok()?;
        // The key is the last block, as it was written.
        let (chain, key) = text.split_at(text.rfind("-----BEGIN ")?);
        let issued = Issued::from_pem(chain, key).ok()?;
        let mut sans = issued.sans().ok()?;
        sans.sort();
        let wanted = issued.subject().ok()? == self.subject && sans == self.sans && issued.not_after > Timestamp::now();
        wanted.then_some(issued)
    }

    /// Asks for a new pair, waits until it is issued and stores it.
    ///
    /// # Errors
    /// The request is denied or fails, or the server cannot be reached.
    pub async fn request(&self, client: &Client) -> Result<Issued> {
        let key = PrivateKey::generate()?;
        let pem = build_csr(&key, &self.subject, &self.sans)?;
        let request = json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"generateName": "csr-"},
            "spec": {"request": STANDARD.encode(pem), "signerName": self.signer, "usages": ["digital signature", self.usage]},
        });
        let made = client.call(Method::POST, &REQUESTS.collection_path(""), &request).await.context("ask for a certificate")?;
        let name = made["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let certificate = self.issued(client, &name).await.with_context(|| format!("certificate request {name}"))?;
        let issued = Issued::from_pem(&certificate, &key.to_pem())?;
        pki::write_private(&self.file, format!("{}{}", issued.cert_pem, issued.key_pem).as_bytes())?;
        Ok(issued)
    }

    /// The certificate of a request, once somebody approved it and somebody signed it.
    async fn issued(&self, client: &Client, name: &str) -> Result<String> {
        let waiting = follow(client, name);
        tokio::pin!(waiting);
        if let Ok(decided) = tokio::time::timeout(PATIENCE, &mut waiting).await {
            return decided;
        }
        tracing::warn!(
            request = name,
            signer = self.signer,
            "certificate request is neither approved nor denied yet (kubectl certificate approve)"
        );
        waiting.await
    }

    /// The stored pair, or a new one.
    ///
    /// # Errors
    /// As for [`Wanted::request`].
    pub async fn obtain(&self, client: &Client) -> Result<Arc<HotCert>> {
        let issued = match self.load() {
            Some(issued) => issued,
            None => self.request(client).await?,
        };
        Ok(HotCert::new(issued)?)
    }

    /// Renews a certificate for ever, and tells after each replacement.
    pub async fn keep_renewed(self, cert: Arc<HotCert>, client: Client, replaced: impl Fn()) -> Result<()> {
        let mut pause = *PAUSES.start();
        loop {
            cert.renewal_due().await;
            let renewed = self.request(&client).await.and_then(|issued| {
                let until = issued.not_after;
                cert.replace(issued)?;
                Ok(until)
            });
            match renewed {
                Ok(until) => {
                    tracing::info!(%until, signer = self.signer, "certificate renewed");
                    replaced();
                    pause = *PAUSES.start();
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        signer = self.signer,
                        "certificate not renewed, trying again in {pause:?}"
                    );
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(*PAUSES.end());
                }
            }
        }
    }
}

/// Keeps a kubelet's serving certificate on the node's address: a new one is asked for when that changes.
///
/// # Errors
/// Addresses are not told, or a request was refused.
pub async fn follow_address(name: String, dir: PathBuf, cert: Arc<HotCert>, client: Client, mut wanted: Wanted) -> Result<()> {
    let (mut addresses, mut now) = net::AddressWatch::open()?;
    loop {
        // A machine without an address keeps its last one, as its node does.
        if let Some(ip) = now.as_ref().and_then(super::primary) {
            wanted = Wanted::serving(&name, &[ip], &dir);
        }
        let kept = async {
            let issued = match wanted.load() {
                Some(issued) => issued,
                None => wanted.request(&client).await.context("get a serving certificate for the node's address")?,
            };
            cert.replace(issued)?;
            wanted.clone().keep_renewed(cert.clone(), client.clone(), || ()).await
        };
        tokio::select! {
            ended = kept => return ended,
            changed = addresses.changed() => now = changed?,
        }
    }
}

fn subject(node: &str) -> Subject {
    Subject::new(format!("system:node:{node}"), &["system:nodes"])
}

async fn follow(client: &Client, name: &str) -> Result<String> {
    let selection = Selection::all(REQUESTS).with_fields(format!("metadata.name={name}"));
    loop {
        let ListWatch { initial, mut changes, .. } = client.list_watch(selection.clone()).await?;
        let Some(first) = initial.into_iter().next() else { bail!("was deleted") };
        let mut entry = first;
        loop {
            if let Some(certificate) = decided(&entry.bytes)? {
                return Ok(certificate);
            }
            match changes.next().await {
                Some(Ok(Change::Put(next))) => entry = next,
                Some(Ok(Change::Deleted(_))) => bail!("was deleted"),
                Some(Ok(Change::Progress(_))) => {}
                // The watch is over; the list says what was missed.
                Some(Err(_)) | None => break,
            }
        }
    }
}

fn decided(bytes: &[u8]) -> Result<Option<String>> {
    let request: Value = serde_json::from_slice(bytes)?;
    let conditions = request["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if let Some(condition) = conditions.iter().find(|condition| condition["type"] == "Denied" || condition["type"] == "Failed") {
        let text = |field: &str| condition[field].as_str().unwrap_or("").to_owned();
        return Err(anyhow!("{}: {}", text("type").to_lowercase(), text("message")));
    }
    let Some(certificate) = request["status"]["certificate"].as_str().filter(|text| !text.is_empty()) else { return Ok(None) };
    Ok(Some(String::from_utf8(STANDARD.decode(certificate)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_in_a_certificate_or_a_refusal() {
        let condition = |kind: &str| json!({"status": {"conditions": [{"type": kind, "message": "because"}]}});
        let cases = [
            (json!({}), Ok(None)),
            (condition("Approved"), Ok(None)),
            (condition("Denied"), Err("denied: because".to_owned())),
            (condition("Failed"), Err("failed: because".to_owned())),
            (json!({"status": {"certificate": STANDARD.encode("PEM")}}), Ok(Some("PEM".to_owned()))),
        ];
        for (request, expected) in cases {
            let found = decided(request.to_string().as_bytes()).map_err(|error| error.to_string());
            assert_eq!(found, expected, "{request}");
        }
    }
}
