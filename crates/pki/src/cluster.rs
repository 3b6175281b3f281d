//! The cluster's own authorities and keys in one directory.
//!
//! ```text
//! <dir>/format.json              magic, format number, writer (directory 0700, keys 0600)
//! <dir>/server-ca.{crt,key}      signs API server and kubelet serving certificates; its hash pins join tokens
//! <dir>/client-ca.{crt,key}      signs client certificates: nodes, components, users by CSR
//! <dir>/request-header-ca.{crt,key}   signs the front proxy's client certificate (aggregated APIs)
//! <dir>/service-account.{key,pub}     signs service account tokens
//! <dir>/<name>.{crt,key}         leaves, renewed at two thirds of their life
//! ```

use crate::hot::{Renew, RenewError};
use crate::{
    Authority, HotCert, IssueError, IssueRequest, Issued, KeyError, PrivateKey, San, ServerTrust, Subject, Usage, WriteError, files,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Lifetime of an authority.
const AUTHORITY_LIFETIME: Duration = DAY.saturating_mul(3650);
/// The newest format of the directory that this version knows.
const FORMAT: u64 = 1;
const MAGIC: &str = "knarr-pki";

/// Authorities and keys of one cluster.
pub struct ClusterPki {
    /// Signs serving certificates (API server, kubelets).
    pub server_ca: Authority,
    /// Signs client certificates.
    pub client_ca: Authority,
    /// Signs front-proxy client certificates.
    pub request_header_ca: Authority,
    /// Signs service account tokens.
    pub service_account_key: PrivateKey,
    /// Whom to believe as a kubelet.
    pub kubelets: ServerTrust,
    dir: PathBuf,
    leaf_lifetime: Duration,
}

#[derive(Serialize, Deserialize)]
struct Format {
    magic: String,
    format: u64,
    writer: String,
}

impl ClusterPki {
    /// Opens the directory, making what is missing. An authority is never replaced once it exists.
    pub fn load_or_create(dir: &Path) -> Result<Self, PkiError> {
        files::private_dir(dir)?;
        check_format(dir)?;
        let key_path = dir.join("service-account.key");
        let service_account_key = match read(&key_path)? {
            Some(pem) => PrivateKey::from_pem(&pem),
            None => PrivateKey::generate(),
        }
        .map_err(|source| PkiError::Key { name: "service-account".into(), source })?;
        if !key_path.exists() {
            files::write_public(&dir.join("service-account.pub"), service_account_key.public().to_pem().as_bytes())?;
            files::write_private(&key_path, service_account_key.to_pem().as_bytes())?;
        }
        let server_ca = authority(dir, "server-ca", "knarr-server-ca")?;
        Ok(Self {
            kubelets: ServerTrust::Authorities(vec![server_ca.cert_pem().to_owned()]),
            server_ca,
            client_ca: authority(dir, "client-ca", "knarr-client-ca")?,
            request_header_ca: authority(dir, "request-header-ca", "knarr-request-header-ca")?,
            service_account_key,
            dir: dir.to_owned(),
            leaf_lifetime: DAY * 30,
        })
    }

    /// Authorities and keys that come from elsewhere. There is no directory: nothing can be issued and kept.
    pub fn from_parts(server_ca: Authority, client_ca: Authority, request_header_ca: Authority, service_account_key: PrivateKey) -> Self {
        let kubelets = ServerTrust::Authorities(vec![server_ca.cert_pem().to_owned()]);
        Self { server_ca, client_ca, request_header_ca, service_account_key, kubelets, dir: PathBuf::new(), leaf_lifetime: DAY * 30 }
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lifetime of the leaves that `serving_cert` and `client_cert` issue; 30 days unless set.
    pub fn set_leaf_lifetime(&mut self, lifetime: Duration) {
        self.leaf_lifetime = lifetime;
    }

    /// The serving certificate kept as `<name>.crt`, issued again when expired, due or when the SANs differ.
    /// Run `HotCert::keep_renewed` on it.
    pub fn serving_cert(&self, name: &str, common_name: &str, sans: &[San]) -> Result<Arc<HotCert>, PkiError> {
        let (sans, usages) = serving(sans);
        self.leaf(&self.server_ca, name, Subject::new(common_name, &[]), sans, usages)
    }

    /// Gives a serving certificate of this directory other names, for new connections from now on.
    pub fn rename_serving(&self, cert: &HotCert, name: &str, common_name: &str, sans: &[San]) -> Result<(), PkiError> {
        let (sans, usages) = serving(sans);
        let (issued, renew) = self.issue(&self.server_ca, name, Subject::new(common_name, &[]), sans, usages)?;
        cert.replace_with_renewal(issued, renew).map_err(|source| PkiError::Issue { name: name.to_owned(), source })
    }

    /// The client certificate kept as `<name>.crt`, issued by the client CA.
    pub fn client_cert(&self, name: &str, subject: &Subject) -> Result<Arc<HotCert>, PkiError> {
        let usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth];
        self.leaf(&self.client_ca, name, subject.clone(), Vec::new(), usages)
    }

    /// The front proxy's client certificate (`front-proxy-client`), issued by the request-header CA.
    pub fn front_proxy_cert(&self, common_name: &str) -> Result<Arc<HotCert>, PkiError> {
        let usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ClientAuth];
        let subject = Subject::new(common_name, &[]);
        self.leaf(&self.request_header_ca, "front-proxy-client", subject, Vec::new(), usages)
    }

    fn leaf(
        &self,
        authority: &Authority,
        name: &str,
        subject: Subject,
        sans: Vec<San>,
        usages: Vec<Usage>,
    ) -> Result<Arc<HotCert>, PkiError> {
        let (issued, renew) = self.issue(authority, name, subject, sans, usages)?;
        HotCert::with_renewal(issued, Some(renew)).map_err(|source| PkiError::Issue { name: name.to_owned(), source })
    }

    /// What the files of that name hold, if it is still good, or a new pair; and how to make the next one.
    fn issue(
        &self,
        authority: &Authority,
        name: &str,
        subject: Subject,
        sans: Vec<San>,
        usages: Vec<Usage>,
    ) -> Result<(Issued, Renew), PkiError> {
        let request = IssueRequest { subject, sans, usages, lifetime: self.leaf_lifetime };
        let leaf = Leaf { authority: authority.clone(), request, files: PairFiles::new(&self.dir, name) };
        let issued = match leaf.load()? {
            Some(issued) => issued,
            None => leaf.issue()?,
        };
        Ok((issued, Box::new(move || leaf.issue().map_err(|error| RenewError(chain(&error))))))
    }
}

