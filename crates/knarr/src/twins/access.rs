//! From a kubeconfig to calls: as its own user, or as service accounts whose tokens that user may ask for.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use api::Status;
use bytes::Bytes;
use client::{Client, Connect, HttpTransport, ListWatch, Selection, Token, Transport};
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use pki::{HotCert, Issued, Kubeconfig, Resolved, ServerTrust};
use serde_json::{Value, json};
use server::Reloads;
use tokio_util::sync::CancellationToken;

/// Life that is asked for of a token.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// A server and a user of it.
#[derive(Clone)]
pub struct Access {
    server: String,
    trust: ServerTrust,
    cert: Option<Arc<HotCert>>,
    token: Option<Token>,
}

impl Access {
    /// What the current context of a kubeconfig says.
    /// What a file has for a client certificate is followed. Needs a tokio runtime.
    ///
    /// # Errors
    /// The file is none, or asks for something that is not known here.
    pub fn open(path: &Path) -> Result<Access> {
        let resolved =
            Kubeconfig::read(path).and_then(|config| config.resolve(None)).with_context(|| format!("kubeconfig {}", path.display()))?;
        Access::of(resolved).with_context(|| format!("kubeconfig {}", path.display()))
    }

    /// That of the pod's own service account.
    ///
    /// # Errors
    /// This is no pod of a cluster.
    pub fn in_cluster() -> Result<Access> {
        const FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
        let place = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(host), Some(port)) = (place("KUBERNETES_SERVICE_HOST"), place("KUBERNETES_SERVICE_PORT")) else {
            bail!("unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined");
        };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let ca = std::fs::read_to_string(format!("{FILES}/ca.crt")).with_context(|| format!("read {FILES}/ca.crt"))?;
        let token: Token = Arc::new(|| std::fs::read_to_string(format!("{FILES}/token")).unwrap_or_default().trim().to_owned());
        Ok(Access { server: format!("https://{host}:{port}"), trust: ServerTrust::Authorities(vec![ca]), cert: None, token: Some(token) })
    }

    fn of(resolved: Resolved) -> Result<Access> {
        if resolved.tls_server_name.is_some() || resolved.impersonate.is_some() {
            bail!("tls-server-name and impersonation are not supported");
        }
        let trust = match (resolved.insecure, resolved.ca_pem) {
            (true, _) => ServerTrust::Anybody,
            (false, Some(pem)) => ServerTrust::Authorities(vec![pem]),
            (false, None) => bail!("it names no certificate authority"),
        };
        let cert = resolved.client.map(|pair| Issued::from_pem(&pair.cert_pem, &pair.key_pem).and_then(HotCert::new)).transpose()?;
        if let (Some((file, key)), Some(cert)) = (resolved.client_files, &cert) {
            follow(&file, &key, cert.clone());
        }
        let token: Option<Token> = match (resolved.token_file, resolved.token) {
            (Some(file), _) => Some(Arc::new(move || std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned())),
            (None, Some(token)) => Some(Arc::new(move || token.clone())),
            (None, None) => None,
        };
        Ok(Access { server: resolved.server, trust, cert, token })
    }

    /// The same server for somebody with a certificate.
    #[must_use]
    pub fn with_cert(&self, cert: Arc<HotCert>) -> Access {
        Access { cert: Some(cert), token: None, ..self.clone() }
    }

    /// Address of the server.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Authorities of the server, where it has to prove itself.
    pub fn authorities(&self) -> Option<&str> {
        match &self.trust {
            ServerTrust::Authorities(bundles) => bundles.first().map(String::as_str),
            _ => None,
        }
    }

    /// The certificate that is shown.
    pub fn cert(&self) -> Option<&Arc<HotCert>> {
        self.cert.as_ref()
    }

    /// Connections of this user.
    ///
    /// # Errors
    /// The address or the authorities are none.
    pub fn transport(&self) -> Result<HttpTransport> {
        let tls = pki::client_config(&self.trust, self.cert.as_ref(), &["h2"])?;
        let transport = HttpTransport::new(Connect { server: self.server.clone(), tls: Arc::new(tls), token: self.token.clone() })?;
        Ok(match &self.cert {
            Some(cert) => transport.renewed_by(cert.subscribe()),
            None => transport,
        })
    }

    /// Calls of this user.
    ///
    /// # Errors
    /// As for [`Access::transport`].
    pub fn client(&self) -> Result<Client> {
        Ok(Client::new(Arc::new(self.transport()?)))
    }

    /// Calls of a service account in `kube-system`, with tokens that `base` asks for.
    ///
    /// # Errors
    /// As for [`Access::transport`].
    pub fn account(&self, base: &Client, name: &str) -> Result<Client> {
        let text: Arc<Mutex<String>> = Arc::default();
        let shown = text.clone();
        let access = Access { cert: None, token: Some(Arc::new(move || shown.lock().clone())), ..self.clone() };
        let transport = access.transport()?;
        Ok(Client::new(Arc::new(Account {
            base: base.clone(),
            name: name.to_owned(),
            transport,
            text,
            due: tokio::sync::Mutex::default(),
        })))
    }
}

