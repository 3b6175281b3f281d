//! Certificates and authorities that somebody else keeps in files, and renews there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pki::{HotCert, Issued};
use tokio_util::sync::CancellationToken;

use crate::authenticate::Trust;
use crate::bootstrap;
use crate::reload::Reloads;
use crate::server::Server;

/// A certificate and its key.
pub type PairFiles = Option<(PathBuf, PathBuf)>;

/// The files of a server that are followed. What was not given in a file is none.
#[derive(Debug, Default)]
pub struct CertificateFiles {
    /// What the server shows to its callers.
    pub serving: PairFiles,
    /// What it shows to kubelets.
    pub kubelet_client: PairFiles,
    /// What it shows to the API servers behind it.
    pub front_proxy: PairFiles,
    /// Who vouches for clients.
    pub client_authorities: Option<PathBuf>,
    /// Who vouches for front proxies.
    pub proxy_authorities: Option<PathBuf>,
}

impl Reloads {
    /// Follows a certificate and its key, which are shown from then on to whoever connects or is connected to.
    pub fn follow_pair(self: &Arc<Self>, certificate: &Path, key: &Path, shown: Arc<HotCert>, shutdown: CancellationToken) {
        self.follow_all("certificate", &[certificate, key], None, shutdown, move |contents| replace(&shown, contents));
    }
}

impl Server {
    /// Takes over what is written to these files from now on. What cannot be used changes nothing, and is told as for all
    /// files that are read again (`Reloads`).
    pub fn follow_certificates(self: &Arc<Self>, files: &CertificateFiles) {
        let pairs = [
            (&files.serving, &self.deps.serving),
            (&files.kubelet_client, &self.deps.kubelet_client),
            (&files.front_proxy, &self.deps.front_proxy),
        ];
        for (pair, shown) in pairs {
            let Some((certificate, key)) = pair else { continue };
            self.reloads.follow_pair(certificate, key, shown.clone(), self.shutdown.clone());
        }
        type Which = fn(&Server) -> &Trust;
        let bundles: [(_, Which); 2] = [
            (&files.client_authorities, |server| &server.client_authorities),
            (&files.proxy_authorities, |server| &server.proxy_authorities),
        ];
        for (bundle, trust) in bundles {
            let Some(path) = bundle else { continue };
            let server = Arc::downgrade(self);
            self.reloads.follow_all("authorities", &[path], None, self.shutdown.clone(), move |contents| {
                let Some(server) = server.upgrade() else { return Ok(()) };
                let pem = text(&contents[0])?;
                if trust(&server).pem() != pem {
                    trust(&server).replace(pem).map_err(|error| error.to_string())?;
                    tokio::spawn(async move { bootstrap::tell_authorities(&server).await });
                }
                Ok(())
            });
        }
    }
}

fn replace(shown: &HotCert, contents: &[Vec<u8>]) -> Result<(), String> {
    let issued = Issued::from_pem(text(&contents[0])?, text(&contents[1])?).map_err(|error| error.to_string())?;
    if issued.cert_pem == shown.current().cert_pem {
        return Ok(());
    }
    shown.replace(issued).map_err(|error| error.to_string())
}

fn text(content: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(content).map_err(|_| "it is no text".to_owned())
}