/// Names as they are compared, and what a certificate for serving is for.
fn serving(sans: &[San]) -> (Vec<San>, Vec<Usage>) {
    let mut sans = sans.to_vec();
    sans.sort();
    sans.dedup();
    (sans, vec![Usage::DigitalSignature, Usage::KeyEncipherment, Usage::ServerAuth])
}

/// An error with its causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// A leaf and how to make it again.
struct Leaf {
    authority: Authority,
    request: IssueRequest,
    files: PairFiles,
}

impl Leaf {
    /// What the files hold, if it is what would be issued now and not yet due.
    fn load(&self) -> Result<Option<Issued>, PkiError> {
        let Some((cert, key)) = self.files.read()? else {
            return Ok(None);
        };
        let Ok(issued) = Issued::from_pem(&cert, &key) else {
            return Ok(None);
        };
        let mut sans = issued.sans().unwrap_or_default();
        sans.sort();
        let good = issued.subject().is_ok_and(|subject| subject == self.request.subject)
            && sans == self.request.sans
            && issued.renew_at() > Timestamp::now()
            && issued.not_before <= Timestamp::now()
            && self.authority.has_signed(&issued.chain[0]);
        Ok(good.then_some(issued))
    }

    fn issue(&self) -> Result<Issued, PkiError> {
        let issued = self.authority.issue(&self.request);
        let issued = issued.map_err(|source| PkiError::Issue { name: self.files.name.clone(), source })?;
        self.files.write(&issued.cert_pem, &issued.key_pem)?;
        Ok(issued)
    }
}