/// Follows the files of a certificate for as long as the program runs, as the real components do: somebody else renews it.
pub fn follow(file: &Path, key: &Path, cert: Arc<HotCert>) {
    Arc::new(Reloads::default()).follow_pair(file, key, cert, CancellationToken::new());
}

/// Calls as a service account. The token is asked for before the first call and again before it ends.
struct Account {
    base: Client,
    name: String,
    transport: HttpTransport,
    text: Arc<Mutex<String>>,
    /// When the next token is asked for.
    due: tokio::sync::Mutex<Option<Instant>>,
}

impl Account {
    async fn ready(&self) -> Result<(), Status> {
        let mut due = self.due.lock().await;
        if due.is_some_and(|due| Instant::now() < due) {
            return Ok(());
        }
        const ACCOUNTS: &str = "/api/v1/namespaces/kube-system/serviceaccounts";
        let path = format!("{ACCOUNTS}/{}/token", self.name);
        let wanted = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": TOKEN_LIFE.as_secs()},
        });
        let answer = match self.base.call(Method::POST, &path, &wanted).await {
            Err(status) if status.is_not_found() => {
                let account =
                    json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.name, "namespace": "kube-system"}});
                match self.base.call(Method::POST, ACCOUNTS, &account).await {
                    Err(status) if !status.is_already_exists() => return Err(status),
                    _ => self.base.call(Method::POST, &path, &wanted).await?,
                }
            }
            answer => answer?,
        };
        let token = answer["status"]["token"].as_str().ok_or_else(|| Status::internal("the answer to a TokenRequest has no token"))?;
        token.clone_into(&mut self.text.lock());
        // The server may give less than was asked for.
        let until = answer["status"]["expirationTimestamp"].as_str().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let left = until.map_or(TOKEN_LIFE, |until| until.duration_since(jiff::Timestamp::now()).try_into().unwrap_or_default());
        *due = Some(Instant::now() + left.min(TOKEN_LIFE) * 4 / 5);
        Ok(())
    }

    /// A token that is refused, because its account was made anew for example, is not shown again.
    async fn note<T>(&self, answer: Result<T, Status>) -> Result<T, Status> {
        if answer.as_ref().is_err_and(|status| status.code == 401) {
            *self.due.lock().await = None;
        }
        answer
    }
}

impl Transport for Account {
    fn call(&self, request: Request<Bytes>) -> BoxFuture<'_, Result<Response<Bytes>, Status>> {
        Box::pin(async move {
            self.ready().await?;
            self.note(self.transport.call(request).await).await
        })
    }

    fn list_watch(&self, selection: Selection) -> BoxFuture<'_, Result<ListWatch, Status>> {
        Box::pin(async move {
            self.ready().await?;
            self.note(self.transport.list_watch(selection).await).await
        })
    }
}

/// Waits until the server answers at all, however long that takes.
pub async fn reach(client: &Client) {
    let mut wait = Duration::from_millis(200);
    while let Err(status) = client.call(Method::GET, "/version", &Value::Null).await {
        if status.code != 503 {
            return;
        }
        tracing::warn!(why = status.message, "the API server does not answer yet");
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(5));
    }
}

#[cfg(test)]
mod tests {
    use pki::{Authority, IssueRequest, Subject, Usage};

    use super::*;

    /// Whoever renews a certificate writes it first and its key then, or both in one file, under the names that the kubeconfig has.
    #[tokio::test]
    async fn client_certificates_in_files_are_followed() {
        pki::install_provider();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let life = Duration::from_secs(3600);
        let authority = Authority::create("ca", life).unwrap();
        let issue = || {
            let request =
                IssueRequest { subject: Subject::new("me", &[]), sans: Vec::new(), usages: vec![Usage::ClientAuth], lifetime: life };
            authority.issue(&request).unwrap()
        };
        let (first, second) = (issue(), issue());
        std::fs::write(at("ca.crt"), authority.cert_pem()).unwrap();
        std::fs::write(at("me.crt"), &first.cert_pem).unwrap();
        std::fs::write(at("me.key"), &first.key_pem).unwrap();
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"client-certificate": "me.crt", "client-key": "me.key"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(at("kubeconfig"), config.to_string()).unwrap();
        let access = Access::open(&at("kubeconfig")).unwrap();
        let cert = access.cert().unwrap().clone();
        let mut replaced = cert.subscribe();
        assert_eq!(cert.current().cert_pem, first.cert_pem);
        std::fs::write(at("me.crt"), &second.cert_pem).unwrap();
        std::fs::write(at("me.key"), &second.key_pem).unwrap();
        tokio::time::timeout(Duration::from_secs(60), replaced.changed()).await.expect("it is taken over").unwrap();
        assert_eq!(cert.current().cert_pem, second.cert_pem);
    }
}