/// The files of a certificate and its key.
struct PairFiles {
    name: String,
    cert: PathBuf,
    key: PathBuf,
}

impl PairFiles {
    fn new(dir: &Path, name: &str) -> Self {
        Self { name: name.to_owned(), cert: dir.join(format!("{name}.crt")), key: dir.join(format!("{name}.key")) }
    }

    /// Both files, or nothing when the certificate is missing.
    fn read(&self) -> Result<Option<(String, String)>, PkiError> {
        let Some(cert) = read(&self.cert)? else {
            return Ok(None);
        };
        match read(&self.key)? {
            Some(key) => Ok(Some((cert, key))),
            None => Err(PkiError::Read { path: self.key.clone(), source: std::io::ErrorKind::NotFound.into() }),
        }
    }

    /// The key first: a certificate on disk always has its key, or a newer one, which `Issued::from_pem` notices.
    fn write(&self, cert: &str, key: &str) -> Result<(), PkiError> {
        files::write_private(&self.key, key.as_bytes())?;
        files::write_public(&self.cert, cert.as_bytes())?;
        Ok(())
    }
}

fn authority(dir: &Path, name: &str, common_name: &str) -> Result<Authority, PkiError> {
    let files = PairFiles::new(dir, name);
    let issue = |source| PkiError::Issue { name: name.to_owned(), source };
    if let Some((cert, key)) = files.read()? {
        return Authority::from_pem(&cert, &key).map_err(issue);
    }
    // The moment of creation in the name keeps two clusters' authorities apart in error messages and browsers.
    let common_name = format!("{common_name}@{}", Timestamp::now().as_second());
    let authority = Authority::create(&common_name, AUTHORITY_LIFETIME).map_err(issue)?;
    files.write(authority.cert_pem(), &authority.key().map_err(issue)?.to_pem())?;
    Ok(authority)
}

fn check_format(dir: &Path) -> Result<(), PkiError> {
    let path = dir.join("format.json");
    let Some(text) = read(&path)? else {
        let writer = format!("v{}", env!("CARGO_PKG_VERSION"));
        let format = Format { magic: MAGIC.into(), format: FORMAT, writer };
        let text = serde_json::to_vec(&format).expect("a struct of strings and numbers");
        return Ok(files::write_public(&path, &text)?);
    };
    match serde_json::from_str::<Format>(&text) {
        Ok(format) if format.magic == MAGIC && format.format <= FORMAT => Ok(()),
        Ok(format) if format.magic == MAGIC => Err(PkiError::TooNew { path, found: format.format, known: FORMAT }),
        _ => Err(PkiError::Foreign { path }),
    }
}

fn read(path: &Path) -> Result<Option<String>, PkiError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Read { path: path.to_owned(), source }),
    }
}

/// Why the directory could not be opened or filled.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write the certificate directory")]
    Write(#[from] WriteError),
    /// Written by a newer version.
    #[error("{path} has format {found}, this version knows up to {known}")]
    TooNew {
        /// Which file.
        path: PathBuf,
        /// Format found.
        found: u64,
        /// Newest known format.
        known: u64,
    },
    /// Not written by us.
    #[error("{path} is not the format file of a certificate directory")]
    Foreign {
        /// Which file.
        path: PathBuf,
    },
    /// A certificate could not be issued or is unreadable.
    #[error("certificate {name}")]
    Issue {
        /// Which certificate.
        name: String,
        /// Why.
        #[source]
        source: IssueError,
    },
    /// A key could not be made or is unreadable.
    #[error("key {name}")]
    Key {
        /// Which key.
        name: String,
        /// Why.
        #[source]
        source: KeyError,
    },
}
